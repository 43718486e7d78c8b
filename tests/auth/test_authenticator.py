"""Bearer tokens of both kinds through the caches: what is remembered, and what makes them forget."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from beanie import PydanticObjectId

from app.auth.api_tokens import new_api_token
from app.auth.authenticator import CACHE_SECONDS, CACHE_SIZE, MAX_WAITING, UNKNOWN_SECONDS
from app.auth.models import UserDocument
from app.auth.schemas.api_tokens import ApiTokenBody
from app.core.errors import UnauthorizedError, UnavailableError
from app.core.events import AccountChanged, Event, PeersChanged, SessionRevoked
from app.core.security import ALL_SCOPES, Principal, Role, Scope
from tests.auth.conftest import HERE, Parts, Queries


async def bot(parts: Parts, *scopes: Scope, days: int = 90) -> tuple[Principal, str]:
    """A new account, and an API token of it."""
    caller = await parts.person()
    wish = ApiTokenBody(name="bot", scopes=list(scopes) or [Scope.ALERTS_READ], expires_in_days=days)
    return caller, (await parts.api_tokens.create(caller, wish, HERE)).token


async def account(parts: Parts, caller: Principal) -> UserDocument:
    found = await parts.accounts.get(caller.user_id)
    assert found is not None
    return found


async def set_active(parts: Parts, user_id: PydanticObjectId, is_active: bool) -> None:
    await parts.db.users.update_one({"_id": user_id}, {"$set": {"is_active": is_active}})
    await parts.bus.publish(AccountChanged(user_id=str(user_id), is_active=is_active), confirm=True)


async def test_an_api_token_stands_for_its_account_within_its_scopes(parts: Parts) -> None:
    caller, token = await bot(parts, Scope.ALERTS_READ, Scope.ORDERS_READ, days=3)
    stored = await parts.db.api_tokens.find_one({"user_id": caller.user_id})
    for _ in range(2):  # asked, then remembered
        principal = await parts.authenticator.authenticate(token)
        assert principal == Principal(
            caller.user_id,
            stored["_id"],
            Role.USER,
            stored["expires_at"],
            frozenset({Scope.ALERTS_READ, Scope.ORDERS_READ}),
            api_token=True,
        )
    assert (caller.api_token, caller.scopes) == (False, ALL_SCOPES)


async def test_it_ends_with_its_time_even_when_remembered(parts: Parts) -> None:
    _, token = await bot(parts, days=1)
    parts.clock.ahead = timedelta(days=1, seconds=-5)
    await parts.authenticator.authenticate(token)
    parts.clock.ahead = timedelta(days=1)
    with pytest.raises(UnauthorizedError):
        await parts.authenticator.authenticate(token)


async def test_all_wrong_tokens_are_answered_the_same(parts: Parts) -> None:
    caller, revoked = await bot(parts)
    await parts.api_tokens.revoke_all(caller.user_id)
    _, expired = await bot(parts, days=1)
    parts.clock.ahead = timedelta(days=2)
    answers = set()
    for token in (revoked, expired, new_api_token(), "arrow_", "arrow_" + "ü" * 43, "arrow_" + "x" * 100_000):
        with pytest.raises(UnauthorizedError) as refused:
            await parts.authenticator.authenticate(token)
        answers.add((str(refused.value), str(refused.value.headers)))
    assert len(answers) == 1


async def test_a_revocation_is_known_at_once(parts: Parts) -> None:
    caller, token = await bot(parts)
    _, kept = await bot(parts)
    principal = await parts.authenticator.authenticate(token)
    await parts.authenticator.authenticate(kept)
    await parts.api_tokens.revoke(caller, principal.session_id)
    with pytest.raises(UnauthorizedError):
        await parts.authenticator.authenticate(token)
    await parts.authenticator.authenticate(kept)


async def test_a_deactivated_account_has_no_valid_token_until_it_is_active_again(parts: Parts) -> None:
    caller, token = await bot(parts)
    access = (await parts.sessions.open(await account(parts, caller), HERE)).access_token
    other, others = await bot(parts)
    for one in (token, access, others):
        await parts.authenticator.authenticate(one)
    await set_active(parts, caller.user_id, False)
    for one in (token, access):
        with pytest.raises(UnauthorizedError):
            await parts.authenticator.authenticate(one)
    assert (await parts.authenticator.authenticate(others)).user_id == other.user_id
    # Nothing that was refused meanwhile is remembered as wrong.
    await set_active(parts, caller.user_id, True)
    for one in (token, access):
        assert (await parts.authenticator.authenticate(one)).user_id == caller.user_id


async def test_another_role_is_known_at_once(parts: Parts) -> None:
    caller, token = await bot(parts)
    assert (await parts.authenticator.authenticate(token)).role is Role.USER
    await parts.db.users.update_one({"_id": caller.user_id}, {"$set": {"role": "operator"}})
    await parts.bus.publish(AccountChanged(user_id=str(caller.user_id), is_active=True))
    assert (await parts.authenticator.authenticate(token)).role is Role.OPERATOR


async def test_missed_news_empty_the_caches(parts: Parts) -> None:
    caller, token = await bot(parts)
    await parts.authenticator.authenticate(token)
    # Behind the service's back, so that no event empties the cache:
    await parts.db.api_tokens.update_one({"user_id": caller.user_id}, {"$set": {"revoked_at": parts.clock.now()}})
    await parts.authenticator.authenticate(token)
    await parts.bus.publish(PeersChanged("test"))
    with pytest.raises(UnauthorizedError):
        await parts.authenticator.authenticate(token)


async def test_what_nobody_announces_is_noticed_in_time(parts: Parts) -> None:
    caller, token = await bot(parts)
    await parts.authenticator.authenticate(token)
    await parts.db.api_tokens.update_one({"user_id": caller.user_id}, {"$set": {"revoked_at": parts.clock.now()}})
    parts.clock.ahead = timedelta(seconds=CACHE_SECONDS + 1)
    with pytest.raises(UnauthorizedError):
        await parts.authenticator.authenticate(token)


async def test_without_contact_to_the_other_processes_nothing_is_remembered(parts: Parts) -> None:
    caller, token = await bot(parts)
    await parts.authenticator.authenticate(token)
    await parts.bus.stop()
    await parts.authenticator.authenticate(token)
    revoked = {"revoked_at": parts.clock.now()}
    await parts.db.api_tokens.update_one({"user_id": caller.user_id}, {"$set": revoked})
    with pytest.raises(UnauthorizedError):
        await parts.authenticator.authenticate(token)
    await parts.db.api_tokens.update_one({"user_id": caller.user_id}, {"$unset": {"revoked_at": 1}})
    await parts.authenticator.authenticate(token)


@pytest.mark.parametrize("kind", ["api_tokens", "sessions"])
@pytest.mark.parametrize("news", [SessionRevoked, AccountChanged, PeersChanged])
async def test_what_was_read_before_news_is_not_remembered_after_it(
    parts: Parts, queries: Queries, kind: str, news: type[Event]
) -> None:
    """The row is read alive, then it ends, then the read comes back to whoever asked."""
    caller, token = await bot(parts)
    bearer = token
    if kind == "sessions":
        bearer = (await parts.sessions.open(await account(parts, caller), HERE)).access_token
    credential = (await parts.authenticator.authenticate(bearer)).session_id
    await parts.bus.publish(PeersChanged("an empty cache"))
    event: Event = PeersChanged("test")
    if news is SessionRevoked:
        event = SessionRevoked(user_id=str(caller.user_id), session_ids=[str(credential)])
    elif news is AccountChanged:
        event = AccountChanged(user_id=str(caller.user_id), is_active=False)
    queries.then[kind] = lambda: parts.bus.announce(event)
    await parts.authenticator.authenticate(bearer)  # it was alive when this began
    assert kind not in queries.then
    await parts.db[kind].update_one({"_id": credential}, {"$set": {"revoked_at": parts.clock.now()}})
    with pytest.raises(UnauthorizedError):
        await parts.authenticator.authenticate(bearer)


async def test_a_wrong_token_is_asked_for_once_in_a_while(parts: Parts, queries: Queries, outcome: Any) -> None:
    token = new_api_token()
    asked = queries.count["api_tokens"]
    answers = await asyncio.gather(*(outcome(parts.authenticator.authenticate(token)) for _ in range(40)))
    answers += [await outcome(parts.authenticator.authenticate(token)) for _ in range(40)]
    assert set(answers) == {UnauthorizedError}
    assert 1 <= queries.count["api_tokens"] - asked <= 4
    asked = queries.count["api_tokens"]
    parts.clock.ahead = timedelta(seconds=UNKNOWN_SECONDS + 1)
    assert await outcome(parts.authenticator.authenticate(token)) is UnauthorizedError
    assert queries.count["api_tokens"] == asked + 1


async def test_what_has_not_the_form_of_a_token_is_never_asked_for(
    parts: Parts, queries: Queries, outcome: Any
) -> None:
    asked = queries.count["api_tokens"]
    for wrong in ("arrow_", new_api_token()[:-1], new_api_token() + "x", "arrow_" + "é" * 43, "arrow_\x00"):
        assert await outcome(parts.authenticator.authenticate(wrong)) is UnauthorizedError
    assert queries.count["api_tokens"] == asked


async def test_a_flood_of_wrong_tokens_costs_little_and_pushes_out_no_right_one(
    parts: Parts, queries: Queries, outcome: Any
) -> None:
    _, token = await bot(parts)
    access = (await parts.session())[1].access_token
    for right in (token, access):
        await parts.authenticator.authenticate(right)
    asked = queries.count["api_tokens"]
    queries.most_at_once.clear()
    flood = [outcome(parts.authenticator.authenticate(new_api_token())) for _ in range(MAX_WAITING + 100)]
    flooding = asyncio.gather(*flood)
    await asyncio.sleep(0)
    rounds = 0
    while not flooding.done():
        # Right ones that are known wait for nobody.
        before = queries.count["api_tokens"]
        await parts.authenticator.authenticate(token)
        await parts.authenticator.authenticate(access)
        assert queries.count["api_tokens"] == before
        rounds += 1
        await asyncio.sleep(0)
    answers = await flooding
    assert rounds > 5
    assert answers.count(UnavailableError) == 100
    assert answers.count(UnauthorizedError) == MAX_WAITING
    assert queries.count["api_tokens"] - asked == MAX_WAITING
    assert queries.most_at_once["api_tokens"] <= 4
    parts.authenticator._unknown.clear()
    parts.authenticator._unknown.update({str(number): True for number in range(CACHE_SIZE + 100)})
    assert len(parts.authenticator._unknown) == CACHE_SIZE
    asked = queries.count["api_tokens"]
    await parts.authenticator.authenticate(token)
    assert queries.count["api_tokens"] == asked


async def test_the_last_use_is_written_once_for_many_uses(parts: Parts) -> None:
    caller, token = await bot(parts)
    for _ in range(5):
        await parts.authenticator.authenticate(token)
    row = await parts.db.api_tokens.find_one({"user_id": caller.user_id})
    assert "last_used_at" not in row
    await parts.uses.save()
    row = await parts.db.api_tokens.find_one({"user_id": caller.user_id})
    assert parts.clock.now() - row["last_used_at"] < timedelta(minutes=1)
    await parts.db.api_tokens.update_one({"_id": row["_id"]}, {"$unset": {"last_used_at": 1}})
    await parts.uses.save()  # nothing new
    assert "last_used_at" not in await parts.db.api_tokens.find_one({"_id": row["_id"]})


async def test_a_refused_token_is_not_in_use(parts: Parts, outcome: Any) -> None:
    caller, token = await bot(parts)
    await parts.api_tokens.revoke_all(caller.user_id)
    assert await outcome(parts.authenticator.authenticate(token)) is UnauthorizedError
    await parts.uses.save()
    assert "last_used_at" not in await parts.db.api_tokens.find_one({"user_id": caller.user_id})
