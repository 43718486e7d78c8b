"""Addresses verified, passwords changed, forgotten and reset: on a real database, with a clock that is moved."""

import asyncio
import secrets
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from beanie import PydanticObjectId
from pymongo.errors import AutoReconnect

from app.auth.api_tokens import new_api_token
from app.auth.mailed_tokens import MAX_MAILS, Purpose
from app.auth.models import SessionDocument, UserDocument
from app.auth.tokens import digest_of
from app.core.audit import ActorKind, Outcome
from app.core.errors import (
    ConflictError,
    InvalidInputError,
    RateLimitedError,
    UnauthorizedError,
    UnavailableError,
)
from app.core.events import PeersChanged
from tests.auth.conftest import HERE, PASSWORD, Parts
from tests.auth.conftest import Outcome as Ended
from tests.auth.recovery_kit import ELSEWHERE, NEW, Kit


@pytest.fixture
def kit(parts: Parts, tmp_path: Path) -> Kit:
    return Kit(parts, tmp_path)


async def the_row(user: UserDocument) -> UserDocument:
    row = await UserDocument.find_one({"_id": user.id})
    assert row is not None
    return row


# ── Forgotten ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_reset_sets_the_password_and_ends_every_session(kit: Kit):
    user, first = await kit.parts.session()
    second = await kit.parts.sessions.open(user, ELSEWHERE)
    _, strangers = await kit.parts.session()
    await kit.caller(first)  # into the cache

    await kit.reset(await kit.token(Purpose.PASSWORD_RESET, user))

    assert await kit.alive(first, second, strangers) == [False, False, True]
    assert await kit.has(user, NEW)
    assert not await kit.has(user, PASSWORD)
    assert (await the_row(user)).is_verified  # who reads the mail owns the address
    assert kit.post.noted("auth.password_reset") == [(user.id, Outcome.SUCCESS)]
    [notice] = kit.post.sent("password_changed")
    assert (notice.to, notice.values["address"]) == (user.email, ELSEWHERE.address)


async def test_a_reset_ends_every_api_token_and_a_change_none(kit: Kit, outcome: Ended):
    user, pair = await kit.parts.session()
    await kit.parts.accounts.mark_verified(user.id, user.email)
    token = await kit.api_token(await kit.caller(pair))

    fresh = await kit.change(await kit.caller(pair))
    assert await outcome(kit.parts.authenticator.authenticate(token)) is None
    second = await kit.api_token(await kit.caller(fresh))
    await kit.reset(await kit.token(Purpose.PASSWORD_RESET, user), "yet another phrase")

    for ended in (token, second):
        assert await outcome(kit.parts.authenticator.authenticate(ended)) is UnauthorizedError
    assert [mail.values["api_tokens_ended"] for mail in kit.post.sent("password_changed")] == [0, 2]
    [act] = [act for act in kit.post.acts if act.action == "auth.password_reset"]
    assert act.details == {"sessions_ended": 1, "api_tokens_ended": 2}


class Away:
    """Stands where sessions are ended, at the moment when the database goes away."""

    async def end_outdated(self, *_: object) -> int:
        raise AutoReconnect("the database restarts")


async def test_a_database_that_goes_away_after_the_new_password_saves_no_thief(kit: Kit, outcome: Ended):
    user, thief = await kit.parts.session()
    await kit.parts.accounts.mark_verified(user.id, user.email)
    token = await kit.api_token(await kit.caller(thief))
    reset = await kit.token(Purpose.PASSWORD_RESET, user)
    await kit.parts.bus.publish(PeersChanged("an empty cache"))
    kit.recovery = kit.recovery_with(Away())

    assert await outcome(kit.reset(reset)) is AutoReconnect

    assert await kit.has(user, NEW)
    assert await kit.alive(thief) == [False]
    assert await outcome(kit.parts.authenticator.authenticate(token)) is UnauthorizedError


async def test_an_api_token_that_was_being_made_meanwhile_ends_too(kit: Kit, outcome: Ended):
    user, thief = await kit.parts.session()
    await kit.parts.accounts.mark_verified(user.id, user.email)
    first, late = await kit.api_token(await kit.caller(thief)), new_api_token()

    class Meanwhile:
        """Ends sessions, the moment after one of them stored another token."""

        async def end_outdated(self, *about: Any) -> int:
            tokens = kit.parts.db.api_tokens
            row = await tokens.find_one({"digest": digest_of(first)})
            changes = {"_id": PydanticObjectId(), "digest": digest_of(late), "live": True, "revoked_at": None}
            await tokens.insert_one({**row, **changes})
            return await kit.parts.sessions.end_outdated(*about)

    kit.recovery = kit.recovery_with(Meanwhile())
    await kit.reset(await kit.token(Purpose.PASSWORD_RESET, user))

    for token in (first, late):
        assert await outcome(kit.parts.authenticator.authenticate(token)) is UnauthorizedError


