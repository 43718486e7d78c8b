"""What the keeper does: adopt or launch the embedded database, watch it, launch it again, end it."""

import asyncio
import time
import zlib
from typing import Literal

import structlog

from app.core.embedded_errors import EmbeddedDatabaseError, LaunchError, PortTakenError
from app.core.embedded_files import EmbeddedFiles, Endpoint, Worker
from app.core.embedded_process import DatabaseProcess, Stamp, ask, port_is_free

log = structlog.get_logger(__name__)

FIRST_PORT, PORTS = 20_000, 10_000
"""Below every system's ephemeral range, so that no outgoing connection takes the port while the database restarts."""
FIRST_BACKOFF, LAST_BACKOFF, STEADY_AFTER = 0.5, 15.0, 10.0
"""Seconds between launches that fail, doubled each time. One that lived `STEADY_AFTER` is launched again at once."""
ADOPT_SECONDS = 5.0
"""How long a database that was left behind may take to answer before it is ended instead."""
TAIL_BYTES = 1500


class Keeper:
    """One process's claim to keep the database. Without the lock (`held`) it only knows where the database is.

    `ping_seconds`: time between two pings, and for an answer; after three silent ones the database is killed and
    launched again. `start_seconds`: how long a launch may take.
    """

    def __init__(
        self,
        files: EmbeddedFiles,
        me: Worker,
        version: str,
        *,
        cache_size: str,
        ping_seconds: float,
        start_seconds: float,
    ) -> None:
        self.endpoint: Endpoint | None = None  # as last seen
        self.stopping = asyncio.Event()
        self.problem: str | None = None
        self._files = files
        self._me = me
        self._version = version
        self._cache_size = cache_size
        self._ping_seconds = ping_seconds
        self._start_seconds = start_seconds
        self._database: DatabaseProcess | None = None
        self._logged = 0  # size of the log when the database began
        self._pinged = self._launched = 0.0
        self._silent = 0
        self._backoff = 0.0

    def held(self) -> bool:
        """Whether this process is the keeper."""
        return self._files.keeper.is_locked

    # ── behind the gate ──────────────────────────────────────────────────────────────────────────────────────────────

    async def begin(self, endpoint: Endpoint | None, awaited: int | None) -> bool:
        """Adopt or launch. `awaited`: the port on which the clients of others that are attached look for the database.

        False if that one is taken now (`problem` says so). When nobody waits any free port does. Raises `LaunchError`.
        """
        if await self.adopt(endpoint):
            return True
        port = awaited or (endpoint.port if endpoint else self._first_port())
        tries = 5
        while True:
            try:
                await self._launch(port, restarts=0)
                return True
            except PortTakenError as error:
                self.problem = str(error)
                tries -= 1
                if not tries:
                    raise
                if awaited:
                    return False
                port = port if port_is_free(port) else self._free_port(port)

    async def adopt(self, endpoint: Endpoint | None) -> bool:
        """Take over a database that still runs on our files if it answers and is of our version; else end it."""
        found = []
        if endpoint and endpoint.database:
            if known := DatabaseProcess.verified(endpoint.database, self._files.storage):
                found = [known]
        elif self._files.endpoint_is_garbage:
            found = await DatabaseProcess.search(self._files.storage)
        version = endpoint.version if endpoint else self._version
        starts = endpoint is not None and endpoint.state == "starting"
        for database in found:
            patience = self._start_seconds if starts else ADOPT_SECONDS
            if version == self._version and (ready := await database.ready(self._files.storage, patience)):
                self._keep(ready, endpoint.restarts if endpoint else 0, endpoint.last_error if endpoint else None)
                log.info("embedded database adopted", pid=ready.pid, port=ready.port)
                return True
            await database.end(5.0 if version != self._version else 1.0)  # a silent one will not hear it either
        return False

    async def _launch(self, port: int, restarts: int, last_error: str | None = None) -> None:
        """Launch on `port` and wait for the first answer. Raises `LaunchError`; nothing is left running then."""
        self._logged = self._files.log_size()
        if not await _soon_free(port):
            raise await self._failure(port, ended=True)
        try:
            launched = DatabaseProcess.launch(
                self._files.storage, self._files.log, self._files.config, port, self._cache_size
            )
        except OSError as error:
            raise LaunchError(f"the embedded database could not be launched: {error}") from error
        try:
            # Named before it answers, so that whoever comes after a kill at this moment finds it.
            self._publish("starting", port, launched.stamp, restarts, last_error)
            ready = await launched.ready(self._files.storage, self._start_seconds)
        except BaseException:
            launched.kill()
            raise
        if not ready:
            ended = not launched.alive()
            await launched.end(0)
            raise await self._failure(port, ended=ended)
        self._keep(ready, restarts, last_error)
        log.info("embedded database launched", pid=ready.pid, port=port, restarts=restarts)

    async def _failure(self, port: int, *, ended: bool) -> LaunchError:
        """Why a launch failed. A database on these files that nobody knew of is ended, so that the next try works."""
        forgotten = await DatabaseProcess.search(self._files.storage)
        for database in forgotten:
            log.warning("ending an embedded database that nobody knew of", pid=database.pid, port=database.port)
            await database.end()
        if forgotten:
            return PortTakenError("another embedded database ran on the same files; it was ended")
        if ended and not port_is_free(port):
            return PortTakenError(f"port {port} of the embedded database is taken by another program")
        what = "ended before it answered" if ended else f"did not answer within {self._start_seconds:.0f} s"
        tail = self._files.log_tail(self._logged, TAIL_BYTES) or "nothing in its log"
        return LaunchError(f"the embedded database {what}: {tail}")

    def _keep(self, database: DatabaseProcess, restarts: int, last_error: str | None) -> None:
        self._database = database
        self._launched = self._pinged = time.monotonic()
        self._silent, self.problem = 0, None
        self._publish("running", database.port, database.stamp, restarts, last_error)

    def _publish(
        self,
        state: Literal["starting", "running", "restarting"],
        port: int,
        database: Stamp | None,
        restarts: int,
        last_error: str | None,
    ) -> None:
        """Write the endpoint file."""
        before = self._files.endpoint()
        service = self._me.service if self._me.role == "service" else (before.service if before else None)
        self.endpoint = Endpoint(port, self._version, state, self._me.process, service, database, restarts, last_error)
        self._files.write_endpoint(self.endpoint)

    def _first_port(self) -> int:
        """A port that is the same each time for the same directory, if it is free."""
        port = FIRST_PORT + zlib.crc32(str(self._files.root).encode()) % PORTS
        return port if port_is_free(port) else self._free_port(port)

    def _free_port(self, after: int) -> int:
        for step in range(1, 200):
            port = FIRST_PORT + (after - FIRST_PORT + step * 37) % PORTS
            if port_is_free(port):
                return port
        raise EmbeddedDatabaseError(f"the embedded database finds no free port from {FIRST_PORT} on")

    async def end(self) -> None:
        """End the database, as the last one out."""
        until = time.monotonic() + 1.0
        while not self._files.take_keeper():  # a killed keeper's lock is free a moment after it
            if time.monotonic() > until:
                log.warning("embedded database left running: a process that cannot be seen from here keeps it")
                return
            await asyncio.sleep(0.02)
        endpoint = self._files.endpoint() or self.endpoint
        database = self._database
        if not database and endpoint and endpoint.database:
            database = DatabaseProcess.verified(endpoint.database, self._files.storage)
        if database:
            await database.end()
        self._files.write_endpoint(None)
        log.info("embedded database ended")

    # ── the supervision's looks ──────────────────────────────────────────────────────────────────────────────────────

    async def look(self) -> None:
        """As keeper: is it alive, does it answer, is its log short enough? If not, mend that."""
        database = self._database
        if not database:
            await self._take_over()
        elif not database.alive():
            await self._revive("the database process ended", self._files.log_tail(self._logged, TAIL_BYTES))
        elif time.monotonic() - self._pinged >= self._ping_seconds:
            self._pinged = time.monotonic()
            self._files.bound_log()
            # Counted, not timed: a service that was suspended itself must not take that for the database's silence.
            self._silent = 0 if await ask(database.port, "ping", self._ping_seconds) else self._silent + 1
            if self._silent >= 3 and database.alive() and not self.stopping.is_set():
                await database.end(0)
                await self._revive("the database did not answer", f"killed after {3 * self._ping_seconds:.0f} s")

    def look_aside(self) -> None:
        """As one of the others: what does the keeper say, and is there one?"""
        seen = self._files.endpoint()
        # An endpoint that moved is of no use: our clients hold the old port.
        if seen and self.endpoint and seen.port == self.endpoint.port:
            self.endpoint = seen
        if self._me.role == "tool" and any(worker.role == "service" for worker in self._files.workers()):
            return  # its workers stay longer than a tool
        if self._files.take_keeper():
            log.warning("this process keeps the embedded database now")

    async def _take_over(self) -> None:
        """Continue where a keeper ended."""
        async with self._files.gate():
            if self.stopping.is_set() or await self.adopt(self._files.endpoint() or self.endpoint):
                return
        await self._revive("the database process ended together with its keeper")

    async def _revive(self, reason: str, details: str = "") -> None:
        """Launch again on the same port until it works, ever more slowly.

        `reason` is shown to everybody by `/health`; `details` (lines of the database's log, paths) only go to our log.
        """
        self._database = None
        if time.monotonic() - self._launched > STEADY_AFTER:
            self._backoff = 0.0
        while not self.stopping.is_set() and self.endpoint:
            log.error(
                "embedded database is down, launching it again",
                reason=reason,
                details=details,
                after_seconds=self._backoff,
            )
            port, restarts = self.endpoint.port, self.endpoint.restarts
            async with self._files.gate():
                self._publish("restarting", port, None, restarts, reason)
            await asyncio.sleep(self._backoff)
            self._backoff = min(max(FIRST_BACKOFF, self._backoff * 2), LAST_BACKOFF)
            async with self._files.gate():
                if self.stopping.is_set():
                    return
                try:
                    await self._launch(port, restarts + 1, reason)
                    return
                except PortTakenError as error:
                    reason, details = "its port is taken", str(error)
                except LaunchError as error:
                    reason, details = "the database could not be launched", str(error)


async def _soon_free(port: int) -> bool:
    """Whether `port` is free, now or within a second: one that was killed gives its port back when it is all gone."""
    deadline = time.monotonic() + 1
    while not port_is_free(port):
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.02)
    return True
