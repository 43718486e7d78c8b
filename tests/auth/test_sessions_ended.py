"""Sessions listed, ended one by one and all at once, and what follows when a spent refresh token returns."""

import asyncio
import contextlib
import random
import secrets
import time
from datetime import datetime, timedelta
from typing import Any

import bcrypt
import pytest
from bson import ObjectId

from app.auth.devices import device_name
from app.auth.sessions import AT_ONCE, MAX_LIVE, REFRESHES_PER_MINUTE, Client
from app.auth.tokens import digest_of
from app.core.audit import ActorKind, Outcome
from app.core.errors import NotFoundError, RateLimitedError, UnauthorizedError
from app.core.events import SessionRevoked
from app.core.pagination import PageRequest
from tests.auth.conftest import HERE, PASSWORD, Parts, Queries

ALL = PageRequest(50)


async def dead(parts: Parts, *access_tokens: str) -> list[bool]:
    """Which of these tokens are refused, by the authenticator that may have them in its cache."""
    found = []
    for token in access_tokens:
        try:
            await parts.authenticator.authenticate(token)
            found.append(False)
        except UnauthorizedError:
            found.append(True)
    return found


async def test_my_sessions_newest_first_in_pages(parts: Parts) -> None:
    user, first = await parts.session()
    others = [await parts.sessions.open(user, Client(f"192.0.2.{n}"), "otp+totp") for n in range(10, 14)]
    await parts.session()  # somebody else's
    caller = await parts.authenticator.authenticate(first.access_token)
    ids = [(await parts.authenticator.authenticate(pair.access_token)).session_id for pair in (first, *others)]
    seen, after = [], None
    for size in (2, 2, 1):
        page = await parts.sessions.mine(caller, PageRequest(2, after))
        assert len(page.rows) == size
        seen += page.rows
        after = page.next
    assert after is None
    assert [session.id for session in seen] == [str(id_) for id_ in reversed(ids)]
    assert [session.current for session in seen] == [False] * 4 + [True]
    assert [session.address for session in seen] == [f"192.0.2.{n}" for n in (13, 12, 11, 10, 7)]
    assert {session.method for session in seen[:4]} == {"otp+totp"}
    assert (seen[4].device, seen[4].user_agent, seen[4].method) == ("pytest", "pytest", "password")
    assert seen[4].expires_at - seen[4].created_at == timedelta(days=7)


async def test_ended_and_expired_sessions_are_not_shown(parts: Parts) -> None:
    user, first = await parts.session()
    ended = await parts.sessions.open(user, HERE)
    await parts.sessions.end(ended.refresh_token)
    parts.clock.ahead = timedelta(days=7, seconds=1)
    now = await parts.sessions.open(user, HERE)
    caller = await parts.authenticator.authenticate(now.access_token)
    # The expired one is still there: the database removes it in its own time.
    assert await parts.db.sessions.count_documents({"user_id": user.id}) == 3
    assert [session.current for session in (await parts.sessions.mine(caller, ALL)).rows] == [True]
    assert await dead(parts, first.access_token) == [True]


async def test_the_last_use_is_shown_and_never_goes_back(parts: Parts) -> None:
    user, pair = await parts.session()
    caller = await parts.authenticator.authenticate(pair.access_token)
    opened = (await parts.sessions.mine(caller, ALL)).rows[0].last_used_at
    parts.clock.ahead = timedelta(minutes=10)
    await parts.authenticator.authenticate(pair.access_token)
    used = parts.clock.now()
    assert (await parts.sessions.mine(caller, ALL)).rows[0].last_used_at == opened
    parts.clock.ahead = timedelta(minutes=11)
    await parts.sessions.refresh(pair.refresh_token, HERE)
    refreshed = (await parts.sessions.mine(caller, ALL)).rows[0].last_used_at
    assert refreshed > used
    await parts.uses.save()  # of the earlier use
    assert (await parts.sessions.mine(caller, ALL)).rows[0].last_used_at == refreshed
    parts.clock.ahead = timedelta(minutes=12)
    await parts.authenticator.authenticate(pair.access_token)
    await parts.uses.save()
    assert (await parts.sessions.mine(caller, ALL)).rows[0].last_used_at >= refreshed + timedelta(seconds=55)
    assert await parts.db.sessions.count_documents({"user_id": user.id}) == 1


