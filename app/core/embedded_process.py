"""Processes and the embedded database as one: who is alive, launching, asking and ending it.

Everything here looks at single process ids. The one scan of all processes runs in a thread, and only after the files
that name the database were lost.
"""

import asyncio
import contextlib
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import bson
import msgspec
import psutil
from bson.errors import BSONError

HOST = "127.0.0.1"
FEWEST_QUESTIONS = 3
_OP_MSG = 2013
_HEADER = struct.Struct("<iiii")  # length, request id, response to, operation
_SECTION = struct.Struct("<IB")  # flags, kind of section (0: one document)

# The child gets what a Python program needs to run and nothing else: secrets of the service stay in the service.
_PASSED_ON = frozenset(
    {"PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR", "TEMP", "TMP"}
    | {"VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"}
    | {"SYSTEMROOT", "WINDIR", "USERPROFILE", "APPDATA", "LOCALAPPDATA", "PROGRAMDATA"}
)


def _boot() -> str:
    """An id of this boot of the machine; empty where the system has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _born(process: psutil.Process) -> float:
    """When `process` was created, on a scale that setting the clock does not move.

    Linux tells seconds since boot, and psutil adds the boot time, which follows every correction of the clock: taken
    off again here. Other systems note the time at creation.
    """
    created = process.create_time()
    return round(created - psutil.boot_time() if sys.platform == "linux" else created, 2)


def is_running(process: psutil.Process) -> bool:
    """Whether `process` runs.

    One that ended but was not collected by its parent (a zombie) does not, unless threads of it are still ending: until
    then it holds its port and its files.
    """
    try:
        return process.is_running() and (process.status() != psutil.STATUS_ZOMBIE or process.num_threads() > 1)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


class Stamp(msgspec.Struct, frozen=True):
    """A process that cannot be mistaken for a later one with the same id.

    `born` is seconds since boot on Linux, since the epoch elsewhere; `boot` tells boots apart where `born` does not.
    """

    pid: int
    born: float
    boot: str = ""

    @classmethod
    def of(cls, pid: int) -> "Stamp | None":
        """The stamp of the process that has `pid` now, if there is one."""
        try:
            return cls(pid, _born(psutil.Process(pid)), _boot())
        except psutil.Error:
            return None

    @classmethod
    def own(cls) -> "Stamp":
        """The stamp of this process."""
        stamp = cls.of(os.getpid())
        assert stamp is not None  # noqa: S101 (this process is alive)
        return stamp

    def process(self) -> psutil.Process | None:
        """The stamped process, or None if it has ended."""
        try:
            process = psutil.Process(self.pid)
            same = self.boot == _boot() and abs(_born(process) - self.born) < 0.5
        except psutil.Error:
            return None
        return process if same and is_running(process) else None

    @property
    def alive(self) -> bool:
        """Whether the stamped process still runs."""
        return self.process() is not None


async def ask(port: int, command: str, seconds: float) -> dict[str, Any] | None:
    """The answer of the database on `port` to an admin `command`, over a connection of its own.

    None if there is no answer within `seconds`, for whatever reason. A few lines of the wire protocol (OP_MSG) instead
    of a driver: no threads and no pool, and 0.5 ms.
    """
    body = bson.encode({command: 1, "$db": "admin"})
    size = _HEADER.size + _SECTION.size + len(body)
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection(HOST, port)
            writer.write(_HEADER.pack(size, 1, 0, _OP_MSG) + _SECTION.pack(0, 0) + body)
            length, _, _, operation = _HEADER.unpack(await reader.readexactly(_HEADER.size))
            if operation != _OP_MSG or not _HEADER.size < length < 1_000_000:
                return None
            payload = await reader.readexactly(length - _HEADER.size)
            return bson.decode(payload[_SECTION.size :])
    except (OSError, EOFError, TimeoutError, BSONError):  # nobody there, no answer in time, or not a database
        return None
    finally:
        if writer:
            writer.transport.abort()


async def answers_as(port: int, pid: int, seconds: float) -> bool:
    """Whether the database on `port` is the process `pid` (and not one that got the port in a race)."""
    status = await ask(port, "serverStatus", seconds)
    return status is not None and status.get("pid") == pid


def port_is_free(port: int) -> bool:
    """Whether a server could listen on `port` of the loopback interface now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        if sys.platform != "win32":  # there the option would let two programs share the port
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen(1)
        except OSError:
            return False
        return True


def _argument(command_line: list[str], name: str) -> str:
    try:
        return command_line[command_line.index(name) + 1]
    except (ValueError, IndexError):
        return ""


