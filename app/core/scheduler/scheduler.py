"""Jobs by the clock and on request, one definition for this process and for workers elsewhere.

One process of the service (the lease `jobs`) claims the slots that are due and looks after runs whose process died.
A slot is claimed by the insert of its run's record under a unique key, so that even two such processes begin it once.
Whoever has a run in hand vouches for it in its record every few seconds. A run that nobody vouches for any more is lost
and run again, once. Machines' clocks have to agree to about a second.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import structlog
from msgspec.structs import replace
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import PyMongoError

from app.core.bus import Bus
from app.core.cancelling import raise_if_cancelled
from app.core.clock import Clock
from app.core.events import JobChanged
from app.core.lease_holder import LeaseHolder
from app.core.scheduler.definition import Job
from app.core.scheduler.execution import Executor
from app.core.scheduler.record import (
    Added,
    NotSentError,
    RunState,
    RunStore,
    RunView,
    SlotTakenError,
    identity_of,
    plain_json,
)

if TYPE_CHECKING:
    from app.core.scheduler.brokers import Sender

log = structlog.get_logger(__name__)

LEASE: Final = "jobs"
GIVE_UP: Final = timedelta(hours=1)
"""A run that nobody took for so long is lost."""
TRIM_FIRST, TRIM_EVERY = timedelta(minutes=10), timedelta(hours=1)
"""When old runs are counted: not while a service starts."""


class StartedRun(NamedTuple):
    """The run that a request led to."""

    id: str
    joined: bool
    """Whether it was under way already."""


class Scheduler:
    """Starts runs, looks after them, and carries them out here or hands them to workers."""

    def __init__(
        self,
        *,
        db: AsyncDatabase[dict[str, Any]],
        store: RunStore,
        bus: Bus,
        clock: Clock,
        holder: str,
        broker_url: str | None = None,
        lease_seconds: float = 30,
    ) -> None:
        """`holder` names this process. `broker_url`: Redis, through which workers get their runs; None: runs here."""
        self._store, self._bus, self._clock = store, bus, clock
        self._broker_url, self._database = broker_url, db.name
        self._lease = timedelta(seconds=lease_seconds)
        self._leading = LeaseHolder(db, clock, LEASE, holder, lease_seconds)
        self._jobs: dict[str, Job] = {}
        self._executor = Executor(
            store=store, clock=clock, runner=holder, jobs=self._jobs, announce=self._announce, lease=self._lease
        )
        self._sender: Sender | None = None
        self._sending = asyncio.Lock()
        self._send_error: str | None = None
        self._waiting_for_worker = 0
        self._claimed: dict[str, datetime] = {}
        self._away = False
        """Whether the database did not answer when it was last asked."""
        self._judge_from = clock.now()
        self._trim_at = clock.now() + TRIM_FIRST
        self._newest: dict[str, JobChanged] = {}
        self._waiters: dict[str, set[asyncio.Event]] = {}
        bus.subscribe(JobChanged, self._on_changed)

    # Definitions and requests

    def add(self, job: Job) -> None:
        """Define a job; every process of the service has to define the same ones."""
        if job.name in self._jobs:
            raise ValueError(f"there is a job named {job.name} already")
        self._jobs[job.name] = job

    async def start(
        self, name: str, arguments: Mapping[str, Any] | None = None, *, requested_by: str | None = None
    ) -> StartedRun:
        """Run a job now; if a run of it with the same arguments is under way anywhere, that one serves.

        Returns as soon as the run is recorded. Raises `KeyError` for an unknown job, `ValueError` for arguments that
        are no JSON, and `PyMongoError`.
        """
        job = self._jobs[name]
        added = await self._queue_run(self._new(job, plain_json(arguments) or {}, requested_by=requested_by), None)
        if not added.joined:
            await self._send(added.id)
        return StartedRun(added.id, added.joined)

    async def wait(self, run_id: str, seconds: float) -> RunView | None:
        """The run when it has finished, or as it is after `seconds`; None if there is none."""
        loop = asyncio.get_running_loop()
        deadline, news = loop.time() + seconds, asyncio.Event()
        self._waiters.setdefault(run_id, set()).add(news)
        try:
            while True:
                view = await self._store.get(run_id)
                left = deadline - loop.time()
                if view is None or view.finished or left <= 0:
                    return view
                # News of another process may be lost on their way.
                with suppress(TimeoutError):
                    await asyncio.wait_for(news.wait(), min(1.0, left))
                news.clear()
        finally:
            self._waiters[run_id].discard(news)
            if not self._waiters[run_id]:
                del self._waiters[run_id]

    # What the one process does that looks after runs

    async def run(self) -> None:
        """The loop that the supervisor runs, in every process."""
        await self._leading.run(self._lead)

    async def _lead(self) -> None:
        while True:
            await self.look()
            raise_if_cancelled()
            await asyncio.sleep(self._until_next())

    def _until_next(self) -> float:
        now = self._clock.now()
        slots = [slot for job in self._jobs.values() if (slot := job.next_slot(now)) is not None]
        left = min(((slot - now).total_seconds() for slot in slots), default=60.0)
        return max(min(left, self._lease.total_seconds() / 3), 0.005)

    async def look(self, *, patience: float = 0) -> None:
        """Queue what is due, and what was lost; may be called in any process at any time.

        `patience`: seconds; what is due that soon is waited for.
        """
        await self._look()
        left = self._until_next()
        if left < patience:
            await asyncio.sleep(left)
            await self._look()

    async def _look(self) -> None:
        now = self._clock.now()
        try:
            for job in tuple(self._jobs.values()):
                await self._claim_slot(job, now)
            if self._away:
                await self._store.overdue(now)
                # It answers again. Those who run something could not vouch for it: they get the time for it first.
                self._away, self._judge_from = False, self._clock.now() + self._lease
            elif now >= self._judge_from:
                await self._revive(now)
            if now >= self._trim_at:
                self._trim_at = now + TRIM_EVERY
                for name in tuple(self._jobs):
                    await self._store.trim(name)
        except (PyMongoError, TimeoutError) as error:
            raise_if_cancelled()
            self._away = True
            log.warning("the database does not answer about jobs", error=type(error).__name__)

    async def _claim_slot(self, job: Job, now: datetime) -> None:
        """Queue the newest slot, if nobody has: of slots that were missed, one is caught up."""
        slot = job.slot_at(now)
        if slot is None or self._claimed.get(job.name) == slot:
            return
        if job.wants(slot):
            view = self._new(job, {}, due=slot)
            key = f"{job.name} {slot.isoformat()}"
            with suppress(SlotTakenError):
                added = await self._queue_run(view, key)
                if added.joined:
                    await self._note_skipped(view, key, added.id)
                else:
                    await self._send(added.id)
        self._claimed[job.name] = slot

    async def _note_skipped(self, view: RunView, key: str, served_by: str) -> None:
        now = self._clock.now()
        skipped = replace(
            view, id=self._store.new_id(), state=RunState.SKIPPED, finished_at=now, result={"served_by": served_by}
        )
        await self._store.add(skipped, slot=key, identity=None, alive_until=now)
        self._announce(skipped)

    async def _revive(self, now: datetime) -> None:
        overdue, waiting = await self._store.overdue(now), 0
        if self._away:  # another look failed while this one waited for the answer
            return
        for view, seen in overdue:
            if view.state is RunState.RUNNING:
                await self._give_up(view, seen, "The process that ran it died.", again=view.retry_of is None)
            elif now - view.created_at > GIVE_UP:
                await self._give_up(view, seen, "Nobody took it in time.", again=False)
            elif await self._store.keep_queued(view.id, seen=seen, alive_until=now + self._lease):
                waiting += 1
                await self._send(view.id)
        self._waiting_for_worker = waiting if self._broker_url else 0
        for view in await self._store.to_repeat():
            await self._repeat(view)

    async def _give_up(self, view: RunView, seen: datetime, why: str, *, again: bool) -> None:
        lost = replace(
            view, state=RunState.LOST, error=why, finished_at=self._clock.now(), seq=self._executor.seq(view.seq)
        )
        if await self._store.finish(lost, runner=None, seen=seen, again=again):
            log.warning("a run was lost", job=view.job, run=view.id, reason=why)
            self._announce(lost)

    async def _repeat(self, lost: RunView) -> None:
        """Run once more what was lost: under a key of its own, so that it is once, whoever else does this now."""
        successor, slot = None, f"again {lost.id}"
        if (job := self._jobs.get(lost.job)) is not None:
            view = self._new(job, lost.arguments, requested_by=lost.requested_by, due=lost.due)
            with suppress(SlotTakenError):
                added = await self._queue_run(replace(view, retry_of=lost.id), slot)
                successor = added.id
                if not added.joined:
                    await self._send(added.id)
        # No news of its own: the successor's message names the lost run.
        await self._store.repeated(lost.id, successor=successor, slot=slot)

    def _new(
        self, job: Job, arguments: dict[str, Any], *, requested_by: str | None = None, due: datetime | None = None
    ) -> RunView:
        return RunView(
            id=self._store.new_id(),
            job=job.name,
            state=RunState.QUEUED,
            arguments=arguments,
            requested_by=requested_by,
            due=due,
            created_at=self._clock.now(),
            seq=self._executor.seq(),
        )

    async def _queue_run(self, view: RunView, slot: str | None) -> Added:
        identity = identity_of(view.job, view.arguments)
        added = await self._store.add(view, slot=slot, identity=identity, alive_until=self._clock.now() + self._lease)
        if not added.joined:
            self._announce(view)
        return added

    # Carrying out

    async def execute(self, run_id: str) -> None:
        """Carry out a queued run in this process; what taskiq's task does."""
        await self._executor.execute(run_id)

    async def _send(self, run_id: str) -> None:
        """Have a run carried out; if that fails it waits in its record, and is sent again."""
        sender = await self._connected()
        try:
            await sender.send(run_id)
            self._send_error = None
        except NotSentError as error:
            self._send_error = str(error)
            log.warning("a run could not be handed to the workers yet", run=run_id, error=self._send_error)

    async def _connected(self) -> "Sender":
        async with self._sending:
            if self._sender is None:
                # In a thread: it takes a while, and this process has requests to answer.
                brokers = await asyncio.to_thread(_import_brokers)
                url = self._broker_url
                self._sender = brokers.distributed(url, self._database) if url else brokers.in_process(self.execute)
                await self._sender.start()
            return self._sender

    async def close(self) -> None:
        """Cut off what runs here, and give the broker up; to be called before the bus and the database close."""
        await self._executor.close()
        async with self._sending:
            if self._sender is not None:
                await self._sender.close()
                self._sender = None

    # News

    def _announce(self, view: RunView) -> None:
        seconds = view.duration_ms / 1000 if view.finished and view.duration_ms is not None else None
        self._bus.announce(
            JobChanged(
                run_id=view.id,
                job=view.job,
                state=view.state,
                finished=view.finished,
                seconds=seconds,
                seq=view.seq,
                body=view.json(),
            )
        )

    def _on_changed(self, event: JobChanged) -> None:
        self._newest[event.job] = event
        if event.finished:
            for news in self._waiters.get(event.run_id, ()):
                news.set()

    def health(self) -> dict[str, Any]:
        """Whether this process looks after runs, how many it has in hand, and how each job stands."""
        now = self._clock.now()
        jobs = {
            name: {
                "next": job.next_slot(now),
                "last_state": self._newest[name].state if name in self._newest else None,
            }
            for name, job in self._jobs.items()
        }
        line: dict[str, Any] = {
            "status": "degraded" if self._send_error or self._waiting_for_worker else "ok",
            "leading": self._leading.held,
            "mode": "workers" if self._broker_url else "in process",
            "active": self._executor.active,
            "jobs": jobs,
        }
        if self._broker_url:
            line |= {"broker_error": self._send_error, "waiting_for_worker": self._waiting_for_worker}
        return line


def _import_brokers() -> Any:
    from app.core.scheduler import brokers

    return brokers
