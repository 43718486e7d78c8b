"""Measures of risk from daily prices: pure functions, with their formulas and sources.

Prices are exact decimals up to here; from here on they are floats, because a return is a measurement and no money: all
sums are by `math.fsum`, and the relative error stays near 1e-13. Coins trade on every day, so a year has 365 returns.
Nothing is made up: prices that are not a day apart give no daily return, and a measure for which there is too little
data is None, with a reason that a person can act on.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Final, NamedTuple

from app.crypto.history_slots import Interval, slot_of
from app.crypto.ports import PricePoint

YEAR: Final = 365
"""Daily returns of a year."""
SHORTEST, LONGEST = timedelta(hours=18), timedelta(hours=30)
"""How far apart two neighbouring points are that give a daily return; points are the first of their days (UTC)."""
NEEDED: Final = 30
"""Returns for a standard deviation or a correlation: with 30 the standard error of the former is about 13 %."""
TAIL_PERCENT: Final = (5, 1)
"""Of the days are beyond the value at risk at 95 and 99 %."""
TAIL_NEEDED: Final[Mapping[int, int]] = {5: 60, 1: 250}
"""Returns for a tail: three days in the worst 5 %, or the year of 250 days that Basel asks for at 99 %."""


class Day(NamedTuple):
    """The value of something on a day."""

    at: datetime
    value: float


class Return(NamedTuple):
    """The simple return of the day that ends on `day` (days since the epoch)."""

    day: int
    value: float


class Measure(NamedTuple):
    """A figure, or why there is none; what it is made of; and how many of these it takes."""

    value: float | None
    reason: str | None
    observations: int
    needed: int


class Drawdown(NamedTuple):
    """The deepest fall from a peak, as a share of the peak, and the present one."""

    depth: float
    peak_at: datetime
    trough_at: datetime
    recovered_at: datetime | None
    """When the old peak was reached again; None if it has not been."""
    current: float


def days_of(points: Sequence[PricePoint]) -> list[Day]:
    """Points as floats; prices that a float cannot hold as a positive number are left out."""
    found = (Day(point.at, float(point.price)) for point in points)
    return [day for day in found if 0 < day.value < math.inf]


def day_number(at: datetime) -> int:
    """Days since the epoch, in UTC."""
    return slot_of(at, Interval.D1)


def is_a_day(before: datetime, after: datetime) -> bool:
    """Whether what happened between two points is a daily return."""
    return SHORTEST <= after - before <= LONGEST


def daily_returns(days: Sequence[Day]) -> list[Return]:
    """r_t = P_t / P_(t-1) - 1 of neighbouring days, oldest first; where days are missing there is none."""
    return [
        Return(day_number(after.at), after.value / before.value - 1)
        for before, after in pairwise(days)
        if is_a_day(before.at, after.at)
    ]


def gaps_of(days: Sequence[Day]) -> int:
    """Neighbouring points that give no daily return."""
    return sum(not is_a_day(before.at, after.at) for before, after in pairwise(days))


# Volatility

VOLATILITY: Final = (
    "sqrt(365) times the sample standard deviation (n - 1) of the daily log returns ln(1 + r_t)",
    "J. C. Hull, Options, Futures, and Other Derivatives, chapter on estimating volatility from historical data; "
    "365 days, as coins trade on all of them",
)


def volatility(returns: Sequence[float], what: str = "daily returns") -> Measure:
    """Annualised volatility, as a share (0.6 is 60 % a year). `what` the returns are called where there are too few."""
    if (reason := too_few(len(returns), NEEDED, what)) is not None:
        return Measure(None, reason, len(returns), NEEDED)
    if min(returns) <= -1:
        return Measure(None, "The value fell to nothing, which has no log return.", len(returns), NEEDED)
    return Measure(deviation([math.log1p(one) for one in returns]) * math.sqrt(YEAR), None, len(returns), NEEDED)


def deviation(values: Sequence[float]) -> float:
    """The sample standard deviation, with n - 1."""
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def too_few(count: int, needed: int, what: str = "daily returns") -> str | None:
    """Why `count` observations do not do; None if they do."""
    if count >= needed:
        return None
    have = "no" if not count else f"only {count}"
    what = what[:-1] if count == 1 and what.endswith("s") else what
    return f"There {'is' if count == 1 else 'are'} {have} {what} yet; {needed} are needed."


# Drawdown

DRAWDOWN: Final = (
    "max over t of 1 - V_t / max(V_s for s <= t), over the daily values V",
    "M. Magdon-Ismail and A. Atiya, Maximum Drawdown, Risk 17 (10), 2004",
)


def maximum_drawdown(days: Sequence[Day]) -> Drawdown | None:
    """The deepest fall, of equally deep ones the first; None without two days."""
    if len(days) < 2:
        return None
    peak = days[0]
    depth, span = 0.0, (days[0], days[0])
    for day in days:
        if day.value > peak.value:
            peak = day
        fall = 1 - day.value / peak.value
        if fall > depth:
            depth, span = fall, (peak, day)
    top, trough = span
    later = (day.at for day in days if day.at > trough.at and day.value >= top.value)
    recovered = next(later, None) if depth else top.at
    return Drawdown(depth, top.at, trough.at, recovered, 1 - days[-1].value / peak.value)


# Tails

VALUE_AT_RISK: Final = (
    "the empirical quantile of the daily losses -r: of n of them, sorted from the worst, number floor(n * (1 - c)) + 1",
    "historical simulation; A. McNeil, R. Frey and P. Embrechts, Quantitative Risk Management, section on methods for "
    "market risk; the quantile as in C. Acerbi and D. Tasche, On the coherence of expected shortfall, Journal of "
    "Banking & Finance 26, 2002",
)
EXPECTED_SHORTFALL: Final = (
    "the mean of the worst n * (1 - c) daily losses; of a loss that is in it only partly, that part",
    "C. Acerbi and D. Tasche, On the coherence of expected shortfall, Journal of Banking & Finance 26, 2002",
)


class Tail(NamedTuple):
    """Value at risk and expected shortfall over one day, as shares of the value; a negative one is a gain."""

    percent: int
    """Of the days that are beyond."""
    value_at_risk: Measure
    expected_shortfall: Measure


def tail(returns: Sequence[float], percent: int, what: str = "daily returns") -> Tail:
    """The worst `percent` of the days."""
    count, needed = len(returns), TAIL_NEEDED[percent]
    if (reason := too_few(count, needed, what)) is not None:
        none = Measure(None, reason, count, needed)
        return Tail(percent, none, none)
    worst = sorted(-one for one in returns)[::-1]
    # In whole numbers: 1 - 0.95 is no binary fraction, and a floor would show it.
    whole, part = divmod(count * percent, 100)
    at_risk = worst[whole]
    shortfall = math.fsum([*worst[:whole], at_risk * part / 100]) * 100 / (count * percent)
    return Tail(percent, Measure(at_risk, None, count, needed), Measure(shortfall, None, count, needed))


# Several coins

CORRELATION: Final = (
    "Pearson's coefficient of the daily returns, on the days on which all of the coins have one",
    "K. Pearson, Notes on regression and inheritance in the case of two parents, Proceedings of the Royal Society 58, "
    "1895",
)
PORTFOLIO: Final = (
    "r_t = sum of w_i * r_(i,t), with today's weights w on all days on which every coin has a return",
    "historical simulation with current weights; A. McNeil, R. Frey and P. Embrechts, Quantitative Risk Management",
)


def on_common_days(series: Sequence[Sequence[Return]]) -> tuple[list[int], list[list[float]]]:
    """The days on which every series has a return, and the returns of each on these days."""
    if not series:
        return [], []
    tables = [dict(one) for one in series]
    days = sorted(set(tables[0]).intersection(*tables[1:]))
    return days, [[table[day] for day in days] for table in tables]


def correlations(aligned: Sequence[Sequence[float]]) -> list[list[float | None]]:
    """The matrix of coefficients; None where a series does not vary (its coefficient with itself too)."""
    scaled = [_scaled(values) for values in aligned]
    matrix: list[list[float | None]] = [[None] * len(scaled) for _ in scaled]
    for row, one in enumerate(scaled):
        for column, other in enumerate(scaled[: row + 1]):
            if one is None or other is None:
                continue
            found = (
                1.0 if row == column else max(-1.0, min(1.0, math.fsum(a * b for a, b in zip(one, other, strict=True))))
            )
            matrix[row][column] = matrix[column][row] = found
    return matrix


_STILL: Final = 1e-12
"""A coin whose daily returns vary by less does not vary: what is left is rounding."""


def _scaled(values: Sequence[float]) -> list[float] | None:
    """Deviations from the mean, with the sum of squares 1."""
    mean = math.fsum(values) / len(values)
    apart = [value - mean for value in values]
    length = math.sqrt(math.fsum(value * value for value in apart))
    if length <= _STILL * math.sqrt(len(values)):
        return None
    return [value / length for value in apart]


def weighted(aligned: Sequence[Sequence[float]], weights: Sequence[float]) -> list[float]:
    """The returns of a portfolio with these weights on every day."""
    return [
        math.fsum(weight * one for weight, one in zip(weights, day, strict=True)) for day in zip(*aligned, strict=True)
    ]


def mixed_values(prices: Sequence[Sequence[Day]], weights: Sequence[float]) -> list[Day]:
    """The value of a portfolio that is brought back to these weights on each day that all coins have a price of.

    It begins at 1; days that are missing are passed over in one step.
    """
    common = _on_common_days(prices)
    if not common:
        return []
    value, found = 1.0, [Day(common[0][0].at, 1.0)]
    for before, after in pairwise(common):
        growth = (weight * new.value / old.value for weight, old, new in zip(weights, before, after, strict=True))
        value *= math.fsum(growth)
        found.append(Day(after[0].at, value))
    return found


def summed_values(prices: Sequence[Sequence[Day]], quantities: Sequence[float]) -> list[Day]:
    """The value of these quantities on each day that all coins have a price of."""
    return [
        Day(day[0].at, math.fsum(quantity * one.value for quantity, one in zip(quantities, day, strict=True)))
        for day in _on_common_days(prices)
    ]


def _on_common_days(prices: Sequence[Sequence[Day]]) -> list[tuple[Day, ...]]:
    """The points of all series on the days on which each of them has one, oldest first."""
    if not prices:
        return []
    tables = [{day_number(day.at): day for day in one} for one in prices]
    days = sorted(set(tables[0]).intersection(*tables[1:]))
    return [tuple(table[day] for table in tables) for day in days]
