"""Nothing of the future reaches a forecast: not by targets, not by folds, not by scaling."""

import math
import time
from typing import Any

import numpy as np
import pytest

from app.predictions.ml.bars import Bars, bars_of
from app.predictions.ml.families import ModelFamily
from app.predictions.ml.features import volatility
from app.predictions.ml.lstm import Lstm
from app.predictions.ml.progress import Plan, unheard
from app.predictions.ml.samples import FOLDS, Samples, folds_of, samples_of
from app.predictions.ml.sklearn_models import RandomForest, SklearnModel, SupportVectors
from app.predictions.ml.training import train_family
from tests.predictions.ml.series import invented, real

pytestmark = pytest.mark.timeout(300)
LSTM = Lstm()


class LeakySupportVectors(SupportVectors):
    """The common mistake: everything is scaled at once, before it is split."""

    def fit(self, features: Any, rows: Any, targets: Any, seed: int, checkpoint: Any) -> Any:
        known = features[~np.isnan(features).any(axis=1)]
        mean, deviation = known.mean(axis=0), known.std(axis=0)
        inner = super().fit((features - mean) / deviation, rows, targets, seed, checkpoint)
        estimator = inner._estimator[-1].fit((features[rows] - mean) / deviation, targets)

        class Scaled:
            def predict(self, rows: Any) -> Any:
                return estimator.predict((rows - mean) / deviation)

        return SklearnModel(Scaled())


def first_fold(learner: ModelFamily, samples: Samples) -> np.ndarray:
    folds = folds_of(samples)[:1]
    return train_family(
        learner, samples, folds, 7, Plan(["svr"], 2, unheard, time.monotonic, math.inf).of("svr")
    ).walk_forward


def another_future(bars: Bars, after: int) -> Bars:
    """The same bars up to `after`, and then another market: wilder, dearer, busier."""
    other = bars_of(invented(seed=99, bars=len(bars.close)))
    columns = [bars.starts]
    for mine, theirs in zip(bars[1:], other[1:], strict=True):
        columns.append(np.concatenate((mine[: after + 1], theirs[after + 1 :] ** 2)))
    return Bars(*columns)


@pytest.mark.parametrize("horizon", [1, 5])
def test_targets_are_the_return_that_followed_in_units_of_what_was_known(horizon: int) -> None:
    bars = bars_of(real(horizon=horizon))
    samples = samples_of(bars, horizon)
    for row in (samples.rows[0], 700, samples.rows[-1]):
        followed = np.log(bars.close[row + horizon] / bars.close[row])
        assert samples.returns[row] == pytest.approx(followed)
        known = volatility(bars.close[: row + 1])[-1] * horizon**0.5
        expected = np.clip(followed / known, -5, 5)
        assert samples.targets(np.array([row]))[0] == pytest.approx(expected)
    assert samples.rows[-1] + horizon == samples.last == len(bars.close) - 1
    assert np.isnan(samples.returns[-horizon:]).all()


@pytest.mark.parametrize("horizon", [1, 5, 20])
def test_no_outcome_that_is_trained_with_comes_after_the_first_forecast(horizon: int) -> None:
    samples = samples_of(bars_of(real(horizon=horizon)), horizon)
    folds = folds_of(samples)
    assert len(folds) == FOLDS
    for fold in folds:
        assert fold.train[-1] + horizon < fold.test[0]
    tested = np.concatenate([fold.test for fold in folds])
    np.testing.assert_array_equal(np.diff(tested), 1)
    assert tested[-1] == samples.rows[-1]


@pytest.mark.parametrize(
    ("learner", "sound"),
    [(RandomForest(trees=20), True), (SupportVectors(), True), (LSTM, True), (LeakySupportVectors(), False)],
    ids=["random_forest", "svr", "lstm", "leaky"],
)
def test_another_future_changes_no_forecast_of_before(learner: ModelFamily, sound: bool) -> None:
    """Bit for bit. The last learner leaks by its scaler: the test has to find it."""
    bars = bars_of(invented(momentum=0.2))
    samples = samples_of(bars, 1)
    other = samples_of(another_future(bars, after=int(folds_of(samples)[0].test[-1])), 1)
    assert other.returns[-2] != samples.returns[-2]
    same = np.array_equal(first_fold(learner, samples), first_fold(learner, other))
    assert same is sound