async def test_ending_one_leaves_the_others(parts: Parts) -> None:
    user, first = await parts.session()
    other = await parts.sessions.open(user, HERE)
    caller = await parts.authenticator.authenticate(first.access_token)
    theirs = (await parts.authenticator.authenticate(other.access_token)).session_id
    await parts.sessions.end_one(caller, theirs)
    assert await dead(parts, first.access_token, other.access_token) == [False, True]
    with pytest.raises(UnauthorizedError):
        await parts.sessions.refresh(other.refresh_token, HERE)
    await parts.sessions.end_one(caller, theirs)
    (act,) = parts.trail.acts  # nothing was ended the second time
    assert (act.action, act.account_id, act.outcome) == ("session.end", user.id, Outcome.SUCCESS)
    assert (act.actor.kind, act.actor.credential_id) == (ActorKind.SESSION, caller.session_id)
    assert act.target == ("session", str(theirs))


async def test_another_accounts_session_is_as_unknown_as_none(parts: Parts) -> None:
    caller, victim = await parts.person(), await parts.session()
    theirs = (await parts.authenticator.authenticate(victim[1].access_token)).session_id
    texts = set()
    for id_ in (theirs, victim[0].id):
        with pytest.raises(NotFoundError) as refused:
            await parts.sessions.end_one(caller, id_)
        texts.add(str(refused.value))
    assert len(texts) == 1
    assert await dead(parts, victim[1].access_token) == [False]
    assert parts.trail.acts == []


@pytest.mark.parametrize("keep_current", [True, False])
async def test_ending_all(parts: Parts, keep_current: bool) -> None:
    user, first = await parts.session()
    others = [await parts.sessions.open(user, HERE) for _ in range(3)]
    stranger = await parts.session()
    caller = await parts.authenticator.authenticate(first.access_token)
    tokens = [first.access_token, *(pair.access_token for pair in others)]
    assert await dead(parts, *tokens, stranger[1].access_token) == [False] * 5
    assert await parts.sessions.end_all(caller, keep_current=keep_current) == 3 + (not keep_current)
    assert await dead(parts, *tokens) == [not keep_current, True, True, True]
    assert await dead(parts, stranger[1].access_token) == [False]
    (act,) = parts.trail.acts
    assert (act.action, act.account_id) == ("session.end_all", user.id)
    assert act.details == {"sessions": 3 + (not keep_current), "kept_current": keep_current}
    # Nothing keeps one from signing in again.
    again = await parts.accounts.get(user.id)
    await parts.authenticator.authenticate((await parts.sessions.open(again, HERE)).access_token)


async def test_the_write_of_a_new_password_ends_every_session_by_itself(parts: Parts) -> None:
    """Whatever happens to the service after it."""
    user, first = await parts.session()
    second = await parts.sessions.open(user, HERE)
    third = await parts.sessions.open(user, HERE)

    await parts.accounts.replace_password(user, "$argon2id$another")

    assert await dead(parts, first.access_token, second.access_token) == [True, True]
    with pytest.raises(UnauthorizedError):
        await parts.sessions.refresh(third.refresh_token, HERE)
    with pytest.raises(UnauthorizedError):
        await parts.sessions.open(user, HERE)  # as it was read before
    after = await parts.accounts.get(user.id)
    assert after is not None
    fresh = await parts.sessions.open(after, HERE)
    caller = await parts.authenticator.authenticate(fresh.access_token)
    assert [session.current for session in (await parts.sessions.mine(caller, ALL)).rows] == [True]


