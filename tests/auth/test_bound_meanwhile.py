"""Keys bound by somebody whose account is being taken back: with the real services of both features."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from beanie import init_beanie
from pydantic import SecretStr

from app.alerts.keys import KeyService
from app.alerts.models import DOCUMENTS as ALERTS
from app.alerts.models import KeyDocument
from app.auth.models import DOCUMENTS
from app.auth.schemas.accounts import SignupBody, TokenPair
from app.auth.take_over import TakeOvers
from app.core.clock import Sequence
from app.core.errors import UnauthorizedError
from app.core.security import Principal
from tests.auth.conftest import HERE, PASSWORD, Parts
from tests.auth.recovery_kit import ELSEWHERE, Kit
from tests.auth.test_take_over import new_email

Then = Callable[[], Awaitable[object]]


class Callers:
    """The authenticator's word, with something happening before it is asked for."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.first: Then | None = None

    async def holds(self, caller: Principal) -> bool:
        if self.first is not None:
            await self.first()
        return await self.parts.authenticator.holds(caller)


class Story:
    """A thief who has signed up with somebody's address, and how its owner comes in."""

    def __init__(self, kit: Kit, keys: KeyService, callers: Callers, email: str, tokens: TokenPair) -> None:
        self.kit, self.keys, self.callers, self.email, self.tokens = kit, keys, callers, email, tokens

    async def owner_comes(self) -> None:
        await self.kit.service.otp_login(self.email, await self.kit.code(self.email), ELSEWHERE)

    async def bind(self, caller: Principal) -> None:
        await self.keys.bind(caller, "planted", "http://arrow.test")

    async def left(self) -> int:
        """Keys of the account that work."""
        user = await self.kit.parts.accounts.find(self.email)
        assert user is not None
        rows = await KeyDocument.find({"user_id": user.id}).to_list()
        return len([row for row in rows if row.revoked_at is None])


@pytest.fixture
async def story(parts: Parts, tmp_path: Path) -> Story:
    await init_beanie(parts.db, document_models=[*DOCUMENTS, *ALERTS])
    kit, callers = Kit(parts, tmp_path), Callers(parts)
    keys = KeyService(parts.bus, parts.clock, Sequence(parts.clock), kit.post, callers)
    kit.take_overs = TakeOvers(
        clock=parts.clock,
        accounts=parts.accounts,
        sessions=parts.sessions,
        api_tokens=parts.api_tokens,
        keys=keys,
        second_factors=kit.factors,
        places=kit.places,
        notices=kit.notices,
        audit=kit.post,
    )
    kit.service = kit.service_with(kit.otp)
    email = new_email()
    tokens = await kit.service.signup(SignupBody(email=email, password=SecretStr(PASSWORD)), HERE)
    return Story(kit, keys, callers, email, tokens)


@pytest.fixture(params=["session", "API token"])
async def caller(story: Story, request: pytest.FixtureRequest) -> Principal:
    """The thief, past the door."""
    caller = await story.kit.caller(story.tokens)
    if request.param == "session":
        return caller
    return await story.kit.parts.authenticator.authenticate(await story.kit.api_token(caller))


async def test_a_key_bound_after_the_keys_were_ended_does_not_stay(story: Story, caller: Principal) -> None:
    await story.bind(caller)
    assert await story.left() == 1
    await story.owner_comes()
    assert await story.left() == 0

    with pytest.raises(UnauthorizedError):
        await story.bind(caller)

    assert await story.left() == 0


async def test_nor_does_one_that_was_stored_before_and_asked_about_after(story: Story, caller: Principal) -> None:
    story.callers.first = story.owner_comes

    with pytest.raises(UnauthorizedError):
        await story.bind(caller)

    assert await story.left() == 0


async def test_nor_does_one_that_meets_the_end_of_its_sessions_half_way(story: Story, caller: Principal) -> None:
    """The session is dead, the keys are not ended yet: the key that comes now is the one that nobody looks for."""
    reached, go_on = asyncio.Event(), asyncio.Event()
    forget = story.keys.revoke_all

    class Slow:
        async def revoke_all(self, user_id: object) -> int:
            ended = await forget(user_id)  # type: ignore[arg-type]
            reached.set()
            await go_on.wait()
            return ended

    story.kit.take_overs._keys = Slow()
    coming = asyncio.create_task(story.owner_comes())
    await asyncio.wait_for(reached.wait(), 30)

    with pytest.raises(UnauthorizedError):
        await story.bind(caller)

    go_on.set()
    await coming
    assert await story.left() == 0


async def test_what_holds_and_what_does_not(story: Story, caller: Principal) -> None:
    parts = story.kit.parts
    assert await parts.authenticator.holds(caller)
    await parts.db.users.update_one({"_id": caller.user_id}, {"$set": {"is_active": False}})
    assert not await parts.authenticator.holds(caller)
    await parts.db.users.update_one({"_id": caller.user_id}, {"$set": {"is_active": True}})
    assert await parts.authenticator.holds(caller)
    if caller.api_token:
        await parts.api_tokens.revoke_all(caller.user_id)
    else:
        await parts.sessions.revoke_all(caller.user_id, "test")
    assert not await parts.authenticator.holds(caller)
