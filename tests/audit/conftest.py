"""A database server and trails on it: several in one process write like the processes of a service."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import pytest
import pytest_asyncio
import structlog
from beanie import PydanticObjectId
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from app.audit.chain import GENESIS, digest
from app.audit.models import DOCUMENTS
from app.audit.trail import ChainedAuditTrail
from app.core.audit import Act, Actor, ActorKind
from app.core.request_info import RequestInfo, note_request
from tests.support.clocks import StandingClock
from tests.support.mongodb import Db, empty_database

Row = dict[str, Any]
MakeTrail = Callable[..., ChainedAuditTrail]
ACCOUNT = PydanticObjectId("6b0288f1002b26997921d6aa")
_numbers = itertools.count(1)


def act(account: PydanticObjectId | None = ACCOUNT, **values: Any) -> Act:
    """Something that happened."""
    actor = Actor(ActorKind.SESSION, account, PydanticObjectId())
    defaults: dict[str, Any] = {"action": "strategy_key.bind", "actor": actor, "target": ("strategy_key", "k")}
    return Act(account_id=account, **{**defaults, "details": {"n": next(_numbers)}, **values})


async def during(request: RequestInfo, work: Coroutine[Any, Any, None]) -> None:
    """Do `work` for this request, as the middleware has it done."""

    async def answer() -> None:
        note_request(lambda: request)
        await work

    await asyncio.create_task(answer())


async def entries(db: Db) -> list[Row]:
    """All entries, by number."""
    return sorted([row async for row in db["audit_entries"].find({})], key=lambda row: row["number"])


async def head(db: Db) -> Row:
    """The stored head."""
    row = await db["audit_chain"].find_one({"_id": "head"})
    assert row is not None
    return row


async def check_chain(db: Db, count: int) -> list[dict[str, Any]]:
    """The entries: `count` of them, numbered without a gap, each following the one before, the last one the head's."""
    rows = await entries(db)
    assert [row["number"] for row in rows] == list(range(1, count + 1))
    previous = GENESIS
    for row in rows:
        assert (row["previous_hash"], row["hash"]) == (previous, digest(row))
        previous = row["hash"]
    assert [row["seq"] for row in rows] == sorted({row["seq"] for row in rows})
    last = await head(db)
    assert (last["number"], last["hash"]) == (count, previous)
    return rows


class Watch(CommandListener):
    """Calls `asked` with the filter whenever the entries are about to be read."""

    def __init__(self, asked: Callable[[Row], None]) -> None:
        self._asked = asked

    def started(self, event: CommandStartedEvent) -> None:
        if event.command_name == "find" and event.command["find"] == "audit_entries":
            self._asked(dict(event.command["filter"]))

    def succeeded(self, event: CommandSucceededEvent) -> None:
        """As it should."""

    def failed(self, event: CommandFailedEvent) -> None:
        """The test fails by that."""


async def lose_insert(db: Db, count: int = 1) -> None:
    """Leave the database as a crash between the move of the head and the insert of `count` entries does."""
    carried = (await head(db))["carried"][-count:]
    assert len(carried) == count
    for row in carried:
        await db["audit_entries"].delete_one({"_id": row["_id"]})


@pytest.fixture(scope="module", autouse=True)
def plain_logs() -> Iterator[None]:
    """structlog's own default draws pictures of every frame, for seconds."""
    structlog.configure(processors=[structlog.processors.format_exc_info, structlog.processors.KeyValueRenderer()])
    yield
    structlog.reset_defaults()


@pytest_asyncio.fixture(scope="session")
async def audit_db(mongodb_url: str) -> AsyncIterator[Db]:
    async with empty_database(mongodb_url, DOCUMENTS) as made:
        yield made


@pytest_asyncio.fixture
async def db(audit_db: Db) -> Db:
    """An empty database: emptied, that is, which is quicker than to make all the indexes for each test."""
    for name in ("audit_entries", "audit_chain"):
        await audit_db[name].delete_many({})
    return audit_db


@pytest.fixture
def clock() -> StandingClock:
    return StandingClock()


@pytest_asyncio.fixture
async def make_trail(db: Db, clock: StandingClock) -> AsyncIterator[MakeTrail]:
    """Makes trails, each as another process has it; they are drained after the test."""
    made: list[ChainedAuditTrail] = []

    def make(database: Db | None = None, **options: Any) -> ChainedAuditTrail:
        # As patient as a busy machine needs it, unless the patience is what is tested.
        options = {"patience": 30, **options}
        made.append(ChainedAuditTrail(db if database is None else database, clock, **options))
        return made[-1]

    yield make
    for trail in made:
        await trail.drain(2)


@pytest.fixture
def trail(make_trail: MakeTrail) -> ChainedAuditTrail:
    return make_trail()
