"""Whether one forecaster is better than another, or was lucky: the test of Diebold and Mariano."""

import math

import numpy as np

from app.predictions.ml.bars import Floats


def diebold_mariano(losses: Floats, naive_losses: Floats, horizon: int) -> float:
    """The one-sided p-value of "these losses are smaller than the naive ones only by luck".

    `losses` are those of consecutive forecasts, each over `horizon` bars, so that neighbours share outcomes. With
    d = naive loss − loss, n of them, mean m and autocovariances g(k):

        long-run variance v = g(0) + 2·Σ g(k) for k < horizon
        t = m / √(v / n) · √((n + 1 − 2·horizon + horizon·(horizon − 1) / n) / n),  against Student's t with n − 1

    after F. X. Diebold and R. S. Mariano, "Comparing Predictive Accuracy", Journal of Business & Economic Statistics
    13 (1995), pages 253–263, and for small samples D. Harvey, S. Leybourne and P. Newbold, "Testing the equality of
    prediction mean squared errors", International Journal of Forecasting 13 (1997), pages 281–291. That sum can come
    out too small or negative, and d can hang together for longer than the horizon; so v is at least what the weights
    1 − k / (L + 1) give (W. K. Newey and K. D. West, Econometrica 55 (1987), pages 703–708), with L the larger of
    2·(horizon − 1) and ⌊4·(n / 100)^(2/9)⌋.

    The naive forecast is a special case of every model here (one that learnt nothing), and then the test errs on the
    side of "no skill": a model pays for what it estimates (T. E. Clark and K. D. West, Journal of Econometrics 138
    (2007), pages 291–311).

    1.0 where nothing differs.
    """
    from scipy.special import stdtr

    gains = naive_losses - losses
    count, mean = len(gains), float(gains.mean())
    covariances = _autocovariances(gains - mean, _bandwidth(count, horizon))
    plain = covariances[0] + 2 * covariances[1:horizon].sum()
    weights = 1 - np.arange(len(covariances)) / len(covariances)
    weighted = 2 * (weights * covariances).sum() - covariances[0]
    variance = float(max(plain, weighted)) / count
    correction = (count + 1 - 2 * horizon + horizon * (horizon - 1) / count) / count
    if variance <= 0 or correction <= 0:
        return 1.0
    return float(stdtr(count - 1, -mean / math.sqrt(variance) * math.sqrt(correction)))


def _bandwidth(count: int, horizon: int) -> int:
    return min(max(2 * (horizon - 1), math.floor(4 * math.pow(count / 100, 2 / 9))), count - 1)


def _autocovariances(deviations: Floats, lags: int) -> Floats:
    count = len(deviations)
    return np.array([deviations[lag:] @ deviations[: count - lag] / count for lag in range(lags + 1)])
