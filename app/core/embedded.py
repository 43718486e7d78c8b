"""The embedded database: SecantusDB as a child process on a loopback port, shared by the workers of one service.

One of the attached processes is the *keeper*: it holds a lock that the system frees when it dies, launches the
database, watches it and starts it again on the same port. The others attach, and one of them becomes the keeper when it
is gone. The last one out ends the database. What a killed service left running is adopted by the next one.
"""

import asyncio
import multiprocessing
import os
import time
from importlib import metadata, util
from pathlib import Path
from typing import Any

import msgspec
import structlog

from app.core.embedded_errors import (
    EmbeddedDatabaseError,
    EmbeddedDatabaseInUseError,
    EmbeddedDatabaseUnavailableError,
    EmbeddedDatabaseVersionError,
)
from app.core.embedded_files import EmbeddedFiles, Endpoint, Role, Worker
from app.core.embedded_keeper import Keeper
from app.core.embedded_process import HOST, Stamp, answers_as

__all__ = [
    "EmbeddedDatabase",
    "EmbeddedDatabaseError",
    "EmbeddedDatabaseInUseError",
    "EmbeddedDatabaseUnavailableError",
    "EmbeddedDatabaseVersionError",
    "installed_version",
    "service_stamp",
]

log = structlog.get_logger(__name__)

KEEPER_LOOK, WORKER_LOOK = 0.2, 0.5
"""Seconds between two looks: at the database by the keeper, at the keeper's lock by the others."""
HIDDEN_SECONDS = 2.0
"""How long the lock may be held by nobody who can be seen: a killed keeper's lock is free long before."""
OPTIONS = (
    "directConnection=true&w=majority&journal=true&maxPoolSize=4"
    "&connectTimeoutMS=2000&serverSelectionTimeoutMS=5000&socketTimeoutMS=60000"
)
"""Four connections are faster than fifty (a thread each in one interpreter). Selection outlasts a restart (1–2 s)."""


def installed_version() -> str:
    """The installed version of the embedded database. Raises `EmbeddedDatabaseUnavailableError`."""
    try:
        version = metadata.version("SecantusDB")
    except metadata.PackageNotFoundError:
        version = ""
    if not version or not util.find_spec("secantus"):
        raise EmbeddedDatabaseUnavailableError(
            "the embedded database (the package SecantusDB) is not installed; not every platform has a wheel of it: "
            "set MONGODB_URL to the address of a MongoDB server, e.g. mongodb://127.0.0.1:27017"
        )
    return version


def service_stamp() -> Stamp:
    """What all workers of one service have in common: the process that started them.

    uvicorn starts workers (and reloads) through `multiprocessing`, gunicorn by fork; else this process is the service.
    """
    started_by: int | None = None
    if parent := multiprocessing.parent_process():
        started_by = parent.pid
    elif os.environ.get("SERVER_SOFTWARE", "").startswith("gunicorn"):
        started_by = os.getppid()
    return (Stamp.of(started_by) if started_by else None) or Stamp.own()


