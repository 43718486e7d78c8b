"""All keys of an account ended at once, for when it changes hands."""

import secrets
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from beanie import PydanticObjectId

from app.alerts.keys import KeyDirectory, KeyService, key_digest
from app.alerts.models import DOCUMENTS, KeyDocument
from app.core.audit import SYSTEM, Act
from app.core.bus import Bus, NullTransport
from app.core.clock import Sequence, SystemClock
from app.core.errors import UnauthorizedError
from app.core.events import KeyChanged
from app.core.security import Principal, Role
from tests.support.mongodb import empty_database

MANY = 201
"""More than one update ends."""


class Trail:
    """Fills the port `AuditTrail`."""

    def __init__(self) -> None:
        self.acts: list[Act] = []

    async def note(self, act: Act) -> None:
        self.acts.append(act)

    record = note


class Active:
    """Fills the port `AccountStatus`: everybody may act."""

    async def is_active(self, user_id: PydanticObjectId) -> bool:  # noqa: ARG002 (the port's)
        return True


class Callers:
    """Fills the port `CallerStatus`."""

    def __init__(self) -> None:
        self.signed_in = True

    async def holds(self, caller: Principal) -> bool:  # noqa: ARG002 (the port's)
        return self.signed_in


@pytest_asyncio.fixture
async def bus(mongodb_url: str) -> AsyncIterator[Bus]:
    async with empty_database(mongodb_url, DOCUMENTS):
        bus = Bus(NullTransport())
        await bus.start()
        yield bus
        await bus.stop()


async def test_every_key_of_the_account_ends_and_no_other(bus: Bus):
    clock, trail, told = SystemClock(), Trail(), list[str]()
    service = KeyService(bus, clock, Sequence(clock), trail, Callers())
    directory = KeyDirectory(bus, clock, Active())
    user, other = (Principal(PydanticObjectId(), PydanticObjectId(), Role.USER, clock.now()) for _ in range(2))
    mine = [(await service.bind(user, name, "http://arrow.test")).secret_key for name in ("A", "A", "B")]
    theirs = (await service.bind(other, "A", "http://arrow.test")).secret_key
    gone = await service.bind(user, "B", "http://arrow.test")
    await service.revoke(user, PydanticObjectId(gone.id))
    assert all([await directory.resolve(key) for key in (*mine, theirs)])  # in the cache from now on
    row = await KeyDocument.get_pymongo_collection().find_one({"digest": key_digest(mine[0])})
    assert row is not None
    more = [{**row, "_id": PydanticObjectId(), "digest": secrets.token_hex(32), "seq": n} for n in range(MANY)]
    await KeyDocument.get_pymongo_collection().insert_many(more)
    trail.acts.clear()
    bus.subscribe(KeyChanged, lambda event: told.append(event.digest))

    assert await service.revoke_all(user.user_id) == len(mine) + MANY

    assert [await directory.resolve(key) for key in mine] == [None] * 3
    assert await directory.resolve(theirs)
    assert len(set(told)) == len(told) == len(mine) + MANY
    [act] = trail.acts
    assert (act.action, act.account_id, act.actor) == ("strategy_key.revoke", user.user_id, SYSTEM)
    assert act.details == {"all": True, "ended": len(mine) + MANY}
    rows = await KeyDocument.find({"user_id": user.user_id}).to_list()
    assert all(key.revoked_at for key in rows)

    assert await service.revoke_all(user.user_id) == 0
    assert len(trail.acts) == 1


async def test_who_is_not_signed_in_any_more_gets_no_key(bus: Bus):
    clock, trail, callers, told = SystemClock(), Trail(), Callers(), list[str]()
    service = KeyService(bus, clock, Sequence(clock), trail, callers)
    user = Principal(PydanticObjectId(), PydanticObjectId(), Role.USER, clock.now())
    kept = await service.bind(user, "A", "http://arrow.test")
    bus.subscribe(KeyChanged, lambda event: told.append(event.digest))
    trail.acts.clear()

    callers.signed_in = False
    with pytest.raises(UnauthorizedError):
        await service.bind(user, "A", "http://arrow.test")

    assert [str(key.id) for key in await KeyDocument.find({"user_id": user.user_id}).to_list()] == [kept.id]
    assert (told, trail.acts) == ([], [])
