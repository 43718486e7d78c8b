"""Candles while the feed runs: shown at once, stored soon, whole again after another process or a kill."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Protocol

import structlog
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import PyMongoError

from app.core.clock import Clock
from app.core.market_calendar import MarketCalendar
from app.market_data.candle_bars import CandleRow, symbol_of
from app.market_data.candle_store import CandleStore
from app.market_data.candles import CandleBuilder
from app.market_data.leading import Past, together
from app.market_data.models import TickDocument
from app.market_data.ports import Instrument, Quality, Tick, Timeframe
from app.market_data.rows import from_ms, to_ms

log = structlog.get_logger(__name__)

Row = dict[str, Any]

SHOW_EVERY, STORE_EVERY = 0.25, 1.0
"""Seconds."""
UNSAVED = timedelta(seconds=15)
"""How much a killed process may have left out of its candles: what it writes every few seconds, and some patience."""
OUTDATED_SECONDS = 12.0
"""After so long with a later term's rows in the way this is the leader after all: the lease of the feed is looked at
every few seconds, and who lost it is ended. The other one got its term late, and did not lead any more."""
_SHOWN_AT_ONCE = 200
_TICKS_READ = 5_000


class CandleOutlet(Protocol):
    """Where candles go that are to be seen at once."""

    def candles(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take documents of `candles` that are new or changed; never waits, never raises."""

    def wants_candles(self, symbol: str, timeframe: Timeframe, /) -> bool:
        """Whether anybody watches them."""


class CandleTask:
    """The part of the leader that looks after candles."""

    def __init__(
        self,
        *,
        db: AsyncDatabase[Row],
        clock: Clock,
        calendar: MarketCalendar,
        builder: CandleBuilder,
        store: CandleStore,
        outlet: CandleOutlet,
        wanted: Callable[[], Sequence[Instrument]],
        outdated_seconds: float = OUTDATED_SECONDS,
    ) -> None:
        self._ticks = db[TickDocument.Settings.name]
        self._clock = clock
        self._calendar = calendar
        self._builder = builder
        self._store = store
        self._outlet = outlet
        self._wanted = wanted
        self._outdated_seconds = outdated_seconds
        self._began_ms = 0
        self._past = Past()
        self._recovering: set[str] = set()
        self.recovered = 0
        """Minutes that had ticks which a killed process did not get into them."""

    async def begin(self, past: Past) -> None:
        """See `LeaderPart`."""
        self._builder.clear()
        self._store.forget()
        # Before anything is read: what an earlier process writes from now on does not last.
        await self._store.lead()
        self._past, self._began_ms = past, self._now()
        self._recovering = {instrument.symbol for instrument in self._wanted()} if past.at else set()

    async def run(self) -> None:
        """See `LeaderPart`."""
        await together(self._recover(), self._look_after())

    async def finish(self, *, owned: bool) -> None:
        """See `LeaderPart`."""
        if owned:
            await self.settle()
            await self._store.write(self._builder.remaining(self._now()))
            await self._show()

    def _now(self) -> int:
        return to_ms(self._clock.now())

    async def _look_after(self) -> None:
        stored, outdated = self._clock.monotonic(), 0
        while True:
            await self.settle()
            await self._show()
            # Rounds and not seconds are counted: a process that stands still meanwhile learns nothing.
            outdated = outdated + 1 if self._store.outdated else 0
            if outdated * SHOW_EVERY > self._outdated_seconds:
                await self._lead_again()
            if self._clock.monotonic() - stored >= STORE_EVERY:
                stored = self._clock.monotonic()
                await self._store.write(self._builder.due(self._now()))
            await asyncio.sleep(SHOW_EVERY)

    async def _lead_again(self) -> None:
        try:
            await self._store.lead()
        except PyMongoError as error:
            log.debug("candles cannot be written now", error=type(error).__name__)

    async def _show(self) -> None:
        rows = self._builder.live(self._now(), self._outlet.wants_candles)
        for start in range(0, len(rows), _SHOWN_AT_ONCE):
            self._outlet.candles([row.document() for row in rows[start : start + _SHOWN_AT_ONCE]])
            await asyncio.sleep(0)  # others get their turn in between

    async def settle(self) -> None:
        """Join candles that were begun without knowing what is stored of them with that."""
        # What a killed process left out comes first: joined twice, it would count twice.
        asked = [name for name in self._builder.unknown() if symbol_of(name) not in self._recovering]
        if asked:
            try:
                self._builder.restore(await self._store.rows(asked), asked)
            except PyMongoError as error:  # the store says when it is away, and what is not joined is not written
                log.debug("candles cannot be joined now", error=type(error).__name__)

    # After a kill

    async def _recover(self) -> None:
        """Bring the last ticks that a killed process stored into the candles, which it writes less often."""
        if self._past.at is None:
            return
        died = to_ms(self._past.at)
        from_minute = self._calendar.bar_at(died - UNSAVED // timedelta(milliseconds=1), Timeframe.M1.milliseconds)
        low = from_minute[0] if from_minute else died - UNSAVED // timedelta(milliseconds=1)
        high = min(died + UNSAVED // timedelta(milliseconds=1), self._began_ms)
        waiting = list(self._wanted())
        while waiting and low < high:
            try:
                await self._recover_symbol(waiting[-1], low, high)
            except PyMongoError as error:
                log.warning("candles wait to be completed", error=type(error).__name__)
                await asyncio.sleep(2)
                continue
            self._recovering.discard(waiting.pop().symbol)
            await asyncio.sleep(0)
        self._recovering.clear()

    async def _recover_symbol(self, instrument: Instrument, low: int, high: int) -> None:
        match = {"symbol": instrument.symbol, "received_at": {"$gte": from_ms(low), "$lt": from_ms(high)}}
        ticks = [tick_of(row, instrument) for row in await self._ticks.find(match).limit(_TICKS_READ).to_list()]
        day = self._calendar.bar_at(ticks[0].received_ms, Timeframe.D1.milliseconds) if ticks else None
        if day is None:
            return
        scratch = CandleBuilder(self._calendar)
        for tick in ticks:
            scratch.accept(tick)
        rows = {row["_id"]: row for row in await self._store.read(instrument.symbol, Timeframe.M1, *day)}
        scratch.restore([], scratch.unknown())
        completed = []
        for minute in scratch.remaining(0):
            known = rows.get(minute.id)
            if minute.timeframe is Timeframe.M1 and (known is None or known["ticks"] < minute.ticks):
                rows[minute.id] = _completed(known, minute)
                completed.append(minute.id)
        self.recovered += len(completed)
        self._builder.rebuild(list(rows.values()), completed)


def _completed(known: Row | None, minute: CandleRow) -> Row:
    """The row of a minute made anew from its ticks, which are all there; what only the old one knew is kept."""
    row = minute.document()
    if known is not None:
        row |= {"revision": known["revision"], "closed": known["closed"]}
        row["progress"] |= {name: known["progress"][name] for name in ("base", "given") if name in known["progress"]}
    return row


def tick_of(row: Mapping[str, Any], instrument: Instrument) -> Tick:
    """A stored tick, with what candles are made of."""
    ms, divisor = to_ms(row["received_at"]), 10_000_000 if row["exchange_type"] == 13 else 100
    return Tick(
        instrument,
        ms,
        ms,
        round(row["ltpc"] * divisor),
        digest=0,
        divisor=divisor,
        volume=row.get("volume") or 0,
        last_quantity=(row.get("raw_data") or {}).get("last_quantity") or 0,
        has_day=row.get("volume") is not None,
        quality=Quality(row["data_quality"]),
        received_ms=ms,
    )
