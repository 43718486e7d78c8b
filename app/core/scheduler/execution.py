"""Carries out one run: waits its turn, works, keeps telling that it is alive, and records how it ended."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, Final

import structlog
from msgspec.structs import replace
from pymongo.errors import PyMongoError

from app.core.cancelling import end, raise_if_cancelled
from app.core.clock import Clock, Sequence
from app.core.errors import DomainError
from app.core.scheduler.definition import Job, JobResult
from app.core.scheduler.record import Claim, Progress, RunState, RunStore, RunView, plain_json

log = structlog.get_logger(__name__)

TELL_SECONDS: Final = 0.25
"""Between two messages about a run's progress."""
SAVE_SECONDS: Final = 1.0
"""Between two writes of a run's progress."""
TURN_SECONDS: Final = 0.3
"""Between two looks whether a run's turn has come."""
END_SECONDS: Final = 10.0
"""How long work may take to end when it is cut off."""
PATIENCE_SECONDS: Final = 300.0
"""How long the end of a run waits for a database that is away."""
CLOSING_SECONDS: Final = 2.0
"""The same when the process stops."""


class ActiveRun:
    """Fills the port `definition.Run`."""

    def __init__(self, view: RunView, tell: Callable[[RunView], None]) -> None:
        self.view = view
        self.unsaved: Progress | None = None
        self._tell = tell
        self._timer: asyncio.TimerHandle | None = None
        self._untold = False

    @property
    def id(self) -> str:
        return self.view.id

    @property
    def job(self) -> str:
        return self.view.job

    @property
    def arguments(self) -> Mapping[str, Any]:
        return self.view.arguments

    @property
    def due(self) -> datetime | None:
        return self.view.due

    async def progress(self, done: int, total: int | None = None, note: str = "") -> None:
        """See `definition.Run.progress`."""
        self.unsaved = Progress(done, total, note[:200])
        self.view = replace(self.view, progress=self.unsaved)
        self._untold = True
        if self._timer is None:
            self._told()

    def _told(self) -> None:
        self._timer = None
        if self._untold:
            self._untold = False
            self._tell(self.view)
            self._timer = asyncio.get_running_loop().call_later(TELL_SECONDS, self._told)

    def take_unsaved(self) -> Progress | None:
        """What of the progress is to be stored."""
        progress, self.unsaved = self.unsaved, None
        return progress

    def give_back(self, progress: Progress | None) -> None:
        """It was not stored; what came meanwhile is newer."""
        self.unsaved = self.unsaved or progress

    def close(self) -> None:
        """Tell nothing any more."""
        self._untold = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Executor:
    """Carries out runs in this process."""

    def __init__(
        self,
        *,
        store: RunStore,
        clock: Clock,
        runner: str,
        jobs: Mapping[str, Job],
        announce: Callable[[RunView], None],
        lease: timedelta,
    ) -> None:
        """`runner` names this process; `announce` hears every change; a run dies with its process after `lease`."""
        self._store, self._clock, self._runner = store, clock, runner
        self._jobs, self._announce, self._lease = jobs, announce, lease
        self._sequence = Sequence(clock)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing = False

    @property
    def active(self) -> int:
        """Runs that this process has in hand, those that wait their turn included."""
        return len(self._tasks)

    def seq(self, before: int = 0) -> int:
        """A number for a change that comes after the one numbered `before`."""
        return max(self._sequence.next(), before + 1)

    async def close(self) -> None:
        """Cut everything off: what was running is lost, and run again by another process or after the restart."""
        self._closing = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSING_SECONDS + 1)

    async def execute(self, run_id: str) -> None:
        """Carry the run out, if it is still queued; never raises because of its work."""
        if self._closing:
            return
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 (this is a coroutine)
        self._tasks.add(task)
        try:
            await self._execute(run_id)
        except PyMongoError as error:
            raise_if_cancelled()
            # The record still says that it waits: whoever looks after runs sends it again.
            log.warning("a run could not be started: the database is away", run=run_id, error=type(error).__name__)
        except asyncio.CancelledError:
            if not self._closing:
                raise
        finally:
            self._tasks.discard(task)

    async def _execute(self, run_id: str) -> None:
        view = await self._store.get(run_id)
        if view is None or view.state is not RunState.QUEUED:
            return
        job = self._jobs.get(view.job)
        if job is None:
            log.warning("a run of a job that is not known here", run=run_id, job=view.job)
            return
        started = await self._take_turn(view, job)
        if started is not None:
            await self._carry_out(started, job)

    async def _take_turn(self, view: RunView, job: Job) -> RunView | None:
        """The run, started; None if somebody else has it."""
        while True:
            now = self._clock.now()
            started = replace(view, state=RunState.RUNNING, started_at=now, seq=self.seq(view.seq))
            until = now + self._lease
            claim = await self._store.claim(started, runner=self._runner, group=job.group, alive_until=until)
            if claim is Claim.STARTED:
                self._announce(started)
                return started
            if claim is Claim.GONE or not await self._store.keep_queued(view.id, seen=None, alive_until=until):
                return None
            await asyncio.sleep(TURN_SECONDS)

    async def _carry_out(self, view: RunView, job: Job) -> None:
        began = self._clock.monotonic()
        run = ActiveRun(view, lambda changed: self._announce(replace(changed, seq=self.seq(changed.seq))))
        work = asyncio.create_task(_call(job, run), name=job.name)
        cut: str | None = None
        stopped = lost = False
        try:
            cut, lost = await self._watch(work, run, job)
        except asyncio.CancelledError:
            stopped = True
            _go_on()
        failure = await self._end(work, run, CLOSING_SECONDS if stopped else END_SECONDS)
        if lost:
            log.warning("a run is given up: it was taken for lost", job=job.name, run=view.id)
            return
        if stopped and (failure is not None or not work.done() or work.cancelled()):
            cut = "The process that ran it was stopped."
        ended = self._ended(run.view, work, failure, cut, lost=stopped and cut is not None)
        took = round((self._clock.monotonic() - began) * 1000)
        ended = replace(ended, duration_ms=took, finished_at=self._clock.now(), seq=self.seq(run.view.seq))
        await self._finish(ended, CLOSING_SECONDS if stopped else PATIENCE_SECONDS)

    async def _end(self, work: asyncio.Task[JobResult], run: ActiveRun, patience: float) -> BaseException | None:
        """Cut the work off if it goes on; how it failed, if it did."""
        if not work.done():
            with suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await end([work])
        run.close()
        if not work.done():
            log.error("the work of a job does not end", job=run.job, run=run.id)
            return None
        return None if work.cancelled() else work.exception()

    async def _watch(self, work: asyncio.Task[JobResult], run: ActiveRun, job: Job) -> tuple[str | None, bool]:
        """Wait for the work: why it has to be cut off, and whether another process took it for lost."""
        loop = asyncio.get_running_loop()
        deadline, beat_at = loop.time() + job.timeout.total_seconds(), loop.time() + self._lease.total_seconds() / 3
        tick = min(SAVE_SECONDS, self._lease.total_seconds() / 3)
        while True:
            left = deadline - loop.time()
            if (await asyncio.wait([work], timeout=max(min(tick, left), 0)))[0]:
                return None, False
            if loop.time() >= deadline:
                return f"It took longer than {_span(job.timeout)} and was cut off.", False
            if run.unsaved is not None or loop.time() >= beat_at:
                alive = await self._beat(run)
                if alive is False:
                    return None, True
                if alive:
                    beat_at = loop.time() + self._lease.total_seconds() / 3

    async def _beat(self, run: ActiveRun) -> bool | None:
        """Whether the run is this process's; None if the database did not say: then nobody else can take it either."""
        progress = run.take_unsaved()
        until = self._clock.now() + self._lease
        try:
            async with asyncio.timeout(max(self._lease.total_seconds() / 3, 1.0)):
                return await self._store.beat(run.id, runner=self._runner, alive_until=until, progress=progress)
        except (PyMongoError, TimeoutError) as error:
            raise_if_cancelled()
            run.give_back(progress)
            log.warning("the database does not answer during a run", run=run.id, error=type(error).__name__)
            return None

    def _ended(
        self,
        view: RunView,
        work: asyncio.Task[JobResult],
        failure: BaseException | None,
        cut: str | None,
        *,
        lost: bool,
    ) -> RunView:
        if cut is not None:
            return replace(view, state=RunState.LOST if lost else RunState.FAILED, error=cut)
        if work.cancelled():
            log.error("the work of a job was cancelled from inside", job=view.job, run=view.id)
            return replace(view, state=RunState.FAILED, error=_INSIDE)
        if failure is not None:
            return replace(view, state=RunState.FAILED, error=_explain(view, failure))
        try:
            result = plain_json(work.result())
        except ValueError as error:
            log.warning("the result of a job cannot be kept", job=view.job, run=view.id, reason=str(error))
            result = None
        return replace(view, state=RunState.SUCCEEDED, result=result)

    async def _finish(self, view: RunView, patience: float) -> None:
        loop = asyncio.get_running_loop()
        deadline, pause = loop.time() + patience, 0.1
        again = view.state is RunState.LOST and view.retry_of is None
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    if await self._store.finish(view, runner=self._runner, seen=None, again=again):
                        self._announce(view)
                    else:
                        log.warning("a run ended that was taken for lost", job=view.job, run=view.id)
                    return
            except (PyMongoError, TimeoutError) as error:
                raise_if_cancelled()
                if loop.time() + pause >= deadline:
                    log.warning("the end of a run was not stored", run=view.id, error=type(error).__name__)
                    return
            await asyncio.sleep(pause)
            pause = min(pause * 2, 2.0)


_INSIDE: Final = "Something went wrong inside; the service's log has more under this run's id."
_AWAY: Final = "The database did not answer while it ran."


async def _call(job: Job, run: ActiveRun) -> JobResult:
    return await job.work(run)


def _go_on() -> None:
    """The task was cancelled and has something to do before it ends."""
    if (task := asyncio.current_task()) is not None:
        task.uncancel()


def _explain(view: RunView, error: BaseException) -> str:
    """What clients are told: never the words of a driver or a library."""
    if isinstance(error, DomainError):
        log.warning("a job failed", job=view.job, run=view.id, reason=error.detail)
        return error.detail[:500]
    log.error("a job failed", job=view.job, run=view.id, exc_info=error)
    return _AWAY if isinstance(error, PyMongoError) else _INSIDE


def _span(length: timedelta) -> str:
    seconds = length.total_seconds()
    return f"{seconds / 60:g} minutes" if seconds >= 120 else f"{seconds:g} seconds"
