"""What every family of models is to the engine."""

from collections.abc import Callable
from typing import Protocol

from app.predictions.ml.bars import Floats
from app.predictions.ml.samples import Rows

Checkpoint = Callable[[float], None]
"""Called now and then with the share of one training that is done; raises to end it."""


class FittedModel(Protocol):
    """A trained model."""

    def predict(self, features: Floats, rows: Rows) -> Floats:
        """Forecasts in units of volatility for the bars `rows` of the table `features`; looks at no later bar."""

    def dump(self) -> bytes:
        """The model as `ModelFamily.load` reads it: safetensors or skops, never a pickle."""


class ModelFamily(Protocol):
    """A way of learning. Whatever it scales by is measured on the bars it is trained with, and part of the model."""

    def fit(self, features: Floats, rows: Rows, targets: Floats, seed: int, checkpoint: Checkpoint) -> FittedModel:
        """Learns `targets`, in units of volatility, from the consecutive bars `rows` of the table `features`."""

    def load(self, dumped: bytes) -> FittedModel:
        """What `dump` gave, and nobody else: the engine checks its signature before."""
