"""How a position would end that begins at the opening after any bar: for all bars at once. Needs numpy.

A stop or a target is filled at its own price, or at the opening of a bar that begins beyond it. Of a bar that reaches
both, the stop is assumed. After `LONGEST` bars it ends at the close, intraday at the session's last close.
"""

from enum import IntEnum
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.core.indicators.compute import Columns, Floats
from app.signals.levels import STOP_ATR, TARGET_ATR

LONGEST: Final = 20
"""Bars that a position lasts at most."""

Places = NDArray[np.int64]


class Reason(IntEnum):
    """Why a position ended."""

    STILL_OPEN = 0
    STOP = 1
    TARGET = 2
    TIME = 3
    SESSION = 4
    OPPOSITE = 5
    """The rules asked for the other side."""


class Exits(NamedTuple):
    """For each bar the end of the position that begins at the next opening; -1 and NaN where it has not ended."""

    begun: NDArray[np.bool_]
    """Whether one can begin at all: there is a next bar, and a range to measure its stop by."""
    at: Places
    """The bar in which it ends."""
    known: Places
    """The bar by whose close that is known: the end of a session only by the bar that follows it."""
    price: Floats
    reason: NDArray[np.int8]


def exits(bars: Columns, atr: Floats, side: int, *, overnight: bool) -> Exits:
    """Of positions on `side`, 1 or -1. `overnight`: they may outlast a session."""
    count = len(bars)
    found = Exits(
        np.zeros(count, dtype=np.bool_),
        np.full(count, -1),
        np.full(count, -1),
        np.full(count, np.nan),
        np.zeros(count, dtype=np.int8),
    )
    begun = np.arange(max(count - 1, 0))
    # A stop below nothing cannot be.
    begun = begun[np.isfinite(atr[:-1]) & np.isfinite(bars.open[1:]) & (STOP_ATR * atr[:-1] < bars.open[1:])]
    found.begun[begun] = True
    entry = bars.open[begun + 1]
    stop, target = entry - side * STOP_ATR * atr[begun], entry + side * TARGET_ATR * atr[begun]
    for step in range(1, LONGEST + 1):
        inside = begun + step < count
        begun, entry, stop, target = begun[inside], entry[inside], stop[inside], target[inside]
        if not len(begun):
            break
        left = _step(bars, found, begun, step, side, stop, target, overnight=overnight)
        begun, entry, stop, target = begun[left], entry[left], stop[left], target[left]
    return found


def _step(
    bars: Columns,
    found: Exits,
    begun: Places,
    step: int,
    side: int,
    stop: Floats,
    target: Floats,
    *,
    overnight: bool,
) -> NDArray[np.bool_]:
    """End what ends in the bar `step` after its signal; which positions are left."""
    place = begun + step
    opens, high, low, close = (column[place] for column in (bars.open, bars.high, bars.low, bars.close))
    worst, best = (low, high) if side > 0 else (high, low)
    open_ = np.ones(len(begun), dtype=np.bool_)

    def end(which: NDArray[np.bool_], at: Places, price: Floats, reason: Reason) -> None:
        ending = which & open_
        rows = begun[ending]
        found.at[rows], found.known[rows] = at[ending], place[ending]
        found.price[rows], found.reason[rows] = price[ending], reason
        open_[ending] = False

    if not overnight and bars.session is not None and step > 1:
        over = bars.session[place] != bars.session[place - 1]
        end(over, place - 1, bars.close[place - 1], Reason.SESSION)
    with np.errstate(invalid="ignore"):
        end(side * (opens - stop) <= 0, place, opens, Reason.STOP)
        end(side * (opens - target) >= 0, place, opens, Reason.TARGET)
        end(side * (worst - stop) <= 0, place, stop, Reason.STOP)
        end(side * (best - target) >= 0, place, target, Reason.TARGET)
    if step == LONGEST:
        end(np.isfinite(close), place, close, Reason.TIME)
    return open_
