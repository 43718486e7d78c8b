"""A database, a broker, and the two ways in which runs are carried out."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

import psutil
import pytest
import pytest_asyncio
import structlog
from taskiq.api import run_receiver_task

from app.core.bus import Bus, NullTransport
from app.core.scheduler import Scheduler
from app.core.scheduler.brokers import worker_broker
from app.job_runs.models import DOCUMENTS
from tests.job_runs.jobs import LEASE_SECONDS, open_scheduler
from tests.support.clocks import StandingClock
from tests.support.mongodb import Db, empty_database
from tests.support.redis_servers import RedisServer
from tests.support.service import ROOT, wait_for_end

PATIENCE = 30.0
Way = str | None
MakeFleet = Callable[..., Awaitable["Fleet"]]


@pytest.fixture(scope="package", autouse=True)
def plain_logs() -> Iterator[None]:
    """structlog's own default draws pictures of every frame, for seconds."""
    structlog.configure(processors=[structlog.processors.format_exc_info, structlog.processors.KeyValueRenderer()])
    yield
    structlog.reset_defaults()


@pytest_asyncio.fixture(scope="session")
async def jobs_db(mongodb_url: str) -> AsyncIterator[Db]:
    async with empty_database(mongodb_url, DOCUMENTS) as made:
        yield made


@pytest_asyncio.fixture
async def db(jobs_db: Db) -> Db:
    """An empty database: emptied, that is, which is quicker than to make all the indexes for each test."""
    for name in ("job_runs", "marks", "leases"):
        await jobs_db[name].delete_many({})
    return jobs_db


@pytest.fixture(scope="session")
def broker_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(params=["here", "workers"])
def way(request: pytest.FixtureRequest) -> Way:
    """The address of the broker, or None: runs are carried out where they are started."""
    if request.param == "here":
        return None
    server: RedisServer = request.getfixturevalue("broker_server")
    return server.url


async def until(condition: Callable[[], Awaitable[object]], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.02)


class Fleet:
    """Processes of a service in one event loop; with workers one of these, too."""

    def __init__(
        self,
        db: Db,
        way: Way,
        clock: StandingClock | None,
        names: tuple[str, ...],
        *,
        worker_lease: float = LEASE_SECONDS,
    ) -> None:
        self.db, self.way, self.clock, self.names, self.worker_lease = db, way, clock, names, worker_lease
        self.schedulers: list[Scheduler] = []
        self.bus = Bus(NullTransport())  # what one of them tells, all hear
        self._stack = AsyncExitStack()

    async def start(self, count: int) -> "Fleet":
        for number in range(count):
            name = f"process {number}"
            made = self._open(name, broker_url=self.way)
            self.schedulers.append(await self._stack.enter_async_context(made))
        if self.way:
            await self._stack.enter_async_context(self._worker())
        return self

    def _open(self, holder: str, **options: Any) -> AbstractAsyncContextManager[Scheduler]:
        return open_scheduler(self.db, *self.names, holder=holder, clock=self.clock, bus=self.bus, **options)

    @asynccontextmanager
    async def _worker(self) -> AsyncIterator[None]:
        assert self.way
        broker = worker_broker(self.way, self.db.name, lambda: self._open("worker", lease_seconds=self.worker_lease))
        broker.is_worker_process = True
        await broker.startup()
        task = asyncio.create_task(run_receiver_task(broker))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await broker.shutdown()

    async def close(self) -> None:
        await self._stack.aclose()

    async def runs(self, **query: Any) -> list[dict[str, Any]]:
        rows = [row async for row in self.db["job_runs"].find(query)]
        return sorted(rows, key=lambda row: row["seq"])

    async def marks(self) -> list[dict[str, Any]]:
        return [row async for row in self.db["marks"].find({})]

    async def began(self, count: int = 1) -> None:
        """Wait until work has begun so many times."""

        async def enough() -> bool:
            return await self.db["marks"].count_documents({"what": "began"}) >= count

        await until(enough)

    async def let_go(self) -> None:
        await self.db["marks"].insert_one({"_id": "let go"})

    async def settled(self) -> None:
        """Wait until no run is under way."""

        async def quiet() -> bool:
            return not [row for row in await self.runs() if row["state"] in {"queued", "running"}]

        await until(quiet)


@pytest_asyncio.fixture
async def make_fleet(db: Db, way: Way) -> AsyncIterator[MakeFleet]:
    made: list[Fleet] = []

    async def make(*names: str, clock: StandingClock | None = None, count: int = 1) -> Fleet:
        made.append(Fleet(db, way, clock, names))
        return await made[-1].start(count)

    yield make
    for fleet in made:
        await fleet.close()


class Program:
    """A process that carries runs out, with all that it started: see `tests.job_runs.program`."""

    def __init__(self, url: str, db: Db, broker: str | None, *arguments: str) -> None:
        env = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        env |= {"JOBS_MONGODB_URL": url, "JOBS_DATABASE": db.name} | ({"JOBS_BROKER_URL": broker} if broker else {})
        self.process = subprocess.Popen([sys.executable, "-m", *arguments], cwd=ROOT, env=env, start_new_session=True)

    def close(self) -> None:
        """kill -9 of whatever is left."""
        if self.process.poll() is None:
            family = [*psutil.Process(self.process.pid).children(recursive=True), psutil.Process(self.process.pid)]
            for process in family:
                process.kill()
            wait_for_end(family, 30)
        self.process.wait(30)

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@pytest.fixture
def make_program(mongodb_url: str, db: Db) -> Iterator[Callable[..., Program]]:
    """Starts what carries runs out: `job` by itself, or two workers."""
    made: list[Program] = []

    def make(job: str, way: Way) -> Program:
        if way is None:
            made.append(Program(mongodb_url, db, None, "tests.job_runs.program", job))
        else:
            worker = ["taskiq", "worker", "tests.job_runs.program:broker", "--workers", "2"]
            made.append(Program(mongodb_url, db, way, *worker, "--wait-tasks-timeout", "0.2"))
        return made[-1]

    yield make
    for program in made:
        program.close()
