"""Deletes old audit entries. What is left still verifies: before that, the chain gets a new beginning, in writing."""

import asyncio
from datetime import datetime, timedelta

import structlog

from app.audit.chain import is_whole
from app.audit.store import WINDOW, Base, ChainStore
from app.audit.trail import ChainedAuditTrail
from app.core.clock import Clock

log = structlog.get_logger(__name__)

_PAUSE = 0.05
"""Seconds between batches: others get their turn."""


class AuditRetention:
    """Lets entries expire after `AUDIT_RETENTION_DAYS` and up to a day more, so that it is written down once a day."""

    def __init__(self, trail: ChainedAuditTrail, clock: Clock, days: int | None) -> None:
        self._trail = trail
        self._store: ChainStore = trail.store
        self._clock = clock
        self._days = days

    async def expire(self) -> None:
        """Delete what is too old, a few at a time; the periodic job calls this.

        A new base is put into the head, and an entry about it, before anything is deleted. When that was cut short, the
        next run goes on: entries up to the base are no part of the chain any more.
        """
        if self._days is None:
            return
        head = await self._trail.complete()
        if head is None:
            return
        base = head.base
        await self._delete_up_to(base)
        midnight = self._clock.now().replace(hour=0, minute=0, second=0, microsecond=0)
        newest = await self._newest_before(midnight - timedelta(days=self._days), base)
        if newest.number > base.number:
            await self._trail.expire(newest)
            await self._delete_up_to(newest)

    async def _newest_before(self, limit: datetime, base: Base) -> Base:
        """The newest entry that happened before `limit`; `base` if none did, or if the oldest ones are not in order."""
        newest, number, previous = base, base.number, base.hash
        while rows := await self._store.window(number + 1, number + WINDOW):
            before = newest
            for row in rows:
                if row["number"] != number + 1 or row.get("previous_hash") != previous or not is_whole(row):
                    log.error("old audit entries do not verify, so they are kept: run scripts/verify_audit.py")
                    return base
                number, previous = number + 1, row["hash"]
                if row["at"] < limit:
                    newest = Base(number, previous, limit)
            if newest is before:
                break
            await asyncio.sleep(_PAUSE)
        return newest

    async def _delete_up_to(self, base: Base) -> None:
        """Delete what is left up to the base: oldest first, so that a run that is cut short leaves no gap."""
        low = base.number + 1
        while low > 1 and await self._store.window(max(1, low - WINDOW), low - 1):
            low = max(1, low - WINDOW)
        while low <= base.number:
            high = min(low + WINDOW - 1, base.number)
            await self._store.delete(low, high)
            low = high + 1
            await asyncio.sleep(_PAUSE)
