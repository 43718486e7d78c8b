"""Every broker's list of instruments: fetched once a day, checked, stored, and held by the processes that ask for it.

How it is stored, and what is taken, is in `core.staged_lists`. Only the lists of brokers that somebody uses are fetched
and held.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import date, time, timedelta
from typing import Any, Final, NamedTuple

import structlog
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import PyMongoError

from app.brokerage.accounts.brokers import WANTS
from app.brokerage.listing_models import BrokerListingPartDocument, BrokerListingsDocument
from app.brokerage.listing_spelling import by_other_spelling
from app.brokerage.listing_table import MOST_ALIKE, BrokerTable, Symbols, TableReader
from app.brokerage.words import BrokerName, Exchange, Listing
from app.core.clock import Clock
from app.core.errors import DomainError, UnavailableError
from app.core.lease_holder import Lease
from app.core.market_calendar import IST
from app.core.staged_lists import (
    LOOK_EVERY,
    DamagedListError,
    DoubtfulListError,
    ListSource,
    StagedList,
    check,
    is_old,
    last_turn,
)

log = structlog.get_logger(__name__)

Row = dict[str, Any]

NEW_AT: Final = time(8, 15)
"""In India: the brokers' lists of the day are there, and the market is not open."""
PATIENCE: Final = 8.0
"""Seconds that whoever asks first waits for the first list ever."""
TRY_EVERY: Final = timedelta(minutes=5)
ASKED_AGAIN: Final = timedelta(seconds=30)
"""After a try that brought no list: however many wait for the first one, it is large, and brokers count."""
_LEASE_SECONDS: Final = 30.0
"""How long one that was killed while it fetched a list stands in the way of the others."""


class _Held(NamedTuple):
    table: BrokerTable
    version: str
    looked_at: float


