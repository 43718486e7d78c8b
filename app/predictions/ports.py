"""What predictions need of the outside: somebody who trains."""

from collections.abc import Callable
from typing import Any, Protocol

from app.predictions.ml.values import Prediction, TrainRequest, TrainResult

Listener = Callable[[float, str], None]
"""Told the share of a training that is done, 0 to 1 and never less than before, and what is being done."""


class WorkerLostError(Exception):
    """The process that was asked ended, or had to be ended, before it answered, and so at the second attempt."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        """Why, as a sentence for people."""


class Trainer(Protocol):
    """Trains and uses models outside this process.

    `train` and `predict` raise what the engine refuses as the `ml.errors.PredictionError` that it is, `WorkerLostError`
    when there was no answer, and `core.errors.UnavailableError` when too many wait already. Whoever is cancelled
    meanwhile leaves nothing running behind.
    """

    async def train(self, request: TrainRequest, progress: Listener) -> list[TrainResult]:
        """As `PredictionEngine.train`; `progress` is called in this process's event loop."""

    async def predict(self, blob: bytes, request: TrainRequest) -> Prediction:
        """As `PredictionEngine.predict`."""

    def warm_up(self) -> None:
        """Have it ready soon, without waiting: the first request need not pay for imports and compilation. Cheap when
        it is ready; may be called as often as anybody asks for anything of predictions."""

    def health(self) -> dict[str, Any]:
        """How it is, for people and JSON."""

    async def close(self) -> None:
        """End whatever runs. Who still waits gets `WorkerLostError`."""
