"""When a price reaches a signal's target or stop. Pure.

A signal has a level above the price and one below it: target and stop of a BUY, stop and target of a SELL. It is
touched as soon as the price is at a level or beyond it.
"""

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple

from app.signals.ports import PriceBar
from app.signals.status import SignalType


class OutcomeKind(StrEnum):
    """What ended a signal."""

    TARGET = "target"
    STOP = "stop"


class SeenIn(StrEnum):
    """What showed it."""

    TICK = "tick"
    CANDLE = "candle"


class Outcome(NamedTuple):
    """How a signal ended."""

    kind: OutcomeKind
    price: Decimal
    """Of the tick; of a candle its opening if that was beyond the level already, else the level."""
    at: datetime
    """The exchange's time of the tick, or when the candle began."""
    seen_in: SeenIn
    certain: bool
    """False if one candle reached both levels: which came first is not known, and the stop is assumed."""


class Levels(NamedTuple):
    """The two prices that end a signal."""

    lower: Decimal
    upper: Decimal
    target_is_upper: bool

    @classmethod
    def of(cls, side: SignalType, target: Decimal, stop: Decimal) -> "Levels":
        """Of a signal."""
        return cls(stop, target, True) if side is SignalType.BUY else cls(target, stop, False)

    def kind(self, *, upper: bool) -> OutcomeKind:
        """What the upper or the lower level is."""
        return OutcomeKind.TARGET if upper is self.target_is_upper else OutcomeKind.STOP


def touched_by_price(levels: Levels, price: Decimal, at: datetime) -> Outcome | None:
    """The outcome if a tick with `price` ends the signal."""
    if levels.lower < price < levels.upper:
        return None
    return Outcome(levels.kind(upper=price >= levels.upper), price, at, SeenIn.TICK, certain=True)


def touched_by_bar(levels: Levels, bar: PriceBar) -> Outcome | None:
    """The outcome if the prices within a candle end the signal."""
    first = touched_by_price(levels, bar.open, bar.start)
    if first is not None:
        return first._replace(seen_in=SeenIn.CANDLE)
    below, above = bar.low <= levels.lower, bar.high >= levels.upper
    if not below and not above:
        return None
    # Of both the stop: a result that is too good would be the worse mistake.
    upper = above if below is not above else not levels.target_is_upper
    price = levels.upper if upper else levels.lower
    return Outcome(levels.kind(upper=upper), price, bar.start, SeenIn.CANDLE, certain=below is not above)