class ListingStore:
    """Fills the port `Listings`."""

    def __init__(
        self,
        *,
        db: AsyncDatabase[Row],
        sources: Mapping[BrokerName, ListSource],
        clock: Clock,
        holder: str,
        stand_ins: Mapping[BrokerName, ListSource] | None = None,
    ) -> None:
        """`sources`: they raise `DomainError`. `holder` names this process. `stand_ins`: lists that are in force as
        long as the broker's own was never to be had."""
        self._stand_ins = stand_ins or {}
        self._db, self._sources, self._clock, self._holder = db, sources, clock, holder
        self._lists = {broker: _staged(db, clock, broker) for broker in BrokerName}
        self._held: dict[BrokerName, _Held] = {}
        self._locks = {broker: asyncio.Lock() for broker in BrokerName}
        self._fetching: dict[BrokerName, asyncio.Task[None]] = {}

    # Reading

    async def find(self, broker: BrokerName, exchange: Exchange, symbol: str) -> Listing | None:
        """See the port; raises `UnavailableError` as long as there is no list of that broker."""
        table = await self._table(broker)
        found = table.find(exchange, symbol) or by_other_spelling(table, exchange, symbol)
        if found is not None and found.expiry is not None and found.expiry < self._today():
            return None
        return found

    async def like(self, broker: BrokerName, exchange: Exchange, symbol: str) -> list[str]:
        """See the port."""
        table = await self._table(broker)
        meant = by_other_spelling(table, exchange, symbol)
        like = table.like(exchange, symbol)
        return like if meant is None else list(dict.fromkeys([meant.symbol, *like]))[:MOST_ALIKE]

    async def symbols(self, broker: BrokerName) -> Mapping[str, str]:
        """Of the list in force, by what the broker calls each; empty if there is none, or the database is away."""
        try:
            held = await self._present(broker)
        except PyMongoError:
            return {}
        if held is None:
            return {}
        await asyncio.to_thread(held.table.index)
        return Symbols(held.table)

    def _today(self) -> date:
        return self._clock.now().astimezone(IST).date()

    async def _table(self, broker: BrokerName) -> BrokerTable:
        held = await self._present(broker)
        return held.table if held is not None else await self._first(broker)

    async def _present(self, broker: BrokerName) -> _Held | None:
        held = self._held.get(broker)
        if held is not None and self._clock.monotonic() - held.looked_at < LOOK_EVERY:
            return held
        async with self._locks[broker]:
            held = self._held.get(broker)
            if held is None or self._clock.monotonic() - held.looked_at >= LOOK_EVERY:
                held = await self._load(broker)
        return held

    async def _load(self, broker: BrokerName) -> _Held | None:
        """Take what is in force, if it is not here yet; what is here stays while the database is away."""
        held, now = self._held.get(broker), self._clock.monotonic()
        try:
            for _ in range(3):  # the version may be replaced while it is read
                state = await self._lists[broker].state()
                version = state.get("version")
                if version is None:
                    return None
                if held is None or held.version != version:
                    table = await self._read(broker, state)
                    if table is None:
                        continue
                    log.info("list of a broker's instruments in force", broker=broker.value, version=version)
                    held = _Held(table, version, now)
                self._held[broker] = held._replace(looked_at=now)
                return self._held[broker]
            log.error("a stored list of instruments is damaged", broker=broker.value)
        except PyMongoError:
            if held is None:
                raise
        return held

    async def _read(self, broker: BrokerName, state: Row) -> BrokerTable | None:
        """The table in force; None if it is damaged, or was replaced meanwhile."""
        reader = TableReader()
        try:
            async for part in self._lists[broker].read(state):
                await asyncio.to_thread(reader.take, part)
            return reader.table()
        except (DamagedListError, ValueError):
            return None

    async def _first(self, broker: BrokerName) -> BrokerTable:
        """The first list ever: fetched at once, because somebody waits for it."""
        task = self._fetching.get(broker)
        if task is None and not await self._just_failed(broker):
            task = self._fetching.get(broker) or self._begin(broker)
        if task is not None:
            await asyncio.wait([task], timeout=PATIENCE)
        held = await self._load(broker)
        if held is None:
            raise UnavailableError(
                f"The list of instruments of {WANTS[broker].label} is not here yet; try again in a moment.",
                retry_after=10,
            )
        return held.table

    async def _just_failed(self, broker: BrokerName) -> bool:
        state = await self._lists[broker].state()
        tried = state.get("tried_at") if state.get("last_error") else None
        return tried is not None and timedelta() <= self._clock.now() - tried < ASKED_AGAIN

    def _begin(self, broker: BrokerName) -> "asyncio.Task[None]":
        task = self._fetching[broker] = asyncio.create_task(self._fetch(broker), name="broker listings")
        task.add_done_callback(lambda _: self._fetching.pop(broker, None))
        return task

    async def _fetch(self, broker: BrokerName) -> None:
        try:
            await self.refresh(broker)
        except (DomainError, DoubtfulListError, PyMongoError) as error:
            log.warning("a broker's instruments were not got", broker=broker.value, error=type(error).__name__)

    async def close(self) -> None:
        """End what is under way."""
        for task in list(self._fetching.values()):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    # Fetching

    async def refresh_due(self, used: Sequence[BrokerName]) -> dict[str, str]:
        """For a periodic job: get today's list of every broker of `used` that lacks it; what became of each."""
        told: dict[str, str] = {}
        for broker in used:
            state = await self._lists[broker].state()
            checked, tried, now = state.get("checked_at"), state.get("tried_at"), self._clock.now()
            if checked is not None and checked >= last_turn(now, NEW_AT):
                continue
            if tried is not None and now - tried < TRY_EVERY:
                continue
            try:
                told[broker.value] = "new" if await self.refresh(broker) else "same"
            except DomainError as error:
                told[broker.value] = type(error).slug
            except DoubtfulListError as error:
                log.error("a broker's list of instruments was not taken", broker=broker.value, reason=str(error))  # noqa: TRY400 (no fault of ours to be traced)
                told[broker.value] = "doubtful"
        return told

    async def refresh(self, broker: BrokerName) -> bool:
        """Fetch the broker's list and put it in force; whether it is another one.

        One process at a time does. Raises `BrokerError` and other `DomainError`s, `DoubtfulListError`, `PyMongoError`.
        """
        source = self._sources.get(broker)
        if source is None:
            raise UnavailableError(f"{WANTS[broker].label} cannot be used on this server.", retry_after=3600)
        lease = Lease(self._db, self._clock, f"broker listings {broker.value}", self._holder, _LEASE_SECONDS)
        if not await lease.acquire():
            raise UnavailableError("Another process is fetching this list.", retry_after=5)
        async with lease.kept():
            try:
                return await self._refresh(broker, source)
            except (DomainError, DoubtfulListError):
                await self._stand_in(broker)
                raise

    async def _refresh(self, broker: BrokerName, source: ListSource) -> bool:
        staged = self._lists[broker]
        state = await staged.state()
        try:
            async with source.fetch() as new:
                assert new is not None  # noqa: S101 (nothing is known to the source)
                before = await self._before(broker, state)
                try:
                    check(new.built, before, self._clock.now())
                except DoubtfulListError as error:
                    await staged.doubt(state, new.built, str(error))
                    raise
                if before is not None and new.built.sha256 == before["sha256"]:
                    await staged.put_again(before, new.built)
                    return False
                await staged.put(state, new)
        except DomainError as error:
            await staged.note_failure(state, type(error).slug)
            raise
        self._held.pop(broker, None)
        return True

    async def _stand_in(self, broker: BrokerName) -> None:
        """Where there is no list, take what stands in for it; the broker is asked again all the same."""
        source, staged = self._stand_ins.get(broker), self._lists[broker]
        state = await staged.state()
        if source is None or await staged.is_sound(state):
            return
        async with source.fetch() as new:
            assert new is not None  # noqa: S101 (nothing is known to the source)
            await staged.put(state, new, newest=False)
        self._held.pop(broker, None)

    async def _before(self, broker: BrokerName, state: Row) -> Row | None:
        """What a new list is compared with; None where nothing is, or what is stored cannot be read."""
        if not await self._lists[broker].is_sound(state):
            return None
        if "by_expiry" in state:
            return state
        # Stored by a version that did not keep it.
        table = await self._read(broker, state)
        return None if table is None else {**state, "by_expiry": await asyncio.to_thread(table.by_expiry)}

    # Its state

    async def health(self) -> Row:
        """The line for `/health`, from what is stored: version, rows and age of each list that there is."""
        line: Row = {"status": "ok"}
        for broker, staged in self._lists.items():
            state = await staged.state()
            if "tried_at" not in state:
                continue
            told: Row = {name: state[name] for name in ("version", "rows", "checked_at", "last_error") if name in state}
            if doubted := state.get("doubted"):
                told["doubted"] = doubted["reason"]
            if doubted or is_old(state, self._clock.now()):
                line["status"] = "degraded"
            line[broker.value] = told
        return line


def _staged(db: AsyncDatabase[Row], clock: Clock, broker: BrokerName) -> StagedList:
    return StagedList(
        db,
        clock,
        states=BrokerListingsDocument.Settings.name,
        parts=BrokerListingPartDocument.Settings.name,
        name=broker.value,
        mark={"broker": broker.value},
    )
