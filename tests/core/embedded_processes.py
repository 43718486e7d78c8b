"""Services around the embedded database as real processes, and fixtures that leave none behind; waits are bounded."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio
from pymongo import AsyncMongoClient

from app.core.embedded import (
    EmbeddedDatabase,
)
from app.core.embedded_files import EmbeddedFiles
from app.core.embedded_process import DatabaseProcess, is_running

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("embedded_worker.py")


async def until(condition: Callable[[], Any], seconds: float = 50.0) -> Any:
    """Wait until the condition holds, and return what it gave."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.01)
    return value


class Service:
    """A run of embedded_worker.py, and what its workers have said."""

    def __init__(self, process: asyncio.subprocess.Process, data_dir: Path) -> None:
        self.process = process
        self.data_dir = data_dir
        self.said: list[dict[str, Any]] = []
        self.reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout
        async for line in self.process.stdout:
            self.said.append(json.loads(line))

    def told(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.said if line["event"] == event]

    async def up(self, workers: int = 1) -> list[int]:
        """Wait until all are attached; their process ids."""
        await until(lambda: len(self.told("up")) == workers or self.told("refused"))
        assert not self.told("refused"), self.said
        assert len({line["uri"] for line in self.told("up")}) == 1
        return [line["pid"] for line in self.told("up")]

    @property
    def uri(self) -> str:
        return str(self.told("up")[0]["uri"])

    def health(self, pid: int) -> dict[str, Any]:
        result: dict[str, Any] = json.loads((self.data_dir / f"health-{pid}.json").read_text())
        return result

    def restarted(self, pid: int) -> bool:
        health = self.health(pid)
        return bool(health["restarts"] >= 1 and health["state"] == "running")

    def keeper(self, among: list[int]) -> int | None:
        return next((pid for pid in among if self.health(pid)["keeper"]), None)

    async def close(self) -> None:
        for pid in {line["pid"] for line in self.said} | {self.process.pid}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await self.process.wait()
        await self.reader


Launch = Callable[..., Awaitable[Service]]
Open = Callable[..., EmbeddedDatabase]


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest_asyncio.fixture(autouse=True)
async def clean(data_dir: Path) -> AsyncIterator[None]:
    """Nothing outlives a test."""
    yield
    for forgotten in await DatabaseProcess.search(EmbeddedFiles(data_dir).storage):
        await forgotten.end(0)


@pytest_asyncio.fixture
async def launch(data_dir: Path) -> AsyncIterator[Launch]:
    """Starts services (of several workers) as processes."""
    services: list[Service] = []

    async def start(workers: int = 1, role: str = "service", options: str = "") -> Service:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "WORKER_OPTIONS": options}
        command = [sys.executable, str(SCRIPT), str(data_dir), str(workers), role]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, env=environment)
        services.append(Service(process, data_dir))
        return services[-1]

    yield start
    for service in services:
        await service.close()


@pytest_asyncio.fixture
async def embedded(data_dir: Path) -> AsyncIterator[Open]:
    """Makes an `EmbeddedDatabase` of this process; stopped after the test."""
    made: list[EmbeddedDatabase] = []

    def make(**options: Any) -> EmbeddedDatabase:
        made.append(EmbeddedDatabase(data_dir, **options))
        return made[-1]

    yield make
    for database in made:
        await database.stop()


@contextlib.asynccontextmanager
async def supervised(database: EmbeddedDatabase) -> AsyncIterator[None]:
    task = asyncio.create_task(database.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@contextlib.asynccontextmanager
async def client_of(uri: str) -> AsyncIterator[AsyncMongoClient[dict[str, Any]]]:
    async with AsyncMongoClient[dict[str, Any]](uri) as client:
        yield client


async def write(uri: str, *ids: int) -> None:
    async with client_of(uri) as client:
        await client.t.rows.insert_many([{"_id": number} for number in ids])


async def ids(uri: str, collection: str = "rows") -> set[int]:
    async with client_of(uri) as client:
        return {row["_id"] for row in await client.t[collection].find({}).to_list()}


def running_again(database: EmbeddedDatabase, restarts: int) -> bool:
    health = database.health()
    return bool(health["state"] == "running" and health["restarts"] >= restarts)


def running_anew(database: EmbeddedDatabase, killed: int) -> bool:
    """As another process than the one that was killed."""
    health = database.health()
    return health["state"] == "running" and health["pid"] not in {None, killed}


def gone(pid: int) -> bool:
    try:
        return not is_running(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return True
