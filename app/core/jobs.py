"""Periodic jobs that one process of the service runs at a time, decided by a lease in the database."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import DuplicateKeyError, PyMongoError

from app.core.clock import Clock

log = structlog.get_logger(__name__)


class LeaseLostError(Exception):
    """Another process may hold the lease now."""


class Lease:
    """A named right that one process holds until it expires; a killed holder's lease ends by itself."""

    def __init__(self, db: AsyncDatabase[dict[str, Any]], clock: Clock, name: str, holder: str, seconds: float) -> None:
        self._leases = db["leases"]
        self._clock = clock
        self._name = name
        self._holder = holder
        self._length = timedelta(seconds=seconds)

    async def acquire(self) -> bool:
        """Take or renew the lease; whether this process holds it now."""
        now = self._clock.now()
        claim = {"$set": {"holder": self._holder, "expires_at": now + self._length}}
        current = await self._leases.find_one({"_id": self._name})
        if current is None:
            try:
                await self._leases.insert_one({"_id": self._name, **claim["$set"]})
            except DuplicateKeyError:
                return False
            return True
        if current["holder"] != self._holder and current["expires_at"] > now:
            return False
        # Conditional on the row that was read: of two claims at once one changes it first. Matched, not modified: a
        # holder that renews within the same millisecond changes nothing.
        result = await self._leases.update_one(current, claim)
        return result.matched_count == 1

    async def release(self) -> None:
        """Give the lease up, so that another process need not wait for its end."""
        await self._leases.update_one(
            {"_id": self._name, "holder": self._holder}, {"$set": {"expires_at": self._clock.now()}}
        )


@dataclass(slots=True)
class _Job:
    name: str
    every: timedelta
    run: Callable[[], Awaitable[None]]
    last_run: datetime | None = None
    last_error: str | None = None


class Jobs:
    """Runs each job about every so often, in whichever process holds the lease."""

    def __init__(
        self,
        db: Callable[[], AsyncDatabase[dict[str, Any]]],
        clock: Clock,
        holder: str,
        *,
        lease_seconds: float = 30,
    ) -> None:
        self._db = db
        self._lease_seconds = lease_seconds
        self._look_seconds = lease_seconds / 3
        self._clock = clock
        self._holder = holder
        self._jobs: list[_Job] = []
        self._leading = False

    def add(self, name: str, every: timedelta, run: Callable[[], Awaitable[None]]) -> None:
        """Run `run` every `every`, first soon after the start."""
        self._jobs.append(_Job(name, every, run))

    async def run(self) -> None:
        """The loop that the supervisor runs."""
        lease = Lease(self._db(), self._clock, "jobs", self._holder, self._lease_seconds)
        try:
            while True:
                self._leading = await lease.acquire()
                if self._leading:
                    await self._run_due(lease)
                await asyncio.sleep(self._look_seconds * random.uniform(0.9, 1.1))  # noqa: S311 (jitter, not a secret)
        finally:
            if self._leading:
                self._leading = False
                # Whatever ends this loop is what the supervisor is to see; the lease ends by itself, too.
                with suppress(PyMongoError, TimeoutError):
                    await asyncio.wait_for(lease.release(), 1)

    async def _run_due(self, lease: Lease) -> None:
        for job in self._jobs:
            if not self._leading:
                return
            now = self._clock.now()
            if job.last_run is not None and now - job.last_run < job.every:
                continue
            job.last_run = now
            try:
                await self._run_leading(job, lease)
                job.last_error = None
            except Exception as error:  # one job's failure is shown and logged, and must not stop the others
                job.last_error = type(error).__name__
                log.exception("job failed", job=job.name)

    async def _run_leading(self, job: _Job, lease: Lease) -> None:
        """Run `job` and renew the lease meanwhile; a job is cut off when another process may have begun it."""
        work = asyncio.ensure_future(job.run())
        try:
            while not (await asyncio.wait([work], timeout=self._look_seconds))[0]:
                with suppress(PyMongoError):  # the database may be restarting; nobody else can take the lease meanwhile
                    self._leading = await lease.acquire()
                if not self._leading:
                    raise LeaseLostError("another process runs the jobs now")
            await work
        finally:
            if not work.done():
                work.cancel()
                await asyncio.wait([work])

    def health(self) -> dict[str, Any]:
        """Whether this process runs the jobs, and how each went."""
        return {
            "leading": self._leading,
            "jobs": {job.name: {"last_run": job.last_run, "last_error": job.last_error} for job in self._jobs},
        }
