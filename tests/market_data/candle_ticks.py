"""Ticks for candles, and candles computed from them the slow and obvious way."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

from app.core.market_calendar import IST, MarketCalendar
from app.market_data.candles import CandleBuilder, CandleRow
from app.market_data.ports import Instrument, Tick, Timeframe
from tests.support.clocks import StandingClock

NIFTY = Instrument("NIFTY 50", "99926000", "NSE", 1, "INDEX")
SHARE = Instrument("SBIN-EQ", "3045", "NSE", 1, "EQ")
FRIDAY = date(2026, 11, 20)
"""A regular session."""
NEVER = 1 << 60
"""A time at which everything is closed."""


def at(wall: str, day: date = FRIDAY) -> int:
    """Milliseconds since the epoch of `HH:MM[:SS[.mmm]]` in India."""
    moment = datetime.fromisoformat(f"{day}T{wall}").replace(tzinfo=IST)
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def tick(ms: int, price: int, volume: int | None = None, *, instrument: Instrument = SHARE, **more: Any) -> Tick:
    """A tick; with the day's cumulative volume if given."""
    return Tick(
        instrument, ms, ms, price, digest=0, volume=volume or 0, has_day=volume is not None, received_ms=ms, **more
    )


def calendar() -> MarketCalendar:
    """The exchanges' own, on a Friday."""
    return MarketCalendar(StandingClock(datetime(2026, 11, 20, 6, tzinfo=UTC)))


def finished(builder: CandleBuilder) -> dict[tuple[Timeframe, int], CandleRow]:
    """All its candles, closed."""
    builder.restore([], asked=builder.unknown())
    return {(row.timeframe, row.start_ms): row for row in builder.due(NEVER)}


Figures = tuple[float, float, float, float, int, int]


def figures(row: CandleRow) -> Figures:
    """What a candle says of the market."""
    return row.open, row.high, row.low, row.close, row.volume, row.ticks


def naive(ticks: Sequence[Tick], days: MarketCalendar) -> dict[tuple[Timeframe, int], Figures]:
    """Every candle from all ticks of one symbol at once."""
    bars: dict[tuple[Timeframe, int], list[tuple[Tick, int]]] = defaultdict(list)
    before: dict[int, int] = {}
    for one in sorted(ticks, key=lambda one: one.received_ms):
        day = days.bar_at(one.received_ms, Timeframe.D1.milliseconds)
        if day is None:
            continue
        traded = 0
        if one.has_day:
            minute = days.bar_at(one.received_ms, 60_000)
            assert minute is not None
            first = 0 if minute[0] == day[0] else one.volume - one.last_quantity
            traded = one.volume - before.get(day[0], first)
            before[day[0]] = one.volume
        for timeframe in Timeframe:
            bounds = days.bar_at(one.received_ms, timeframe.milliseconds)
            assert bounds is not None
            bars[timeframe, bounds[0]].append((one, traded))
    return {
        key: (
            parts[0][0].price / 100,
            max(part.price for part, _ in parts) / 100,
            min(part.price for part, _ in parts) / 100,
            parts[-1][0].price / 100,
            sum(traded for _, traded in parts),
            len(parts),
        )
        for key, parts in bars.items()
    }
