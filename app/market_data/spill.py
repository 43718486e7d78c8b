"""Where rows wait on the disk while the database is away: bounded, whole after a kill, found by whoever comes next.

A file is `ticks-<holder>-<number>.bin`: eight bytes that say what it is, then records of `u32 length, u32 CRC-32`
(little-endian) and so many bytes of BSON documents, one after the other. A record counts once it is on the disk
(fsync). One that a kill has cut short is left out when the file is read.

The holder's lock (`ticks-<holder>.lock`) is freed by the system when its process ends; the files are then anybody's who
takes it. Calls block and are not thread-safe: one at a time, off the event loop.
"""

import errno
import os
import secrets
import struct
import zlib
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

import structlog
from filelock import FileLock, Timeout

from app.core.clock import Clock, to_micros

log = structlog.get_logger(__name__)

MAGIC: Final = b"ARROWT1\n"
RECORD_ROWS: Final = 250
FAILURES: Final = 3
"""Attempts to read a file, after which it is set aside."""
MIB: Final = 1024 * 1024

_HEAD: Final = struct.Struct("<II")
_LENGTH: Final = struct.Struct("<i")
_LONGEST: Final = 64 * MIB
_MAKE: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)


class SpilledBatch(NamedTuple):
    """One record: rows that were spilled together."""

    rows: list[bytes]
    """Each a BSON document."""
    path: Path
    end: int
    """Where the next record begins, in bytes."""
    tried: bool
    """Whether this process had sent them to the database before, without an answer."""


