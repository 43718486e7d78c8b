"""Positions and realised profit of a sequence of alerts, exactly: FIFO lots, one book per strategy and contract.

An alert is taken as filled at its own price and quantity. What it does to the position:

=====================  =====================================================================
``buy, long_entry``    adds to the position; a short one is covered first, then reversed
``sell, short_entry``  takes from the position; a long one is sold first, then reversed
``long_exit``          reduces a long position, at most to flat
``short_exit``         reduces a short position, at most to flat
``exit``               reduces whichever side is open, at most to flat
=====================  =====================================================================

Realised profit is ``(exit price - entry price) x quantity`` for a long lot and its negative for a short one,
oldest lot first, in the contract's price unit times its quantity unit. Charges are not part of it.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Context, Decimal, localcontext
from typing import Final, Protocol

# Sums and products here must not round. A stored price or quantity has at most 34 digits (Decimal128), so a
# product has 68; the rest is room for sums of numbers of very different size.
_EXACT: Final = Context(prec=512)
_ZERO: Final = Decimal(0)

_BOTH: Final = 0
# trade type -> (direction of the fill or _BOTH for "against whatever is open", may it open a position)
_EFFECTS: Final[dict[str, tuple[int, bool]]] = {
    "buy": (1, True),
    "long_entry": (1, True),
    "sell": (-1, True),
    "short_entry": (-1, True),
    "long_exit": (-1, False),
    "short_exit": (1, False),
    "exit": (_BOTH, False),
}


class Fill(Protocol):
    """What the maths needs of an alert."""

    @property
    def strategy_name(self) -> str: ...
    @property
    def contract(self) -> str: ...
    @property
    def trade_type(self) -> str: ...
    @property
    def quantity(self) -> Decimal: ...
    @property
    def price(self) -> Decimal: ...


@dataclass(frozen=True, slots=True)
class Step:
    """What one fill did to the book of its strategy and contract."""

    position: Decimal
    """Signed open quantity after the fill."""
    closed: Decimal
    """Quantity of earlier lots that the fill closed."""
    realised: Decimal
    """Profit or loss of those lots."""


class Book:
    """The open lots of one strategy in one contract, oldest first; all on one side."""

    __slots__ = ("_lots", "_position")

    def __init__(self) -> None:
        self._lots: deque[tuple[Decimal, Decimal]] = deque()  # (quantity > 0, price)
        self._position = _ZERO

    @property
    def position(self) -> Decimal:
        """Signed open quantity."""
        return self._position

    @property
    def lots(self) -> tuple[tuple[Decimal, Decimal], ...]:
        """The open lots as (quantity, entry price), oldest first; quantities are positive on either side."""
        return tuple(self._lots)

    def apply(self, trade_type: str, quantity: Decimal, price: Decimal) -> Step:
        """Book one fill.

        Raises KeyError for a trade type that is not in the table above.
        """
        direction, may_open = _EFFECTS[trade_type]
        with localcontext(_EXACT):
            if direction == _BOTH:
                direction = -1 if self._position > 0 else 1
            against = self._position * direction < 0
            closing = min(quantity, abs(self._position)) if against else _ZERO
            realised = self._close(closing, price)
            self._position += direction * closing
            opening = quantity - closing
            if may_open and opening > 0:
                self._lots.append((opening, price))
                self._position += direction * opening
            return Step(self._position, closing, realised)

    def _close(self, quantity: Decimal, price: Decimal) -> Decimal:
        side = 1 if self._position > 0 else -1
        realised = _ZERO
        while quantity > 0:
            lot_quantity, entry = self._lots.popleft()
            matched = min(lot_quantity, quantity)
            realised += side * matched * (price - entry)
            quantity -= matched
            if lot_quantity > matched:
                self._lots.appendleft((lot_quantity - matched, entry))
        return realised


def replay(fills: Iterable[Fill]) -> list[Step]:
    """Book the fills in the order given (oldest first), each in the book of its strategy and contract.

    Every book starts flat: what was open before the first fill is not known here. One step per fill, in the same
    order. Takes about 4 µs per fill.
    """
    books: dict[tuple[str, str], Book] = {}
    steps: list[Step] = []
    for fill in fills:
        book = books.setdefault((fill.strategy_name, fill.contract), Book())
        steps.append(book.apply(fill.trade_type, fill.quantity, fill.price))
    return steps


def add_exactly(left: Decimal, right: Decimal) -> Decimal:
    """``left + right`` without rounding to the caller's context."""
    return _EXACT.add(left, right)
