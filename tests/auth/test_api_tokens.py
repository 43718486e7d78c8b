"""API tokens: made, listed, revoked, and never shown twice."""

import asyncio
import re
from datetime import timedelta
from typing import Any

import pytest
from beanie import PydanticObjectId
from pydantic import ValidationError

from app.auth.api_tokens import MAX_LIVE, looks_like_api_token, new_api_token
from app.auth.schemas.api_tokens import ApiTokenBody, ApiTokenInfo, NewApiToken
from app.core.audit import ActorKind
from app.core.errors import ConflictError, NotFoundError, UnauthorizedError, UnavailableError
from app.core.pagination import PageRequest
from app.core.redaction import scrub, scrub_path, scrub_value
from app.core.security import Principal, Scope
from tests.auth.conftest import HERE, Parts

ALL = PageRequest(1000)


def body(name: str = "bot", *scopes: Scope, days: int = 90) -> ApiTokenBody:
    return ApiTokenBody(name=name, scopes=list(scopes) or [Scope.ALERTS_READ], expires_in_days=days)


def _id(token: NewApiToken | ApiTokenInfo) -> PydanticObjectId:
    return PydanticObjectId(token.id)


async def listed(parts: Parts, caller: Principal, **options: Any) -> list[str]:
    return [token.name for token in (await parts.api_tokens.mine(caller.user_id, ALL, **options)).rows]


async def stored_tokens(parts: Parts, caller: Principal, count: int, *, days: int = 1) -> None:
    """That many tokens, quicker than one by one."""
    made = await parts.api_tokens.create(caller, body("first", days=days), HERE)
    row = await parts.db.api_tokens.find_one({"prefix": made.prefix, "user_id": caller.user_id})
    del row["_id"]
    more = [{**row, "digest": f"{caller.user_id}{n}", "seq": row["seq"] - n} for n in range(1, count)]
    if more:
        await parts.db.api_tokens.insert_many(more)


async def test_a_token_is_shown_once_and_stored_as_a_digest(parts: Parts) -> None:
    caller = await parts.person()
    made = await parts.api_tokens.create(caller, body("bot", Scope.ORDERS_WRITE, Scope.ALERTS_READ, days=7), HERE)
    assert re.fullmatch(r"arrow_[A-Za-z0-9_-]{43}", made.token)
    assert made.prefix == made.token[:12]
    assert made.scopes == [Scope.ALERTS_READ, Scope.ORDERS_WRITE]
    assert made.expires_at - made.created_at == timedelta(days=7)
    assert made.token not in repr(made)
    (shown,) = (await parts.api_tokens.mine(caller.user_id, ALL)).rows
    assert made.token not in shown.model_dump_json()
    assert (shown.id, shown.name, shown.prefix, shown.live) == (made.id, "bot", made.prefix, True)
    assert (shown.last_used_at, shown.revoked_at) == (None, None)
    everything = [str(await parts.db[name].find({}).to_list()) for name in await parts.db.list_collection_names()]
    assert not any(made.token in text or made.token[6:] in text for text in everything)
    (act,) = parts.trail.acts
    assert (act.action, act.account_id, act.target) == ("api_token.create", caller.user_id, ("api_token", made.id))
    assert (act.actor.kind, act.actor.credential_id) == (ActorKind.SESSION, caller.session_id)
    assert act.details["scopes"] == "alerts:read orders:write"
    assert made.token not in str(act)


def test_tokens_are_different_and_have_one_form() -> None:
    tokens = {new_api_token() for _ in range(100)}
    assert len(tokens) == 100
    assert all(map(looks_like_api_token, tokens))
    token = tokens.pop()
    for wrong in (token[:-1], token + "x", token + "\n", token.upper(), "Bearer " + token, token[6:], "arrow_", ""):
        assert not looks_like_api_token(wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": "x" * 101},
        {"name": "a\x00b"},
        {"name": None},
        {"scopes": []},
        {"scopes": ["everything"]},
        {"scopes": "alerts:read"},
        {"scopes": ["alerts:read"] * (len(Scope) + 1)},
        {"scopes": {"$ne": []}},
        {"expires_in_days": 0},
        {"expires_in_days": 366},
        {"expires_in_days": True},
        {"expires_in_days": "90"},
        {"expires_in_days": None},
        {"user_id": "6b02893a002b26997921d778"},
    ],
)
def test_wrong_wishes_are_refused(wrong: dict[str, Any]) -> None:
    right = {"name": "bot", "scopes": ["alerts:read", "alerts:read"]}
    assert ApiTokenBody.model_validate(right).scopes == [Scope.ALERTS_READ]
    assert ApiTokenBody.model_validate(right).expires_in_days == 90
    with pytest.raises(ValidationError):
        ApiTokenBody.model_validate(right | wrong)


