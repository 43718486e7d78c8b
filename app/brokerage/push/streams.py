"""Keeps an order stream for every account at Angel One with a session, in one process of all."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import structlog
from pymongo.errors import PyMongoError

from app.brokerage.accounts.store import AccountStore
from app.brokerage.push.angel_stream import AngelOrderStream, Counts
from app.brokerage.words import BrokerName
from app.core.bus import Bus
from app.core.cancelling import end, raise_if_cancelled
from app.core.clock import Clock
from app.core.errors import DomainError
from app.core.events import BrokerAccountChanged

log = structlog.get_logger(__name__)

LEASE, LEASE_SECONDS = "broker order streams", 30.0
LOOK_EVERY: Final = 30.0


class AngelOrderStreams:
    """The supervised work of whoever holds the lease."""

    def __init__(
        self,
        *,
        store: AccountStore,
        clock: Clock,
        bus: Bus,
        make: Callable[[str, Counts], AngelOrderStream],
        look_every: float = LOOK_EVERY,
    ) -> None:
        """`make` makes the stream of an account."""
        self._store, self._clock, self._make = store, clock, make
        self._look_every = look_every
        self._running: dict[str, tuple[AngelOrderStream, asyncio.Task[None]]] = {}
        self._wake = asyncio.Event()
        self._counts = Counts()
        bus.subscribe(BrokerAccountChanged, lambda _: self._wake.set())

    async def run(self) -> None:
        """Follow the accounts; ends by being cancelled."""
        try:
            while True:
                self._wake.clear()
                try:
                    await self._look()
                except (PyMongoError, DomainError) as error:
                    raise_if_cancelled()
                    log.warning("the order streams cannot be looked at now", error=type(error).__name__)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), self._look_every)
                raise_if_cancelled()
        finally:
            await end(task for _, task in self._running.values())
            self._running.clear()

    async def _look(self) -> None:
        wanted = await self._wanted()
        for account_id, (_, task) in list(self._running.items()):
            if account_id not in wanted and not task.done():
                await end([task])
            if task.done():
                _say(account_id, task)
                del self._running[account_id]
        for account_id in wanted - self._running.keys():
            stream = self._make(account_id, self._counts)
            self._running[account_id] = (stream, asyncio.create_task(stream.run(), name="order stream"))

    async def _wanted(self) -> set[str]:
        """Accounts whose session holds, and that are at Angel One itself: others' tokens are not for its server."""
        now = self._clock.now()
        rows = await self._store.of_broker(BrokerName.ANGEL_ONE, live=True)
        return {
            str(row["_id"])
            for row in rows
            if row.get("base_url") is None and ((ends := row.get("session_expires_at")) is None or now < ends)
        }

    def health(self) -> dict[str, Any]:
        """Streams, those that are connected, and what came; nothing runs in processes that do not hold the lease."""
        return {
            "streams": len(self._running),
            "connected": sum(stream.live for stream, _ in self._running.values()),
            "messages": self._counts.messages,
            "unreadable": self._counts.unreadable,
            "reconnects": self._counts.reconnects,
        }


def _say(account_id: str, task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and (error := task.exception()):
        log.error("an order stream failed", account=account_id, exc_info=error)