class Spill:
    """The spilled rows of this process, and of those before it that are gone."""

    def __init__(self, folder: Path, *, clock: Clock, max_bytes: int = 512 * MIB, file_bytes: int = 16 * MIB) -> None:
        """`max_bytes`: of all files in `folder` together, whoever wrote them."""
        self._folder = folder
        self._clock = clock
        self._max_bytes, self._file_bytes = max_bytes, file_bytes
        self._holder = ""
        self._number = 0
        self._locks: dict[str, FileLock] = {}
        self._files: deque[Path] = deque()  # oldest first
        self._writer: FileIO | None = None
        self._good = 0  # where the file that is written to ends with what is on the disk for good
        self._reader: BinaryIO | None = None
        self._head: SpilledBatch | None = None
        self._tried: set[tuple[Path, int]] = set()
        self._failures = 0
        self.bytes = 0
        """Of all files in the folder, as far as this process knows."""
        self.damaged = 0
        """Records, or ends of files, that could not be read."""
        self.last_error: str | None = None

    @property
    def pending(self) -> bool:
        """Whether there is something to read."""
        return bool(self._files)

    # Writing

    def append(self, rows: Sequence[bytes], *, tried: bool = False) -> int:
        """Put rows on the disk; gives how many of them, from the first on, are there for good. Never raises `OSError`.

        Fewer than all: the bound is reached, or the disk refuses (`last_error`).
        """
        kept = taken = 0
        try:
            for start in range(0, len(rows), RECORD_ROWS):
                payload = b"".join(rows[start : start + RECORD_ROWS])
                if self._writer is None:
                    self._look_around()  # others may have filled the folder, or emptied it
                if self.bytes + len(payload) + _HEAD.size > self._max_bytes:
                    if self.last_error != "full":
                        self.last_error = "full"
                        log.error("the spill is full", bytes=self.bytes)
                    break
                if self._writer is None or self._writer.tell() >= self._file_bytes:
                    self._end_file()
                    kept = taken
                    self._begin_file()
                self._write(payload, tried=tried)
                taken = min(start + RECORD_ROWS, len(rows))
            self._sync()
        except OSError as error:
            self._note(error, "the spill cannot be written")
            self._give_up_file()
            return kept
        if taken == len(rows):
            self.last_error = None
        return taken

    def _note(self, error: OSError, what: str) -> None:
        """Log an error once, until something goes well."""
        kind = errno.errorcode.get(error.errno or 0, type(error).__name__)
        if kind != self.last_error:
            self.last_error = kind
            log.error(what, error=kind)

    def _begin_file(self) -> None:
        if not self._holder:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Its beginning is the time, so that names sort by age; never used twice, not even by another container.
            holder = f"{to_micros(self._clock.now()) // 1000:013d}-{os.getpid()}-{secrets.token_hex(4)}"
            self._locks[holder] = lock = self._lock(holder)
            lock.acquire(timeout=0)
            self._holder = holder
        self._number += 1
        path = self._folder / f"ticks-{self._holder}-{self._number:06d}.bin"
        self._writer = open(os.open(path, _MAKE, 0o600), "r+b", buffering=0)  # noqa: PTH123, SIM115 (kept; mode 0600)
        self._files.append(path)
        self._good = 0
        self._write_all(MAGIC)
        _sync_folder(self._folder)

    def _write(self, payload: bytes, *, tried: bool) -> None:
        assert self._writer is not None  # noqa: S101 (the caller has begun a file)
        if tried:
            self._tried.add((self._files[-1], self._writer.tell()))
        self._write_all(_HEAD.pack(len(payload), zlib.crc32(payload)) + payload)

    def _write_all(self, data: bytes) -> None:
        assert self._writer is not None  # noqa: S101
        self.bytes += len(data)
        left = memoryview(data)
        while left:
            left = left[self._writer.write(left) or 0 :]

    def _sync(self) -> None:
        if self._writer is not None:
            os.fsync(self._writer.fileno())
            self._good = self._writer.tell()

    def _end_file(self) -> None:
        if self._writer is not None:
            self._sync()
            self._writer.close()
            self._writer = None

    def _give_up_file(self) -> None:
        """After an error: cut off what may be there in part; the next rows begin a new file."""
        writer, self._writer = self._writer, None
        if writer is None:
            return
        with suppress(OSError):
            writer.truncate(self._good)
        with suppress(OSError):
            writer.close()
        path = self._files[-1]
        if not self._good:
            self._files.pop()
            with suppress(OSError):
                path.unlink()
        self._look_around()

    def _look_around(self) -> None:
        """Count what the files take, those of other processes too."""
        total = 0
        for path in self._folder.glob("ticks-*.bin"):
            with suppress(OSError):
                total += path.stat().st_size
        self.bytes = total

    # Reading

    def read(self) -> SpilledBatch | None:
        """The oldest rows, the same until they are `done`; None when there are none. Never raises `OSError`."""
        while self._head is None and self._files:
            path = self._files[0]
            try:
                self._head = self._read_record(path)
            except ValueError as error:
                log.error("a spilled file cannot be read", file=path.name, error=str(error))  # noqa: TRY400 (no trace)
                self._set_aside()
                continue
            except OSError as error:
                # A moment's trouble more often than a disk's: it is tried again, but it must not block the others.
                self._note(error, "a spilled file cannot be read")
                self._drop_reader()
                self._failures += 1
                if self._failures < FAILURES:
                    return None
                self._set_aside()
                continue
            self._failures = 0
            if self._head is None:
                self._drop_file()
        return self._head

    def done(self, batch: SpilledBatch) -> None:
        """The rows of `batch` are settled; a file goes with its last."""
        if batch is not self._head:
            return
        self._head = None
        if self._reader is not None and batch.end >= os.fstat(self._reader.fileno()).st_size:
            self._drop_file()

    def _read_record(self, path: Path) -> SpilledBatch | None:
        """The next sound record of a file; None at its end, which a kill may have torn. Raises `ValueError`."""
        if self._reader is None:
            if self._writer is not None and len(self._files) == 1:
                self._end_file()  # what is read no longer grows
            self._reader = path.open("rb")
            if (magic := self._reader.read(len(MAGIC))) != MAGIC:
                if MAGIC.startswith(magic):
                    self._torn(path)
                    return None
                raise ValueError("it is no file of spilled ticks")
        while True:
            start = self._reader.tell()
            head = self._reader.read(_HEAD.size)
            if not head:
                return None
            if len(head) < _HEAD.size:
                self._torn(path)
                return None
            length, crc = _HEAD.unpack(head)
            if not 0 < length <= _LONGEST:
                raise ValueError("what follows is no record")
            payload = self._reader.read(length)
            if len(payload) < length:
                self._torn(path)
                return None
            if zlib.crc32(payload) == crc and (rows := _split(payload)) is not None:
                tried = (path, start) in self._tried
                self._tried.discard((path, start))
                return SpilledBatch(rows, path, self._reader.tell(), tried)
            # Not torn, since more may follow: a disk that has forgotten.
            self.damaged += 1
            log.error("spilled rows are damaged and lost", file=path.name, offset=start, bytes=length)

    def _torn(self, path: Path) -> None:
        self.damaged += 1
        log.warning("the end of a spilled file was not written whole; it is left out", file=path.name)

    def _set_aside(self) -> None:
        """Leave the oldest file to a person, under another name; it no longer counts against the bound."""
        self.damaged += 1
        self._failures = 0
        self._drop_reader()
        path = self._files.popleft()
        with suppress(OSError):
            path.rename(path.with_suffix(".damaged"))
        self._look_around()
        self._after(path)

    def _drop_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _drop_file(self) -> None:
        """The oldest file has nothing more to give."""
        self._drop_reader()
        path = self._files.popleft()
        with suppress(OSError):
            self.bytes = max(0, self.bytes - path.stat().st_size)
            path.unlink()
        self._after(path)

    def _after(self, path: Path) -> None:
        """A file is gone: its holder's lock goes with the last one."""
        if not self._files:
            self.last_error = None
        holder = _holder_of(path)
        if holder != self._holder and not any(_holder_of(other) == holder for other in self._files):
            self._free(holder)

    # Other processes' files

    def adopt(self) -> int:
        """Take over the files of processes that are gone; gives how many. Never raises `OSError`."""
        holders = {_holder_of(path) for path in self._folder.glob("ticks-*.bin")} - self._locks.keys()
        found: list[Path] = []
        for holder in sorted(holders):
            lock = self._lock(holder)
            try:
                lock.acquire(timeout=0)
            except (Timeout, OSError):
                continue
            self._locks[holder] = lock
            files = [path for path in self._folder.glob(f"ticks-{holder}-*.bin") if _holder_of(path) == holder]
            found += files
            if not files:  # its last file went while we looked
                self._free(holder)
        if found:
            # What is being read stays in front.
            begun = [self._files.popleft()] if self._head or self._reader else []
            own = [path for path in self._files if _holder_of(path) == self._holder]
            others = [path for path in self._files if _holder_of(path) != self._holder]
            self._files = deque(begun + sorted(others + found) + own)
            self._look_around()
            log.info("spilled ticks of a process that is gone are taken over", files=len(found))
        return len(found)

    def close(self) -> None:
        """Let go of everything; what was not settled is there for the next process. Never raises `OSError`."""
        with suppress(OSError):
            self._end_file()
        self._drop_reader()
        self._head = None
        self._files.clear()
        for holder in list(self._locks):
            self._free(holder)
        self._holder = ""

    def _lock(self, holder: str) -> FileLock:
        return FileLock(self._folder / f"ticks-{holder}.lock", mode=0o600, thread_local=False, fallback_to_soft=False)

    def _free(self, holder: str) -> None:
        lock = self._locks.pop(holder)
        if not any(_holder_of(path) == holder for path in self._folder.glob(f"ticks-{holder}-*.bin")):
            with suppress(OSError):
                Path(lock.lock_file).unlink()
        lock.release()


def _holder_of(path: Path) -> str:
    return path.stem.removeprefix("ticks-").rpartition("-")[0]


def _split(payload: bytes) -> list[bytes] | None:
    """The BSON documents in `payload`; None when it is not made of such."""
    rows, at = [], 0
    while at < len(payload):
        if len(payload) - at < 5:
            return None
        (length,) = _LENGTH.unpack_from(payload, at)
        if length < 5 or at + length > len(payload):
            return None
        rows.append(payload[at : at + length])
        at += length
    return rows


def _sync_folder(folder: Path) -> None:
    """Make a new name in `folder` last; where folders cannot be opened (Windows) the system sees to it."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