async def test_asking_is_one_request_whoever_it_is_for(kit: Kit):
    user = await kit.parts.user()
    gone = await kit.parts.user()
    await kit.parts.db.users.update_one({"_id": gone.id}, {"$set": {"is_active": False}})
    shapes = set()

    for email in (user.email, gone.email, "nobody@example.com"):
        for ask in (kit.recovery.forgot, kit.recovery.resend):
            await ask(email, HERE)
            request = kit.post.requests.pop()
            assert not kit.post.requests
            assert request.to == request.key == email
            shapes.add((request.kind, tuple(request.values)))
            assert (await kit.letters[request.kind](request) is not None) == (email == user.email)

    assert len(shapes) == 2
    assert not kit.post.acts


async def test_a_token_works_once_and_one_caller_gets_it(kit: Kit, outcome: Ended):
    user = await kit.parts.user()
    token = await kit.token(Purpose.PASSWORD_RESET, user)
    phrases = [f"{NEW} {number}" for number in range(4)]

    ended = await asyncio.gather(*(outcome(kit.reset(token, phrase)) for phrase in phrases))

    assert sorted(map(str, ended)) == sorted(map(str, [None] + [InvalidInputError] * 3))
    assert [await kit.has(user, phrase) for phrase in phrases] == [end is None for end in ended]
    assert len(kit.post.sent("password_changed")) == 1
    with pytest.raises(InvalidInputError, match="not valid"):
        await kit.reset(token)


@pytest.mark.parametrize(("purpose", "lifetime"), [("verify_email", 24 * 60), ("password_reset", 30)])
async def test_a_token_expires(kit: Kit, purpose: str, lifetime: int, outcome: Ended):
    user = await kit.parts.user()

    async def use(token: str) -> None:
        await (kit.recovery.verify_email(token, HERE) if purpose == "verify_email" else kit.reset(token))

    late = await kit.token(Purpose(purpose), user)
    kit.parts.clock.ahead = timedelta(minutes=lifetime)
    assert await outcome(use(late)) is InvalidInputError

    in_time = await kit.token(Purpose(purpose), user)
    kit.parts.clock.ahead += timedelta(minutes=lifetime - 1)
    assert await outcome(use(in_time)) is None


async def test_only_the_newest_token_works_and_older_ones_do_it_no_harm(kit: Kit, outcome: Ended):
    user = await kit.parts.user()
    older = await kit.token(Purpose.PASSWORD_RESET, user)
    newest = await kit.token(Purpose.PASSWORD_RESET, user)

    for _ in range(8):
        assert await outcome(kit.reset(older)) is InvalidInputError
    await kit.reset(newest)

    assert await kit.has(user, NEW)


async def test_a_token_is_for_one_purpose_and_one_account(kit: Kit, outcome: Ended):
    user, other = await kit.parts.user(), await kit.parts.user()
    reset, others = await kit.token(Purpose.PASSWORD_RESET, user), await kit.token(Purpose.PASSWORD_RESET, other)
    verify = await kit.token(Purpose.VERIFY_EMAIL, user)

    assert await outcome(kit.reset(verify)) is InvalidInputError
    assert await outcome(kit.recovery.verify_email(reset, HERE)) is InvalidInputError
    assert await outcome(kit.reset(reset[:16] + others[16:])) is InvalidInputError
    assert await outcome(kit.reset(others[:16] + reset[16:])) is InvalidInputError
    for invented in (secrets.token_urlsafe(32), "x", reset[:-1], reset + "A", reset.swapcase(), reset[16:]):
        assert await outcome(kit.reset(invented)) is InvalidInputError

    assert await kit.has(user, PASSWORD)
    assert not (await the_row(user)).is_verified


async def test_tokens_say_nothing_and_are_not_stored(kit: Kit):
    user = await kit.parts.user()
    tokens = [await kit.token(purpose, user) for purpose in Purpose]

    stored = str(await kit.parts.db.one_time_secrets.find({}).to_list())
    for token in tokens:
        assert len(token) == 43
        assert str(user.id) not in token
        assert token not in stored
        assert token[16:] not in stored
    assert not any(token in str(request) for token in tokens for request in kit.post.requests)


@pytest.mark.parametrize("weak", ["email", "local part", "username", "password123"])
async def test_a_password_that_will_not_do_does_not_spend_the_token(kit: Kit, weak: str):
    user = await kit.parts.user()
    await kit.parts.db.users.update_one({"_id": user.id}, {"$set": {"username": f"name.{user.email[:12]}"}})
    user = await the_row(user)
    token = await kit.token(Purpose.PASSWORD_RESET, user)
    words = {"email": user.email, "local part": user.email.partition("@")[0], "username": user.username or ""}

    with pytest.raises(ValueError if weak == "password123" else InvalidInputError) as refused:
        await kit.reset(token, words.get(weak, weak).upper())
    if isinstance(refused.value, InvalidInputError):
        assert refused.value.errors[0].loc == ("body", "new_password")
    await kit.reset(token)

    assert await kit.has(user, NEW)


