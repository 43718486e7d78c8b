"""Keeps us from locking an account: how long to wait after sign-ins that were refused, across restarts too.

At most three tries an hour: one, another after a minute (a code on the turn of its 30 s), a third five minutes later;
then one an hour later, and ever rarer, down to one a day. A success, or other credentials, begin anew.
"""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from app.core.clock import Clock

PAUSES: Final = (60.0, 300.0, 3600.0)
LAST_PAUSE: Final = 86_400.0


class Refusals:
    """The refused sign-ins of one account with one set of credentials. Does small file work: call it in a thread."""

    def __init__(self, clock: Clock, *, file: Path | None = None, credentials: str = "") -> None:
        """`file` keeps them for the next start; `credentials` tells one set from another (a digest, no secret)."""
        self._clock, self._file, self._credentials = clock, file, credentials
        self._count, self._last, self.code = self._read()

    def wait(self) -> float:
        """Seconds before another try; 0 when it may be now."""
        if not self._count:
            return 0.0
        place = self._count - 1
        last = len(PAUSES) - 1
        pause = PAUSES[place] if place <= last else min(PAUSES[-1] * 2 ** min(place - last, 10), LAST_PAUSE)
        # A clock that was set back must not make it longer than the pause.
        return min(pause, max(0.0, self._last + pause - self._now()))

    def note(self, code: str) -> None:
        """One more, with the code that it was refused with."""
        self._count, self._last, self.code = self._count + 1, self._now(), code
        self._write()

    def clear(self) -> None:
        """A sign-in went well."""
        if self._count:
            self._count = 0
            self._write()

    def _now(self) -> float:
        return self._clock.now().timestamp()

    def _read(self) -> tuple[int, float, str]:
        nothing = (0, 0.0, "")
        if self._file is None:
            return nothing
        try:
            kept = json.loads(self._file.read_text("utf-8"))
            count, last, code = int(kept["count"]), float(kept["last"]), str(kept["code"])[:16]
            return (count, last, code) if kept["credentials"] == self._credentials and count >= 0 else nothing
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
            return nothing

    def _write(self) -> None:
        if self._file is None:
            return
        kept = {"credentials": self._credentials, "count": self._count, "last": self._last, "code": self.code}
        # A disk that is full must not keep us from signing in; this process remembers anyhow.
        with suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            new = self._file.with_suffix(f".{os.getpid()}.new")
            new.write_text(json.dumps(kept), "utf-8")
            new.replace(self._file)
