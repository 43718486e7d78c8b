"""One candle while it is being made, and one as it is stored. Prices are integers, as in ticks; times milliseconds.

What a bar says does not depend on the order in which its ticks came: the open is that of the earliest, the close that
of the latest, and the volume follows from the day's cumulative volume at both ends.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from app.market_data.ports import Bar, Gap, Timeframe
from app.market_data.rows import from_ms, to_ms

TICKS, BACKFILL, MIXED = "ticks", "backfill", "mixed"
"""What a candle was made from: our ticks, the provider's history, or both."""
_UNKNOWN = -1


def candle_id(symbol: str, timeframe: str, start_ms: int) -> str:
    """The `_id` of a candle's row."""
    return f"{symbol}|{timeframe}|{start_ms}"


def symbol_of(candle: str) -> str:
    """The symbol in the `_id` of a candle's row."""
    return candle.rsplit("|", 2)[0]


class Span(NamedTuple):
    """Which candle it is."""

    symbol: str
    timeframe: Timeframe
    start: int
    end: int
    divisor: int = 100
    """Integers of a price that make a rupee."""


class CandleRow(NamedTuple):
    """A candle to be stored or shown; prices in rupees."""

    symbol: str
    timeframe: Timeframe
    start_ms: int
    end_ms: int
    open: float
    high: float
    low: float
    close: float
    volume: int
    ticks: int
    revision: int
    source: str
    closed: bool
    progress: dict[str, int]
    """What is needed to go on with it after a restart."""

    @property
    def id(self) -> str:
        """The `_id` of its row."""
        return candle_id(self.symbol, self.timeframe, self.start_ms)

    def document(self) -> dict[str, Any]:
        """Its row in `candles`."""
        return {
            "_id": self.id,
            "schema_version": 1,
            "symbol": self.symbol,
            "timeframe": self.timeframe.value,
            "start": from_ms(self.start_ms),
            "end": from_ms(self.end_ms),
            "open": self.open,
            "high": self.high,
            "low": self.low,
            "close": self.close,
            "volume": self.volume,
            "ticks": self.ticks,
            "revision": self.revision,
            "source": self.source,
            "closed": self.closed,
            "progress": self.progress,
        }


