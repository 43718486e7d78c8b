"""Jobs that leave marks in the database: whoever runs them, the test can see what was done, and how often."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from app.core.bus import Bus, NullTransport
from app.core.clock import Clock, SystemClock
from app.core.errors import UnavailableError
from app.core.scheduler import Job, Run, Scheduler
from app.job_runs.store import MongoRunStore
from tests.support.mongodb import Db

LEASE_SECONDS = 1.0
VOUCHED_SECONDS = 60.0
"""Longer than a busy machine lets a process stand still: for whoever must not be taken for dead by a test's looks."""
LASTING = asyncio.Event()
"""Lets go of what needs no database."""
AT_WORK: set[str] = set()
"""The runs that this process holds."""


class Jobs:
    """The work; `marks` has a row for everything that was done."""

    def __init__(self, db: Db) -> None:
        self._marks = db["marks"]

    async def _mark(self, run: Run, what: str) -> None:
        await self._marks.insert_one({"run": run.id, "job": run.job, "what": what, "pid": os.getpid()})

    async def mark(self, run: Run) -> dict[str, Any]:
        await self._mark(run, "done")
        return {"due": run.due, "arguments": dict(run.arguments)}

    async def hold(self, run: Run) -> dict[str, Any]:
        """Goes on until the test lets it go."""
        AT_WORK.add(run.id)
        try:
            await self._mark(run, "began")
            while await self._marks.find_one({"_id": "let go"}) is None:
                await asyncio.sleep(0.02)
            await self._mark(run, "ended")
        finally:
            AT_WORK.discard(run.id)
        return {"held": True}

    async def brief(self, run: Run) -> None:
        await self._mark(run, "began")
        await asyncio.sleep(0.05)
        await self._mark(run, "ended")

    async def outlast(self, run: Run) -> dict[str, Any]:
        """Needs no database while it works."""
        await self._mark(run, "began")
        await LASTING.wait()
        return {"outlasted": True}

    async def count(self, run: Run) -> dict[str, Any]:
        for number in range(1, 401):
            await run.progress(number, 400, f"number {number}")
            await asyncio.sleep(0.002)
        return {"counted": 400}

    async def hang(self, run: Run) -> None:
        await self._mark(run, "began")
        await asyncio.sleep(60)

    async def fail(self, _: Run) -> None:
        raise ValueError("mongodb://user:password@host refused it")

    async def tell(self, _: Run) -> None:
        raise UnavailableError("CoinGecko does not answer; try again in a minute.")

    async def babble(self, _: Run) -> dict[str, Any]:
        return {"text": "x" * 100_000}

    def all(self) -> list[Job]:
        five, hour = timedelta(minutes=5), timedelta(hours=1)
        return [
            Job("test.mark", self.mark),
            Job("test.five", self.mark, every=five, skip=lambda slot: slot.minute == 0),
            Job("test.hourly", self.mark, every=hour),
            Job("test.hold", self.hold),
            Job("test.slow", self.hold, every=five),
            Job("test.outlast", self.outlast),
            Job("test.count", self.count),
            Job("test.hang", self.hang, timeout=timedelta(seconds=0.3)),
            Job("test.fail", self.fail),
            Job("test.tell", self.tell),
            Job("test.babble", self.babble),
            Job("test.one", self.brief, group="turns"),
            Job("test.two", self.brief, group="turns"),
        ]


@asynccontextmanager
async def open_scheduler(
    db: Db,
    *names: str,
    holder: str = "this",
    clock: Clock | None = None,
    bus: Bus | None = None,
    broker_url: str | None = None,
    most: int = 10_000,
    lease_seconds: float = LEASE_SECONDS,
) -> AsyncIterator[Scheduler]:
    """A scheduler as one process has it, with these of the jobs, or all."""
    clock = clock or SystemClock()
    scheduler = Scheduler(
        db=db,
        store=MongoRunStore(clock, most=most),
        bus=bus or Bus(NullTransport()),
        clock=clock,
        holder=holder,
        broker_url=broker_url,
        lease_seconds=lease_seconds,
    )
    for job in Jobs(db).all():
        if not names or job.name in names:
            scheduler.add(job)
    try:
        yield scheduler
    finally:
        await scheduler.close()
