"""The libraries' threads kept to one, as the worker has them, and one engine for all tests: the LSTM compiles once."""

import os
import time

import pytest

from app.predictions.ml.engine import PredictionEngine
from app.predictions.ml.values import ONE_THREAD, TrainResult
from tests.predictions.ml.series import KEY, real

for name, value in ONE_THREAD.items():  # before JAX is imported: the engine does so when first used
    os.environ.setdefault(name, value)


@pytest.fixture(scope="session")
def engine() -> PredictionEngine:
    """Nothing compiled yet."""
    return PredictionEngine(KEY, time.monotonic)


@pytest.fixture(scope="session")
def share(engine: PredictionEngine) -> list[TrainResult]:
    """All four models of a real share."""
    return engine.train(real(model="ensemble"))
