"""Periodic jobs: one process runs them, another takes over, and no job is in the way of the others."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymongo import AsyncMongoClient

from app.core.clock import SystemClock
from app.core.jobs import Jobs, Lease
from tests.support.clocks import StandingClock
from tests.support.mongodb import OPTIONS, Db, empty_database, mongodb_server, server_port, through
from tests.support.tcp_proxy import TcpProxy

PATIENCE = 8.0
OFTEN = timedelta(milliseconds=1)
SELDOM = timedelta(hours=1)


@pytest_asyncio.fixture(scope="module")
async def url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    async with mongodb_server(tmp_path_factory.mktemp("jobs")) as made:
        yield made


@pytest_asyncio.fixture
async def db(url: str) -> AsyncIterator[Db]:
    async with empty_database(url) as made:
        yield made


async def until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.01)


async def test_of_many_claims_at_once_one_wins(db: Db):
    clock = StandingClock()
    claims = [Lease(db, clock, "x", f"holder {number}", 30) for number in range(16)]
    for _ in range(12):  # first there is no row, later one that has run out
        won = await asyncio.gather(*(claim.acquire() for claim in claims))
        assert sum(won) == 1
        winner = claims[won.index(True)]
        # It keeps it, however often it asks and even while the clock stands still; nobody else gets it.
        again = await asyncio.gather(*(claim.acquire() for claim in claims))
        assert [claim for claim, held in zip(claims, again, strict=True) if held] == [winner]
        clock.move(seconds=31)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["claim", "release"]), st.integers(0, 2), st.sampled_from([0, 1, 9, 10, 11])),
        max_size=15,
    )
)
async def test_a_lease_is_what_it_says(db: Db, steps: list[tuple[str, int, int]]):
    """Beside a model: who holds it until when."""
    clock = StandingClock()
    name = f"lease {id(steps)} {time.monotonic_ns()}"
    claims = [Lease(db, clock, name, f"holder {number}", 10) for number in range(3)]
    holder, end = -1, clock.now()
    for action, number, seconds in steps:
        clock.move(seconds=seconds)
        if action == "release":
            await claims[number].release()
            if number == holder:
                end = clock.now()
            continue
        free = holder in {-1, number} or end <= clock.now()
        assert await claims[number].acquire() == free
        if free:
            holder, end = number, clock.now() + timedelta(seconds=10)


async def test_leases_of_other_names_do_not_matter(db: Db):
    clock = StandingClock()

    assert await Lease(db, clock, "a", "one", 10).acquire()
    assert await Lease(db, clock, "b", "two", 10).acquire()
    assert not await Lease(db, clock, "a", "two", 10).acquire()


class Work:
    """A job that notes when it ran, and who else ran at that moment."""

    def __init__(self, takes: float = 0, error: Exception | None = None) -> None:
        self.takes, self.error = takes, error
        self.runs: list[float] = []
        self.under_way = self.most_at_once = self.cut_off = 0

    async def __call__(self) -> None:
        self.runs.append(time.monotonic())
        self.under_way += 1
        self.most_at_once = max(self.most_at_once, self.under_way)
        try:
            await asyncio.sleep(self.takes)
            if self.error:
                raise self.error
        except asyncio.CancelledError:
            self.cut_off += 1
            raise
        finally:
            self.under_way -= 1


class Process:
    """What one process of the service has of the jobs."""

    def __init__(self, db: Db, name: str, lease_seconds: float = 1.0) -> None:
        self.jobs = Jobs(lambda: db, SystemClock(), name, lease_seconds=lease_seconds)
        self.task: asyncio.Task[None] | None = None

    def start(self) -> "Process":
        self.task = asyncio.create_task(self.jobs.run())
        return self

    async def stop(self) -> type[BaseException] | None:
        """End it as the supervisor does; how it ended."""
        assert self.task is not None
        self.task.cancel()
        [ended] = await asyncio.wait_for(asyncio.gather(self.task, return_exceptions=True), PATIENCE)
        return type(ended) if isinstance(ended, BaseException) else None

    @property
    def leads(self) -> bool:
        return bool(self.jobs.health()["leading"])


@asynccontextmanager
async def processes(
    db: Db, count: int, lease_seconds: float = 1.0, **jobs: tuple[timedelta, Work]
) -> AsyncIterator[list[Process]]:
    """So many processes with these jobs."""
    made = [Process(db, f"process {number}", lease_seconds) for number in range(count)]
    for process in made:
        for name, (every, work) in jobs.items():
            process.jobs.add(name, every, work)
        process.start()
    try:
        yield made
    finally:
        for process in made:
            await process.stop()


async def test_one_of_several_processes_runs_the_jobs(db: Db):
    once, often = Work(), Work()
    async with processes(db, 3, once=(SELDOM, once), often=(OFTEN, often)) as running:
        await until(lambda: len(often.runs) >= 4)
        assert sum(process.leads for process in running) == 1

    assert len(once.runs) == 1


async def test_another_takes_over_soon_when_the_first_ends(db: Db):
    often = Work()
    async with processes(db, 2, 3.0, often=(OFTEN, often)) as running:
        await until(lambda: often.runs)
        first, second = sorted(running, key=lambda process: not process.leads)
        assert await first.stop() is asyncio.CancelledError
        ended = time.monotonic()
        assert not first.leads
        await until(lambda: second.leads)

    assert time.monotonic() - ended < 1.7  # it was released: nobody had to wait for its end


async def test_a_killed_process_is_replaced_when_its_lease_has_run_out(db: Db):
    began, work = time.monotonic(), Work()
    await Lease(db, SystemClock(), "jobs", "killed", 0.8).acquire()
    async with processes(db, 1, work=(SELDOM, work)):
        await until(lambda: work.runs)

    assert work.runs[0] - began > 0.7


async def test_a_job_longer_than_the_lease_is_run_by_one_process(db: Db):
    long = Work(takes=2.0)
    async with processes(db, 3, long=(OFTEN, long)):
        await until(lambda: len(long.runs) >= 2)

    assert long.most_at_once == 1


async def test_a_job_is_cut_off_when_another_process_may_run_it(db: Db):
    """The process was suspended, or the clock set: its lease is somebody else's now."""
    long, next_ = Work(takes=30), Work()
    async with processes(db, 1, long=(SELDOM, long), next_=(SELDOM, next_)) as [process]:
        await until(lambda: long.under_way)
        later = SystemClock().now() + timedelta(seconds=60)
        await db["leases"].update_one({"_id": "jobs"}, {"$set": {"holder": "other", "expires_at": later}})
        await until(lambda: long.cut_off)
        await until(lambda: not process.leads)
        assert process.jobs.health()["jobs"]["long"]["last_error"] == "LeaseLostError"

    assert next_.runs == []


