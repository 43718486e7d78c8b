"""The process that trains, as the service sees it: one request at a time, bounded in memory and time, replaced when it
is lost."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, Self

import msgspec
import psutil
import structlog
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from app.core.child_process import IDLE_SECONDS, ChildLostError, ChildProcess, Exchange
from app.core.clock import Clock
from app.core.errors import UnavailableError
from app.core.settings import Settings
from app.predictions.ml import errors
from app.predictions.ml.errors import PredictionError
from app.predictions.ml.values import ONE_THREAD, Prediction, TrainRequest, TrainResult
from app.predictions.ports import Listener, WorkerLostError
from app.predictions.worker_messages import (
    Begin,
    Failed,
    Progressed,
    Refused,
    Reply,
    Stop,
    Train,
    Trained,
    Use,
    Used,
    decode_reply,
    encode,
)

log = structlog.get_logger(__name__)

PROGRAM: Final = "app.predictions.worker_process"
START_SECONDS: Final = 120.0
"""Imports and compilation take six seconds; more on a busy machine, and where bytecode has to be made first."""
GRACE_SECONDS: Final = 5.0
"""Training looks between its steps whether its deadline has passed, or nobody waits for it any more; so long after
that it does not end by itself. Steps take a second, and a new process six to begin."""
MOST_WAITING: Final = 16
_LEAST_SECONDS: Final = 1.0
"""With less left nothing is tried again."""
_LOOK_SECONDS: Final = 0.1
_MEBIBYTE: Final = 1 << 20
_PURPOSE: Final = b"arrow/prediction-models/1"
_ENDING: Final = "The service is ending; nothing is trained any more."
_REFUSALS: Final = {
    kind.code: kind
    for kind in (
        errors.InvalidSeriesError,
        errors.TooFewBarsError,
        errors.DeadlineExceededError,
        errors.UntrustedModelError,
        errors.StaleModelError,
    )
}


def model_key(secret_key: str) -> bytes:
    """32 bytes that sign models, derived from SECRET_KEY (HKDF, RFC 5869): those of another key are trained anew."""
    return HKDF(SHA256(), length=32, salt=None, info=_PURPOSE).derive(secret_key.encode())


class _Heard:
    """Hands progress on, never back, until it is silenced."""

    def __init__(self, progress: Listener | None) -> None:
        self._progress = progress
        self._share = 0.0

    def __call__(self, body: bytes) -> None:
        told = decode_reply(body)
        if self._progress is not None and isinstance(told, Progressed):
            self._share = max(self._share, told.share)
            self._progress(self._share, told.doing)

    def silence(self) -> None:
        self._progress = None


class TrainingWorker:
    """Fills the port `Trainer` with a process of its own, which is started when it is first needed.

    Requests are carried out in the order in which they came. What a lost process was doing is done once more by a new
    one, in what is left of the request's `deadline_seconds`. A time limit counts from when the process turns to the
    request. Belongs to one event loop.
    """

    def __init__(
        self,
        *,
        key: bytes,
        clock: Clock,
        max_memory_mb: float = 1024,
        most_waiting: int = MOST_WAITING,
        idle_seconds: float | None = IDLE_SECONDS,
        grace_seconds: float = GRACE_SECONDS,
        program: str = PROGRAM,
    ) -> None:
        """`key` signs models; `max_memory_mb` bounds the resident memory of the process, in MiB. Idle for
        `idle_seconds` (None: for ever) it is ended. `grace_seconds` bounds what a request may take beyond its own, and
        what it may take to stop when its caller has gone."""
        self._clock = clock
        self._max_memory_mb = max_memory_mb
        self._most_waiting = most_waiting
        self._grace_seconds = grace_seconds
        self._child = ChildProcess(
            program,
            encode(Begin(key)),
            environment=ONE_THREAD,
            start_seconds=START_SECONDS,
            idle_seconds=idle_seconds,
        )
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._usual_seconds = 15.0
        self._overrun = False
        self._closed = False
        self._settling: asyncio.Task[None] | None = None
        self._warming: asyncio.Task[None] | None = None
        self._answered = self._lost = 0
        self._last_loss: dict[str, str] | None = None

    @classmethod
    def of(cls, settings: Settings, clock: Clock) -> Self:
        """As the settings want it; with PREDICTIONS_WARM_UP it stays, once started."""
        return cls(
            key=model_key(settings.secret_key.get_secret_value()),
            clock=clock,
            max_memory_mb=settings.predictions_max_memory_mb,
            idle_seconds=None if settings.predictions_warm_up else IDLE_SECONDS,
        )

    @property
    def pid(self) -> int | None:
        """Of the process; None while there is none."""
        return self._child.pid

    def warm_up(self) -> None:
        """See the port."""
        if not self._child.ready and not self._closed and (self._warming is None or self._warming.done()):
            self._warming = asyncio.create_task(self._warm(), name="warm up the process that trains")

    async def train(self, request: TrainRequest, progress: Listener) -> list[TrainResult]:
        """See the port."""
        heard = _Heard(progress)

        def question(seconds: float) -> bytes:
            return encode(Train(msgspec.structs.replace(request, deadline_seconds=seconds)))

        async with self._my_turn():
            began = self._clock.monotonic()
            reply = await self._ask(question, request.deadline_seconds, heard)
            self._usual_seconds = self._clock.monotonic() - began
        assert isinstance(reply, Trained)  # noqa: S101 (both sides are ours)
        return reply.results

    async def predict(self, blob: bytes, request: TrainRequest) -> Prediction:
        """See the port."""
        body = encode(Use(blob, request))
        async with self._my_turn():
            reply = await self._ask(lambda _: body, request.deadline_seconds, _Heard(None))
        assert isinstance(reply, Used)  # noqa: S101 (both sides are ours)
        return reply.prediction

    def health(self) -> dict[str, Any]:
        """See the port. Memory in MiB."""
        state = "off" if self.pid is None else "starting" if not self._child.ready else "ready"
        return {
            "state": "training" if state == "ready" and self._turn.locked() else state,
            "waiting": self._waiting,
            "memory_mb": round(self._memory_mb()),
            "max_memory_mb": round(self._max_memory_mb),
            "answered": self._answered,
            "lost": self._lost,
            "last_loss": self._last_loss,
        }

    async def close(self) -> None:
        """See the port."""
        self._closed = True
        await self._child.close()
        ending = [task for task in (self._settling, self._warming) if task is not None]
        if ending:
            await asyncio.wait(ending)

    # One after the other

    @asynccontextmanager
    async def _my_turn(self) -> AsyncIterator[None]:
        if self._waiting >= self._most_waiting:
            raise UnavailableError(
                f"{self._waiting} forecasts wait to be made already; try again later.",
                retry_after=min(300.0, self._usual_seconds * (self._waiting + 1)),
            )
        self._waiting += 1
        try:
            await self._turn.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._turn.release()

    async def _ask(self, question: Callable[[float], bytes], seconds: float, heard: _Heard) -> Reply:
        """The reply to `question`, which is told how many seconds there are, of a process or its successor."""
        again, left = True, seconds
        while True:
            if self._closed:
                raise WorkerLostError(_ENDING)
            began = self._clock.monotonic()
            try:
                reply = await self._attempt(question, left, heard)
            except ChildLostError as error:
                left -= self._clock.monotonic() - began
                again = again and left >= _LEAST_SECONDS and not self._closed
                self._note(error, seconds, again=again)
                if not again:
                    raise WorkerLostError(self._reason(error, seconds)) from None
                again = False
            else:
                self._answered += 1
                return await self._unless_refused(reply)

    async def _attempt(self, question: Callable[[float], bytes], seconds: float, heard: _Heard) -> Reply:
        if self._settling is not None:
            await asyncio.wait([self._settling])
        self._overrun = False
        watch = asyncio.create_task(self._watch_memory(), name="memory of the process that trains")
        exchange: Exchange | None = None
        try:
            await self._child.start()
            async with asyncio.timeout(seconds + self._grace_seconds):
                exchange = await self._child.begin(question(seconds), heard)
                reply: Reply = decode_reply(await asyncio.shield(exchange.reply))
                return reply
        except asyncio.CancelledError:
            heard.silence()
            self._settling = asyncio.create_task(self._settle(exchange), name="stop a training")
            raise
        except (TimeoutError, msgspec.DecodeError) as error:
            await self._child.end()
            raise ChildLostError("stuck" if isinstance(error, TimeoutError) else "nonsense") from None
        finally:
            watch.cancel()

    async def _unless_refused(self, reply: Reply) -> Reply:
        if isinstance(reply, Refused):
            raise _REFUSALS.get(reply.code, PredictionError)(reply.message)
        if isinstance(reply, Failed):
            log.error("training failed", error=reply.error, trace=reply.trace)
            await self._child.end()  # who knows what it left behind
            raise PredictionError(f"The forecast could not be made: an unforeseen {reply.error}, which was logged.")
        return reply

    # Its end

    async def _settle(self, exchange: Exchange | None) -> None:
        """Its caller has gone: the process turns to the next, or is ended."""
        if exchange is None:
            if self._child.ready:  # it was being told, or about to be
                await self._child.end()
            return
        with suppress(TimeoutError, ChildLostError):
            async with asyncio.timeout(self._grace_seconds):
                await self._child.add(exchange, encode(Stop()))
                await asyncio.shield(exchange.reply)
            return
        await self._child.end()

    async def _watch_memory(self) -> None:
        while True:
            if self._memory_mb() > self._max_memory_mb:
                self._overrun = True
                await self._child.end()
                return
            await asyncio.sleep(_LOOK_SECONDS)

    def _memory_mb(self) -> float:
        pid = self.pid
        try:
            return psutil.Process(pid).memory_info().rss / _MEBIBYTE if pid is not None else 0.0
        except psutil.Error:
            return 0.0

    async def _warm(self) -> None:
        with suppress(ChildLostError):  # it was logged; the next request tries again, and tells
            await self._child.start()

    def _note(self, error: ChildLostError, seconds: float, *, again: bool) -> None:
        reason = self._reason(error, seconds)
        self._lost += 1
        self._last_loss = {"at": self._clock.now().isoformat(), "reason": reason}
        log.warning("the process that trains was lost", reason=reason, status=error.status, again=again)

    def _reason(self, error: ChildLostError, seconds: float) -> str:
        """For people."""
        if self._closed:
            return _ENDING
        if self._overrun:
            return (
                f"Training took more than {self._max_memory_mb:.0f} MB of memory and was ended; "
                "PREDICTIONS_MAX_MEMORY_MB allows it more."
            )
        if error.why == "stuck":
            return f"Training did not end in {seconds:.0f} seconds, nor when it was told to, and was ended."
        if error.why == "not started":
            return "The process that trains could not be started."
        if error.why == "nonsense":
            return "The process that trains answered with what could not be read."
        if error.status is not None and error.status < 0:
            return f"The process that trains was ended by signal {-error.status}; often the system is short of memory."
        return f"The process that trains ended by itself, with status {error.status}."
