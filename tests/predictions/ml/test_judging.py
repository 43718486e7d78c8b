"""The judges judged: the test of luck, intervals and probabilities, each against a computation of its own."""

import math

import numpy as np
import pytest

from app.predictions.ml.bars import bars_of
from app.predictions.ml.comparison import diebold_mariano
from app.predictions.ml.confidence import Confidence, fitted_confidence
from app.predictions.ml.intervals import LEAST_RESIDUALS, RESIDUALS, margins, observed_coverage
from app.predictions.ml.judging import judge
from app.predictions.ml.samples import folds_of, samples_of
from tests.predictions.ml.series import invented, real

ZEROS = np.zeros(600)


def overlapping(chance: np.random.Generator, horizon: int, count: int = 600) -> np.ndarray:
    """Sums over `horizon` of independent numbers: what overlapping forecasts hang together like."""
    sums = np.concatenate(([0.0], np.cumsum(chance.normal(size=count + horizon - 1))))
    return sums[horizon:] - sums[:-horizon]


def test_diebold_mariano_by_hand() -> None:
    """Eight gains of mean 1 over a horizon of 2: g = 12/8, −1/8, −2/8. Plain 10/8; weighted (L = 2) 28/24, less."""
    gains = np.array([3.0, 1, 2, -1, 0, 2, 1, 0])
    statistic = 1 / math.sqrt(10 / 8 / 8) * math.sqrt((8 + 1 - 4 + 2 / 8) / 8)
    moments = np.arange(0, 60, 1e-3) + statistic
    density = (1 + moments**2 / 7) ** -4 * math.gamma(4) / (math.sqrt(7 * math.pi) * math.gamma(3.5))
    assert diebold_mariano(np.zeros(8), gains, 2) == pytest.approx(float(np.trapezoid(density, moments)), rel=1e-5)


@pytest.mark.parametrize("horizon", [1, 5, 10])
def test_diebold_mariano_is_fooled_as_seldom_as_it_says(horizon: int) -> None:
    chance = np.random.default_rng(3)
    values = np.array([diebold_mariano(ZEROS, overlapping(chance, horizon), horizon) for _ in range(800)])
    assert 0.02 <= np.mean(values < 0.05) <= 0.08
    assert 0.4 <= np.mean(values) <= 0.6
    if horizon > 1:  # as if neighbours were independent, every fifth would look like skill
        gains = [overlapping(chance, horizon) for _ in range(300)]
        assert np.mean([one.mean() / one.std() * len(one) ** 0.5 > 1.65 for one in gains]) > 0.15


def test_diebold_mariano_sees_what_is_better_and_what_is_worse() -> None:
    noise = np.random.default_rng(1).normal(size=600)
    assert diebold_mariano(ZEROS, noise + 0.2, 1) < 0.001
    assert diebold_mariano(ZEROS, noise - 0.2, 1) > 0.999
    assert diebold_mariano(ZEROS, ZEROS, 5) == 1.0


def test_margins_are_the_ranks_that_hold_four_fifths() -> None:
    low, high = margins(np.random.default_rng(1).permutation(np.arange(-49, 50)).astype(float))
    assert (low, high) == (-40, 40)  # the 10th of 99 from either end: 80 of 100 places lie between
    assert margins(np.arange(1.0, 100)).low == 0  # an interval holds its own forecast
    new, old = np.full(RESIDUALS, 1.0), np.full(500, -9.0)
    assert margins(np.concatenate((old, new))) == (0, 1)


@pytest.mark.parametrize("horizon", [1, 5])
def test_observed_coverage_uses_only_what_was_known(horizon: int) -> None:
    chance = np.random.default_rng(2)
    residuals = np.cumsum(chance.normal(size=400)).round(6)  # what was not known yet would tell a lot
    inside = []
    for number in range(400):
        known = [residuals[earlier] for earlier in range(400) if earlier + horizon <= number][-RESIDUALS:]
        if len(known) >= LEAST_RESIDUALS:
            ranked = sorted(known)
            low = int((len(known) + 1) * 0.1 + 1e-9)
            inside.append(min(ranked[low - 1], 0) <= residuals[number] <= max(ranked[-low], 0))
    assert observed_coverage(residuals, horizon) == pytest.approx(sum(inside) / len(inside))


