"""The stages in their order, and that no fault stops them."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from app.core.clock import SystemClock
from app.core.market_calendar import MarketCalendar
from app.market_data.counters import Counters
from app.market_data.latest import LatestPrices
from app.market_data.pipeline import Pipeline
from app.market_data.ports import Tick
from app.market_data.rows import from_ms, to_ms
from tests.market_data.pipeline.kit import BANK, NIFTY, OPEN_MS, Database, tick

AFTER_CLOSE = to_ms(datetime(2026, 11, 20, 10, 0, tzinfo=UTC))
"""15:30:00.000 in India: the first moment that is outside."""


class Fake:
    """Candles, outlet and sink in one; each can be broken."""

    def __init__(self) -> None:
        self.candled: list[Tick] = []
        self.seen: list[Tick] = []
        self.rows: list[dict[str, Any]] = []
        self.broken: set[str] = set()

    def accept(self, one: Tick) -> None:
        self._break("candles")
        self.candled.append(one)

    def ticks(self, ticks: Sequence[Tick]) -> None:
        self._break("outlet")
        self.seen += ticks

    def offer(self, rows: Sequence[dict[str, Any]]) -> None:
        self._break("sink")
        self.rows += rows

    def _break(self, part: str) -> None:
        if part in self.broken:
            raise RuntimeError(part)


class Line:
    """A pipeline and what it leads to."""

    def __init__(self, db: Database, *, store_after_hours: bool = False) -> None:
        clock, self.ends, self.counters = SystemClock(), Fake(), Counters()
        self.latest = LatestPrices(db, clock)
        self.pipeline = Pipeline(
            calendar=MarketCalendar(clock),
            clock=clock,
            latest=self.latest,
            candles=self.ends,
            outlet=self.ends,
            sink=self.ends,
            store_after_hours=store_after_hours,
            counters=self.counters,
        )

    def accept(self, *ticks: Tick) -> None:
        self.pipeline.accept(ticks)


@pytest.fixture
def line(db: Database) -> Line:
    return Line(db)


def test_every_stage_has_its_share(line: Line) -> None:
    ticks = [tick(), tick(BANK, price=5_000_000), tick(price=2_400_100)]
    line.accept(*ticks)
    assert line.ends.seen == ticks == line.ends.candled
    assert [row["received_at"] for row in line.ends.rows] == [
        from_ms(OPEN_MS),
        from_ms(OPEN_MS),
        from_ms(OPEN_MS + 1),
    ]
    assert [one.received_ms for one in ticks] == [OPEN_MS, OPEN_MS, OPEN_MS + 1]
    assert line.latest.snapshot() == {NIFTY.symbol: ticks[2], BANK.symbol: ticks[1]}
    assert line.counters.as_dict()["received"] == 3
    assert line.counters.of(NIFTY.symbol).good == 2


def test_repeats_and_rejected_ticks_go_no_further(line: Line) -> None:
    line.accept(tick(digest=1), tick(price=0), tick(digest=1), tick(ms=5))
    assert len(line.ends.seen) == len(line.ends.rows) == len(line.ends.candled) == 1
    assert (line.counters.duplicate, line.counters.rejected) == (1, {"price": 1, "too_old": 1})
    tallies = line.counters.take_symbols()
    assert (tallies[NIFTY.symbol].duplicates, tallies[NIFTY.symbol].rejected) == (1, {"price": 1, "too_old": 1})
    assert line.counters.symbols == {}


def test_late_ticks_are_stored_and_are_not_the_newest(line: Line) -> None:
    newest, late = tick(ms=OPEN_MS + 500), tick()
    line.accept(newest, late)
    assert line.latest.snapshot()[NIFTY.symbol] is newest
    assert (line.counters.late, len(line.ends.rows)) == (1, 2)


@pytest.mark.parametrize("store", [False, True])
def test_after_hours(db: Database, store: bool) -> None:
    line = Line(db, store_after_hours=store)
    within, outside = tick(ms=AFTER_CLOSE - 1), tick(ms=AFTER_CLOSE)
    line.accept(within, outside)
    assert line.ends.seen == [within, outside], "both are streamed"
    assert (within.after_hours, outside.after_hours) == (False, True)
    assert line.ends.candled == [within]
    assert len(line.ends.rows) == 1 + store
    assert line.latest.snapshot()[NIFTY.symbol] is (outside if store else within)
    assert line.counters.after_hours == 1


@pytest.mark.parametrize("broken", ["candles", "outlet", "sink"])
def test_a_broken_part_keeps_nothing_from_the_others(line: Line, broken: str) -> None:
    line.ends.broken = {broken}
    line.accept(tick(), tick())
    got = {"candles": line.ends.candled, "outlet": line.ends.seen, "sink": line.ends.rows}
    assert {part: len(things) for part, things in got.items()} == {
        part: 0 if part == broken else 2 for part in ("candles", "outlet", "sink")
    }


def test_a_tick_that_breaks_a_stage_is_counted_and_the_next_ones_pass(line: Line) -> None:
    def no_book() -> None:
        raise ValueError("no book")

    line.accept(tick(depth=no_book), tick(divisor=0), tick(digest=None), tick())
    assert len(line.ends.seen) == len(line.ends.rows) == 1
    assert sum(line.counters.rejected.values()) == 3
    assert line.counters.received == 4
