"""Lets requests about orders leave, as many as an account may send, from all processes together.

A request is counted before it is sent: in the process's own memory, while that has a part of the account's limits (see
`counting`), else by one conditional write to the account's row.
"""

import asyncio
import heapq
import itertools
import math
import secrets
from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import partial
from typing import Any, Final

import msgspec
import structlog
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import DuplicateKeyError, PyMongoError

from app.brokerage.errors import BrokerRateLimitedError
from app.brokerage.orders.counting import (
    Allowance,
    Own,
    Part,
    Used,
    give,
    given_back,
    ms_of,
    take,
)
from app.brokerage.orders.models import OrderBudgetDocument
from app.brokerage.words import Capabilities
from app.core.bus import Bus
from app.core.cancelling import raise_if_cancelled
from app.core.clock import Clock
from app.core.events import OrdersHeld, PeersChanged

log = structlog.get_logger(__name__)

PATIENCE: Final = 2.0
"""Seconds that a request waits for its turn before it is refused."""
CLOSING: Final = 2.0
"""Seconds in which parts are given back at the end."""
_TRIES: Final = 60
_WORDS: Final = {
    "second": "in a second",
    "minute": "in a minute",
    "day": "in a day",
    "held": "for now: the broker asked for a pause",
}


class OrderBudget:
    """Lets requests about orders pass, in turn, or says why not."""

    def __init__(self, clock: Clock, bus: Bus | None = None, *, patience: float = PATIENCE) -> None:
        """Without a `bus` every request is counted in the database, and so while other processes are out of reach:
        it is what tells of the pauses that brokers ask for."""
        self._clock, self._bus, self._patience = clock, bus, patience
        self._known: dict[str, tuple[int, Used]] = {}
        self._lines: dict[str, _Line] = {}
        self._own: dict[str, Own] = {}
        self._held: dict[str, int] = {}
        self._name, self._trust = secrets.token_hex(6), 0
        if bus is not None:
            bus.subscribe(OrdersHeld, self._on_held)
            bus.subscribe(PeersChanged, lambda _: self._distrust())

    async def enter(
        self, account_id: str, capabilities: Capabilities, leaves: Callable[[], Awaitable[bool]] | None = None
    ) -> None:
        """Count a request that is about to be sent; waits for its turn a moment.

        `leaves` says whether it ends or reduces a position: it is asked only where that matters; None: it is a
        cancellation. Raises `BrokerRateLimitedError`, or what the database raises; then nothing was counted.
        """
        allowance = Allowance.of(capabilities)
        exits = leaves is None
        wait = await self._try(account_id, allowance, exits=exits) if self._free(account_id) else ("second", 0)
        if wait is None:
            return
        if leaves is not None:
            exits = await leaves()
        line = self._lines.setdefault(account_id, _Line())
        try:
            await line.turn(0 if exits else 1, self._patience, lambda: self._try(account_id, allowance, exits=exits))
        finally:
            if line.empty:
                self._lines.pop(account_id, None)

    def _free(self, account_id: str) -> bool:
        """Whether nobody is waiting here: else it is not one's turn."""
        return account_id not in self._lines

    async def hold(self, account_id: str, seconds: float) -> None:
        """The broker wants a pause: nothing of this account is sent meanwhile, by any process."""
        until = ms_of(self._clock.now()) + math.ceil(seconds * 1000)

        def change(used: Used) -> Used:
            return msgspec.structs.replace(used, held_until=max(used.held_until, until))

        event = OrdersHeld(account_id=account_id, until=until)
        self._on_held(event)
        try:
            await self._change(account_id, change)
        finally:
            if self._bus is not None:
                self._bus.announce(event)

    async def close(self) -> None:
        """Give back what this process has of the accounts' limits; at the end of the service."""
        own, self._own = self._own, {}
        try:
            async with asyncio.timeout(CLOSING):
                for account_id, mine in own.items():
                    await self._change(account_id, partial(self._without, mine))
        except (TimeoutError, PyMongoError, BrokerRateLimitedError) as error:
            raise_if_cancelled()
            log.info("parts of order limits are not given back; they end by themselves", error=type(error).__name__)

    def _on_held(self, event: OrdersHeld) -> None:
        now = ms_of(self._clock.now())
        self._held = {each: until for each, until in self._held.items() if until > now}
        self._held[event.account_id] = max(event.until, self._held.get(event.account_id, 0))

    def _distrust(self) -> None:
        """News may have been missed: before a part is used again, the account's row is looked at."""
        self._trust += 1

    def _spend(self, account_id: str) -> bool:
        """Count a request in memory, where that is possible."""
        own, bus, now = self._own.get(account_id), self._bus, self._clock.now()
        if own is None or bus is None or not bus.connected or own.trust != self._trust:
            return False
        return self._held.get(account_id, 0) <= ms_of(now) and own.spend(now)

    def _without(self, own: Own | None, used: Used) -> Used:
        return used if own is None else given_back(used, own.part, own.sent, self._clock.now())

    async def _try(self, account_id: str, allowance: Allowance, *, exits: bool) -> tuple[str, int] | None:
        """Count it, if it may go now; else why not, and for how long."""
        if self._spend(account_id):
            return None
        refused: tuple[str, int] | None = None
        own, trust, part = self._own.pop(account_id, None), self._trust, None

        def change(used: Used) -> Used | None:
            nonlocal refused, part
            now = self._clock.now()
            used = self._without(own, used)
            refused = allowance.wait(used, now, leaves=exits)
            if refused:
                return None
            used = take(used, now)
            part = self._part(allowance, used, now)
            return used if part is None else give(used, part)

        # What this process has is in nobody's hands meanwhile; and for good where nobody knows whether this is stored.
        await self._change(account_id, change)
        if refused is None:
            own = Own(part, trust) if part is not None else None
        if own is not None:
            self._own[account_id] = own
        return refused

    def _part(self, allowance: Allowance, used: Used, now: datetime) -> Part | None:
        """What this process is given, if it can be told of what concerns it, and has none."""
        if self._bus is None or not self._bus.connected or any(part.holder == self._name for part in used.parts):
            return None
        return allowance.part(used, now, self._name)

    async def _change(self, account_id: str, change: Callable[[Used], Used | None]) -> None:
        for _ in range(_TRIES):
            remembered = self._known.pop(account_id, None)
            version, used = remembered or await self._read(account_id)
            changed = change(used)
            if changed is None:
                if remembered is None:
                    self._known[account_id] = version, used
                    return
                continue  # another process may know better: look before refusing
            if await self._write(account_id, version, changed):
                return
        raise BrokerRateLimitedError("Too many orders of this account at once; nothing was sent.", retry_after=1)

    async def _read(self, account_id: str) -> tuple[int, Used]:
        row = await _rows().find_one({"_id": account_id})
        return (0, Used()) if row is None else (row["version"], msgspec.convert(row["used"], Used))

    async def _write(self, account_id: str, version: int, used: Used) -> bool:
        values = {"schema_version": 1, "version": version + 1, "used": msgspec.to_builtins(used)}
        if version == 0:
            try:
                await _rows().insert_one({"_id": account_id, **values})
            except DuplicateKeyError:
                return False
        else:
            found = await _rows().update_one({"_id": account_id, "version": version}, {"$set": values})
            if found.matched_count != 1:
                return False
        self._known[account_id] = version + 1, used
        return True