class CandleBar:
    """A candle in the making; `CandleBuilder` alone changes it."""

    __slots__ = (
        "base",
        "changed",
        "close",
        "closed",
        "count_first",
        "count_first_ms",
        "count_last",
        "count_last_ms",
        "count_most",
        "day",
        "dropped",
        "first_ms",
        "given",
        "high",
        "known",
        "last_ms",
        "low",
        "open",
        "revision",
        "rolled_ticks",
        "rolled_volume",
        "saved_ms",
        "source",
        "span",
        "ticks",
        "volume",
        "whole",
    )

    def __init__(self, span: Span, day: int, *, known: bool) -> None:
        self.span = span
        self.day = day
        """When its session begins."""
        self.known = known
        """Whether it comprises what the store has of it; else it is a fragment, to be put together with that."""
        self.whole = False
        """Not known, and no fragment either: rolled up anew, so that only the row's revision is asked for."""
        self.open = self.high = self.low = self.close = 0
        self.first_ms, self.last_ms = span.end, _UNKNOWN
        self.ticks = self.volume = self.revision = self.saved_ms = 0
        self.source = TICKS
        self.closed = self.changed = self.dropped = False
        # The day's cumulative volume: before the first tick that had it, at the last, the most, at the end of the bar
        # before (`base`); and the volume by the provider's history (`given`).
        self.count_first_ms, self.count_last_ms = span.end, _UNKNOWN
        self.count_first = self.count_last = self.count_most = self.base = self.given = _UNKNOWN
        self.rolled_ticks = self.rolled_volume = 0
        """What of it the longer candles have already."""

    def count(self, at: int, volume: int, last_quantity: int) -> None:
        """The day's cumulative volume was `volume` at `at`, of which the tick itself brought `last_quantity`."""
        if at >= self.count_last_ms:
            self.count_last_ms, self.count_last = at, volume
        if at < self.count_first_ms:
            self.count_first_ms, self.count_first = at, max(0, volume - last_quantity)
        self.count_most = max(self.count_most, volume)

    def traded(self) -> int:
        """Its volume. What was traded in minutes that were missed counts here until a backfill brings them."""
        if self.given >= 0:
            return self.given
        last = self.count_last
        if last < 0:
            return 0
        base = self.base if self.base >= 0 else self.count_first
        if last >= base:
            return last - base
        if last * 2 < base:  # the provider began to count anew
            return last + max(0, self.count_most - base)
        return 0  # a correction of the provider's

    @property
    def priced(self) -> bool:
        """Whether it has prices: ticks that are suspect alone make no candle."""
        return self.last_ms >= 0

    @property
    def count_end(self) -> int:
        """The day's cumulative volume at its end; negative if it is not known."""
        if self.given >= 0:
            return self.base + self.given if self.base >= 0 else self.count_last
        return self.count_last if self.count_last >= 0 else self.base

    def absorb(self, part: "CandleBar", ticks: int, volume: int) -> None:
        """Take in a candle that lies within this one, or what is new in it; `ticks` and `volume` are what it adds."""
        if self.last_ms < 0:
            self.high, self.low, self.source = part.high, part.low, part.source
        elif part.source != self.source:
            self.source = MIXED
        self.high, self.low = max(self.high, part.high), min(self.low, part.low)
        # Equal: the same part again, corrected.
        if part.first_ms <= self.first_ms:
            self.first_ms, self.open = part.first_ms, part.open
        if part.last_ms >= self.last_ms:
            self.last_ms, self.close = part.last_ms, part.close
        self.ticks += ticks
        self.volume += volume

    def same_figures(self, other: "CandleBar") -> bool:
        """Whether both say the same of the market."""
        return (self.open, self.high, self.low, self.close, self.volume, self.ticks, self.source) == (
            other.open,
            other.high,
            other.low,
            other.close,
            other.volume,
            other.ticks,
            other.source,
        )

    def fill(self, given: Bar, gap: Gap) -> bool:
        """Bring the provider's minute in, as far as `gap` cut into ours; whether that changed anything."""
        divisor, start, end = self.span.divisor, self.span.start, self.span.end
        opened, high, low, closed = (round(price * divisor) for price in given[1:5])
        before = (self.open, self.high, self.low, self.close, self.given, self.source)
        if not self.ticks or not self.priced:
            self.source = BACKFILL
            self.open, self.high, self.low, self.close = opened, high, low, closed
            self.first_ms, self.last_ms = start, end - 1
        else:
            self.source = MIXED
            self.high, self.low = max(self.high, high), min(self.low, low)
            if gap.start_ms <= start:
                self.first_ms, self.open = start, opened
            if gap.end_ms >= end:
                self.last_ms, self.close = end - 1, closed
        self.given = given.volume
        return before != (self.open, self.high, self.low, self.close, self.given, self.source)

    def join(self, stored: "CandleBar") -> None:
        """Put this fragment together with what was stored of it before."""
        if not self.whole:
            self.absorb(stored, stored.ticks, stored.volume)
            self.rolled_ticks += stored.ticks
            self.rolled_volume += stored.volume
            if stored.count_last_ms > self.count_last_ms:
                self.count_last_ms, self.count_last = stored.count_last_ms, stored.count_last
            if stored.count_first_ms < self.count_first_ms:
                self.count_first_ms, self.count_first = stored.count_first_ms, stored.count_first
            self.count_most = max(self.count_most, stored.count_most)
            self.base = stored.base if stored.base >= 0 else self.base
            self.given = stored.given
        self.revision = stored.revision + (stored.closed and not self.same_figures(stored))
        self.closed = self.closed or stored.closed
        self.known, self.whole = True, False

    def row(self) -> CandleRow:
        """As it is now."""
        span, divisor = self.span, self.span.divisor
        progress = {"first_ms": self.first_ms, "last_ms": self.last_ms, "divisor": divisor}
        if span.timeframe is Timeframe.M1:
            names = ("count_first_ms", "count_first", "count_last_ms", "count_last", "count_most", "base", "given")
            progress |= {name: value for name in names if (value := getattr(self, name)) >= 0}
        return CandleRow(
            span.symbol,
            span.timeframe,
            span.start,
            span.end,
            self.open / divisor,
            self.high / divisor,
            self.low / divisor,
            self.close / divisor,
            self.volume,
            self.ticks,
            self.revision,
            self.source,
            self.closed,
            progress,
        )

    @classmethod
    def of(cls, row: Mapping[str, Any], day: int) -> "CandleBar":
        """A bar as its row in `candles` has it."""
        progress = row.get("progress") or {}
        divisor = progress.get("divisor", 100)
        start, end = to_ms(row["start"]), to_ms(row["end"])
        bar = cls(Span(row["symbol"], Timeframe(row["timeframe"]), start, end, divisor), day, known=True)
        for name in ("open", "high", "low", "close"):
            setattr(bar, name, round(row[name] * divisor))
        bar.first_ms, bar.last_ms = progress.get("first_ms", start), progress.get("last_ms", end - 1)
        for name in ("count_first_ms", "count_first", "count_last_ms", "count_last", "count_most", "base", "given"):
            if name in progress:
                setattr(bar, name, progress[name])
        bar.ticks = bar.rolled_ticks = row["ticks"]
        bar.volume = bar.rolled_volume = row["volume"]
        bar.revision, bar.source, bar.closed = row["revision"], row["source"], row["closed"]
        return bar


class Series:
    """The candles of one symbol that are in memory."""

    __slots__ = ("bars", "current", "divisor", "floor", "last", "newest", "suspects", "symbol", "top")

    def __init__(self, symbol: str, divisor: int) -> None:
        self.symbol = symbol
        self.divisor = divisor
        self.bars: dict[Timeframe, dict[int, CandleBar]] = {timeframe: {} for timeframe in Timeframe}
        # The minute that had the last tick, and of each length the candle that was rolled into last.
        self.last = CandleBar(Span(symbol, Timeframe.M1, 0, 0), 0, known=False)
        self.current: dict[Timeframe, CandleBar] = {}
        self.newest: CandleBar | None = None
        # From here on all minutes that there are are in memory.
        self.floor = 0
        # The latest start of each length: a candle beyond it cannot have been stored yet.
        self.top: dict[Timeframe, int] = {}
        self.suspects = 0
        """Suspect ticks in a row."""