class EmbeddedDatabase:
    """Attaches to the embedded database under `data_dir`, launching it if need be.

    `role="service"` is refused while another service is alive, and somebody has to run `run`. `role="tool"`, for
    scripts, attaches to whoever is there, else launches one for itself; it runs `run` by itself.
    `hang_seconds`: how long the database may be silent before it is killed and launched again.
    `start_seconds`: how long a launch (it may have to recover) or the wait for another process's launch may take.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        role: Role = "service",
        cache_size: str = "256M",
        hang_seconds: float = 10.0,
        start_seconds: float = 60.0,
    ) -> None:
        self._files = EmbeddedFiles(data_dir)
        self._role: Role = role
        self._cache_size = cache_size
        self._ping_seconds = hang_seconds / 3
        self._start_seconds = start_seconds
        self._me: Worker | None = None
        self._keeper: Keeper | None = None
        self._own_run: asyncio.Task[None] | None = None

    async def start(self) -> str:
        """Attach, and return the `mongodb://` address once the database answers. Raises `EmbeddedDatabaseError`."""
        if self._me:
            raise EmbeddedDatabaseError("the embedded database is started already")
        version = installed_version()
        self._files.prepare(version)
        me = self._me = Worker(Stamp.own(), service_stamp(), self._role)
        keeper = self._keeper = Keeper(
            self._files,
            me,
            version,
            cache_size=self._cache_size,
            ping_seconds=self._ping_seconds,
            start_seconds=self._start_seconds,
        )
        try:
            await self._attach(me, keeper)
        except BaseException:
            self._leave(me)
            self._me = self._keeper = None
            raise
        if self._role == "tool":
            self._own_run = asyncio.create_task(self._run_unsupervised(), name="embedded-database")
        return self.uri

    @property
    def uri(self) -> str:
        """The address for PyMongo; it stays the same for as long as this process is attached."""
        if not self._keeper or not self._keeper.endpoint:
            raise EmbeddedDatabaseError("the embedded database is not started")
        return f"mongodb://{HOST}:{self._keeper.endpoint.port}/?{OPTIONS}"

    async def _attach(self, me: Worker, keeper: Keeper) -> None:
        """Try until there is a database that answers, or a reason to give up."""
        until = time.monotonic() + self._start_seconds
        hidden_since: float | None = None
        while not await self._attached(me, keeper):
            now = time.monotonic()
            if keeper.held() or any(worker.token != me.token for worker in self._files.workers()):
                hidden_since = None
            else:
                hidden_since = hidden_since or now
            if hidden_since and now - hidden_since > HIDDEN_SECONDS:
                raise EmbeddedDatabaseInUseError(
                    f"the embedded database in {self._files.root} is locked by a process that cannot be seen from here "
                    f"(another container or machine?): {_WHAT_TO_DO}"
                )
            if now > until:
                seen = self._files.endpoint()
                why = keeper.problem or (seen.last_error if seen else None)
                raise EmbeddedDatabaseError(
                    f"the embedded database in {self._files.root} did not answer within {self._start_seconds:.0f} s"
                    + (f": {why}" if why else "")
                )
            await asyncio.sleep(0.05)

    async def _attached(self, me: Worker, keeper: Keeper) -> bool:
        """One try: become the keeper of a database that answers, or find one that another process keeps."""
        async with self._files.gate():
            others = [worker for worker in self._files.workers() if worker.token != me.token]
            endpoint = self._files.endpoint()
            self._refuse_other_service(me, others, endpoint)
            self._files.enter(me)
            # A tool leaves the lock to the workers of a service that is there: they stay longer.
            served = any(worker.role == "service" for worker in others)
            if (self._role == "service" or not served) and self._files.take_keeper():
                self._files.workers(prune=True)
                attached = await keeper.begin(endpoint, next((worker.port for worker in others if worker.port), None))
            else:
                attached = endpoint is not None and await self._joined(me, keeper, endpoint)
            if attached and keeper.endpoint:
                self._files.enter(msgspec.structs.replace(me, port=keeper.endpoint.port))
            return attached

    async def _joined(self, me: Worker, keeper: Keeper, endpoint: Endpoint) -> bool:
        """Whether the database that another process keeps is for us and answers; behind the gate."""
        new_here = self._role == "service" and endpoint.service != me.service
        # A service attaches to its own database and to a tool's. From a keeper that it cannot see it keeps away.
        if not endpoint.database or (new_here and not endpoint.keeper.alive):
            return False
        if not await answers_as(endpoint.port, endpoint.database.pid, 1.0):
            return False
        if new_here:
            endpoint = msgspec.structs.replace(endpoint, service=me.service)
            self._files.write_endpoint(endpoint)
        keeper.endpoint = endpoint
        return True

    def _refuse_other_service(self, me: Worker, others: list[Worker], endpoint: Endpoint | None) -> None:
        if self._role != "service":
            return
        services = [worker.service for worker in others if worker.role == "service"]
        if endpoint and endpoint.service and endpoint.service.alive:
            services.append(endpoint.service)
        for service in services:
            if service != me.service:
                raise EmbeddedDatabaseInUseError(
                    f"another Arrow service (process {service.pid}) is using the embedded database in "
                    f"{self._files.root}: {_WHAT_TO_DO}"
                )

    async def run(self) -> None:
        """Keep the database running for as long as this process is attached; to be run by the supervisor."""
        while (keeper := self._keeper) and not keeper.stopping.is_set():
            if keeper.held():
                await keeper.look()
                await asyncio.sleep(KEEPER_LOOK)
            else:
                keeper.look_aside()
                await asyncio.sleep(0 if keeper.held() else WORKER_LOOK)

    async def _run_unsupervised(self) -> None:
        while True:
            try:
                await self.run()
                return
            except (EmbeddedDatabaseError, OSError):
                log.exception("the watch over the embedded database failed")
                await asyncio.sleep(1)

    async def stop(self) -> None:
        """Leave; the last one out ends the database (asked to, killed after 5 s). Call it after the last write."""
        me, keeper = self._me, self._keeper
        if not me or not keeper:
            return
        keeper.stopping.set()
        if self._own_run:
            self._own_run.cancel()
            await asyncio.gather(self._own_run, return_exceptions=True)
            self._own_run = None
        try:
            async with self._files.gate():
                self._files.leave(me)
                others = self._files.workers()
                if not others:
                    await keeper.end()
                elif self._role == "service" and not any(worker.role == "service" for worker in others):
                    self._forget_service()
                self._files.release_keeper()
        finally:
            self._leave(me)
            self._me = self._keeper = None

    def _forget_service(self) -> None:
        """Only tools remain: the next service may be another one."""
        if endpoint := self._files.endpoint():
            self._files.write_endpoint(msgspec.structs.replace(endpoint, service=None))

    def _leave(self, me: Worker) -> None:
        self._files.leave(me)
        self._files.release_keeper()

    def health(self) -> dict[str, Any]:
        """The line for `/health`: `state` is starting, running, restarting or stopped; `keeper`: whether it is us."""
        keeper = self._keeper
        seen = keeper.endpoint if keeper else None
        return {
            "state": seen.state if seen else "stopped",
            "port": seen.port if seen else None,
            "pid": seen.database.pid if seen and seen.database else None,
            "restarts": seen.restarts if seen else 0,
            "last_error": seen.last_error if seen else None,
            "keeper": bool(keeper and keeper.held()),
        }


_WHAT_TO_DO = "stop it first, or give this one another DATA_DIR or a MONGODB_URL"
