"""From what the rules say to one score for each bar, and what it asks for. Needs numpy."""

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from app.core.indicators.compute import Floats
from app.signals.analysed import THRESHOLD
from app.signals.rules import Rule

LEAST_KNOWN: Final = 0.6
"""Share of the rules' weights that has to speak; else there is no score."""

Sides = NDArray[np.int8]
"""For each bar 1 (buy), -1 (sell) or 0."""


def scores(views: Mapping[Rule, Floats]) -> Floats:
    """The weighted average of what the rules say, times 100; NaN where too few of them say anything."""
    weights = np.array([rule.weight for rule in views])[:, None]
    said = np.array(list(views.values()))
    known = np.isfinite(said)
    weight = (weights * known).sum(axis=0)
    total = (weights * np.where(known, said, 0.0)).sum(axis=0)
    enough = weight >= LEAST_KNOWN * weights.sum()
    found: Floats = np.full(said.shape[1], np.nan)
    np.divide(100 * total, weight, out=found, where=enough)
    return found


def wanted(score: Floats) -> Sides:
    """What the scores ask for, costs not considered."""
    with np.errstate(invalid="ignore"):
        return np.where(score >= THRESHOLD, 1, np.where(score <= -THRESHOLD, -1, 0)).astype(np.int8)