async def test_what_follows_the_write_ends_what_it_ended_and_no_more(parts: Parts) -> None:
    told: list[SessionRevoked] = []
    user, first = await parts.session()
    assert await dead(parts, first.access_token) == [False]  # and in the cache
    await parts.accounts.replace_password(user, "$argon2id$another")
    after = await parts.accounts.get(user.id)
    assert after is not None
    fresh = await parts.sessions.open(after, HERE)  # somebody is quick
    parts.bus.subscribe(SessionRevoked, told.append)

    assert await parts.sessions.end_outdated(user.id, "the password was changed") == 1
    assert await parts.sessions.end_outdated(user.id, "the password was changed") == 0

    assert await dead(parts, first.access_token, fresh.access_token) == [True, False]
    assert len(told) == 1
    assert await parts.db.sessions.count_documents({"user_id": user.id, "live": True}) == 1


async def test_a_better_hash_of_the_same_password_ends_nothing(parts: Parts) -> None:
    user, pair = await parts.session()
    old = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    await parts.db.users.update_one({"_id": user.id}, {"$set": {"hashed_password": old}})
    assert await parts.accounts.verify(await parts.accounts.get(user.id), PASSWORD)
    row = await parts.accounts.get(user.id)
    assert row is not None
    assert row.hashed_password.startswith("$argon2id$")
    await parts.sessions.refresh(pair.refresh_token, HERE)


async def test_the_session_that_was_kept_lives_until_the_next_end(parts: Parts) -> None:
    user, kept = await parts.session()
    caller = await parts.authenticator.authenticate(kept.access_token)
    for _ in range(2):  # spared twice, by itself
        await parts.sessions.end_all(caller, keep_current=True)
        kept = await parts.sessions.refresh(kept.refresh_token, HERE)
        assert [session.current for session in (await parts.sessions.mine(caller, ALL)).rows] == [True]
    again = await parts.accounts.get(user.id)
    assert again is not None
    other = await parts.sessions.open(again, HERE)
    await parts.sessions.end_all(await parts.authenticator.authenticate(other.access_token), keep_current=True)
    assert await dead(parts, kept.access_token, other.access_token) == [True, False]
    with pytest.raises(UnauthorizedError):
        await parts.sessions.refresh(kept.refresh_token, HERE)
    await parts.accounts.replace_password(again, "$argon2id$another")
    with pytest.raises(UnauthorizedError):
        await parts.sessions.refresh(other.refresh_token, HERE)


async def test_one_session_too_many_ends_the_oldest(parts: Parts) -> None:
    user, first = await parts.session()
    row = await parts.db.sessions.find_one({"user_id": user.id})
    later = [{**row, "_id": ObjectId(), "seq": row["seq"] + n} for n in range(1, MAX_LIVE)]
    await parts.db.sessions.insert_many(later)
    assert await dead(parts, first.access_token) == [False]

    newest = await parts.sessions.open(user, HERE)

    assert await dead(parts, first.access_token, newest.access_token) == [True, False]
    live = await parts.db.sessions.find({"user_id": user.id, "live": True}).to_list()
    assert len(live) == MAX_LIVE
    assert {row["_id"] for row in later} < {row["_id"] for row in live}


async def test_refreshing_is_limited_and_a_returned_token_is_noticed_all_the_same(parts: Parts) -> None:
    user, pair = await parts.session()
    other = await parts.sessions.open(user, HERE)
    first, made = pair, 0
    with contextlib.suppress(RateLimitedError):
        while made < 2 * REFRESHES_PER_MINUTE:
            pair = await parts.sessions.refresh(pair.refresh_token, HERE)
            made += 1
    assert REFRESHES_PER_MINUTE <= made <= REFRESHES_PER_MINUTE + 2  # a little more where the minute turns
    assert await dead(parts, pair.access_token) == [False]
    assert parts.trail.acts == []  # what was refused was not spent
    await parts.sessions.refresh(other.refresh_token, HERE)

    with pytest.raises(UnauthorizedError):
        await parts.sessions.refresh(first.refresh_token, HERE)

    assert await dead(parts, pair.access_token) == [True]
    assert [act.action for act in parts.trail.acts] == ["auth.refresh_reuse"]


async def test_a_refresh_token_is_spent_last(parts: Parts, queries: Queries) -> None:
    """Nothing may fail after it: the client would come again with a spent token, which looks like theft."""
    _, pair = await parts.session()
    queries.writes.clear()
    await parts.sessions.refresh(pair.refresh_token, HERE)
    assert queries.writes == ["refresh_tokens", "sessions", "refresh_tokens"]
    spent = await parts.db.refresh_tokens.find_one({"digest": digest_of(pair.refresh_token)})
    assert spent["spent"] is True