async def test_the_list_is_newest_first_and_paged_with_and_without_the_ended(parts: Parts) -> None:
    caller, other = await parts.person(), await parts.person()
    await parts.api_tokens.create(other, body("somebody else's"), HERE)
    made = [await parts.api_tokens.create(caller, body(f"n{n}", days=1 + n % 2), HERE) for n in range(6)]
    for number in (1, 4):
        await parts.api_tokens.revoke(caller, _id(made[number]))
    assert await listed(parts, caller) == ["n5", "n3", "n2", "n0"]
    assert await listed(parts, caller, include_ended=True) == ["n5", "n4", "n3", "n2", "n1", "n0"]
    parts.clock.ahead = timedelta(days=1, seconds=1)
    assert await listed(parts, caller) == ["n5", "n3"]
    names, after = [], None
    for _ in range(3):
        page = await parts.api_tokens.mine(caller.user_id, PageRequest(2, after), include_ended=True)
        names += [(token.name, token.live, token.revoked_at is not None) for token in page.rows]
        after = page.next
    assert after is None
    assert names == [
        ("n5", True, False), ("n4", False, True), ("n3", True, False),
        ("n2", False, False), ("n1", False, True), ("n0", False, False),
    ]  # fmt: skip


async def test_a_revoked_or_expired_token_is_not_found(parts: Parts) -> None:
    caller = await parts.person()
    one, two = [await parts.api_tokens.create(caller, body(days=1), HERE) for _ in range(2)]
    found = await parts.api_tokens.find(one.token)
    assert found is not None
    assert found.id == _id(one)
    for text in (new_api_token(), one.token[:-1], one.token.lower(), ""):
        assert await parts.api_tokens.find(text) is None
    await parts.api_tokens.revoke(caller, _id(one))
    await parts.api_tokens.revoke(caller, _id(one))
    assert await parts.api_tokens.find(one.token) is None
    parts.clock.ahead = timedelta(days=1)
    assert await parts.api_tokens.find(two.token) is None
    acts = [(act.action, act.target) for act in parts.trail.acts[2:]]
    assert acts == [("api_token.revoke", ("api_token", one.id))], "the second time changed nothing"


async def test_anothers_token_is_as_unknown_as_none(parts: Parts) -> None:
    caller, victim = await parts.person(), await parts.person()
    theirs = await parts.api_tokens.create(victim, body(), HERE)
    texts = set()
    for id_ in (_id(theirs), victim.user_id):
        with pytest.raises(NotFoundError) as refused:
            await parts.api_tokens.revoke(caller, id_)
        texts.add(str(refused.value))
    assert len(texts) == 1
    assert await parts.api_tokens.find(theirs.token) is not None


async def test_all_end_at_once_and_nobody_elses(parts: Parts) -> None:
    caller, other = await parts.person(), await parts.person()
    mine = [await parts.api_tokens.create(caller, body(), HERE) for _ in range(3)]
    theirs = await parts.api_tokens.create(other, body(), HERE)
    assert await parts.api_tokens.end_all(caller) == 3
    assert [await parts.api_tokens.find(token.token) for token in mine] == [None] * 3
    assert await parts.api_tokens.find(theirs.token) is not None
    act = parts.trail.acts[-1]
    assert (act.action, act.account_id, act.details) == (
        "api_token.revoke", caller.user_id, {"all": True, "ended": 3},
    )  # fmt: skip
    told = len(parts.trail.acts)
    assert await parts.api_tokens.end_all(caller) == 0
    assert len(parts.trail.acts) == told, "what changes nothing is not written down"


async def test_the_owner_is_told_of_a_new_token_by_mail(parts: Parts) -> None:
    user, pair = await parts.session()
    caller = await parts.authenticator.authenticate(pair.access_token)
    made = await parts.api_tokens.create(caller, body("bot", Scope.ORDERS_WRITE, Scope.ALERTS_READ), HERE)
    (mail,) = [mail for mail in parts.post.requests if mail.kind == "api_token_created"]
    assert (mail.to, mail.key) == (user.email, None)
    assert mail.values == {
        "when": made.created_at.isoformat(),
        "address": HERE.address,
        "token_name": "bot",
        "scopes": "alerts:read, orders:write",
    }
    assert made.token not in str(mail)


async def test_no_mail_is_no_reason_to_refuse_a_token(parts: Parts) -> None:
    caller = await parts.person()
    parts.post.broken = True
    made = await parts.api_tokens.create(caller, body(), HERE)
    assert await parts.api_tokens.find(made.token) is not None