async def test_a_deactivated_account_cannot_be_reset(kit: Kit, outcome: Ended):
    user = await kit.parts.user()
    token = await kit.token(Purpose.PASSWORD_RESET, user)
    await kit.parts.db.users.update_one({"_id": user.id}, {"$set": {"is_active": False}})

    assert await outcome(kit.reset(token)) is InvalidInputError

    assert await kit.has(user, PASSWORD)


async def test_an_account_is_sent_a_few_mails_and_the_last_token_stays_good(kit: Kit):
    user = await kit.parts.user()
    tokens = [await kit.token(Purpose.PASSWORD_RESET, user) for _ in range(MAX_MAILS)]
    last = kit.post.requests[-1]

    assert await kit.letter(Purpose.PASSWORD_RESET, user.email) is None
    await kit.token(Purpose.VERIFY_EMAIL, user)  # counted apart
    await kit.reset(tokens[-1])
    assert await kit.has(user, NEW)
    # A mail that could not be delivered is made again and again, and counts once.
    for _ in range(MAX_MAILS + 2):
        assert await kit.letters[last.kind](last) is not None
    kit.parts.clock.ahead = Purpose.PASSWORD_RESET.lifetime
    assert await kit.letter(Purpose.PASSWORD_RESET, user.email) is not None


async def test_tokens_survive_a_new_secret_key_and_stay_one_an_account(kit: Kit, tmp_path: Path, outcome: Ended):
    old = kit.settings.secret_key
    user, other = await kit.parts.user(), await kit.parts.user()
    before, replaced = await kit.token(Purpose.PASSWORD_RESET, user), await kit.token(Purpose.PASSWORD_RESET, other)

    after = Kit(kit.parts, tmp_path, secret_key=secrets.token_hex(32), secret_key_previous=[old])
    await after.reset(before)
    newer = await after.token(Purpose.PASSWORD_RESET, other)

    assert await after.has(user, NEW)
    assert await outcome(after.reset(replaced)) is InvalidInputError
    await after.reset(newer)


async def test_a_reset_makes_the_place_familiar_and_no_other(kit: Kit):
    user = await kit.parts.user()
    await kit.places.note(user.id, HERE)

    await kit.reset(await kit.token(Purpose.PASSWORD_RESET, user))

    assert await kit.places.familiar(str(user.id), ELSEWHERE.address)
    assert not await kit.places.familiar(str(user.id), HERE.address)


async def test_a_token_is_for_the_address_it_was_sent_to(kit: Kit, outcome: Ended):
    user = await kit.parts.user()
    reset, verify = await kit.token(Purpose.PASSWORD_RESET, user), await kit.token(Purpose.VERIFY_EMAIL, user)
    another = {"email": f"{secrets.token_hex(8)}@example.com"}
    await kit.parts.db.users.update_one({"_id": user.id}, {"$set": another})

    assert await outcome(kit.reset(reset)) is InvalidInputError
    assert await outcome(kit.recovery.verify_email(verify, HERE)) is InvalidInputError

    assert await kit.has(user, PASSWORD)
    assert not (await the_row(user)).is_verified


# ── Asking for mails ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_without_mail_the_answer_is_the_same_for_every_address(kit: Kit):
    user = await kit.parts.user()
    kit.post.available = False
    texts = set()

    for email in (user.email, "nobody@example.com"):
        for ask in (kit.recovery.forgot, kit.recovery.resend):
            with pytest.raises(UnavailableError) as refused:
                await ask(email, HERE)
            texts.add(refused.value.detail)

    assert len(texts) == 1
    assert not kit.post.requests


async def test_mails_are_limited_by_address_asked_for_and_by_network(parts: Parts, tmp_path: Path, outcome: Ended):
    kit = Kit(parts, tmp_path, auth_rate_limit_per_minute=3, auth_address_rate_limit_per_minute=8)
    user = await parts.user()

    for email in (user.email, "nobody@example.com"):
        ended = [await outcome(kit.recovery.forgot(email, HERE)) for _ in range(4)]
        assert ended == [None] * 3 + [RateLimitedError]  # known or not
    # Eight were counted for the network, the refused ones too.
    assert await outcome(kit.recovery.forgot("others@example.com", HERE)) is RateLimitedError
    assert await outcome(kit.recovery.resend("others@example.com", ELSEWHERE)) is None
    # Who asks from elsewhere is not kept from it by those who asked all the time.
    assert await outcome(kit.recovery.forgot(user.email, ELSEWHERE)) is None
    assert len(kit.post.requests) == 8


