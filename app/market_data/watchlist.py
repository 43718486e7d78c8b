"""What the live feed follows: the six indices and `ANGEL_ONE_SYMBOLS`, until somebody says otherwise through the API.

One row holds what was said through the API, instruments and all, so that it holds without a list of instruments, too.
Every process keeps the outcome in memory; a change is stored, announced, and in force everywhere a moment later.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Final, TypeAlias

import structlog
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import DuplicateKeyError, PyMongoError

from app.core.audit import Act, Actor, AuditTrail
from app.core.bus import Bus
from app.core.cancelling import raise_if_cancelled
from app.core.clock import Clock, to_micros
from app.core.errors import ConflictError, FieldError, InvalidInputError, NotFoundError, UnavailableError
from app.core.events import PeersChanged, WatchlistChanged
from app.core.market_calendar import IST
from app.core.security import Principal
from app.market_data.instrument_schemas import WatchlistEntry, WatchlistIn, WatchlistInfo
from app.market_data.instruments import InstrumentMaster
from app.market_data.models import WatchlistDocument
from app.market_data.naming import UnknownInstrumentError, instrument_of, resolve
from app.market_data.ports import Instrument, WatchMode
from app.market_data.watched import View, Watched, reference_of, shown, unresolved_of, view_of

log = structlog.get_logger(__name__)

Row = dict[str, Any]
PlanFault: TypeAlias = Callable[[Iterable[tuple[Instrument, WatchMode]]], str | None]

LIST: Final = "watchlist"
LOOK_EVERY: Final = 30.0
_TRIES: Final = 5
_NAMED: Final = 8


class Watchlist:
    """Every process has one."""

    def __init__(
        self,
        *,
        db: AsyncDatabase[Row],
        clock: Clock,
        bus: Bus,
        audit: AuditTrail,
        master: InstrumentMaster,
        plan_fault: PlanFault,
        configured: Sequence[str] = (),
    ) -> None:
        """`configured`: `ANGEL_ONE_SYMBOLS`. `plan_fault`: why the provider would not stream all of this."""
        self._rows = db[WatchlistDocument.Settings.name]
        self._clock, self._bus, self._audit, self._master = clock, bus, audit, master
        self._plan_fault, self._configured = plan_fault, tuple(configured)
        self._stored: Row = {}
        self._known = False
        self._view = view_of(None, self._configured, None, self._today())
        self._seen: tuple[object, ...] = ()
        self._problem: str | None = None
        self._changed = asyncio.Event()
        self._listeners: list[Callable[[], None]] = []
        bus.subscribe(WatchlistChanged, lambda _: self._changed.set())
        bus.subscribe(PeersChanged, lambda _: self._changed.set())
        master.on_change(self._look)
        master.guard(self.followed)

    # For those who follow

    def followed(self) -> Sequence[Instrument]:
        """What the feed is to subscribe to, contracts that have ended left out."""
        return self._view.followed

    def mode_of(self, instrument: Instrument) -> WatchMode:
        """How much to bring of it."""
        return self._view.modes.get((instrument.exchange, instrument.token), WatchMode.QUOTE)

    def doubt(self, symbol: str) -> str | None:
        """What the list of instruments says against a symbol that is followed."""
        return self._view.doubts.get(symbol)

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` when something else is to be followed."""
        self._listeners.append(listener)

    # Keeping up

    async def run(self) -> None:
        """Keep up with what is stored, with the list of instruments and with the day; the supervisor runs this."""
        while True:
            await self.load()
            raise_if_cancelled()
            with suppress(TimeoutError):  # news may get lost, and contracts end
                await asyncio.wait_for(self._changed.wait(), LOOK_EVERY)
            raise_if_cancelled()
            self._changed.clear()

    async def load(self) -> None:
        """Read what is stored. Never raises `PyMongoError`: until it can be read, what is known stays."""
        try:
            self._stored = await self._rows.find_one({"_id": LIST}) or {}
            self._known = True
        except PyMongoError as error:
            raise_if_cancelled()
            log.warning("the watchlist cannot be read now", error=type(error).__name__)
        self._look()

    def _look(self) -> None:
        """Work out what is followed, if anything that it depends on has changed, and tell those who follow."""
        today = self._today()
        seen = (self._known, self._stored.get("revision"), self._master.version, today)
        if seen == self._seen:
            return
        self._seen, before = seen, self._view
        self._view = view = view_of(self._stored.get("items"), self._configured, self._master.table, today)
        active = [(item.instrument, item.mode) for item in view.items if not item.ended(today)]
        self._problem = self._plan_fault(active)
        self._log(before, view)
        if (before.followed, before.modes) != (view.followed, view.modes):
            for listener in self._listeners:
                listener()

    def _today(self) -> str:
        return self._clock.now().astimezone(IST).date().isoformat()

    def _log(self, before: View, view: View) -> None:
        said = {(error.text, error.reason) for error in before.unresolved}
        for error in view.unresolved:
            if (error.text, error.reason) not in said:
                log.warning("ANGEL_ONE_SYMBOLS: not followed", entry=error.text, reason=error.reason)
        for symbol, doubt in view.doubts.items():
            if before.doubts.get(symbol) != doubt:
                log.warning("ticks of a symbol will be marked suspect", symbol=symbol, reason=doubt)
        if self._problem:
            log.warning("the watchlist is longer than the feed can be", reason=self._problem)
        if view.source == "api" and before.source != "api" and self._configured:
            log.info("the watchlist of the API is in force, ANGEL_ONE_SYMBOLS is not")

    # Answers

    def info(self) -> WatchlistInfo:
        """What is followed, and why."""
        view, today = self._view, self._today()
        return WatchlistInfo(
            source=view.source,
            symbols=[shown(item, view, today) for item in view.items],
            unresolved=unresolved_of(view),
            instruments_version=self._master.version or None,
            revision=self._stored.get("revision", 0),
            changed_at=self._stored.get("at"),
        )

    def health(self) -> Row:
        """The line for `/health`; never raises."""
        view = self._view
        line: Row = {"source": view.source, "followed": len(view.followed)}
        if len(view.followed) < len(view.items):
            line["ended"] = len(view.items) - len(view.followed)
        if view.doubts:
            line["doubts"] = dict(list(view.doubts.items())[:_NAMED])
        if view.unresolved:
            line["unresolved"] = {error.text[:64]: error.reason for error in view.unresolved[:_NAMED]}
        if self._problem:
            line["problem"] = self._problem
        # A doubt is told, and its ticks are marked; it stands in the way of nothing else.
        fine = self._known and not (view.unresolved or self._problem)
        return {"status": "ok" if fine else "degraded", **line}

    # Changes

    async def replace(self, caller: Principal, wanted: WatchlistIn) -> WatchlistInfo:
        """Follow these instead. Raises `InvalidInputError` for what is unknown or too much: then nothing changes."""
        items = self._asked(wanted)
        return await self._change(caller, lambda _: items)

    async def put(self, caller: Principal, exchange: str, token: str, mode: WatchMode) -> WatchlistInfo:
        """Follow this too, or in another mode. Raises `NotFoundError` and `InvalidInputError`."""
        table = self._master.table
        if table is None:
            raise _not_yet()
        listing = table.find(exchange, token)
        if listing is None:
            raise NotFoundError(f"{exchange} lists no token {token}. GET /api/v1/market-data/instruments finds it.")
        new = Watched(instrument_of(listing), mode)

        def changed(items: list[Watched]) -> list[Watched]:
            if any(item.key == new.key for item in items):
                return [new if item.key == new.key else item for item in items]
            return [*items, new]

        return await self._change(caller, changed)

    async def remove(
        self, caller: Principal, *, exchange: str | None = None, token: str | None = None, symbol: str | None = None
    ) -> WatchlistInfo:
        """Follow this no more. Raises `NotFoundError` for what is not followed."""

        def is_meant(item: Watched) -> bool:
            if symbol is not None:
                return item.instrument.symbol == " ".join(symbol.upper().split())
            return item.key == (exchange, token)

        def changed(items: list[Watched]) -> list[Watched]:
            left = [item for item in items if not is_meant(item)]
            if len(left) == len(items):
                what = symbol if symbol is not None else f"{exchange}:{token}"
                raise NotFoundError(f"The watchlist has no {what!r}. GET /api/v1/market-data/watchlist shows it.")
            return left

        return await self._change(caller, changed)

    async def reset(self, caller: Principal) -> WatchlistInfo:
        """Follow what the settings say."""
        return await self._change(caller, None)

    def _asked(self, wanted: WatchlistIn) -> list[Watched]:
        if wanted.symbols and self._master.table is None:
            raise _not_yet()
        items: dict[tuple[str, str], Watched] = {}
        problems: list[FieldError] = []
        near: list[str] = []
        for place, entry in enumerate(wanted.symbols):
            mode = entry.mode if isinstance(entry, WatchlistEntry) else WatchMode.QUOTE
            try:
                item = Watched(instrument_of(resolve(reference_of(entry), self._master.table)), mode)
            except UnknownInstrumentError as error:
                near += error.near
                problems.append(FieldError(("body", "symbols", place), f"{error.text}: {error.reason}", "unknown"))
                continue
            items[item.key] = item
        if problems:
            more = f" ({len(problems)} entries in all)" if len(problems) > 1 else ""
            failure = InvalidInputError(f"Not every instrument is known. {problems[0].msg}{more}.", problems[:50])
            failure.extensions["near"] = list(dict.fromkeys(near))[:20]
            raise failure
        return list(items.values())

    def _check(self, items: Sequence[Watched]) -> None:
        by_symbol: dict[str, Watched] = {}
        for item in items:
            other = by_symbol.setdefault(item.instrument.symbol, item)
            if other.key != item.key:
                places = f"{':'.join(other.key)} and {':'.join(item.key)}"
                raise _refused(f"{places} have the same symbol, {item.instrument.symbol}: choose one of them")
        today = self._today()
        active = [(item.instrument, item.mode) for item in items if not item.ended(today)]
        if fault := self._plan_fault(active):
            raise _refused(fault)

    async def _change(
        self, caller: Principal, change: Callable[[list[Watched]], list[Watched]] | None
    ) -> WatchlistInfo:
        """Store what `change` makes of the items in force (None: nothing is stored any more), and act on it."""
        for _ in range(_TRIES):
            stored = await self._rows.find_one({"_id": LIST}) or {}
            self._stored, self._known = stored, True
            self._look()
            before = list(self._view.items)
            items = None if change is None else change(before)
            if items is not None:
                self._check(items)
            if await self._store(caller, stored, items):
                break
        else:
            raise ConflictError("Somebody else is changing the watchlist right now: look at it, and try again.")
        await self._tell(caller, before, list(self._view.items))
        return self.info()

    async def _store(self, caller: Principal, stored: Row, items: list[Watched] | None) -> bool:
        """Whether nobody was faster."""
        now, revision = self._clock.now(), stored.get("revision", 0)
        row: Row = {
            "_id": LIST,
            "schema_version": 1,
            "revision": max(revision + 1, to_micros(now)),
            "items": None if items is None else [item.row() for item in items],
            "at": now,
            "by": caller.user_id,
        }
        if not stored:
            try:
                await self._rows.insert_one(row)
            except DuplicateKeyError:
                return False
        elif not (await self._rows.replace_one({"_id": LIST, "revision": revision}, row)).matched_count:
            return False
        self._stored = row
        self._look()
        self._bus.announce(WatchlistChanged(row["revision"]))
        return True

    async def _tell(self, caller: Principal, before: Sequence[Watched], after: Sequence[Watched]) -> None:
        old, new = ({item.key: item for item in items} for items in (before, after))
        added, removed = [new[key] for key in new.keys() - old], [old[key] for key in old.keys() - new]
        modes = sum(old[key].mode != new[key].mode for key in old.keys() & new.keys())
        names = [f"+{item.instrument.symbol}" for item in added] + [f"-{item.instrument.symbol}" for item in removed]
        log.info("watchlist changed", added=len(added), removed=len(removed), modes=modes, followed=len(after))
        details = {
            "source": self._view.source,
            "added": len(added),
            "removed": len(removed),
            "modes_changed": modes,
            "followed": len(after),
            "names": ", ".join(sorted(names)[:_NAMED]),
        }
        target = ("watchlist", "market data")
        await self._audit.note(
            Act("watchlist.change", caller.user_id, Actor.of(caller), target=target, details=details)
        )


def _refused(reason: str) -> InvalidInputError:
    return InvalidInputError(reason, [FieldError(("body", "symbols"), reason, "watchlist_refused")])


def _not_yet() -> UnavailableError:
    return UnavailableError("The list of instruments is not here yet; try again in a minute.", retry_after=60)
