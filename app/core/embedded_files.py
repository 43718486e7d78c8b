"""The embedded database's directory: its data, and the files by which the processes around it agree.

files/          what the database keeps
version         which version of the database wrote it
keeper.lock     held by the one process that keeps the database running; the system frees it when that process dies
gate.lock       held for moments: attaching, launching, leaving and every change of endpoint.json happen behind it
endpoint.json   where the database is, and whose
workers/        an entry for each attached process
database.log    what the database wrote to its standard error, bounded
"""

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal, TypeVar

import msgspec
from filelock import FileLock, Timeout

from app.core.embedded_errors import EmbeddedDatabaseError, EmbeddedDatabaseVersionError
from app.core.embedded_process import Stamp

Role = Literal["service", "tool"]
T = TypeVar("T")

LOG_BYTES = 2_000_000
LOG_TAIL_BYTES = 64_000


class Worker(msgspec.Struct, frozen=True):
    """A process attached to the database, and the service that it is a part of.

    `port` is where its clients look for the database; None while it is not attached yet.
    """

    process: Stamp
    service: Stamp
    role: Role
    port: int | None = None
    token: str = msgspec.field(default_factory=lambda: secrets.token_hex(4))

    @property
    def file_name(self) -> str:
        """Name of its entry: one process may attach more than once."""
        return f"{self.process.pid}-{self.token}.json"


class Endpoint(msgspec.Struct, frozen=True):
    """Where the database is, whose it is, and how it fares. `service` is None while only tools use it."""

    port: int
    version: str
    state: Literal["starting", "running", "restarting"]
    keeper: Stamp
    service: Stamp | None = None
    database: Stamp | None = None
    restarts: int = 0
    last_error: str | None = None


def _write(path: Path, content: bytes, *, durable: bool = False) -> None:
    """Replace `path` in one step, readable by its owner only; `durable`: also a power cut leaves the old or the new."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    draft.touch(mode=0o600)
    with draft.open("wb") as file:
        file.write(content)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    for again in (True, True, False):
        try:
            draft.replace(path)
        except PermissionError:  # Windows, while somebody reads the old one
            if not again:
                raise
            time.sleep(0.002)
        else:
            return


def _read(path: Path, kind: type[T]) -> T | None:
    """What `path` holds, or None if it is missing, cut off or something else."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


class EmbeddedFiles:
    """Reads and writes the directory. Small local files: no call takes more than a few milliseconds."""

    def __init__(self, data_dir: Path) -> None:
        self.root = (data_dir / "embedded").resolve()
        self.storage = self.root / "files"
        self.log = self.root / "database.log"
        self.config = self.root / "secantusd.toml"
        self._version = self.root / "version"
        self._endpoint = self.root / "endpoint.json"
        self._workers = self.root / "workers"
        # Never the fallback that only checks for existence: nothing would free it after a kill.
        self.keeper = FileLock(self.root / "keeper.lock", mode=0o600, thread_local=False, fallback_to_soft=False)

    def prepare(self, version: str) -> None:
        """Make the directory, or check that `version` wrote it. Raises `EmbeddedDatabaseVersionError`."""
        for folder in (self.root, self.storage, self._workers):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(self.storage.iterdir()):
            self._check(version)
        else:
            _write(self._version, version.encode(), durable=True)
        if not self.config.exists():
            _write(self.config, b"# Empty on purpose: all settings are given on the command line.\n")

    def _check(self, version: str) -> None:
        try:
            written = self._version.read_text(encoding="utf-8", errors="replace").strip() or "an unknown version"
        except FileNotFoundError:
            written = "an unknown version"
        if written != version:
            raise EmbeddedDatabaseVersionError(
                f"the embedded database in {self.root} was written by SecantusDB {written}, and SecantusDB {version} "
                f"is installed: install SecantusDB=={written}, run scripts/export_data.py, move {self.root} away, "
                f"install SecantusDB=={version} again and run scripts/import_data.py"
            )

    @contextlib.asynccontextmanager
    async def gate(self, seconds: float = 90.0) -> AsyncIterator[None]:
        """Be the only one, among all processes, that attaches, launches, leaves or changes the endpoint.

        A launch may take long (recovery), hence `seconds`. Raises `EmbeddedDatabaseError` after them.
        """
        lock = FileLock(self.root / "gate.lock", mode=0o600, thread_local=False, fallback_to_soft=False)
        until = time.monotonic() + seconds
        while True:
            try:
                lock.acquire(blocking=False)
                break
            except Timeout:
                if time.monotonic() > until:
                    raise EmbeddedDatabaseError(
                        f"a process has held {self.root / 'gate.lock'} for {seconds:.0f} s: it hangs, end it"
                    ) from None
            await asyncio.sleep(0.01)
        try:
            yield
        finally:
            lock.release()

    def take_keeper(self) -> bool:
        """Become the keeper, unless another process is."""
        if not self.keeper.is_locked:
            with contextlib.suppress(Timeout):
                self.keeper.acquire(blocking=False)
        return self.keeper.is_locked

    def release_keeper(self) -> None:
        """Let another process become the keeper."""
        self.keeper.release(force=True)

    def endpoint(self) -> Endpoint | None:
        """The endpoint file; None if there is none that can be read."""
        return _read(self._endpoint, Endpoint)

    @property
    def endpoint_is_garbage(self) -> bool:
        """Whether there is an endpoint file that says nothing."""
        return self._endpoint.exists() and self.endpoint() is None

    def write_endpoint(self, endpoint: Endpoint | None) -> None:
        """Replace (None: remove) the endpoint file. Only behind the gate."""
        if endpoint:
            _write(self._endpoint, msgspec.json.encode(endpoint))
        else:
            self._endpoint.unlink(missing_ok=True)

    def enter(self, worker: Worker) -> None:
        """Note that `worker` is attached."""
        _write(self._workers / worker.file_name, msgspec.json.encode(worker))

    def leave(self, worker: Worker) -> None:
        """Note that `worker` is not attached any more."""
        (self._workers / worker.file_name).unlink(missing_ok=True)

    def workers(self, *, prune: bool = False) -> list[Worker]:
        """Who is attached and alive. `prune` removes the entries of the dead: for the keeper, behind the gate."""
        found = []
        for path in self._workers.glob("*.json"):
            worker = _read(path, Worker)
            if worker and worker.process.alive:
                found.append(worker)
            elif prune:
                path.unlink(missing_ok=True)
        return found

    def bound_log(self) -> None:
        """Cut the log when it has grown: the database appends to it and is not disturbed."""
        with contextlib.suppress(OSError):
            if self.log.stat().st_size > LOG_BYTES:
                tail = self.log_tail(0, LOG_TAIL_BYTES)
                _write(self.log.with_name(f"{self.log.name}.1"), tail.encode())
                os.truncate(self.log, 0)

    def log_size(self) -> int:
        """Bytes in the log now."""
        try:
            return self.log.stat().st_size
        except OSError:
            return 0

    def log_tail(self, since: int, limit: int) -> str:
        """The last `limit` bytes of what was logged after byte `since` (all of it counts if the log was cut since)."""
        try:
            with self.log.open("rb") as file:
                size = self.log_size()
                file.seek(max(since if since <= size else 0, size - limit))
                return file.read(limit).decode(errors="replace").strip()
        except OSError:
            return ""
