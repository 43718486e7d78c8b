"""The list of instruments that is in force: fetched once a day, checked, stored, and held by every process.

A list is stored in a few compressed parts of a megabyte beside one row that names the version in force. A new one is
written whole before that row is replaced, so nobody ever reads half of it, and one that cannot be right is not taken:
the last good one stays, and `/health` says so, with its version and age.
"""

import asyncio
import hashlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, Final

import structlog
from pymongo import ReplaceOne
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import PyMongoError

from app.core.bus import Bus
from app.core.cancelling import raise_if_cancelled
from app.core.clock import Clock
from app.core.events import InstrumentsChanged, PeersChanged
from app.core.market_calendar import IST
from app.market_data.listings import (
    Filled,
    Listing,
    ListingSource,
    ListingsUnavailableError,
    ListingTable,
    Stamp,
    TableBuilder,
    ended,
)
from app.market_data.models import InstrumentPartDocument, InstrumentsDocument
from app.market_data.ports import Instrument

log = structlog.get_logger(__name__)

Row = dict[str, Any]

ACTIVE: Final = "active"
PART: Final = 1 << 20
LEAST_SHARE: Final = 0.8
"""Of the rows before, without contracts that have ended since: a list with fewer is doubted."""
MOST_JUNK: Final = 0.2
BELIEVED_AFTER: Final = timedelta(hours=20)
"""A doubted list is taken after all when one of another day agrees with it: then the exchanges have changed."""
OLD_AFTER: Final = timedelta(hours=36)
LOOK_EVERY: Final = 60.0
_TRIES: Final = 3


class DoubtfulListError(Exception):
    """A list that is not taken; the message is for a person."""


