"""What the analysis of a series says: plain values, and how prices are written. No numpy."""

import math
from enum import StrEnum
from typing import Final

import msgspec

from app.signals.backtest_words import Backtest

RULES_VERSION: Final = 2
"""To be raised with every change of what rules, weights or levels say: stored signals are not mixed up with others."""
THRESHOLD: Final = 30.0
"""Of a score from -100 to 100: from here on it asks for something."""


class Call(StrEnum):
    """What a generated signal says."""

    BUY = "BUY"
    SELL = "SELL"
    HOLD = "HOLD"


class RuleReason(msgspec.Struct, frozen=True):
    """What one rule sees."""

    rule: str
    weight: float
    score: float | None
    """From -1 (for selling) to 1 (for buying); None where it cannot say."""
    text: str


class ChartTrade(msgspec.Struct, frozen=True, array_like=True):
    """A position of the backtest; bars by number."""

    begin: int
    end: int
    side: int
    entry: float
    exit: float
    reason: str
    net_of_costs: float
    """Per cent, about: of the gross result the round trip's costs of today are taken."""


class Analysis(msgspec.Struct, frozen=True, kw_only=True):
    """All that a series of candles says, as of the close of its last one."""

    bars: int
    close: float
    call: Call
    score: float | None
    """From -100 to 100; None where too little is known."""
    asked: Call
    """What the score alone would say."""
    price_target: float | None
    stop_loss: float | None
    target_distance: float | None
    stop_distance: float | None
    """From the price at which a position begins, the opening of the next bar."""
    support_level: float | None
    resistance_level: float | None
    edge_trades: int
    edge_percent: float | None
    cost_percent: float
    reasons: list[RuleReason]
    headline: str
    """The signal and why, in a sentence."""
    reasoning: str
    """The headline, and everything else that counted."""
    indicators: dict[str, float | None]
    backtest: Backtest
    course_first: int
    """The bar that the courses begin with."""
    course: list[float]
    """The capital of who follows the rules at each close, in per cent of what it was."""
    held_course: list[float]
    scores: list[float | None]
    """Of every bar."""
    trades: list[ChartTrade]


def neat(value: float, digits: int = 10) -> float:
    """`value` without the digits that are rounding."""
    return float(f"{value:.{digits}g}") + 0.0


def priced(value: float) -> float:
    """A price, to the hundredth, or of a small one to six digits."""
    return round(value, 2) if abs(value) >= 1 else neat(value, 6)


def shown(value: float) -> str:
    """A price or another number for people."""
    if abs(value) >= 1000:
        return f"{value:,.2f}" if abs(value) < 1e7 else f"{value:,.0f}"
    if abs(value) >= 1 or not value:
        return f"{value:.2f}"
    digits = 3 - math.floor(math.log10(abs(value)))
    return f"{value:.{min(digits, 15)}f}"
