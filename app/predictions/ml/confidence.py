"""How sure a direction is: a probability fitted to how often directions were right before."""

import math
from typing import Final, NamedTuple

import numpy as np

from app.predictions.ml.bars import Floats

_PRIOR_DEVIATION: Final = 0.25
_FURTHEST: Final = 3.0
_ROUNDS: Final = 25


class Confidence(NamedTuple):
    """P(up) = 1 / (1 + exp(−slope · forecast / usual)): 0.5 for a forecast of no change, however it was fitted."""

    slope: float
    usual: float
    """The root mean square of the forecasts it was fitted to."""

    def of(self, forecast: float) -> float:
        """The probability that the direction of `forecast` is right, 0.5 or more; beyond three times the usual size
        it grows no further, because nothing was seen there."""
        return 1 / (1 + math.exp(-self.slope * min(abs(forecast) / self.usual, _FURTHEST)))


def fitted_confidence(forecasts: Floats, outcomes: Floats, horizon: int) -> Confidence:
    """Platt's scaling of forecasts by what happened (J. Platt, "Probabilistic outputs for support vector machines",
    Advances in Large Margin Classifiers, 1999), without an intercept and held back.

    Forecasts over `horizon` bars overlap, so each counts for 1/`horizon`. The slope begins at 0 with a deviation of
    0.25 (a logistic regression with a normal prior), so that a few lucky hits remain near 0.5; a model that was wrong
    more often than right gets 0, and 0.5: it is not turned around.
    """
    usual = float(np.sqrt(np.mean(forecasts**2)))
    if usual <= 0:
        return Confidence(0.0, 1.0)
    moved = outcomes != 0
    sizes, went_up = np.clip(forecasts[moved] / usual, -_FURTHEST, _FURTHEST), outcomes[moved] > 0
    slope = 0.0
    for _ in range(_ROUNDS):  # Newton's method on a concave function of one variable
        expected = 1 / (1 + np.exp(-slope * sizes))
        pull = ((went_up - expected) @ sizes) / horizon - slope / _PRIOR_DEVIATION**2
        bend = (expected * (1 - expected)) @ sizes**2 / horizon + 1 / _PRIOR_DEVIATION**2
        slope += float(pull / bend)
    return Confidence(max(slope, 0.0), usual)
