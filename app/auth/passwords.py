"""Password hashing off the event loop, by two threads of its own and a bounded queue before them."""

import asyncio
import secrets
import threading
import unicodedata
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import structlog
from passlib.context import CryptContext

from app.core.errors import UnavailableError

log = structlog.get_logger(__name__)

T = TypeVar("T")

MIN_LENGTH, MAX_LENGTH = 10, 128
"""Characters of a new password. The upper bound keeps hashing cheap for us, not for the one who guesses."""

# argon2id: 3 passes over 32 MiB by one lane. OWASP's least for one lane is 2 passes over 19 MiB; the four lanes and
# 64 MiB of RFC 9106's second choice would take both cores of a small machine from the orders and alerts.
ARGON2_PASSES, ARGON2_KIB, ARGON2_LANES = 3, 32 * 1024, 1

# bcrypt never read more than this many bytes. Its current implementation raises where older ones cut silently, so
# hashes made by those older ones are verified with the cut made here.
_BCRYPT_BYTES = 72

THREADS = 2
"""Argon2 runs without the interpreter's lock, so they slow the event loop only through the scheduler.

Measured by scripts/bench_auth.py on two cores: two threads verify 1.8 times as much as one; while 8 people sign in at
once `/health/live` answers in 0.5 ms (median), 7 ms (99 %) and 9 ms (worst), 19 ms with two more busy programs on the
machine. A lower priority for the threads gains nothing there, and lets busy neighbours starve sign-ins (to a quarter).
"""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a password was right, and the hash that should replace an outdated one."""

    correct: bool
    replacement: str | None = None


class Passwords:
    """Hashes and verifies passwords: argon2id for new ones, bcrypt as well for old ones."""

    def __init__(self, *, passes: int = ARGON2_PASSES, kib: int = ARGON2_KIB, max_pending: int = 64) -> None:
        """`max_pending` bounds hashes running and waiting: some 5 s of work for two slow cores."""
        self._context = CryptContext(
            schemes=["argon2", "bcrypt"],
            deprecated=["bcrypt"],
            argon2__type="ID",
            argon2__time_cost=passes,
            argon2__memory_cost=kib,
            argon2__parallelism=ARGON2_LANES,
        )
        self._free = threading.Semaphore(max_pending)
        self._executor = ThreadPoolExecutor(THREADS, thread_name_prefix="passwords")
        # Verified in place of the hash of an account that does not exist, so that both take the same time.
        self._nobodys: Future[str] = self._executor.submit(self._context.hash, secrets.token_urlsafe(32))

    async def hash(self, password: str) -> str:
        """The argon2id hash of `password`; raises `UnavailableError` when too many are waiting."""
        return await self._run(lambda: self._context.hash(_bytes(password)))

    async def verify(self, password: str, hashed: str | None) -> Verdict:
        """Whether `password` made `hashed`; `None` (no such account) costs as much and is never correct.

        (As much as an argon2id hash of today's parameters; an account with an older hash differs until it is replaced.)
        A hash by an outdated method or with weaker parameters comes back with its replacement. Raises
        `UnavailableError` when too many are waiting.
        """
        return await self._run(lambda: self._verify(_bytes(password), hashed))

    def _verify(self, secret: bytes, hashed: str | None) -> Verdict:
        try:
            if hashed is not None:
                cut = secret[:_BCRYPT_BYTES] if self._context.identify(hashed) == "bcrypt" else secret
                if not self._context.verify(cut, hashed):
                    return Verdict(correct=False)
                return Verdict(True, self._context.hash(secret) if self._context.needs_update(hashed) else None)
        except ValueError:
            # No hash at all or a damaged one, or a NUL byte where bcrypt takes none: no password fits.
            log.warning("a stored password hash cannot be used")
        self._context.verify(secret, self._nobodys.result())
        return Verdict(correct=False)

    async def _run(self, work: Callable[[], T]) -> T:
        if not self._free.acquire(blocking=False):
            log.warning("too many passwords are waiting to be hashed, one was refused")
            raise UnavailableError("Too many people are signing in at this moment; try again shortly.", retry_after=3)
        try:
            future = self._executor.submit(work)
        except RuntimeError:  # the service is shutting down
            self._free.release()
            raise UnavailableError("The service is stopping; try again shortly.", retry_after=3) from None
        # Released when the work ended or was cancelled while it waited, never while a thread is still busy with it.
        future.add_done_callback(lambda _: self._free.release())
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Drop what waits and let the threads end."""
        self._executor.shutdown(wait=False, cancel_futures=True)


def _bytes(password: str) -> bytes:
    """UTF-8 of the NFC form: the same password typed on different keyboards is the same bytes (RFC 8265)."""
    return unicodedata.normalize("NFC", password).encode()
