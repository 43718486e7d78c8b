"""Intervals from how far forecasts were off before: split conformal prediction over a rolling window.

After V. Vovk, A. Gammerman and G. Shafer, Algorithmic Learning in a Random World, 2005, chapter 2: the rank of the next
residual among m exchangeable ones is uniform over m + 1 places. Prices' residuals are not exchangeable, which is why
they are taken in units of volatility, from the newest only, and why the coverage that was observed is published.
"""

import math
from typing import Final, NamedTuple

import numpy as np

from app.predictions.ml.bars import Floats
from app.predictions.ml.values import INTERVAL_LEVEL

RESIDUALS: Final = 250
"""How many residuals an interval is made of: a year of days."""
LEAST_RESIDUALS: Final = 50


class Margins(NamedTuple):
    """What to add to a forecast for the ends of its interval, in units of volatility; `low` ≤ 0 ≤ `high`."""

    low: float
    high: float


def margins(residuals: Floats) -> Margins:
    """The interval from the newest `RESIDUALS` of `residuals` (outcome − forecast).

    Both ends hold the same share of outcomes out. Neither passes the forecast itself: an interval beside its own
    forecast would only puzzle.
    """
    ranked = np.sort(residuals[-RESIDUALS:])
    count, outside = len(ranked), (1 - INTERVAL_LEVEL) / 2
    low = max(math.floor(round((count + 1) * outside, 9)), 1)
    return Margins(min(float(ranked[low - 1]), 0.0), max(float(ranked[count - low]), 0.0))


def observed_coverage(residuals: Floats, horizon: int) -> float:
    """The share of `residuals` inside the interval that was known when their forecast was made.

    They are those of consecutive bars: the outcome of a forecast is known `horizon` bars later, so that each interval
    is made of those at least so old. The first `LEAST_RESIDUALS` have none.
    """
    inside = []
    for number in range(LEAST_RESIDUALS + horizon - 1, len(residuals)):
        low, high = margins(residuals[max(0, number - horizon + 1 - RESIDUALS) : number - horizon + 1])
        inside.append(low <= residuals[number] <= high)
    return float(np.mean(inside))