async def test_many_sessions_end_in_batches(parts: Parts) -> None:
    told: list[SessionRevoked] = []
    parts.bus.subscribe(SessionRevoked, told.append)
    user, _ = await parts.session()
    row = await parts.db.sessions.find_one({"user_id": user.id})
    await parts.db.sessions.insert_many([{**row, "_id": ObjectId(), "seq": row["seq"] + n} for n in range(AT_ONCE)])
    assert await parts.sessions.revoke_all(user.id, "test") == AT_ONCE + 1
    assert [len(event.session_ids) for event in told] == [AT_ONCE, 1]
    rows = await parts.db.sessions.find({"user_id": user.id}).to_list()
    assert {id_ for event in told for id_ in event.session_ids} == {str(row["_id"]) for row in rows}
    assert {(row["live"], row["revoked_because"]) for row in rows} == {(False, "test")}


async def test_a_sign_in_that_began_before_all_sessions_ended_opens_none(parts: Parts) -> None:
    read_before = await parts.user()
    await parts.sessions.revoke_all(read_before.id, "a new password")
    with pytest.raises(UnauthorizedError, match="sign in again"):
        await parts.sessions.open(read_before, HERE)
    assert await parts.db.sessions.count_documents({"user_id": read_before.id}) == 0


async def test_who_ended_all_sessions_may_have_a_new_one_unless_somebody_else_did_too(parts: Parts) -> None:
    user = await parts.user()
    await parts.sessions.revoke_all(user.id, "the password was changed")
    assert await dead(parts, (await parts.sessions.reopen(user, HERE, "password")).access_token) == [False]
    await parts.sessions.revoke_all(user.id, "the password was reset")
    with pytest.raises(UnauthorizedError, match="sign in again"):
        await parts.sessions.reopen(user, HERE, "password")


async def test_a_sign_in_into_an_account_deactivated_meanwhile_opens_none(parts: Parts) -> None:
    read_before = await parts.user()
    await parts.db.users.update_one({"_id": read_before.id}, {"$set": {"is_active": False}})
    with pytest.raises(UnauthorizedError):
        await parts.sessions.open(read_before, HERE)
    assert await parts.db.sessions.count_documents({"user_id": read_before.id}) == 0


async def test_no_sign_in_outlives_the_end_of_all_sessions(parts: Parts) -> None:
    """Sign-ins with what was true before, while everything is ended: as often and as mixed as chance allows."""
    refused = survived = 0
    user, began = await parts.user(), time.monotonic()
    await parts.sessions.open(user, HERE)
    # As long as a sign-in takes here, a few times over: else, on a busy machine, the end would come first always.
    span = min(max(0.006, 3 * (time.monotonic() - began)), 0.5)
    for _ in range(12):
        user = await parts.user()

        async def sign_in(as_read: Any) -> str | None:
            await asyncio.sleep(random.uniform(0, span))  # noqa: S311 (chance, not a secret)
            try:
                return (await parts.sessions.open(as_read, HERE)).access_token
            except UnauthorizedError:
                return None

        async def end(as_read: Any) -> None:
            await asyncio.sleep(random.uniform(0, span))  # noqa: S311
            await parts.sessions.revoke_all(as_read.id, "test")

        *tokens, _ = await asyncio.gather(*(sign_in(user) for _ in range(4)), end(user))
        refused += tokens.count(None)
        given = [token for token in tokens if token]
        survived += (await dead(parts, *given)).count(False)
        assert await parts.db.sessions.count_documents({"user_id": user.id, "live": True}) == 0
    assert survived == 0
    assert 0 < refused < 48, "the two never met"