# ── Verified ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_address_is_verified_once(kit: Kit, outcome: Ended):
    user, pair = await kit.parts.session()
    token = await kit.token(Purpose.VERIFY_EMAIL, user)

    await kit.recovery.verify_email(token, HERE)

    assert (await the_row(user)).is_verified
    assert kit.post.noted("auth.email_verified") == [(user.id, Outcome.SUCCESS)]
    assert await outcome(kit.recovery.verify_email(token, HERE)) is InvalidInputError
    assert await kit.letter(Purpose.VERIFY_EMAIL, user.email) is None  # nothing left to verify
    assert await kit.alive(pair) == [True]


async def test_a_token_does_not_verify_another_address(kit: Kit):
    user = await kit.parts.user()
    await kit.parts.accounts.mark_verified(user.id, "another@example.com")

    assert not (await the_row(user)).is_verified


# ── Changed ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_change_ends_every_session_and_opens_a_new_one(kit: Kit, outcome: Ended):
    user = await kit.parts.user()
    present = await kit.parts.sessions.open(user, HERE, "password+totp")
    other = await kit.parts.sessions.open(user, ELSEWHERE)
    reset = await kit.token(Purpose.PASSWORD_RESET, user)
    caller = await kit.caller(present)

    fresh = await kit.change(caller)

    session = await SessionDocument.find_one({"_id": (await kit.caller(fresh)).session_id})
    assert session is not None
    assert (session.method, session.address) == ("password+totp", ELSEWHERE.address)
    assert await kit.alive(present, other, fresh) == [False, False, True]
    assert await kit.has(user, NEW)
    [act] = kit.post.acts
    assert (act.action, act.account_id, act.outcome) == ("auth.password_changed", user.id, Outcome.SUCCESS)
    assert (act.actor.kind, act.actor.credential_id) == (ActorKind.SESSION, caller.session_id)
    assert len(kit.post.sent("password_changed")) == 1
    assert await outcome(kit.reset(reset, "yet another phrase")) is InvalidInputError


async def test_a_wrong_current_password_changes_nothing_and_is_written_down(kit: Kit):
    user, pair = await kit.parts.session()

    with pytest.raises(InvalidInputError) as refused:
        await kit.change(await kit.caller(pair), current="not the password")

    assert refused.value.errors[0].loc == ("body", "current_password")
    assert kit.post.noted("auth.password_changed") == [(user.id, Outcome.FAILURE)]
    assert not kit.post.requests
    assert await kit.has(user, PASSWORD)
    assert await kit.alive(pair) == [True]


@pytest.mark.parametrize("new", ["the same", "the address"])
async def test_the_new_password_must_differ_and_be_a_good_one(kit: Kit, new: str):
    user, pair = await kit.parts.session()

    with pytest.raises(InvalidInputError) as refused:
        await kit.change(await kit.caller(pair), new=PASSWORD if new == "the same" else user.email)

    assert refused.value.errors[0].loc == ("body", "new_password")
    assert not kit.post.requests
    assert await kit.alive(pair) == [True]


async def test_guessing_the_current_password_is_slowed(parts: Parts, tmp_path: Path, outcome: Ended):
    kit = Kit(parts, tmp_path, auth_rate_limit_per_minute=5)
    user, pair = await parts.session()
    caller = await kit.caller(pair)

    ended = [await outcome(kit.change(caller, current=f"guess number {number}")) for number in range(6)]

    assert ended == [InvalidInputError] * 5 + [RateLimitedError]
    assert await outcome(kit.change(caller)) is RateLimitedError  # the right one tells nothing either
    assert await kit.has(user, PASSWORD)
    # A new process has no counts of the last minute, but knows of the wait that the failures brought.
    restarted = Kit(parts, tmp_path, auth_rate_limit_per_minute=5, secret_key=kit.settings.secret_key)
    assert await outcome(restarted.change(caller)) is RateLimitedError
    parts.clock.ahead = timedelta(seconds=60)
    assert await outcome(restarted.change(caller)) is None


async def test_of_concurrent_changes_one_wins(kit: Kit, outcome: Ended):
    user, pair = await kit.parts.session()
    caller = await kit.caller(pair)
    phrases = [f"{NEW} {number}" for number in range(3)]

    ended = await asyncio.gather(*(outcome(kit.change(caller, new=phrase)) for phrase in phrases))

    # Who came after the winner was done is told that the current password is another one.
    assert ended.count(None) == 1
    assert set(ended) <= {None, ConflictError, InvalidInputError}
    assert [await kit.has(user, phrase) for phrase in phrases] == [end is None for end in ended]
