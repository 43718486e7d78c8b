"""What the prediction service needs of others besides a `Trainer`; the composition root hands over who provides it."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from app.core.scheduler import RunView, StartedRun

TRAIN: Final = "predictions.train"
SCORE: Final = "predictions.score"
EXPIRE: Final = "predictions.expire"
"""Jobs by name; the first one is for whoever asks, with the arguments that `Asked` says."""


class Symbols(Protocol):
    """Knows what the provider of candles calls what people write, and where it is traded."""

    def names(self, text: str) -> Sequence[str]:
        """What `text` may be called, the likeliest first; raises `InvalidInputError` for what is no symbol."""

    def indian(self, name: str) -> bool:
        """Whether the calendar of NSE and BSE holds for what the provider calls `name`."""


class Runs(Protocol):
    """Starts runs of jobs and knows how they went."""

    async def start(
        self, name: str, arguments: Mapping[str, Any] | None = None, *, requested_by: str | None = None
    ) -> StartedRun:
        """Start the job `name`, or join the run of it that is under way with the same arguments."""

    async def wait(self, run_id: str, seconds: float) -> RunView | None:
        """The run once it has finished, or as it is after `seconds`; None if there is no such run."""


class ModelStore(Protocol):
    """Keeps the bytes of trained models on this machine."""

    async def save(self, blob: bytes) -> str:
        """Keep `blob` durably, or, on a disk that takes nothing, not at all; gives the name to load it by."""

    async def load(self, name: str) -> bytes | None:
        """The bytes saved under `name`; None where this machine has none."""

    async def prune(self, named: frozenset[str]) -> int:
        """Remove what is not among `named`, but nothing that is only just saved; how many that were."""