class DatabaseProcess:
    """A process of the embedded database, launched here or by somebody who has gone."""

    def __init__(self, process: psutil.Process, stamp: Stamp, port: int) -> None:
        self._process = process
        self.stamp = stamp
        self.port = port

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.stamp.pid

    def alive(self) -> bool:
        """Whether it still runs."""
        return is_running(self._process)

    @classmethod
    def verified(cls, stamp: Stamp, storage: Path) -> "DatabaseProcess | None":
        """The stamped process, if it still runs and really is the database on `storage`; its port is read from it."""
        process = stamp.process()
        try:
            line = process.cmdline() if process else []
        except psutil.Error:
            line = []
        ours = "secantus" in line and _argument(line, "--storage-path") == str(storage)
        port = _argument(line, "--port")
        return cls(process, stamp, int(port)) if process and ours and port.isdecimal() else None

    @classmethod
    async def search(cls, storage: Path) -> "list[DatabaseProcess]":
        """Every database process on `storage`, found by looking at all processes (in a thread: it takes a while)."""

        def look() -> list[DatabaseProcess]:
            names = (
                process.pid
                for process in psutil.process_iter(["cmdline"])
                if "secantus" in (process.info["cmdline"] or ())
            )
            stamps = [stamp for pid in names if (stamp := Stamp.of(pid))]
            return [found for stamp in stamps if (found := cls.verified(stamp, storage))]

        return await asyncio.to_thread(look)

    @classmethod
    def launch(cls, storage: Path, log: Path, config: Path, port: int, cache_size: str) -> "DatabaseProcess":
        """Start a database on `storage` and `port` that outlives this process and does not hear the terminal's Ctrl-C.

        `config` keeps it from looking for settings in the current and the home directory. Raises OSError.
        """
        command = [sys.executable, "-P", "-m", "secantus", "--config", str(config), "--host", HOST, "--port", str(port)]
        command += [
            "--storage-path",
            str(storage),
            "--sync-on-commit",
            "--cache-size",
            cache_size,
            "--log-level",
            "WARNING",
        ]
        detached: dict[str, Any] = {"start_new_session": True}
        if sys.platform == "win32":
            detached = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
        environment = {
            name: value for name, value in os.environ.items() if name in _PASSED_ON or name.startswith("LC_")
        }
        log.touch(mode=0o600)
        with log.open("ab") as output:
            child = subprocess.Popen(  # noqa: S603 (our own interpreter and arguments)
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=config.parent,
                env=environment,
                **detached,
            )
        # Collects the exit status the moment it ends, so that no zombie is left however long this process lives on.
        threading.Thread(target=child.wait, name="embedded-database-exit", daemon=True).start()
        try:
            process = psutil.Process(child.pid)
            stamp = Stamp(child.pid, _born(process), _boot())
        except psutil.Error:
            raise OSError("it ended at once") from None
        return cls(process, stamp, port)

    async def ready(self, storage: Path, seconds: float) -> "DatabaseProcess | None":
        """Wait until it answers: itself, or None when it ended or `seconds` passed.

        It is asked a few times in any case: a process that stood still itself must not take that for silence.
        """
        until, asked = time.monotonic() + seconds, 0
        while (time.monotonic() < until or asked < FEWEST_QUESTIONS) and self.alive():
            asked += 1
            status = await ask(self.port, "serverStatus", min(2.0, max(0.5, until - time.monotonic())))
            pid = status.get("pid") if status else None
            if pid == self.pid:
                return self
            # Windows: a virtual environment's python.exe starts the real one as a child, with the same arguments.
            stamp = Stamp.of(pid) if pid and sys.platform == "win32" else None
            if stamp and (real := DatabaseProcess.verified(stamp, storage)):
                return real
            await asyncio.sleep(0.03)
        return None

    def kill(self) -> None:
        """End it at once, without waiting until it has."""
        with contextlib.suppress(psutil.NoSuchProcess):  # psutil refuses by itself to signal a reused process id
            self._process.kill()

    async def _ended_within(self, seconds: float) -> bool:
        """Wait for its end, and meanwhile knock on its port.

        Its listening thread sleeps in accept() and would be waited for two seconds; a connection wakes it.
        """
        until = time.monotonic() + seconds
        while self.alive():
            if time.monotonic() >= until:
                return False
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(0.2):
                    _, writer = await asyncio.open_connection(HOST, self.port)
                    writer.transport.abort()
            await asyncio.sleep(0.02)
        return True

    async def end(self, seconds: float = 5.0) -> None:
        """Ask it to end, wait up to `seconds`, then kill it: what it acknowledged is on disk. With 0, kill it at once.

        Asked again when it answers pings as if nothing had been said. Python acts on a signal in its main thread, which
        sleeps here, and the system may hand the signal to a thread that runs at that moment, for a connection: then
        the main thread sleeps on. So there is silence before the first knock, too.
        """
        until = time.monotonic() + seconds
        for _ in range(3):
            if time.monotonic() >= until:
                break
            with contextlib.suppress(psutil.NoSuchProcess):
                self._process.terminate()
            await asyncio.sleep(0.05)
            if await self._ended_within(0.4):
                return
            if not await ask(self.port, "ping", 0.5):  # it does end
                if await self._ended_within(until - time.monotonic()):
                    return
                break
            await asyncio.sleep(0.05)
        self.kill()
        await self._ended_within(5.0)
