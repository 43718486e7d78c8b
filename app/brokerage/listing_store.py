"""Every broker's list of instruments: fetched once a day, checked, stored, and held by the processes that ask for it.

A list is stored in compressed parts of a megabyte beside one row that names the version in force. A new one is written
whole before that row is replaced, so nobody ever reads half of it, and one that cannot be right is not taken: the last
good one stays, and `/health` says so. Only the lists of brokers that somebody uses are fetched and held.
"""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, time, timedelta
from typing import Any, Final, NamedTuple

import structlog
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import PyMongoError

from app.brokerage.accounts.brokers import WANTS
from app.brokerage.listing_models import BrokerListingPartDocument, BrokerListingsDocument
from app.brokerage.listing_table import BrokerTable, TableBuilder
from app.brokerage.ports import Broker
from app.brokerage.words import BrokerName, Exchange, Listing
from app.core.clock import Clock
from app.core.errors import DomainError, UnavailableError
from app.core.lease_holder import Lease
from app.core.market_calendar import IST

log = structlog.get_logger(__name__)

Row = dict[str, Any]

PART: Final = 1 << 20
NEW_AT: Final = time(8, 15)
"""In India: the brokers' lists of the day are there, and the market is not open."""
LEAST_SHARE: Final = 0.8
"""Of the rows before, without contracts that have ended since: a list with fewer is doubted."""
MOST_JUNK: Final = 0.2
BELIEVED_AFTER: Final = timedelta(hours=20)
"""A doubted list is taken after all when one of another day agrees with it: then the exchanges have changed."""
OLD_AFTER: Final = timedelta(hours=36)
LOOK_EVERY: Final = 60.0
"""Seconds after which a process looks whether another list is in force."""
PATIENCE: Final = 8.0
"""Seconds that whoever asks first waits for the first list ever."""
TRY_EVERY: Final = timedelta(minutes=5)
ASKED_AGAIN: Final = timedelta(seconds=30)
"""After a try that brought no list: however many wait for the first one, it is large, and brokers count."""
_LEASE_SECONDS: Final = 420.0


class DoubtfulListError(Exception):
    """A list that is not taken; the message is for a person."""


class _Held(NamedTuple):
    table: BrokerTable
    version: str
    looked_at: float