def _rows() -> AsyncCollection[dict[str, Any]]:
    return OrderBudgetDocument.get_pymongo_collection()


class _Line:
    """Who waits for an account's turn in this process: exits first, then in the order of their coming."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int, int]] = []
        self._numbers = itertools.count()
        self._moved = asyncio.Event()

    @property
    def empty(self) -> bool:
        """Whether nobody waits."""
        return not self._waiting

    async def turn(self, rank: int, patience: float, attempt: Callable[[], Awaitable[tuple[str, int] | None]]) -> None:
        """Wait until `attempt` lets this one through; raises `BrokerRateLimitedError` when it takes too long."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience
        place = (rank, next(self._numbers))
        heapq.heappush(self._waiting, place)
        self._stir()
        try:
            while True:
                word, ms = "second", 1000
                if self._waiting[0] == place:
                    refused = await attempt()
                    if refused is None:
                        return
                    word, ms = refused
                left = deadline - loop.time()
                if left <= 0 or (self._waiting[0] == place and ms / 1000 > left):
                    raise BrokerRateLimitedError(
                        f"The account has sent as many orders as it may {_WORDS[word]}; nothing was sent.",
                        retry_after=ms / 1000,
                    )
                moved = self._moved
                try:
                    async with asyncio.timeout(min(ms / 1000, left)):
                        await moved.wait()
                except TimeoutError:
                    continue
        finally:
            self._waiting.remove(place)
            heapq.heapify(self._waiting)
            self._stir()

    def _stir(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()