async def test_a_job_that_fails_is_seen_and_stops_nobody(db: Db):
    failing, well = Work(error=ValueError("mongodb://user:password@host")), Work()
    async with processes(db, 1, failing=(OFTEN, failing), well=(OFTEN, well)) as [process]:
        await until(lambda: len(failing.runs) >= 3 and len(well.runs) >= 2)
        health = process.jobs.health()["jobs"]
        assert (health["failing"]["last_error"], health["well"]["last_error"]) == ("ValueError", None)
        failing.error = None
        await until(lambda: process.jobs.health()["jobs"]["failing"]["last_error"] is None)
        assert health["well"]["last_run"] is not None


async def test_the_end_cuts_a_job_off(db: Db):
    long = Work(takes=30)
    async with processes(db, 1, long=(SELDOM, long)) as [process]:
        await until(lambda: long.under_way)
        began = time.monotonic()
        assert await process.stop() is asyncio.CancelledError
        assert time.monotonic() - began < 0.5

    assert long.cut_off == 1
    assert await Lease(db, SystemClock(), "jobs", "another", 10).acquire()


async def test_the_end_while_the_database_is_away(url: str, db: Db):
    async with TcpProxy(server_port(url)) as proxy:
        client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(
            through(url, proxy.port), **OPTIONS, serverSelectionTimeoutMS=5000
        )
        process = Process(client[db.name], "cut off", lease_seconds=30)
        work = Work()
        process.jobs.add("work", SELDOM, work)
        process.start()
        await until(lambda: work.runs and process.leads)
        await proxy.cut()
        began = time.monotonic()
        ended = await process.stop()
        took = time.monotonic() - began
        await client.close()

    assert ended is asyncio.CancelledError  # anything else would look like a failure, to be started again
    assert took < 2
    assert not process.leads


async def test_a_job_outlives_a_restart_of_the_database(url: str, db: Db):
    """Shorter than the lease: nobody else can have taken it."""
    async with TcpProxy(server_port(url)) as proxy:
        client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(
            through(url, proxy.port), **OPTIONS, serverSelectionTimeoutMS=200, connectTimeoutMS=200
        )
        process = Process(client[db.name], "steady", lease_seconds=3)
        long = Work(takes=2.5)
        process.jobs.add("long", SELDOM, long)
        process.start()
        await until(lambda: long.under_way)
        await asyncio.sleep(0.9)
        await proxy.cut()
        await asyncio.sleep(1)  # a renewal falls into it, and PyMongo's own second try
        await proxy.mend()
        await until(lambda: not long.under_way)
        health = process.jobs.health()["jobs"]["long"]
        await process.stop()
        await client.close()

    assert (health["last_error"], long.cut_off, len(long.runs)) == (None, 0, 1)
