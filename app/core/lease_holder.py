"""What one process of several does at a time: a lease in the database, and the loop that holds it.

A killed holder's lease ends by itself, so another process takes over after `seconds` at the latest and a third of that
for its next look. Holders compare their machines' clocks: these have to agree to about a second.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any

import structlog
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import DuplicateKeyError, PyMongoError

from app.core.cancelling import end, raise_if_cancelled
from app.core.clock import Clock

log = structlog.get_logger(__name__)


class LeaseLostError(Exception):
    """Another process may hold the lease now."""


class Lease:
    """A named right that one process holds until it expires; a killed holder's lease ends by itself."""

    def __init__(self, db: AsyncDatabase[dict[str, Any]], clock: Clock, name: str, holder: str, seconds: float) -> None:
        self._leases = db["leases"]
        self._clock = clock
        self._name = name
        self._holder = holder
        self._length = timedelta(seconds=seconds)

    async def acquire(self) -> bool:
        """Take or renew the lease; whether this process holds it now."""
        now = self._clock.now()
        claim = {"$set": {"holder": self._holder, "expires_at": now + self._length}}
        current = await self._leases.find_one({"_id": self._name})
        if current is None:
            try:
                await self._leases.insert_one({"_id": self._name, **claim["$set"]})
            except DuplicateKeyError:
                return await self._stands(claim["$set"])
            return True
        if current["holder"] != self._holder and current["expires_at"] > now:
            return False
        # Conditional on the row that was read: of two claims at once one changes it first. Matched, not modified: a
        # holder that renews within the same millisecond changes nothing.
        result = await self._leases.update_one(current, claim)
        return result.matched_count == 1 or await self._stands(claim["$set"])

    async def _stands(self, claim: dict[str, Any]) -> bool:
        """Whether a claim that seems to have failed was carried out all the same.

        The driver repeats a write whose answer was lost; a server that was killed meanwhile does not know it again.
        """
        return await self._leases.find_one({"_id": self._name, **claim}) is not None

    async def release(self) -> None:
        """Give the lease up, so that another process need not wait for its end."""
        await self._leases.update_one(
            {"_id": self._name, "holder": self._holder}, {"$set": {"expires_at": self._clock.now()}}
        )

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Renew it, which was got before, meanwhile; then give it up. For what may be done twice if need be: it is
        not ended when another process has the lease, as `LeaseHolder` would."""
        renewing = asyncio.create_task(self._renew(), name=f"renew {self._name}")
        try:
            yield
        finally:
            await end([renewing])
            with suppress(PyMongoError, TimeoutError):
                await asyncio.wait_for(self.release(), 1)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._length.total_seconds() / 3)
            with suppress(PyMongoError):
                await self.acquire()
            raise_if_cancelled()


class LeaseHolder:
    """Runs something in whichever process holds the lease `name`, and renews the lease meanwhile.

    A database that does not answer takes the lease from nobody: nobody else can claim it there. Only a database that
    says so does.
    """

    def __init__(self, db: AsyncDatabase[dict[str, Any]], clock: Clock, name: str, holder: str, seconds: float) -> None:
        """`holder` names this process; `seconds` is how long the lease of one that was killed stands in the way."""
        self._lease = Lease(db, clock, name, holder, seconds)
        self._name = name
        self._look = seconds / 3
        self._held = False
        # A claim without an answer may have been carried out.
        self._claimed = False
        self._last_error: str | None = None

    @property
    def held(self) -> bool:
        """Whether this process holds it."""
        return self._held

    @property
    def last_error(self) -> str | None:
        """The kind of error with which the database refused the last claim; None if it answered."""
        return self._last_error

    async def run(self, while_held: Callable[[], Awaitable[None]]) -> None:
        """Call `while_held` whenever the lease is got, and cancel it when another process has it; then wait again.

        Ends when `while_held` ends by itself, and raises what that raises; the lease is released in any case. While
        `while_held` is being cancelled, `held` tells why: False if the lease is another's.
        """
        try:
            while True:
                if not await self._claim():
                    await asyncio.sleep(self._pause())
                    continue
                self._held = True
                if await self._work(while_held):
                    return
        finally:
            self._held = False
            if self._claimed:
                # Whatever ends this loop is what its caller is to see; the lease ends by itself, too.
                with suppress(PyMongoError, TimeoutError):
                    await asyncio.wait_for(self._lease.release(), 1)

    async def _work(self, while_held: Callable[[], Awaitable[None]]) -> bool:
        """Whether the work ended by itself; if not, the lease is lost."""
        work = asyncio.ensure_future(while_held())
        try:
            while not (await asyncio.wait([work], timeout=self._pause()))[0]:
                if await self._claim() is False:
                    self._held = False
                    log.warning("another process has the lease now", lease=self._name)
                    return False
            await work
            return True
        finally:
            if not work.done():
                work.cancel()
                await asyncio.wait([work])
                _note_failure(work, self._name)

    async def _claim(self) -> bool | None:
        """Whether this process has the lease now; None if the database did not say."""
        self._claimed = True
        try:
            # A connection that is half open must not hide for long that the lease is another's.
            async with asyncio.timeout(max(self._look, 1.0)):
                self._claimed = await self._lease.acquire()
        except (PyMongoError, TimeoutError) as error:
            raise_if_cancelled()
            if self._last_error is None:
                log.warning("the database does not answer for a lease", lease=self._name, error=type(error).__name__)
            self._last_error = type(error).__name__
            return None
        # The driver swallows a cancellation that meets it between two tries, and then goes on as if nothing had been.
        raise_if_cancelled()
        self._last_error = None
        return self._claimed

    def _pause(self) -> float:
        # Never longer than a third, so that two looks and the lease itself are the longest that a takeover can last.
        return self._look * random.uniform(0.8, 1.0)  # noqa: S311 (jitter, not a secret)


def _note_failure(work: asyncio.Future[None], name: str) -> None:
    """What was cut off may have failed at its end: nobody else would hear of it."""
    if not work.cancelled() and (error := work.exception()):
        log.error("what a lease was held for failed when it was cut off", lease=name, exc_info=error)