class InstrumentMaster:
    """What is listed. Every process has one; a single one of them, decided elsewhere, calls `refresh`."""

    def __init__(
        self,
        *,
        db: AsyncDatabase[Row],
        clock: Clock,
        bus: Bus,
        source: ListingSource | None,
    ) -> None:
        """`source`: None where nothing is to be fetched."""
        self._states = db[InstrumentsDocument.Settings.name]
        self._parts = db[InstrumentPartDocument.Settings.name]
        self._clock, self._bus, self._source = clock, bus, source
        self._followed: Callable[[], Iterable[Instrument]] = tuple
        self._table: ListingTable | None = None
        self._state: Row = {}
        self._loaded = ""
        self._unreadable: str | None = None
        self._changed = asyncio.Event()
        self._listeners: list[Callable[[], None]] = []
        bus.subscribe(InstrumentsChanged, lambda _: self._changed.set())
        bus.subscribe(PeersChanged, lambda _: self._changed.set())

    @property
    def table(self) -> ListingTable | None:
        """The list in force; None before there was one."""
        return self._table

    @property
    def version(self) -> str:
        """Of that list; empty if there is none."""
        return self._loaded

    def guard(self, followed: Callable[[], Iterable[Instrument]]) -> None:
        """A new list that lacks any of `followed`, which the one in force has, is not taken."""
        self._followed = followed

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` when another list is in force."""
        self._listeners.append(listener)

    async def find(
        self, *, symbol: str | None = None, exchange: str | None = None, token: str | None = None
    ) -> Listing | None:
        """The likeliest instrument of that symbol or name, or that of a token on an exchange."""
        if self._table is None:
            return None
        if token is not None:
            return self._table.find(exchange, token) if exchange is not None else None
        found = self._table.named(symbol or "", exchange)
        return found[0] if found else None

    # Reading what is stored

    async def run(self) -> None:
        """Keep up with the version in force; the supervisor runs this in every process."""
        while True:
            await self.load()
            raise_if_cancelled()
            with suppress(TimeoutError):  # news may get lost
                await asyncio.wait_for(self._changed.wait(), LOOK_EVERY)
            raise_if_cancelled()
            self._changed.clear()

    async def load(self) -> None:
        """Take what is in force, if it is not here yet. Never raises `PyMongoError`."""
        try:
            for _ in range(_TRIES):
                self._state = await self._states.find_one({"_id": ACTIVE}) or {}
                if self._state.get("version") in {None, self._loaded} or await self._take(self._state):
                    return
        except PyMongoError as error:
            raise_if_cancelled()
            log.warning("the list of instruments cannot be read now", error=type(error).__name__)

    async def _take(self, state: Row) -> bool:
        """Whether it is settled; if not, the version may have been replaced meanwhile."""
        rows = await self._parts.find({"version": state["version"]}).to_list()
        data = b"".join(row["data"] for row in sorted(rows, key=lambda row: int(row["number"])))
        table = await asyncio.to_thread(_decoded, data, state.get("sha256", ""))
        if table is None:
            self._unreadable = state["version"]
            log.error("the stored list of instruments is damaged", version=state["version"], parts=len(rows))
            return False
        self._set(table, state)
        return True

    def _set(self, table: ListingTable, state: Row) -> None:
        self._table, self._state, self._loaded, self._unreadable = table, state, state["version"], None
        log.info("list of instruments in force", version=self._loaded, rows=len(table))
        for listener in self._listeners:
            listener()

    # Fetching

    async def refresh(self) -> bool:
        """Fetch the provider's list and put it in force; whether it is another one.

        Raises `ListingsUnavailableError`, `DoubtfulListError`, and `PyMongoError`.
        """
        if self._source is None:
            return False
        await self.load()
        builder, now = TableBuilder(), self._clock.now()
        # A list that is damaged here is fetched again, whatever the provider thinks that we have.
        known = Stamp(*self._state["stamp"]) if self._table is not None and self._state.get("stamp") else None
        try:
            filled = await self._source.fill(builder, known)
            if filled is None:
                await self._note(checked_at=now, tried_at=now, last_error=None, doubted=None)
                return False
        except ListingsUnavailableError as error:
            await self._note(tried_at=now, last_error=error.kind)
            raise
        table, data = await asyncio.to_thread(_built, builder)
        try:
            self._check(table, builder, filled)
        except DoubtfulListError as error:
            await self._note(tried_at=now, last_error="doubtful list", doubted=self._doubts(str(error), table, now))
            raise
        return await self._put(table, data, builder, filled)

    def _check(self, table: ListingTable, builder: TableBuilder, filled: Filled) -> None:
        junk = sum(filled.rejected.values()) + builder.repeated
        if not len(table) or junk > MOST_JUNK * (len(table) + junk + sum(filled.skipped.values())):
            raise DoubtfulListError(f"{junk:,} of its rows are unreadable, and {len(table):,} are left")
        if self._table is None or self._believed(table):
            return
        today = self._clock.now().astimezone(IST).date()
        expected = len(self._table) - ended(self._state.get("by_expiry") or {}, today)
        if len(table) < LEAST_SHARE * expected:
            raise DoubtfulListError(f"it has {len(table):,} instruments, where {expected:,} were expected")
        gone = [
            f"{instrument.exchange}:{instrument.token} ({instrument.symbol})"
            for instrument in self._followed()
            if (not instrument.expiry or instrument.expiry >= today.isoformat())
            and table.find(instrument.exchange, instrument.token) is None
            and self._table.find(instrument.exchange, instrument.token) is not None
        ]
        if gone:
            more = f" and {len(gone) - 3} more" if len(gone) > 3 else ""
            raise DoubtfulListError(f"it lacks what is followed: {', '.join(gone[:3])}{more}")

    def _believed(self, table: ListingTable) -> bool:
        doubted = self._state.get("doubted")
        if not doubted or self._clock.now() - doubted["since"] < BELIEVED_AFTER:
            return False
        return abs(len(table) - int(doubted["rows"])) <= 0.05 * len(table)

    def _doubts(self, reason: str, table: ListingTable, now: datetime) -> Row:
        before = self._state.get("doubted") or {}
        same = before and abs(len(table) - before["rows"]) <= 0.05 * len(table)
        return {"since": before["since"] if same else now, "rows": len(table), "reason": reason}

    async def _put(self, table: ListingTable, data: bytes, builder: TableBuilder, filled: Filled) -> bool:
        now, digest = self._clock.now(), hashlib.sha256(data).hexdigest()
        rejected = filled.rejected | ({"repeated": builder.repeated} if builder.repeated else {})
        told: Row = {
            "rejected": rejected,
            "skipped": filled.skipped,
            "stamp": list(filled.stamp),
            "fetched_at": now,
            "checked_at": now,
            "tried_at": now,
            "last_error": None,
            "doubted": None,
        }
        before = self._state.get("version")
        if before and digest == self._state.get("sha256") and self._table is not None:
            await self._note(**told)
            return False
        version = f"{now:%Y%m%dT%H%M%S}-{digest[:8]}"
        pieces = [data[at : at + PART] for at in range(0, len(data), PART)]
        for number, piece in enumerate(pieces):
            row = {"_id": f"{version}|{number}", "schema_version": 1, "version": version, "number": number}
            await self._parts.replace_one({"_id": row["_id"]}, {**row, "at": now, "data": piece}, upsert=True)
        state = {
            "_id": ACTIVE,
            "schema_version": 1,
            "version": version,
            "rows": len(table),
            "parts": len(pieces),
            "sha256": digest,
            "by_expiry": builder.by_expiry,
            **told,
        }
        await self._states.bulk_write([ReplaceOne({"_id": ACTIVE}, state, upsert=True)])
        self._set(table, state)
        self._bus.announce(InstrumentsChanged(version))
        # What was in force, and what somebody who was killed has left.
        await self._parts.delete_many({"version": before})
        await self._parts.delete_many({"version": {"$ne": version}, "at": {"$lt": now - timedelta(days=1)}})
        return True

    async def _note(self, **told: Any) -> None:
        """What every process is to know of the newest try."""
        self._state = {**self._state, **told, "_id": ACTIVE, "schema_version": 1}
        await self._states.replace_one({"_id": ACTIVE}, self._state, upsert=True)

    # Its state

    @property
    def checked_at(self) -> datetime | None:
        """When the list in force was last known to be the newest."""
        moment: datetime | None = self._state.get("checked_at")
        return moment

    def health(self) -> Row:
        """The line for `/health`; never raises."""
        state, now = self._state, self._clock.now()
        line: Row = {"status": "ok", "version": self._loaded or None, "rows": len(self._table) if self._table else 0}
        for name in ("fetched_at", "checked_at", "last_error"):
            if state.get(name) is not None:
                line[name] = state[name]
        if (fetched := state.get("fetched_at")) is not None:
            line["age_seconds"] = round((now - fetched).total_seconds())
        if state.get("rejected"):
            line["rejected"] = sum(state["rejected"].values())
        if doubted := state.get("doubted"):
            line["doubted"] = {name: doubted[name] for name in ("since", "rows", "reason")}
        if self._unreadable:
            line["damaged"] = self._unreadable
        checked = self.checked_at
        old = checked is None or now - checked > OLD_AFTER
        if self._source is None:
            line["status"] = "ok" if self._table else "off"
        elif self._table is None or old or doubted or self._unreadable:
            line["status"] = "degraded"
        return line


def _decoded(data: bytes, digest: str) -> ListingTable | None:
    if hashlib.sha256(data).hexdigest() != digest:
        return None
    try:
        return ListingTable.decode(data)
    except ValueError:
        return None


def _built(builder: TableBuilder) -> tuple[ListingTable, bytes]:
    table = builder.build()
    return table, table.encode()
