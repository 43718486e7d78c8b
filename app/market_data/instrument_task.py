"""Gets the list of instruments every morning, in one process of all, and again until it is there."""

import asyncio
import random
from datetime import time
from typing import Any, Final

import structlog
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import PyMongoError

from app.core.cancelling import raise_if_cancelled
from app.core.clock import Clock
from app.core.lease_holder import LeaseHolder
from app.core.staged_lists import DoubtfulListError, last_turn
from app.market_data.instruments import InstrumentMaster
from app.market_data.listings import ListingsUnavailableError

log = structlog.get_logger(__name__)

LEASE, LEASE_SECONDS = "instruments", 30.0
AT: Final = time(8, 30)
"""In India: the provider's new list is there, and the market not open."""
WAITS: Final = (5.0, 20.0, 60.0, 300.0, 900.0)
"""Seconds after a try that failed; then the last again and again."""
WAIT_DOUBTFUL: Final = 3600.0
LOOK_EVERY: Final = 60.0


class InstrumentTask:
    """The supervised task."""

    def __init__(
        self,
        *,
        master: InstrumentMaster,
        db: AsyncDatabase[dict[str, Any]],
        clock: Clock,
        holder: str,
        at: time = AT,
        waits: tuple[float, ...] = WAITS,
        look_every: float = LOOK_EVERY,
    ) -> None:
        self._master, self._clock, self._at = master, clock, at
        self._waits, self._look_every = waits, look_every
        self._lease = LeaseHolder(db, clock, LEASE, holder, LEASE_SECONDS)
        self._failed = 0

    async def run(self) -> None:
        """Wait for the lease, then keep the list fresh."""
        await self._lease.run(self._lead)

    async def _lead(self) -> None:
        self._failed = 0
        await self._master.load()
        while True:
            wait = await self._step() if self._due() else self._look_every
            raise_if_cancelled()
            await asyncio.sleep(wait)

    def _due(self) -> bool:
        checked = self._master.checked_at
        return self._master.table is None or checked is None or checked < last_turn(self._clock.now(), self._at)

    async def _step(self) -> float:
        """One try; how many seconds to wait after it."""
        try:
            changed = await self._master.refresh()
        except ListingsUnavailableError as error:
            wait = max(self._next_wait(), error.retry_after or 0.0)
            log.warning("the list of instruments was not got", reason=error.kind, again_in=round(wait))
            return wait
        except DoubtfulListError as error:
            told = {"reason": str(error), "in_force": self._master.version or None}
            log.error("a list of instruments was not taken", **told)  # noqa: TRY400 (no fault of ours to be traced)
            return WAIT_DOUBTFUL
        except PyMongoError as error:
            raise_if_cancelled()
            log.warning("the list of instruments could not be stored", error=type(error).__name__)
            return self._next_wait()
        self._failed = 0
        log.info("the list of instruments is up to date", changed=changed, version=self._master.version)
        return self._look_every

    def _next_wait(self) -> float:
        wait = self._waits[min(self._failed, len(self._waits) - 1)]
        self._failed += 1
        return wait * random.uniform(0.8, 1.2)  # noqa: S311 (jitter, not a secret)
