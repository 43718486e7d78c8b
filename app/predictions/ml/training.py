"""One family on one series: trained fold by fold to be judged, then on everything to forecast."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from app.predictions.ml.bars import Floats
from app.predictions.ml.families import Checkpoint, FittedModel, ModelFamily
from app.predictions.ml.samples import Fold, Samples


class Trained(NamedTuple):
    """A family's models of one series. Forecasts are in units of volatility."""

    walk_forward: Floats
    """Those of the folds' tests, one after the other, each by a model trained on what came before."""
    newest: float
    """That of the newest bar, by `model`."""
    model: FittedModel
    """Trained on every bar whose outcome is known."""


def train_family(
    learner: ModelFamily, samples: Samples, folds: list[Fold], seed: int, begin: Callable[[int], Checkpoint]
) -> Trained:
    """Trains once for each fold and once more for the forecast; `begin` gives the checkpoint of each training."""
    table, forecasts = samples.features, []
    for number, fold in enumerate(folds):
        targets = samples.targets(fold.train)
        model = learner.fit(table, fold.train, targets, _seed(seed, number), begin(number))
        forecasts.append(model.predict(table, fold.test))
    rows, number = samples.rows, len(folds)
    model = learner.fit(table, rows, samples.targets(rows), _seed(seed, number), begin(number))
    newest = float(model.predict(table, np.array([samples.last]))[0])
    return Trained(np.concatenate(forecasts), newest, model)


def _seed(seed: int, number: int) -> int:
    """One for each training: the same would draw the same trees again and again."""
    return int(np.random.SeedSequence((seed % 2**32, number)).generate_state(1)[0])