def test_coverage_of_what_is_exchangeable_is_as_promised() -> None:
    shares = [observed_coverage(np.random.default_rng(seed).standard_t(4, 800), 1) for seed in range(5)]
    assert np.mean(shares) == pytest.approx(0.8, abs=0.015)


def test_confidence_is_how_often_directions_are_right() -> None:
    chance = np.random.default_rng(5)
    forecasts = chance.normal(size=6000)
    ups = chance.random(6000) < 1 / (1 + np.exp(-0.4 * forecasts))
    confidence = fitted_confidence(forecasts[:3000], np.where(ups, 1.0, -1.0)[:3000], 1)
    new, right = forecasts[3000:], (forecasts > 0)[3000:] == ups[3000:]
    said = np.array([confidence.of(float(one)) for one in new])
    for low, high in ((0.5, 0.55), (0.55, 0.62), (0.62, 1.0)):
        inside = (said >= low) & (said < high)
        assert inside.sum() > 300
        assert right[inside].mean() == pytest.approx(said[inside].mean(), abs=0.04)


def test_confidence_without_skill_is_about_a_half() -> None:
    chance = np.random.default_rng(6)
    said = []
    for horizon in (1, 5, 20):
        for _ in range(30):
            forecasts = chance.normal(size=600)
            said.append(fitted_confidence(forecasts, overlapping(chance, horizon), horizon).of(1.0))
    assert min(said) == 0.5
    assert max(said) < 0.56


def test_a_model_that_is_mostly_wrong_is_not_turned_around() -> None:
    forecasts = np.random.default_rng(7).normal(size=600)
    assert fitted_confidence(forecasts, -forecasts, 1).of(2.0) == 0.5
    assert fitted_confidence(np.zeros(600), forecasts, 1) == Confidence(0.0, 1.0)


def test_confidence_does_not_grow_beyond_what_was_seen() -> None:
    confidence = Confidence(slope=0.5, usual=0.1)
    assert confidence.of(0.1) == pytest.approx(1 / (1 + math.exp(-0.5)))
    assert confidence.of(-0.1) == confidence.of(0.1)
    assert confidence.of(0.3) == confidence.of(30.0)


def test_the_figures_of_an_evaluation() -> None:
    samples = samples_of(bars_of(real()), 1)
    folds = folds_of(samples)
    rows = np.concatenate([fold.test for fold in folds])
    chance = np.random.default_rng(1)
    forecasts = 0.3 * samples.returns[rows] / samples.scale[rows] + chance.normal(0, 0.2, len(rows))
    found = judge(samples, folds, forecasts).evaluation
    errors = [float(samples.returns[row] - one * samples.scale[row]) for row, one in zip(rows, forecasts, strict=True)]
    naive = [float(samples.returns[row]) for row in rows]
    assert found.rmse == pytest.approx(math.sqrt(math.fsum(one**2 for one in errors) / len(errors)))
    assert found.naive_rmse == pytest.approx(math.sqrt(math.fsum(one**2 for one in naive) / len(naive)))
    assert found.skill_vs_naive == pytest.approx(1 - found.rmse**2 / found.naive_rmse**2)
    hits = [one * outcome > 0 for one, outcome in zip(forecasts, naive, strict=True) if outcome]
    assert found.hit_rate == pytest.approx(sum(hits) / len(hits))
    assert (found.verdict, found.folds, found.samples) == ("skill", 5, len(rows))
    assert found.summary.startswith("It has shown skill: over 615 forecasts")


def test_the_naive_forecast_itself_has_no_skill() -> None:
    samples = samples_of(bars_of(invented()), 1)
    folds = folds_of(samples)
    found = judge(samples, folds, np.zeros(sum(len(fold.test) for fold in folds))).evaluation
    assert (found.skill_vs_naive, found.p_value, found.verdict) == (0, 1, "no demonstrated skill")
    assert found.summary.startswith("No demonstrated skill: ")
