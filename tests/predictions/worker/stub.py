"""`python -m tests.predictions.worker.stub`: the real program around an engine that does what it is told.

A request's symbol says it, as JSON: `[what, options]`. Trainings leave lines in the file `mark`, if one is named.
"""

import ctypes
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.predictions import worker_process
from app.predictions.ml import errors
from app.predictions.ml.values import Evaluation, Forecast, Prediction, TrainRequest, TrainResult

FORECAST = Forecast(
    last_bar=1,
    last_close=100.0,
    horizon_bars=1,
    predicted_price=101.0,
    predicted_return=0.01,
    interval_low=98.0,
    interval_high=104.0,
    interval_level=0.8,
    confidence_score=0.52,
)
EVALUATION = Evaluation(
    skill_vs_naive=-0.01,
    p_value=0.7,
    hit_rate=0.5,
    observed_coverage=0.8,
    rmse=0.02,
    naive_rmse=0.02,
    folds=5,
    samples=600,
    verdict="no demonstrated skill",
    summary="No demonstrated skill.",
)
_KEPT: list[Any] = []


def request(what: str = "answer", *, seconds: float = 30.0, **options: Any) -> TrainRequest:
    """What asks the stub to do `what`."""
    return TrainRequest(
        symbol=json.dumps([what, options]),
        timeframe="1D",
        horizon_bars=1,
        model="svr",
        starts=[],
        open=[],
        high=[],
        low=[],
        close=[],
        volume=[],
        deadline_seconds=seconds,
    )


class Stub:
    """Stands in for `PredictionEngine`."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._options: dict[str, Any] = {}
        self._progress: Callable[[float, str], None]

    def warm_up(self) -> None:
        """Nothing to do; of a key that is a path, waits until that file is there."""
        while self._key.startswith(b"/") and not Path(os.fsdecode(self._key)).exists():
            time.sleep(0.01)

    def train(self, request: TrainRequest, progress: Callable[[float, str], None]) -> list[TrainResult]:
        """What the symbol says, then a result that says of the process what can be seen from inside."""
        what, self._options = json.loads(request.symbol)
        self._progress = progress
        self._mark("begun")
        progress(0.0, "begun")
        getattr(self, f"_{what}")()
        self._mark("done")
        return [
            TrainResult(
                model="svr",
                forecast=FORECAST,
                evaluation=EVALUATION,
                blob=self._key,
                trained_through=1,
                feature_names=tuple(sys.argv),
                versions=dict(os.environ),
                seconds=request.deadline_seconds,
            )
        ]

    def predict(self, blob: bytes, request: TrainRequest) -> Prediction:
        """Only of a blob that is the key."""
        if blob != self._key:
            raise errors.UntrustedModelError("The signature of the stored model does not hold; it is not used.")
        return Prediction(
            model=request.model, forecast=FORECAST, evaluation=EVALUATION, trained_through=1, seconds=0.001
        )

    def _mark(self, word: str) -> None:
        if "mark" in self._options:
            with Path(self._options["mark"]).open("a", encoding="utf-8") as file:
                file.write(f"{word}\n")

    def _answer(self) -> None:
        pass

    def _steps(self) -> None:
        for number in range(self._options["count"]):
            time.sleep(self._options.get("each", 0.02))
            self._mark("step")
            self._progress((number + 1) / self._options["count"], f"step {number + 1}")

    def _die(self) -> None:
        self._progress(0.5, "about to die")
        if Path(self._options["mark"]).read_text(encoding="utf-8").count("begun") <= self._options.get("times", 1):
            os.kill(os.getpid(), signal.SIGKILL)
        self._progress(0.2, "a second time")

    def _hang(self) -> None:
        """No other thread of it runs meanwhile: the expression holds the interpreter's lock."""
        re.match(r"(a+)+$", "a" * 100 + "b")

    def _sleep(self) -> None:
        time.sleep(600)

    def _eat(self) -> None:
        """More than it may, and not all that there is while nobody looks."""
        for _ in range(30):
            _KEPT.append(bytearray(b"x" * (10 << 20)))
            time.sleep(0.01)
        time.sleep(600)

    def _chatter(self) -> None:
        sys.stdout.write("garbage by print\n")
        sys.stdout.flush()
        os.write(1, os.urandom(20_000))
        library = ctypes.CDLL(None)
        library.puts(b"garbage from C")
        library.fflush(None)

    def _refuse(self) -> None:
        raise getattr(errors, self._options["kind"])("In words that a person can act on.")

    def _fail(self) -> None:
        raise ZeroDivisionError("nobody has thought of it")


if __name__ == "__main__":
    worker_process.main(Stub)
