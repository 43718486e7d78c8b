"""Ticks, and the parts that take them, for tests."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import PyMongoError

from app.core.clock import SystemClock
from app.market_data.counters import Counters
from app.market_data.latest import LatestPrices
from app.market_data.ports import Instrument, Quality, Tick
from app.market_data.rows import EncodedRow, Row, RowMaker, to_ms
from app.market_data.sink import SinkBounds, TickStore
from app.market_data.spill import Spill

Database = AsyncDatabase[dict[str, Any]]

NIFTY = Instrument("NIFTY 50", "99926000", "NSE", 1, "INDEX")
BANK = Instrument("BANKNIFTY", "99926009", "NSE", 1, "INDEX")
OPTION = Instrument("NIFTY26NOV24000CE", "43210", "NFO", 2, "OPTIDX", "26NOV2026", 24000.0)
OPEN_MS = to_ms(datetime(2026, 11, 20, 4, 0, tzinfo=UTC))
"""09:30 in India, on a Friday that is a trading day."""
QUICK = SinkBounds(patience=1.0, retry=0.1)
"""Soon takes the database to be away."""
PATIENT = SinkBounds(patience=30, retry=0.1)
"""Does not take a busy machine for that."""
SAVED_WITHIN = 30.0
"""Seconds that the newest rows may take: what is given up may be carried out later, and of two at once count twice."""

_digests = itertools.count(1)


def tick(instrument: Instrument = NIFTY, ms: int = OPEN_MS, price: int = 2_400_000, **more: Any) -> Tick:
    """A tick that came 5 ms after its time; its digest is its own unless one is given."""
    more = {"arrival_ms": ms + 5, "digest": next(_digests) * 0x9E37_79B9_7F4A_7C15 % 2**64, **more}
    return Tick(instrument=instrument, exchange_ms=ms, price=price, **more)


def rows_of(ticks: Sequence[Tick]) -> list[Row]:
    """Their rows, each at its own exchange time if it has no other yet."""
    maker = RowMaker()
    for one in ticks:
        one.received_ms = one.received_ms or one.exchange_ms
        one.quality = one.quality or Quality.GOOD
    return [maker.make(one) for one in ticks]


class Storage:
    """A process's share: store, spill, latest rows, counters."""

    def __init__(self, db: Database, folder: Path, *, bounds: SinkBounds = PATIENT, spill_bytes: int = 2**26) -> None:
        self.db = db
        self.counters = Counters()
        self.latest = LatestPrices(db, SystemClock(), patience=SAVED_WITHIN)
        self.spill = Spill(folder, clock=SystemClock(), max_bytes=spill_bytes)
        self.settled: list[EncodedRow] = []
        self.store = TickStore(
            db["market_data"],
            clock=SystemClock(),
            counters=self.counters,
            spill=self.spill,
            on_stored=self._note,
            on_drained=self.latest.save,
            bounds=bounds,
        )
        self._task: asyncio.Task[None] | None = None

    def _note(self, rows: Sequence[EncodedRow], new: bool) -> None:
        self.settled += rows if new else ()
        self.latest.note_stored(rows, counted=new)

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.store.run())
            tasks.create_task(self.latest.run())

    async def stop(self, deadline: float = 30.0) -> None:
        """As at a shutdown: the task is cancelled, then what waits is stored."""
        await self.cancel()
        await self.store.drain(deadline)

    async def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            assert self._task.cancelled(), "it runs until then, whatever happens"
            self._task = None


async def until(true: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.01)


async def loaded(latest: LatestPrices) -> None:
    """What is stored is learned, over connections that may have to be made anew."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await latest.load()
            except (PyMongoError, TimeoutError):
                await asyncio.sleep(0.05)


async def saved(latest: LatestPrices) -> None:
    """The newest rows are written, over connections that may have to be made anew."""
    async with asyncio.timeout(30):
        while not await latest.save():
            await asyncio.sleep(0.05)


async def stored_in(db: Database, symbol: str = NIFTY.symbol) -> list[Row]:
    """The stored ticks of a symbol, oldest first."""
    span = {"$gte": datetime(2020, 1, 1, tzinfo=UTC), "$lt": datetime(2100, 1, 1, tzinfo=UTC)}
    rows = await db["market_data"].find({"symbol": symbol, "received_at": span}).to_list()
    return sorted(rows, key=lambda row: row["received_at"])


async def counts_of(db: Database) -> dict[str, int]:
    """What `market_latest` says is stored."""
    return {row["_id"]: row["stored"] async for row in db["market_latest"].find({})}


async def warm(db: Database) -> None:
    """Open connections: what is sent next does not have to greet the server first."""
    await asyncio.gather(*(db.command("ping") for _ in range(12)))


def by_symbol(ticks: Sequence[Tick]) -> dict[str, int]:
    """How many there are of each."""
    return dict(Counter(one.instrument.symbol for one in ticks))
