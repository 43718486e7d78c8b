"""The engine as a process of its own, as the worker is one: from cold, with the memory it takes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.predictions.ml.values import ONE_THREAD, TrainResult

ROOT = Path(__file__).resolve().parents[3]
LIGHT = """
import sys
import app.predictions.ml.errors, app.predictions.ml.values
heavy = {"numpy", "talib", "sklearn", "scipy", "pandas", "jax", "flax", "optax", "skops", "safetensors"}
print(sorted(heavy & set(sys.modules)))
"""
COLD = """
import json, resource, time
from app.predictions.ml.engine import PredictionEngine
from tests.predictions.ml.series import real
results = PredictionEngine(b"k" * 32, time.monotonic).train(real(model="ensemble"))
usage = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({
    "prices": [one.forecast.predicted_price for one in results],
    "p": [one.evaluation.p_value for one in results],
    "megabytes": usage.ru_maxrss / 1024,
}))
"""


def run(program: str) -> str:
    environment = {**os.environ, **ONE_THREAD}
    command = [sys.executable, "-W", "error::RuntimeWarning", "-c", program]
    return subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout


def test_values_and_errors_need_no_library() -> None:
    """The API process imports them."""
    assert run(LIGHT).strip() == "[]"


@pytest.mark.timeout(300)
def test_a_cold_process_gives_the_same_in_bounded_memory(share: list[TrainResult]) -> None:
    """All three families with evaluation of five years of days. What time it takes is `bench_predictions.py`'s."""
    told = json.loads(run(COLD))
    assert told["prices"] == [one.forecast.predicted_price for one in share]
    assert told["p"] == [one.evaluation.p_value for one in share]
    assert told["megabytes"] < 800
