"""What stands around the parts under test, each port filled in the smallest way."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from app.core.market_calendar import MarketCalendar
from app.market_data.candle_store import CandleStore
from app.market_data.candle_task import CandleTask
from app.market_data.candles import CandleBuilder
from app.market_data.ports import Bar, CandlesUnavailableError, Instrument, Tick, Timeframe
from app.market_data.rows import Row, RowMaker, from_ms
from tests.market_data.candle_ticks import SHARE, at
from tests.support.clocks import StandingClock
from tests.support.mongodb import Db


async def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.01)


def clock_at(wall: str) -> StandingClock:
    """Stands at `HH:MM:SS` in India on the Friday."""
    return StandingClock(from_ms(at(wall)))


class Shown:
    """A `CandleOutlet`."""

    def __init__(self) -> None:
        self.rows: dict[str, Mapping[str, Any]] = {}

    def candles(self, rows: Iterable[Mapping[str, Any]]) -> None:
        self.rows.update({row["_id"]: row for row in rows})

    def wants_candles(self, symbol: str, timeframe: Timeframe, /) -> bool:
        return symbol == SHARE.symbol and timeframe is not Timeframe.D1


class Candles:
    """All that one process has of candles."""

    def __init__(self, db: Db, clock: StandingClock) -> None:
        self.db, self.clock, self.calendar = db, clock, MarketCalendar(clock)
        self.builder, self.store, self.shown = CandleBuilder(self.calendar), CandleStore(db), Shown()
        self.task = self.make_task()

    def make_task(self, **more: Any) -> CandleTask:
        """Of these parts."""
        return CandleTask(
            db=self.db,
            clock=self.clock,
            calendar=self.calendar,
            builder=self.builder,
            store=self.store,
            outlet=self.shown,
            wanted=lambda: [SHARE],
            **more,
        )

    async def stored(self) -> dict[tuple[str, int], dict[str, Any]]:
        rows = await self.db["candles"].find({}).to_list()
        epoch = datetime(1970, 1, 1, tzinfo=UTC)
        return {(row["timeframe"], (row["start"] - epoch) // timedelta(milliseconds=1)): row for row in rows}


def tick_rows(ticks: Iterable[Tick]) -> list[Row]:
    """As the pipeline stores them."""
    maker = RowMaker()
    return [maker.make(tick) for tick in ticks]


class History:
    """A `CandleSource`: a walk of a rupee a minute, or what `errors` say."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, datetime, datetime]] = []
        self.times: list[float] = []
        self.errors: list[CandlesUnavailableError] = []
        self.without: set[datetime] = set()
        """Minutes that it does not have."""

    async def bars(self, instrument: Instrument, timeframe: Timeframe, start: datetime, end: datetime) -> list[Bar]:
        assert timeframe is Timeframe.M1
        self.asked.append((instrument.symbol, start, end))
        self.times.append(time.monotonic())
        if self.errors:
            raise self.errors.pop(0)
        made: list[Bar] = []
        while start < end:
            if start not in self.without:
                made.append(bar_of(start))
            start += timedelta(minutes=1)
        return made


def bar_of(start: datetime) -> Bar:
    minute = Decimal(start.hour * 60 + start.minute)
    return Bar(start, minute, minute + 3, minute - 2, minute + 1, 100)
