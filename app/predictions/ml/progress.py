"""How far a training is, and whether there is time left for the rest."""

from collections.abc import Callable, Mapping
from typing import Final

from app.predictions.ml.errors import DeadlineExceededError
from app.predictions.ml.families import Checkpoint
from app.predictions.ml.values import Family

Progress = Callable[[float, str], None]
"""Told the share that is done, 0 to 1, and what is being done."""


def unheard(share: float, doing: str) -> None:
    """The progress that nobody listens to."""
    del share, doing


_COSTS: Final[Mapping[Family, float]] = {"random_forest": 1.0, "svr": 0.05, "lstm": 0.25}
"""What a training of each takes beside the others."""


class Plan:
    """Trainings to be done one after the other by the moment `deadline`: `fits` of each family, the last on everything.

    Its checkpoints raise `DeadlineExceededError` when there is no time left.
    """

    def __init__(
        self, families: list[Family], fits: int, progress: Progress, monotonic: Callable[[], float], deadline: float
    ) -> None:
        self._total = sum(_COSTS[family] for family in families) * fits
        self._fits = fits
        self._done = 0.0
        self._progress = progress
        self._monotonic = monotonic
        self._deadline = deadline

    def of(self, family: Family) -> Callable[[int], Checkpoint]:
        """What gives the checkpoints of the trainings of `family`, by their numbers from 0."""
        return lambda number: self._begin(family, number)

    def _begin(self, family: Family, number: int) -> Checkpoint:
        what = f"fold {number + 1} of {self._fits - 1}" if number < self._fits - 1 else "on all candles"
        doing, before, cost = f"{family}: {what}", self._done, _COSTS[family]
        self._done += cost

        def checkpoint(share: float) -> None:
            if self._monotonic() > self._deadline:
                raise DeadlineExceededError(f"Training did not end in the time it was given; it was at: {doing}.")
            self._progress(min((before + share * cost) / self._total, 1.0), doing)

        return checkpoint