async def reused(parts: Parts, *, untold: bool = False) -> tuple[Any, Any]:
    """A spent refresh token that came back from somewhere else; its account and session."""
    user, pair = await parts.session()
    session_id = (await parts.authenticator.authenticate(pair.access_token)).session_id
    await parts.sessions.refresh(pair.refresh_token, HERE)
    parts.trail.broken = parts.post.broken = untold
    thief = Client("198.51.100.9", "Mozilla/5.0 (X11; Linux x86_64; rv:144.0) Gecko/20100101 Firefox/144.0")
    texts = set()
    for _ in range(3):
        with pytest.raises(UnauthorizedError) as refused:
            await parts.sessions.refresh(pair.refresh_token, thief)
        texts.add(str(refused.value))
    with pytest.raises(UnauthorizedError) as unknown:
        await parts.sessions.refresh(secrets.token_urlsafe(32), thief)
    assert texts == {str(unknown.value)}
    assert await dead(parts, pair.access_token) == [True]
    return user, session_id


async def test_a_returned_refresh_token_is_written_down_and_told_once(parts: Parts) -> None:
    user, session_id = await reused(parts)
    (act,) = parts.trail.acts
    assert (act.action, act.account_id, act.outcome) == ("auth.refresh_reuse", user.id, Outcome.FAILURE)
    assert act.target == ("session", str(session_id))
    (mail,) = parts.post.requests
    assert (mail.kind, mail.to, mail.key) == ("token_reuse", user.email, str(session_id))
    assert (mail.values["address"], mail.values["device"]) == ("198.51.100.9", "Firefox on Linux")
    when = datetime.fromisoformat(str(mail.values["when"]))
    assert abs(parts.clock.now() - when) < timedelta(minutes=1)


async def test_without_mail_it_is_written_down_all_the_same(parts: Parts) -> None:
    parts.post.available = False
    await reused(parts)
    assert len(parts.trail.acts) == 1


async def test_a_notice_that_fails_changes_no_answer(parts: Parts) -> None:
    await reused(parts, untold=True)


async def test_of_returns_at_the_same_moment_one_is_told(parts: Parts, outcome: Any) -> None:
    _, pair = await parts.session()
    await asyncio.gather(*(outcome(parts.sessions.refresh(pair.refresh_token, HERE)) for _ in range(8)))
    assert (len(parts.trail.acts), len(parts.post.requests)) == (1, 1)


async def test_a_sign_out_says_whose_session_it_was(parts: Parts) -> None:
    user, pair = await parts.session()
    session_id = (await parts.authenticator.authenticate(pair.access_token)).session_id
    assert await parts.sessions.end(pair.refresh_token) == (user.id, session_id)
    assert await parts.sessions.end(pair.refresh_token) is None


CHROME = "AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0"


@pytest.mark.parametrize(
    ("user_agent", "name"),
    [
        (f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) {CHROME} Safari/537.36", "Chrome on Windows"),
        (f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) {CHROME} Safari/537.36 Edg/142.0.0.0", "Edge on Windows"),
        (f"Mozilla/5.0 (Linux; Android 10; K) {CHROME} Mobile Safari/537.36", "Chrome on Android"),
        (f"Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) {CHROME} Safari/537.36", "Chrome on ChromeOS"),
        (
            "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) "
            "Version/26.0 Safari/605.1.15",
            "Safari on Mac",
        ),
        (
            "Mozilla/5.0 (iPhone; CPU iPhone OS 18_7 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) "
            "Version/26.0 Mobile/15E148 Safari/604.1",
            "Safari on iPhone",
        ),
        (
            "Mozilla/5.0 (iPad; CPU OS 18_7 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) "
            "CriOS/142.0.0.0 Mobile/15E148 Safari/604.1",
            "Chrome on iPad",
        ),
        ("Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:144.0) Gecko/20100101 Firefox/144.0", "Firefox on Windows"),
        ("Mozilla/5.0 (compatible; SomeBot/2.1)", "Mozilla/5.0 (compatible; SomeBot/2.1)"),
        ("Chrome/1 on Windows", "Chrome/1 on Windows"),
        ("python-httpx/0.28.1", "python-httpx/0.28.1"),
        ("", ""),
        (None, None),
    ],
)
def test_devices_are_named_where_they_are_plain(user_agent: str | None, name: str | None) -> None:
    assert device_name(user_agent) == name
