"""A real database with a few days of market data in it."""

from collections import Counter
from collections.abc import AsyncIterator, Mapping
from datetime import datetime, timedelta
from typing import Any

import pytest
from beanie import init_beanie
from pymongo import monitoring

from app.market_data.models import DOCUMENTS
from tests.market_data.reads.kit import (
    FRIDAY_OPEN,
    SESSION,
    Database,
    Reads,
    Row,
    SetClock,
    reads_of,
    store,
    tick_row,
    walk,
)
from tests.support.mongodb import empty_database

DAY = timedelta(days=1)


class Queries(monitoring.CommandListener):
    """Counts queries by collection, and how many rows came back at most."""

    def __init__(self) -> None:
        self.count: Counter[str] = Counter()
        self.rows: Counter[str] = Counter()
        self.lows: list[datetime] = []
        """From when on each query for candles asked."""
        self.hints = 0
        self._asked: dict[int, str] = {}

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        if collection := event.command.get("find") or event.command.get("aggregate"):
            self._asked[event.request_id] = collection
            self.count[collection] += 1
            self.hints += "hint" in event.command
            bounds = (event.command.get("filter") or {}).get("start")
            if isinstance(bounds, Mapping):
                self.lows.append(min(bounds.values()))

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        if collection := self._asked.pop(event.request_id, ""):
            self.rows[collection] += len(event.reply["cursor"]["firstBatch"])

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        self._asked.pop(event.request_id, None)

    def forget(self) -> None:
        """Begin again."""
        self.count.clear()
        self.rows.clear()
        self.lows.clear()


@pytest.fixture(scope="session")
def queries() -> Queries:
    """What `market_db` was asked for."""
    return Queries()


@pytest.fixture(scope="session")
async def market_db(mongodb_url: str, queries: Queries) -> AsyncIterator[Database]:
    """A database for all tests of this folder."""
    async with empty_database(mongodb_url, event_listeners=[queries]) as made:
        yield made


@pytest.fixture(scope="session")
def ticks() -> list[Row]:
    """What is stored: a busy symbol over three days, one that ticks at its very moments, one with a hole of weeks, and
    one that ticked on a Saturday night."""
    nifty: list[Row] = []
    for days in (2, 1, 0):
        opens = FRIDAY_OPEN - days * DAY
        nifty += walk("NIFTY 50", opens, opens + SESSION, timedelta(seconds=25), days)
    for number, row in enumerate(nifty):
        row |= {"data_quality": ("good", "good", "stale", "suspect")[number % 4], "is_realtime": number % 4 != 2}
    bank = [tick_row("BANKNIFTY", row["received_at"], row["ltpc"] * 2, exchange="BSE") for row in nifty[-300:]]
    for row in bank[::3]:
        row["source"] = "import"
    sparse = walk(
        "SPARSE", FRIDAY_OPEN - 24 * DAY, FRIDAY_OPEN - 24 * DAY + timedelta(minutes=5), timedelta(seconds=4), 7
    )
    sparse += walk("SPARSE", FRIDAY_OPEN, FRIDAY_OPEN + timedelta(minutes=5), timedelta(seconds=4), 8)
    night = walk("NIGHT", FRIDAY_OPEN + DAY, FRIDAY_OPEN + DAY + timedelta(minutes=5), timedelta(seconds=2), 9)
    return [*nifty, *bank, *sparse, *night]


@pytest.fixture(scope="session")
async def stored(market_db: Database, ticks: list[Row]) -> list[Row]:
    """The ticks, in the database."""
    await init_beanie(market_db, document_models=DOCUMENTS)
    await store(market_db, ticks)
    return ticks


@pytest.fixture
async def reads(market_db: Database, stored: list[Row]) -> AsyncIterator[Reads]:
    """The reads on the filled database, on Sunday; Beanie's documents belong to this database now."""
    assert stored
    await init_beanie(market_db, document_models=DOCUMENTS, skip_indexes=True)
    async with reads_of(market_db, SetClock()) as made:
        yield made


def seen(row: Row) -> dict[str, Any]:
    """What tells a stored row in an answer."""
    return {"id": str(row["_id"]), "symbol": row["symbol"], "ltpc": row["ltpc"]}
