"""The list of instruments that is in force: fetched once a day, checked, stored, and held by every process.

How it is stored, and what is taken, is in `core.staged_lists`; `/health` tells its version and age.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import Any, Final

import structlog
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import PyMongoError

from app.core.bus import Bus
from app.core.cancelling import raise_if_cancelled
from app.core.clock import Clock
from app.core.events import InstrumentsChanged, PeersChanged
from app.core.market_calendar import IST
from app.core.staged_lists import (
    LOOK_EVERY,
    BuiltList,
    DamagedListError,
    DoubtfulListError,
    ListHere,
    ListSource,
    NewList,
    StagedList,
    believed,
    check,
    is_old,
)
from app.market_data.listings import (
    Filled,
    Listing,
    ListingSource,
    ListingsUnavailableError,
    ListingTable,
    Stamp,
    TableBuilder,
)
from app.market_data.models import InstrumentPartDocument, InstrumentsDocument
from app.market_data.ports import Instrument

log = structlog.get_logger(__name__)

Row = dict[str, Any]

ACTIVE: Final = "active"
_TRIES: Final = 3


class FilledHere:
    """Fills `core.staged_lists.ListSource` in this process: reading the list takes some hundred megabytes."""

    def __init__(self, source: ListingSource) -> None:
        self._source = source

    @asynccontextmanager
    async def fetch(self, known: tuple[str, str] | None = None) -> AsyncIterator[NewList | None]:
        """See the port. Raises `ListingsUnavailableError`."""
        yield await self.list(known)

    async def list(self, known: tuple[str, str] | None = None) -> ListHere | None:
        """The newest list; None if it is the one whose stamp is `known`. Raises `ListingsUnavailableError`."""
        builder = TableBuilder()
        filled = await self._source.fill(builder, Stamp(*known) if known is not None else None)
        return await asyncio.to_thread(_built, builder, filled) if filled is not None else None


class InstrumentMaster:
    """What is listed. Every process has one; a single one of them, decided elsewhere, calls `refresh`."""

    def __init__(
        self,
        *,
        db: AsyncDatabase[Row],
        clock: Clock,
        bus: Bus,
        source: ListingSource | None,
        program: ListSource | None = None,
    ) -> None:
        """`source`: None where nothing is to be fetched. `program`: fetches it instead of `source`, in another process;
        raises `ListingsUnavailableError`."""
        self._list = StagedList(
            db,
            clock,
            states=InstrumentsDocument.Settings.name,
            parts=InstrumentPartDocument.Settings.name,
            name=ACTIVE,
        )
        self._clock, self._bus = clock, bus
        self._source = program or (FilledHere(source) if source is not None else None)
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
                self._state = await self._list.state()
                if self._state.get("version") in {None, self._loaded} or await self._take(self._state):
                    return
        except PyMongoError as error:
            raise_if_cancelled()
            log.warning("the list of instruments cannot be read now", error=type(error).__name__)

    async def _take(self, state: Row) -> bool:
        """Whether it is settled; if not, the version may have been replaced meanwhile."""
        table = await self._read(state)
        if table is None:
            self._unreadable = state["version"]
            log.error("the stored list of instruments is damaged", version=state["version"])
            return False
        self._set(table, state)
        return True

    async def _read(self, state: Row) -> ListingTable | None:
        try:
            data = b"".join([part async for part in self._list.read(state)])
            return await asyncio.to_thread(ListingTable.decode, data)
        except (DamagedListError, ValueError):
            return None

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
        # A list that is damaged here is fetched again, whatever the provider thinks that we have.
        stamp = self._state.get("stamp") if self._table is not None else None
        try:
            async with self._source.fetch((stamp[0], stamp[1]) if stamp else None) as new:
                if new is None:
                    self._state = await self._list.note_same(self._state)
                    return False
                return await self._judge(new)
        except ListingsUnavailableError as error:
            self._state = await self._list.note_failure(self._state, error.kind)
            raise

    async def _judge(self, new: NewList) -> bool:
        before = self._state if self._table is not None else None
        data = b""
        try:
            check(new.built, before, self._clock.now())
            if before is not None and new.built.sha256 == before.get("sha256"):
                self._state = await self._list.put_again(before, new.built)
                return False
            # Parts of it may be what is followed: it is read before it is taken.
            data = b"".join([await new.part(number) for number in range(new.built.parts)])
            table = await asyncio.to_thread(ListingTable.decode, data)
            if before is not None and not believed(new.built, before, self._clock.now()):
                self._check_followed(table)
        except DoubtfulListError as error:
            self._state = await self._list.doubt(self._state, new.built, str(error))
            raise
        self._set(table, await self._list.put(self._state, ListHere(new.built, data)))
        self._bus.announce(InstrumentsChanged(self._loaded))
        return True

    def _check_followed(self, table: ListingTable) -> None:
        """Raise `DoubtfulListError` for one that lacks what is followed, which the list in force has."""
        present, today = self._table, self._clock.now().astimezone(IST).date().isoformat()
        gone = [
            f"{instrument.exchange}:{instrument.token} ({instrument.symbol})"
            for instrument in self._followed()
            if (not instrument.expiry or instrument.expiry >= today)
            and table.find(instrument.exchange, instrument.token) is None
            and present is not None
            and present.find(instrument.exchange, instrument.token) is not None
        ]
        if gone:
            more = f" and {len(gone) - 3} more" if len(gone) > 3 else ""
            raise DoubtfulListError(f"it lacks what is followed: {', '.join(gone[:3])}{more}")

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
        if self._source is None:
            line["status"] = "ok" if self._table else "off"
        elif self._table is None or is_old(state, now) or doubted or self._unreadable:
            line["status"] = "degraded"
        return line


def _built(builder: TableBuilder, filled: Filled) -> ListHere:
    table = builder.build()
    data = table.encode()
    return ListHere(
        BuiltList.of(
            data,
            rows=len(table),
            by_expiry=builder.by_expiry,
            rejected=filled.rejected | ({"repeated": builder.repeated} if builder.repeated else {}),
            skipped=filled.skipped,
            stamp=tuple(filled.stamp),
        ),
        data,
    )
