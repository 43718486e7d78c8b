"""Keys that development lacks are made once and kept in files that only their owner can read."""

import errno
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def read_or_create_secret(path: Path, make: Callable[[], str]) -> str:
    """The secret kept at `path` (mode 0600); made by `make()` if there is none.

    Several processes may start at once: the file appears complete by a hard link, so all of them read the same secret.
    Raises `OSError` when the folder cannot be written, or the file holds nothing.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Not by process id alone: containers that share the folder all have the same.
        draft = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(make())
            file.flush()
            os.fsync(file.fileno())
        try:
            with suppress(FileExistsError):
                path.hardlink_to(draft)
        finally:
            draft.unlink()
    secret = path.read_text(encoding="utf-8").strip()
    if not secret:
        raise OSError(errno.EINVAL, "It holds no secret; delete it and a new one is made", str(path))
    return secret
