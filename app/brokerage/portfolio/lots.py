"""Positions and realised profit of a sequence of fills, exactly: first in, first out.

One book holds the fills of one account, instrument and product, in the order of their execution. A fill against the
open side closes the oldest lots first; what is left of it opens a lot on its own side. Realised profit is
`(exit price - entry price) x quantity` for a lot that was bought, and its negative for one that was sold short: gross,
before charges and interest.

Shares that are delivered are sold where they are held, and never short after that day. What such a sale exceeds the
book by, and is not bought back on the same day, came from elsewhere (it was held before the account was connected): the
book does not know what it cost, and counts no profit of it.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal, localcontext
from typing import Final, NamedTuple

from app.core.charges.words import EXACT

ZERO: Final = Decimal(0)


class Fill(NamedTuple):
    """What the maths needs of a trade."""

    trade: str
    """Its id."""
    sign: int
    """+1 bought, -1 sold."""
    quantity: int
    price: Decimal
    day: date
    """In India."""
    credit: bool = True
    """Whether the broker's credit is to be computed; else its owner has told what it cost."""


@dataclass(slots=True)
class Lot:
    """What is left of a trade that opened or enlarged a position."""

    trade: str
    quantity: int
    original: int
    """How much of it the trade opened."""
    price: Decimal
    day: date
    exit_value: Decimal = ZERO
    """What the part that is closed fetched (or cost, of a short one)."""
    credit: bool = True


@dataclass(slots=True)
class Outcome:
    """What a trade did to its book, and what became of what it opened."""

    opened: int = 0
    closed: int = 0
    entry_value: Decimal = ZERO
    """Of what it closed, at the prices at which that was opened."""
    realised: Decimal = ZERO
    interest: Decimal = ZERO
    """Of the broker's credit for what it closed."""
    exit_quantity: int = 0
    """Of what it opened, how much is closed by now."""
    exit_value: Decimal = ZERO
    elsewhere: int = 0
    """How many of the shares that it delivered were never in the book."""

    @property
    def open_quantity(self) -> int:
        """What of it is open still."""
        return self.opened - self.exit_quantity


Interest = Callable[[Lot, int, date], Decimal]
"""What credit cost for so much of a lot, from the lot's day to the given one."""


def no_interest(lot: Lot, quantity: int, until: date) -> Decimal:  # noqa: ARG001
    """Of what is paid in full."""
    return ZERO


@dataclass(slots=True)
class Book:
    """The open lots of one instrument, all on one side, oldest first, and what the closed ones made."""

    side: int = 0
    """+1 long, -1 short, 0 flat."""
    lots: deque[Lot] = field(default_factory=deque)
    realised: Decimal = ZERO
    trades: int = 0
    last_day: date | None = None
    """Of the newest fill."""
    day_start: int = 0
    """The position with which that day began."""
    day_realised: Decimal = ZERO
    """What was realised on it."""
    delivered: bool = False
    """Whether it is of shares that are delivered."""

    @property
    def position(self) -> int:
        """Signed open quantity."""
        return self.side * sum(lot.quantity for lot in self.lots)

    @property
    def cost(self) -> Decimal:
        """What the open lots were bought (or sold short) for."""
        with localcontext(EXACT):
            return sum((lot.quantity * lot.price for lot in self.lots), ZERO)

    def apply(self, fills: Iterable[Fill], interest: Interest = no_interest) -> dict[str, Outcome]:
        """Book fills that are in order and newer than all before: what changed of which trade, older ones included."""
        outcomes: dict[str, Outcome] = {}
        with localcontext(EXACT):
            for fill in fills:
                self._begin(fill.day, outcomes)
                outcome = outcomes.setdefault(fill.trade, Outcome())
                left = fill.quantity
                if self.side == -fill.sign:
                    left = self._close(fill, outcome, outcomes, interest)
                if left:
                    self.side = fill.sign
                    self.lots.append(Lot(fill.trade, left, left, fill.price, fill.day, credit=fill.credit))
                    outcome.opened = left
                self.trades += 1
        return outcomes

    def rest(self, today: date, outcomes: dict[str, Outcome] | None = None) -> None:
        """Let the days before `today` be over; what changes of which trade is put into `outcomes`."""
        outcomes = {} if outcomes is None else outcomes
        over = self.last_day is not None and self.last_day < today
        if not (over and self.delivered and self.side < 0):
            return
        for lot in self.lots:
            known = lot.original - lot.quantity
            outcome = outcomes.setdefault(lot.trade, Outcome())
            outcome.opened, outcome.exit_quantity, outcome.exit_value = known, known, lot.exit_value
            outcome.elsewhere = lot.quantity
        self.lots.clear()
        self.side = 0

    def _begin(self, day: date, outcomes: dict[str, Outcome]) -> None:
        if day != self.last_day:
            self.rest(day, outcomes)
            self.last_day, self.day_start, self.day_realised = day, self.position, ZERO

    def _close(self, fill: Fill, outcome: Outcome, outcomes: dict[str, Outcome], interest: Interest) -> int:
        """Close the oldest lots; gives what is left of the fill."""
        left, side = fill.quantity, self.side
        while left and self.lots:
            lot = self.lots[0]
            part = min(left, lot.quantity)
            realised = side * part * (fill.price - lot.price)
            outcome.closed += part
            outcome.entry_value += part * lot.price
            outcome.realised += realised
            if lot.credit and fill.credit:
                outcome.interest += interest(lot, part, fill.day)
            self.realised += realised
            self.day_realised += realised
            lot.quantity -= part
            lot.exit_value += part * fill.price
            # Of a lot that earlier fills opened only this much of its outcome is known here.
            opener = outcomes.setdefault(lot.trade, Outcome(opened=lot.original))
            opener.exit_quantity, opener.exit_value = lot.original - lot.quantity, lot.exit_value
            left -= part
            if not lot.quantity:
                self.lots.popleft()
        if not self.lots:
            self.side = 0
        return left

    def unrealised(self, price: Decimal) -> Decimal:
        """What the open lots would make at `price`, gross."""
        with localcontext(EXACT):
            return sum((self.side * lot.quantity * (price - lot.price) for lot in self.lots), ZERO)
