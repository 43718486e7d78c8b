"""`python -m app.predictions.worker_process`: trains and uses models, one request at a time.

What is said there is in `worker_messages`. It ends at once when the service has ended, also in the middle of a
training, and it lets the service go first: by its priority for the processor, and as the one that a system short of
memory kills.
"""

import faulthandler
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

from app.core.child_program import Pipes
from app.predictions.ml.errors import PredictionError
from app.predictions.ml.values import Prediction, TrainRequest, TrainResult
from app.predictions.worker_messages import (
    STOPPED,
    Begin,
    Failed,
    Progressed,
    Question,
    Ready,
    Refused,
    Reply,
    Stop,
    Train,
    Trained,
    Use,
    Used,
    decode_question,
    encode,
)

NICENESS: Final = 10
_OUT_OF_MEMORY_SCORE: Final = "500"
"""Of 1000; Linux adds it to the share of the memory that a process has, and kills the one with the most."""


class Engine(Protocol):
    """`ml.engine.PredictionEngine`, as this program needs it."""

    def warm_up(self) -> None:
        """Import and compile everything."""

    def train(self, request: TrainRequest, progress: Callable[[float, str], None]) -> list[TrainResult]:
        """Train and judge."""

    def predict(self, blob: bytes, request: TrainRequest) -> Prediction:
        """Forecast by a stored model."""


class _StoppedError(Exception):
    """Nobody waits for this training any more."""


class WorkerProcess:
    """Answers one service: a thread reads, the one that calls `run` works."""

    def __init__(self, pipes: Pipes, make_engine: Callable[[bytes], Engine]) -> None:
        self._pipes = pipes
        self._make_engine = make_engine
        self._engine: Engine | None = None
        self._asked: queue.SimpleQueue[tuple[int, Question]] = queue.SimpleQueue()
        self._stopped = 0

    def run(self) -> None:
        """Never returns: the process ends with its input."""
        threading.Thread(target=self._listen, name="questions", daemon=True).start()
        while True:
            number, question = self._asked.get()
            with suppress(BrokenPipeError):  # the thread that reads ends the process
                self._pipes.answer(number, encode(self._reply(number, question)))

    def _listen(self) -> None:
        for number, body in self._pipes.questions():
            question = decode_question(body)
            if isinstance(question, Stop):
                self._stopped = number
            else:
                self._asked.put((number, question))
        os._exit(0)  # whatever is being trained: nobody is there to have it

    def _reply(self, number: int, question: Question) -> Reply:
        try:
            return self._done(number, question)
        except _StoppedError:
            return Refused(STOPPED, "Nobody waits for it any more.")
        except PredictionError as error:
            return Refused(error.code, str(error))
        except Exception as error:
            if isinstance(question, Begin):
                raise  # without an engine there is no use for this process
            return Failed(type(error).__name__, traceback.format_exc())

    def _done(self, number: int, question: Question) -> Reply:
        if isinstance(question, Begin):
            self._engine = self._make_engine(question.key)
            self._engine.warm_up()
            return Ready()
        assert self._engine is not None  # noqa: S101 (a beginning comes first)
        match question:
            case Use():
                return Used(self._engine.predict(question.blob, question.request))
            case Train():
                return Trained(self._engine.train(question.request, self._progress_of(number)))
            case Stop():
                raise AssertionError("heard where it was read")

    def _progress_of(self, number: int) -> Callable[[float, str], None]:
        def progress(share: float, doing: str) -> None:
            if self._stopped == number:
                raise _StoppedError
            self._pipes.answer(number, encode(Progressed(share, doing)), more=True)

        return progress


def _real(key: bytes) -> Engine:
    from app.predictions.ml.engine import PredictionEngine

    return PredictionEngine(key, time.monotonic)


def main(make_engine: Callable[[bytes], Engine] = _real) -> None:
    """The program."""
    pipes = Pipes.standard()
    faulthandler.enable()  # a crash in a library says on standard error where it was
    if sys.platform != "win32":
        os.nice(NICENESS)
    with suppress(OSError):  # Linux alone has it
        Path("/proc/self/oom_score_adj").write_text(_OUT_OF_MEMORY_SCORE, encoding="ascii")
    WorkerProcess(pipes, make_engine).run()


if __name__ == "__main__":
    main()
