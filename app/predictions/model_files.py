"""Trained models as files of this machine: each named by what it holds, whole or not there at all, bounded."""

import asyncio
import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Final, NamedTuple, Self

import structlog

from app.core.clock import Clock
from app.core.settings import Settings

log = structlog.get_logger(__name__)

MOST_FILES: Final = 10_000
JUST_SAVED: Final = timedelta(hours=1)
"""What is younger is not removed for want of a name: whoever saved it may be about to write the name down."""
_NAME: Final = re.compile(r"[0-9a-f]{64}").fullmatch
_DRAFT: Final = re.compile(r"[0-9a-f]{64}\.[0-9a-f]{16}\.draft").fullmatch


class _File(NamedTuple):
    path: Path
    size: int
    used: float
    """Seconds since the epoch."""


class ModelFiles:
    """Fills the port `ModelStore` with a folder (0700) of files (0600), which processes may share.

    A file's name is the SHA-256 of its content, so what a crash or a full disk left of one is noticed and not used.
    Its time is when it was last saved or loaded: beyond `max_bytes` or `max_files` those are removed that nobody has
    asked for longest. Whoever asks for one that has gone trains anew.
    """

    def __init__(self, folder: Path, clock: Clock, *, max_bytes: int, max_files: int = MOST_FILES) -> None:
        self._folder = folder
        self._clock = clock
        self._max_bytes = max_bytes
        self._max_files = max_files

    @classmethod
    def of(cls, settings: Settings, clock: Clock) -> Self:
        """Under DATA_DIR, as large as PREDICTIONS_MODELS_MAX_MB allows."""
        return cls(settings.data_dir / "models", clock, max_bytes=settings.predictions_models_max_mb << 20)

    async def save(self, blob: bytes) -> str:
        """See the port. A disk that takes nothing costs the model, which was logged, and not the forecast."""
        name = hashlib.sha256(blob).hexdigest()
        try:
            await asyncio.to_thread(self._save, name, blob)
        except OSError as error:
            log.warning("a model could not be kept", folder=str(self._folder), error=error.strerror)
        return name

    async def load(self, name: str) -> bytes | None:
        """See the port."""
        return await asyncio.to_thread(self._load, name) if _NAME(name) else None

    async def prune(self, named: frozenset[str]) -> int:
        """See the port."""
        return await asyncio.to_thread(self._prune, named)

    def _save(self, name: str, blob: bytes) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = self._folder / f"{name}.{secrets.token_hex(8)}.draft"
        try:
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(blob)
                file.flush()
                os.fsync(file.fileno())
            self._touch(draft)
            draft.replace(self._folder / name)
        finally:
            draft.unlink(missing_ok=True)
        self._make_room(name)

    def _load(self, name: str) -> bytes | None:
        path = self._folder / name
        try:
            blob = path.read_bytes()
        except OSError:
            return None
        if hashlib.sha256(blob).hexdigest() != name:
            log.warning("a stored model is damaged and removed", model=name)
            path.unlink(missing_ok=True)
            return None
        with suppress(OSError):  # it was removed meanwhile
            self._touch(path)
        return blob

    def _prune(self, named: frozenset[str]) -> int:
        before = (self._clock.now() - JUST_SAVED).timestamp()
        files = [file for file in self._files() if file.used < before and file.path.name not in named]
        return sum(_removed(file.path) for file in files)

    def _make_room(self, saved: str) -> None:
        files = sorted((file for file in self._files() if _NAME(file.path.name)), key=lambda file: file.used)
        count, size, removed = len(files), sum(file.size for file in files), 0
        for file in files:
            if count <= self._max_files and size <= self._max_bytes:
                break
            if file.path.name != saved and _removed(file.path):
                count, size, removed = count - 1, size - file.size, removed + 1
        if removed:
            log.info("models made room for newer ones", removed=removed, kept=count)

    def _files(self) -> Iterator[_File]:
        """Models, and drafts of some that were never finished; nothing else that somebody may have put there."""
        with suppress(FileNotFoundError):
            for path in self._folder.iterdir():
                with suppress(FileNotFoundError):
                    if _NAME(path.name) or _DRAFT(path.name):
                        stat = path.stat()
                        yield _File(path, stat.st_size, stat.st_mtime)

    def _touch(self, path: Path) -> None:
        now = self._clock.now().timestamp()
        os.utime(path, (now, now))


def _removed(path: Path) -> bool:
    try:
        path.unlink()
    except OSError:
        return False
    return True