class ListingStore:
    """Fills the port `Listings`."""

    def __init__(
        self, *, db: AsyncDatabase[Row], brokers: Mapping[BrokerName, Broker], clock: Clock, holder: str
    ) -> None:
        """`holder` names this process."""
        self._db, self._brokers, self._clock, self._holder = db, brokers, clock, holder
        self._states = db[BrokerListingsDocument.Settings.name]
        self._parts = db[BrokerListingPartDocument.Settings.name]
        self._held: dict[BrokerName, _Held] = {}
        self._locks = {broker: asyncio.Lock() for broker in BrokerName}
        self._fetching: dict[BrokerName, asyncio.Task[None]] = {}

    # Reading

    async def find(self, broker: BrokerName, exchange: Exchange, symbol: str) -> Listing | None:
        """See the port; raises `UnavailableError` as long as there is no list of that broker."""
        found = (await self._table(broker)).find(exchange, symbol)
        if found is not None and found.expiry is not None and found.expiry < self._today():
            return None
        return found

    async def like(self, broker: BrokerName, exchange: Exchange, symbol: str) -> list[str]:
        """See the port."""
        return (await self._table(broker)).like(exchange, symbol)

    def _today(self) -> Any:
        return self._clock.now().astimezone(IST).date()

    async def _table(self, broker: BrokerName) -> BrokerTable:
        held = self._held.get(broker)
        if held is not None and self._clock.monotonic() - held.looked_at < LOOK_EVERY:
            return held.table
        async with self._locks[broker]:
            held = self._held.get(broker)
            if held is None or self._clock.monotonic() - held.looked_at >= LOOK_EVERY:
                held = await self._load(broker)
        return held.table if held is not None else await self._first(broker)

    async def _load(self, broker: BrokerName) -> _Held | None:
        """Take what is in force, if it is not here yet; what is here stays while the database is away."""
        held, now = self._held.get(broker), self._clock.monotonic()
        try:
            for _ in range(3):  # the version may be replaced while it is read
                state = await self._states.find_one({"_id": broker.value}) or {}
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
        except PyMongoError:
            if held is None:
                raise
        return held

    async def _read(self, broker: BrokerName, state: Row) -> BrokerTable | None:
        pieces: list[bytes] = []
        for number in range(state["parts"]):
            part = await self._parts.find_one({"_id": _part_id(broker, state["version"], number)})
            if part is None:
                return None
            pieces.append(part["data"])
        table = await asyncio.to_thread(_decoded, b"".join(pieces), state["sha256"])
        if table is None:
            log.error("a stored list of instruments is damaged", broker=broker.value, version=state["version"])
        return table

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
        state = await self._states.find_one({"_id": broker.value}) or {}
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
            state = await self._states.find_one({"_id": broker.value}) or {}
            checked, tried, now = state.get("checked_at"), state.get("tried_at"), self._clock.now()
            if checked is not None and checked >= self._turn(now):
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

    def _turn(self, now: datetime) -> datetime:
        turn = datetime.combine(now.astimezone(IST).date(), NEW_AT, IST)
        return turn if turn <= now else turn - timedelta(days=1)

    async def refresh(self, broker: BrokerName) -> bool:
        """Fetch the broker's list and put it in force; whether it is another one.

        One process at a time does. Raises `BrokerError` and other `DomainError`s, `DoubtfulListError`, `PyMongoError`.
        """
        source = self._brokers.get(broker)
        if source is None:
            raise UnavailableError(f"{WANTS[broker].label} cannot be used on this server.", retry_after=3600)
        lease = Lease(self._db, self._clock, f"broker listings {broker.value}", self._holder, _LEASE_SECONDS)
        if not await lease.acquire():
            raise UnavailableError("Another process is fetching this list.", retry_after=5)
        try:
            return await self._refresh(broker, source)
        finally:
            with suppress(PyMongoError):
                await lease.release()

    async def _refresh(self, broker: BrokerName, source: Broker) -> bool:
        state = await self._states.find_one({"_id": broker.value}) or {"_id": broker.value, "schema_version": 1}
        now = self._clock.now()
        try:
            listings = await source.listings()
        except DomainError as error:
            await self._note(state, tried_at=now, last_error=type(error).slug)
            raise
        builder, table, data = await asyncio.to_thread(_built, listings)
        del listings
        before = await self._load(broker) if state.get("version") else None
        try:
            await asyncio.to_thread(self._check, table, builder, state, before.table if before else None)
        except DoubtfulListError as error:
            doubted = self._doubts(state, str(error), table, now)
            await self._note(state, tried_at=now, last_error="doubtful list", doubted=doubted)
            raise
        told = {"tried_at": now, "checked_at": now, "last_error": None, "doubted": None, "rejected": builder.rejected}
        digest = hashlib.sha256(data).hexdigest()
        if before is not None and digest == state.get("sha256"):
            await self._note(state, **told)
            return False
        await self._put(broker, state, data, {**told, "fetched_at": now, "rows": len(table), "sha256": digest})
        return True

    def _check(self, table: BrokerTable, builder: TableBuilder, state: Row, before: BrokerTable | None) -> None:
        junk = sum(builder.rejected.values())
        if not len(table) or junk > MOST_JUNK * (len(table) + junk):
            raise DoubtfulListError(f"{junk:,} of its rows are unreadable, and {len(table):,} are left")
        if before is None or self._believed(state, table):
            return
        expected = len(before) - before.ended(self._today())
        if len(table) < LEAST_SHARE * expected:
            raise DoubtfulListError(f"it has {len(table):,} instruments, where {expected:,} were expected")

    def _believed(self, state: Row, table: BrokerTable) -> bool:
        doubted = state.get("doubted")
        if not doubted or self._clock.now() - doubted["since"] < BELIEVED_AFTER:
            return False
        return abs(len(table) - int(doubted["rows"])) <= 0.05 * len(table)

    def _doubts(self, state: Row, reason: str, table: BrokerTable, now: datetime) -> Row:
        before = state.get("doubted") or {}
        same = before and abs(len(table) - before["rows"]) <= 0.05 * len(table)
        return {"since": before["since"] if same else now, "rows": len(table), "reason": reason}

    async def _put(self, broker: BrokerName, state: Row, data: bytes, told: Row) -> None:
        now = self._clock.now()
        version = f"{now:%Y%m%dT%H%M%S%f}-{told['sha256'][:8]}"
        pieces = [data[at : at + PART] for at in range(0, len(data), PART)]
        for number, piece in enumerate(pieces):
            row = {"_id": _part_id(broker, version, number), "schema_version": 1, "broker": broker.value}
            await self._parts.replace_one(
                {"_id": row["_id"]}, {**row, "version": version, "at": now, "data": piece}, True
            )
        await self._note(state, version=version, parts=len(pieces), **told)
        # What was in force, and what somebody who was killed has left; who is reading it looks again.
        await self._parts.delete_many({"broker": broker.value, "version": {"$ne": version}})
        self._held.pop(broker, None)

    async def _note(self, state: Row, **told: Any) -> None:
        row = {name: value for name, value in {**state, **told}.items() if value is not None}
        await self._states.replace_one({"_id": state["_id"]}, row, upsert=True)

    # Its state

    async def health(self) -> Row:
        """The line for `/health`, from what is stored: version, rows and age of each list that there is."""
        line: Row = {"status": "ok"}
        now = self._clock.now()
        for broker in BrokerName:
            state = await self._states.find_one({"_id": broker.value})
            if state is None:
                continue
            checked = state.get("checked_at")
            told: Row = {name: state[name] for name in ("version", "rows", "checked_at", "last_error") if name in state}
            if doubted := state.get("doubted"):
                told["doubted"] = doubted["reason"]
            if doubted or checked is None or now - checked > OLD_AFTER:
                line["status"] = "degraded"
            line[broker.value] = told
        return line


def _part_id(broker: BrokerName, version: str, number: int) -> str:
    return f"{broker.value}|{version}|{number}"


def _decoded(data: bytes, digest: str) -> BrokerTable | None:
    if hashlib.sha256(data).hexdigest() != digest:
        return None
    try:
        return BrokerTable.decode(data)
    except ValueError:
        return None


def _built(listings: Sequence[Listing]) -> tuple[TableBuilder, BrokerTable, bytes]:
    builder = TableBuilder()
    for listing in listings:
        builder.add(listing)
    table = builder.build()
    return builder, table, table.encode()
