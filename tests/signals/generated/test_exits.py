"""How positions end, against a second implementation that goes bar by bar; and turning points."""

import math
from dataclasses import replace

import numpy as np
import pytest

from app.core.indicators.compute import Columns, columns
from app.signals.analysis import columns_of
from app.signals.exits import LONGEST, Exits, Reason, exits
from app.signals.levels import PIVOT, walls
from app.signals.positions import positions
from tests.signals.generated.kit import days, quarters, series, walk

End = tuple[int, float, Reason]


def slowly(bars: Columns, atr: list[float], place: int, side: int, *, overnight: bool) -> End | None:
    """The end of the position that is decided at `place`."""
    entry = bars.open[place + 1]
    stop, target = entry - side * 2 * atr[place], entry + side * 3 * atr[place]
    for bar in range(place + 1, len(bars)):
        opens, close = float(bars.open[bar]), float(bars.close[bar])
        worst, best = (bars.low[bar], bars.high[bar]) if side > 0 else (bars.high[bar], bars.low[bar])
        if (
            not overnight
            and bar > place + 1
            and bars.session is not None
            and bars.session[bar] != bars.session[bar - 1]
        ):
            return bar - 1, float(bars.close[bar - 1]), Reason.SESSION
        if side * (opens - stop) <= 0:
            return bar, opens, Reason.STOP
        if side * (opens - target) >= 0:
            return bar, opens, Reason.TARGET
        if side * (worst - stop) <= 0:
            return bar, float(stop), Reason.STOP
        if side * (best - target) >= 0:
            return bar, float(target), Reason.TARGET
        if bar == place + LONGEST:
            return bar, close, Reason.TIME
    return None


@pytest.mark.parametrize("overnight", [True, False])
@pytest.mark.parametrize("side", [1, -1])
def test_every_position_ends_as_a_second_implementation_says(side: int, overnight: bool):
    bars = columns_of(series(walk(quarters(600), seed=4), timeframe="15m"))
    atr = [math.nan] * 10 + [float(one) for one in bars.close[10:] * 0.013]
    found = exits(bars, np.array(atr), side, overnight=overnight)
    assert not found.begun[:10].any()
    assert not found.begun[-1]
    seen = set()
    for place in range(10, len(bars) - 1):
        assert found.begun[place]
        wanted = slowly(bars, atr, place, side, overnight=overnight)
        if wanted is None:
            assert (found.at[place], found.reason[place]) == (-1, Reason.STILL_OPEN)
            continue
        end, price, reason = wanted
        assert (found.at[place], Reason(found.reason[place])) == (end, reason), place
        assert found.price[place] == pytest.approx(price, rel=1e-12)
        # That a session is over is known by the bar that begins the next one.
        assert found.known[place] == end + (reason is Reason.SESSION)
        seen.add(reason)
    expected = (
        {Reason.STOP, Reason.TARGET, Reason.SESSION} if not overnight else {Reason.STOP, Reason.TARGET, Reason.TIME}
    )
    assert expected <= seen


def test_of_a_bar_that_reaches_both_the_stop_is_assumed():
    bars = columns([100, 100, 100], [100, 200, 100], [100, 1, 100], [100, 100, 100], [1, 1, 1])
    found = exits(bars, np.full(3, 2.0), 1, overnight=True)
    assert (found.at[0], found.price[0], found.reason[0]) == (1, 96, Reason.STOP)


def test_no_stop_is_below_nothing():
    bars = columns(*[[1.0] * 30] * 4, [1] * 30)
    assert not exits(bars, np.full(30, 0.6), 1, overnight=True).begun.any()


def _never(count: int) -> Exits:
    return Exits(
        np.arange(count) < count - 1,
        np.full(count, -1),
        np.full(count, -1),
        np.full(count, np.nan),
        np.zeros(count, dtype=np.int8),
    )


def test_the_other_side_ends_a_position_at_the_next_opening_and_begins_one():
    bars = columns_of(series(walk(days(40))))
    sides = np.zeros(40, dtype=np.int8)
    sides[[5, 6, 20, 30]] = [1, 1, -1, 1]
    both = positions(bars, sides, {1: _never(40), -1: _never(40)})
    assert [(trade.signal, trade.end, trade.side, trade.reason) for trade in both] == [
        (5, 21, 1, Reason.OPPOSITE),
        (20, 31, -1, Reason.OPPOSITE),
        (30, 39, 1, Reason.STILL_OPEN),
    ]
    assert [trade.entry for trade in both] == [bars.open[6], bars.open[21], bars.open[31]]
    assert [trade.exit for trade in both] == [bars.open[21], bars.open[31], bars.close[39]]
    assert both[1].gross == pytest.approx(100 * (1 - bars.open[31] / bars.open[21]))
    # Where selling first is impossible, it ends the position all the same.
    long_only = positions(bars, sides, {1: _never(40)})
    assert [(trade.signal, trade.end) for trade in long_only] == [(5, 21), (30, 39)]


def test_turning_points_are_known_only_when_the_bars_after_them_are_over():
    bars = columns_of(series(walk(days(300), seed=8)))

    def slowly_walls(end: int) -> tuple[float | None, float | None]:
        low, high, close = bars.low[:end], bars.high[:end], bars.close[end - 1]
        below, above = [], []
        for place in range(max(end - 250, 0) + PIVOT, end - PIVOT):
            before, after = slice(place - PIVOT, place), slice(place + 1, place + PIVOT + 1)
            if low[place] < low[before].min() and low[place] <= low[after].min():
                below.append(float(low[place]))
            if high[place] > high[before].max() and high[place] >= high[after].max():
                above.append(float(high[place]))
        return max((one for one in below if one < close), default=None), min(
            (one for one in above if one > close), default=None
        )

    for end in range(1, 301):
        assert tuple(walls(bars.part(0, end))) == slowly_walls(end)


def test_a_higher_high_of_the_last_bars_is_no_resistance_yet():
    bars = columns_of(series(walk(days(100))))
    high = bars.high.copy()
    high[-PIVOT] = 10 * high.max()
    assert (walls(replace(bars, high=high)).resistance or 0) < high[-PIVOT]
