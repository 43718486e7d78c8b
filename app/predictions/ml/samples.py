"""What is learnt and what is judged: rows of features, the targets they belong to, and folds that keep them apart."""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.predictions.ml.bars import Bars, Floats
from app.predictions.ml.features import features, volatility
from app.predictions.ml.values import WARM_UP_BARS, WINDOW_BARS

Rows = NDArray[np.int64]

FOLDS: Final = 5
_TESTED_SHARE: Final = 8
"""A fold tests an eighth of the samples, so that the first one trains on three eighths."""
_TARGET_LIMIT: Final = 5.0
"""Learnt targets are cut to ± this many standard deviations: one crash, or one split that nobody adjusted, would be
most of what a model learns. Judged ones are not cut."""


class Samples(NamedTuple):
    """All of one series that models are trained with and judged by."""

    features: Floats
    """A row for each bar, warmed up or not."""
    scale: Floats
    """The volatility of the log return over the horizon, as known at each bar."""
    returns: Floats
    """The log return over the horizon that followed each bar; NaN in the last `horizon` bars."""
    rows: Rows
    """Bars whose features are warmed up and whose outcome is known; consecutive."""
    last: int
    """The newest bar: the one to forecast from."""
    horizon: int

    def targets(self, rows: Rows) -> Floats:
        """What a model is to learn: returns in units of volatility, cut."""
        return np.clip(self.returns[rows] / self.scale[rows], -_TARGET_LIMIT, _TARGET_LIMIT)


class Fold(NamedTuple):
    """Bars to train with, and later ones to judge by."""

    train: Rows
    test: Rows


def samples_of(bars: Bars, horizon: int) -> Samples:
    """The samples of a series of at least `minimum_bars(horizon)` candles."""
    sigma, count = volatility(bars.close), len(bars.close)
    logs = np.log(bars.close)
    returns = np.full(count, np.nan)
    returns[:-horizon] = logs[horizon:] - logs[:-horizon]
    rows = np.arange(WARM_UP_BARS + WINDOW_BARS - 1, count - horizon)
    return Samples(features(bars, sigma), sigma * np.sqrt(horizon), returns, rows, count - 1, horizon)


def folds_of(samples: Samples) -> list[Fold]:
    """Walk-forward folds, each training on all that came before it but the `horizon` bars just before its test.

    The outcomes of those overlap the test: trained with, they would tell the model what it is asked (purging: M. López
    de Prado, Advances in Financial Machine Learning, 2018, section 7.4.1).
    """
    from sklearn.model_selection import TimeSeriesSplit  # takes a second: in the worker only, and when needed

    rows = samples.rows
    split = TimeSeriesSplit(n_splits=FOLDS, test_size=len(rows) // _TESTED_SHARE, gap=samples.horizon)
    return [Fold(rows[train], rows[test]) for train, test in split.split(rows)]
