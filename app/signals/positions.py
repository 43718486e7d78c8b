"""The positions of somebody who follows the rules, one after another. Needs numpy.

A decision falls at the close of a bar and is carried out at the opening of the next. A signal for the other side ends a
position, and begins one there where selling first is possible.
"""

from collections.abc import Mapping, Sequence
from datetime import date
from itertools import accumulate
from typing import Final, NamedTuple

import numpy as np

from app.core.indicators.compute import Columns
from app.signals.costs import Costs
from app.signals.exits import Exits, Reason
from app.signals.scoring import Sides

DOUBT: Final = 10
"""Trades' worth of doubt: the mean of so many trades counts for half of what it says."""


class Trade(NamedTuple):
    """A position that has ended, or (`STILL_OPEN`) that has not: then it is valued at the last close."""

    signal: int
    """The bar at whose close it was decided; it begins with the next one."""
    end: int
    """The bar in which it ends."""
    known: int
    """The bar by whose close that is known."""
    side: int
    entry: float
    exit: float
    reason: Reason

    @property
    def gross(self) -> float:
        """What it made, in per cent of the entry, before costs."""
        return 100 * self.side * (self.exit / self.entry - 1)

    @property
    def ended(self) -> bool:
        """Whether it is over."""
        return self.reason is not Reason.STILL_OPEN


def positions(bars: Columns, sides: Sides, exits: Mapping[int, Exits]) -> list[Trade]:
    """Of somebody who does what `sides` say; only sides that `exits` has are entered."""
    count, wanted, opens = len(bars), sides.tolist(), bars.open
    following = {side: _following(wanted, -side) for side in exits}
    trades: list[Trade] = []
    place = 0
    while place < count - 1:
        side = wanted[place]
        if side == 0 or side not in exits or not exits[side].begun[place]:
            place += 1
            continue
        trade = _trade(bars, exits[side], side, place, following[side][place + 1])
        trades.append(trade)
        place = trade.known if trade.reason is Reason.OPPOSITE else trade.end
    return [trade for trade in trades if np.isfinite(opens[trade.signal + 1])]


def _trade(bars: Columns, exits: Exits, side: int, place: int, opposite: int) -> Trade:
    """The position decided at `place`; `opposite`: where the other side is asked for next."""
    count, entry = len(bars), float(bars.open[place + 1])
    end = int(exits.at[place])
    if opposite < (end if end >= 0 else count - 1) and np.isfinite(bars.open[opposite + 1]):
        # It ends at the opening after that, and another can begin there: both are decided at `opposite`.
        price = float(bars.open[opposite + 1])
        return Trade(place, opposite + 1, opposite, side, entry, price, Reason.OPPOSITE)
    if end < 0:
        last = float(bars.close[-1])
        return Trade(place, count - 1, count, side, entry, last, Reason.STILL_OPEN)
    known, price = int(exits.known[place]), float(exits.price[place])
    return Trade(place, end, known, side, entry, price, Reason(int(exits.reason[place])))


def _following(wanted: Sequence[int], side: int) -> list[int]:
    """For each bar the first one from there on at which `side` is asked for; beyond the end if there is none."""
    count = len(wanted)
    places = [place if asked == side else count for place, asked in enumerate(wanted)]
    return [*list(accumulate(reversed(places), min))[::-1], count]


class Edge(NamedTuple):
    """What the rules have brought on one side until a bar, and what trading costs there."""

    trades: int
    percent: float
    """The mean result before costs, drawn towards nothing by `DOUBT`."""
    cost: float
    """Of a round trip, in per cent."""

    @property
    def worth(self) -> bool:
        """Whether it is more than the costs."""
        return self.percent > self.cost


class Record:
    """What trades have brought, by side, as bars go by; to be asked for ever later bars."""

    def __init__(self, trades: Sequence[Trade], costs: Costs) -> None:
        ended = sorted((trade for trade in trades if trade.ended), key=_known)
        self._waiting = {side: [trade for trade in ended if trade.side == side][::-1] for side in (1, -1)}
        self._count, self._sum, self._costs = {1: 0, -1: 0}, {1: 0.0, -1: 0.0}, costs

    def edge(self, side: int, place: int, day: date) -> Edge:
        """By the close of the bar `place`, which is of this day."""
        waiting = self._waiting[side]
        while waiting and _known(waiting[-1]) <= place:
            self._count[side] += 1
            self._sum[side] += waiting.pop().gross
        count = self._count[side]
        return Edge(count, self._sum[side] / (count + DOUBT), self._costs.percent(day))


def _known(trade: Trade) -> int:
    # At the opening that ends it the price is known; by a close it is that bar's.
    return trade.end if trade.reason is Reason.OPPOSITE else trade.known


def worthwhile(sides: Sides, record: Record, days: Sequence[date]) -> Sides:
    """`sides` where what the rules have brought before is more than what trading costs, and nothing elsewhere."""
    found = np.zeros_like(sides)
    for place in np.flatnonzero(sides).tolist():
        side = int(sides[place])
        if record.edge(side, place, days[place]).worth:
            found[place] = side
    return found
