"""Periodic jobs that one process of the service runs at a time, decided by a lease in the database."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from pymongo.asynchronous.database import AsyncDatabase

from app.core.cancelling import raise_if_cancelled
from app.core.clock import Clock
from app.core.lease_holder import Lease, LeaseHolder, LeaseLostError

__all__ = ["Jobs", "Lease", "LeaseLostError"]

log = structlog.get_logger(__name__)


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
        self._lease: LeaseHolder | None = None

    def add(self, name: str, every: timedelta, run: Callable[[], Awaitable[None]]) -> None:
        """Run `run` every `every`, first soon after the start."""
        self._jobs.append(_Job(name, every, run))

    async def run(self) -> None:
        """The loop that the supervisor runs."""
        self._lease = LeaseHolder(self._db(), self._clock, "jobs", self._holder, self._lease_seconds)
        await self._lease.run(self._run_leading)

    async def _run_leading(self) -> None:
        while True:
            for job in self._jobs:
                await self._run_if_due(job)
                raise_if_cancelled()
            await asyncio.sleep(self._look_seconds)

    async def _run_if_due(self, job: _Job) -> None:
        now = self._clock.now()
        if job.last_run is not None and now - job.last_run < job.every:
            return
        job.last_run = now
        try:
            await job.run()
            job.last_error = None
        except asyncio.CancelledError:
            if not self._leading:
                job.last_error = LeaseLostError.__name__
            raise
        except Exception as error:  # one job's failure is shown and logged, and must not stop the others
            job.last_error = type(error).__name__
            log.exception("job failed", job=job.name)

    @property
    def _leading(self) -> bool:
        return self._lease is not None and self._lease.held

    def health(self) -> dict[str, Any]:
        """Whether this process runs the jobs, and how each went."""
        return {
            "leading": self._leading,
            "jobs": {job.name: {"last_run": job.last_run, "last_error": job.last_error} for job in self._jobs},
        }
