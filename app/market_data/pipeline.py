"""From the source to everybody: the stages that a tick passes, in one go, in the event loop's own turn.

    checks → unique time → hours → newest prices → candles → outlet (those who watch) → sink (the database)

Nothing here waits, and no fault of one stage or of one tick keeps the others from theirs.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import structlog

from app.core.clock import Clock
from app.core.market_calendar import MarketCalendar
from app.market_data.checks import FAULTY, Checks
from app.market_data.counters import Counters
from app.market_data.latest import LatestPrices
from app.market_data.ports import Quality, Tick, TickOutlet, TickSink
from app.market_data.rows import SOURCE, Row, RowMaker
from app.market_data.times import UniqueTimes

log = structlog.get_logger(__name__)

_LOG_EVERY: Final = 10.0


class CandleIntake(Protocol):
    """Where candles are made of ticks."""

    def accept(self, tick: Tick) -> None:
        """Take a tick of a session; never waits."""


class Pipeline:
    """Takes ticks; one of a process, in the one that runs the feed."""

    def __init__(
        self,
        *,
        calendar: MarketCalendar,
        clock: Clock,
        latest: LatestPrices,
        candles: CandleIntake,
        outlet: TickOutlet,
        sink: TickSink,
        store_after_hours: bool,
        counters: Counters,
        source: str = SOURCE,
    ) -> None:
        """`source` is what the rows say where they come from."""
        self._clock = clock
        self._latest = latest
        self._candles = candles
        self._outlet = outlet
        self._sink = sink
        self._store_after_hours = store_after_hours
        self._counters = counters
        self._is_open_at = calendar.is_open_at
        self._checks = Checks(counters)
        self._times = UniqueTimes()
        self._make = RowMaker(source).make
        self._logged_at: dict[str, float] = {}

    def accept(self, ticks: Sequence[Tick]) -> None:
        """Take ticks in the order of their arrival; never waits, never raises. They are changed in place."""
        self._counters.received += len(ticks)
        seen: list[Tick] = []
        rows: list[Row] = []
        for tick in ticks:
            try:
                self._pass(tick, seen, rows)
            except Exception as error:  # noqa: BLE001 (one tick must not end the feed; it is counted and logged)
                self._counters.reject(FAULTY)
                self._log("a tick could not be processed", error)
        if seen:
            self._hand("outlet", self._outlet.ticks, seen)
        if rows:
            self._hand("sink", self._sink.offer, rows)

    def _pass(self, tick: Tick, seen: list[Tick], rows: list[Row]) -> None:
        counters, symbol = self._counters, tick.instrument.symbol
        if (reason := self._checks.judge(tick)) is not None:
            counters.reject(reason, symbol)
            return
        received_ms = self._times.place(symbol, tick.exchange_ms, tick.digest)
        if received_ms is None:
            counters.repeat(symbol)
            return
        tick.received_ms = received_ms
        self._tally(tick)
        tick.after_hours = not self._is_open_at(tick.exchange_ms)
        if tick.after_hours:
            counters.after_hours += 1
        if not tick.after_hours or self._store_after_hours:
            # The row first: a tick without one would have to be taken back from everywhere else.
            rows.append(self._make(tick))
            self._note(tick)
        seen.append(tick)

    def _tally(self, tick: Tick) -> None:
        tally, quality = self._counters.of(tick.instrument.symbol), tick.quality
        if quality is Quality.GOOD:
            tally.good += 1
        elif quality is Quality.STALE:
            tally.stale += 1
        else:
            tally.suspect += 1

    def _note(self, tick: Tick) -> None:
        """What is stored is what the newest prices and the candles speak of."""
        if not self._latest.seen(tick):
            self._counters.late += 1
            self._counters.of(tick.instrument.symbol).late += 1
        if tick.after_hours:
            return
        try:
            self._candles.accept(tick)
        except Exception as error:  # noqa: BLE001 (the tick itself is sound: it is stored and shown all the same)
            self._log("a candle could not be made", error)

    def _hand(self, what: str, take: Callable[[Any], None], things: Sequence[Any]) -> None:
        try:
            take(things)
        except Exception as error:  # noqa: BLE001 (neither of the two must keep the other from its ticks)
            self._log(f"the {what} failed", error)

    def _log(self, what: str, error: Exception) -> None:
        """Log with the trace, but not 20,000 times a second."""
        now = self._clock.monotonic()
        if now - self._logged_at.get(what, -_LOG_EVERY) >= _LOG_EVERY:
            self._logged_at[what] = now
            log.error(what, exc_info=error)
