"""What a model is worth: its walk-forward forecasts beside what happened and beside "the price stays as it is"."""

from typing import NamedTuple

import numpy as np

from app.predictions.ml.bars import Floats
from app.predictions.ml.comparison import diebold_mariano
from app.predictions.ml.confidence import Confidence, fitted_confidence
from app.predictions.ml.intervals import Margins, margins, observed_coverage
from app.predictions.ml.samples import Fold, Samples
from app.predictions.ml.values import SIGNIFICANCE, Evaluation, Verdict


class Judgement(NamedTuple):
    """A model's evaluation, and what its next forecasts are dressed with."""

    evaluation: Evaluation
    margins: Margins
    confidence: Confidence


def judge(samples: Samples, folds: list[Fold], forecasts: Floats) -> Judgement:
    """Judges `forecasts`, in units of volatility, of the folds' tests one after the other."""
    rows = np.concatenate([fold.test for fold in folds])
    outcomes, scale = samples.returns[rows], samples.scale[rows]
    errors, naive_errors = outcomes - forecasts * scale, outcomes
    losses, naive_losses = errors**2, naive_errors**2
    residuals = errors / scale
    moved = outcomes != 0
    skill = 1 - float(losses.mean() / naive_losses.mean())
    p_value = diebold_mariano(losses, naive_losses, samples.horizon)
    verdict: Verdict = "skill" if p_value < SIGNIFICANCE else "no demonstrated skill"
    evaluation = Evaluation(
        skill_vs_naive=skill,
        p_value=p_value,
        hit_rate=float(np.mean(np.sign(forecasts[moved]) == np.sign(outcomes[moved]))),
        observed_coverage=observed_coverage(residuals, samples.horizon),
        rmse=float(np.sqrt(losses.mean())),
        naive_rmse=float(np.sqrt(naive_losses.mean())),
        folds=len(folds),
        samples=len(rows),
        verdict=verdict,
        summary=_summary(verdict, skill, p_value, len(rows)),
    )
    return Judgement(evaluation, margins(residuals), fitted_confidence(forecasts, outcomes, samples.horizon))


def _summary(verdict: Verdict, skill: float, p_value: float, count: int) -> str:
    than = "smaller" if skill > 0 else "larger"
    facts = (
        f"over {count} forecasts of bars it had not seen, its squared error was {abs(skill):.1%} {than} than that of "
        f'"the price stays as it is" (p = {p_value:.2g})'
    )
    if verdict == "skill":
        return f"It has shown skill: {facts}."
    return f"No demonstrated skill: {facts}. Do not trade on it."