async def test_a_token_that_is_refused_is_not_told_of(parts: Parts) -> None:
    caller = await parts.person()
    parts.trail.broken = True
    with pytest.raises(UnavailableError):
        await parts.api_tokens.create(caller, body(), HERE)
    assert [mail for mail in parts.post.requests if mail.kind == "api_token_created"] == []


async def test_what_is_done_is_no_error_when_it_cannot_be_written_down_now(parts: Parts) -> None:
    caller = await parts.person()
    one, two = [await parts.api_tokens.create(caller, body(), HERE) for _ in range(2)]
    parts.trail.broken = True
    await parts.api_tokens.revoke(caller, _id(one))
    assert await parts.api_tokens.end_all(caller) == 1
    assert [await parts.api_tokens.find(token.token) for token in (one, two)] == [None, None]
    assert [act.action for act in parts.trail.acts[2:]] == ["api_token.revoke"] * 2


async def test_so_many_live_ones_at_most(parts: Parts) -> None:
    caller = await parts.person()
    await stored_tokens(parts, caller, MAX_LIVE)
    with pytest.raises(ConflictError, match="revoke one"):
        await parts.api_tokens.create(caller, body(), HERE)
    first = (await parts.api_tokens.mine(caller.user_id, PageRequest(1))).rows[0]
    await parts.api_tokens.revoke(caller, _id(first))
    await parts.api_tokens.create(caller, body("in its place", days=9), HERE)
    # Expired ones do not count, and stand among the ended ones from then on.
    parts.clock.ahead = timedelta(days=1, seconds=1)
    await parts.api_tokens.create(caller, body("the next day"), HERE)
    assert await listed(parts, caller) == ["the next day", "in its place"]
    assert await parts.db.api_tokens.count_documents({"user_id": caller.user_id, "live": True}) == 2
    assert len(await listed(parts, caller, include_ended=True)) == MAX_LIVE + 2


async def test_requests_at_the_same_time_do_not_get_past_the_limit(parts: Parts, outcome: Any) -> None:
    caller = await parts.person()
    await stored_tokens(parts, caller, MAX_LIVE - 3)
    results = await asyncio.gather(*(outcome(parts.api_tokens.create(caller, body(), HERE)) for _ in range(8)))
    assert set(results) == {None, ConflictError} or set(results) == {ConflictError}
    made = results.count(None)
    assert made <= 3
    assert len(await listed(parts, caller)) == MAX_LIVE - 3 + made
    assert len([act for act in parts.trail.acts if act.action == "api_token.create"]) == 1 + made


async def test_a_session_that_ended_meanwhile_makes_no_token(parts: Parts) -> None:
    caller = await parts.person()
    await parts.sessions.revoke_all(caller.user_id, "the password was changed")
    with pytest.raises(UnauthorizedError):
        await parts.api_tokens.create(caller, body(), HERE)
    assert await parts.db.api_tokens.count_documents({"user_id": caller.user_id}) == 0
    assert parts.trail.acts == []


async def test_a_session_that_a_new_password_ended_makes_no_token(parts: Parts) -> None:
    user, pair = await parts.session()
    caller = await parts.authenticator.authenticate(pair.access_token)
    await parts.accounts.set_password(user, "another fine passphrase")  # its sessions' rows do not say so yet
    with pytest.raises(UnauthorizedError):
        await parts.api_tokens.create(caller, body(), HERE)
    assert await parts.db.api_tokens.count_documents({"user_id": caller.user_id}) == 0


async def test_a_token_that_cannot_be_written_down_is_of_no_use(parts: Parts) -> None:
    caller = await parts.person()
    parts.trail.broken = True
    with pytest.raises(UnavailableError):
        await parts.api_tokens.create(caller, body(), HERE)
    assert await listed(parts, caller) == []
    assert await listed(parts, caller, include_ended=True) == ["bot"]


def test_logs_hide_tokens_wherever_they_stand() -> None:
    for _ in range(50):
        token = new_api_token()
        for text in (
            token,
            f"Authorization: Bearer {token}",
            f"used {token}, then left",
            f"/ws?token={token}&x=1",
            f'{{"text": "{token}"}}',
            f"({token})",
        ):
            hidden = scrub(text)
            assert token not in hidden, text
            assert token[6:] not in hidden, text
            assert "***" in hidden
        assert token not in str(scrub_value({"anything": [token]}))
        assert scrub_path(f"/api/v1/auth/tokens/{token}") == "/api/v1/auth/tokens/***"
