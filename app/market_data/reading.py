"""What is known of symbols and their ticks: the newest, lists, counts, data quality."""

import asyncio
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from datetime import date, datetime
from difflib import get_close_matches
from typing import Any, Final, NamedTuple, Protocol

from app.core.clock import Clock
from app.core.errors import FieldError, InvalidInputError, NotFoundError
from app.core.market_calendar import IST, MarketCalendar
from app.core.pagination import Page, PageRequest
from app.market_data.models import FeedStateDocument, LatestDocument, QualityDocument, TickDocument
from app.market_data.ports import DEFAULT_INSTRUMENTS, Instrument
from app.market_data.rows import from_ms, to_ms
from app.market_data.schemas import (
    FeedCounters,
    QualityGap,
    Span,
    Statistics,
    SymbolInfo,
    SymbolQuality,
    TickFilters,
)
from app.market_data.windows import TickWindows
from app.market_data.wire import Wire, tick_of_row

Row = dict[str, Any]

SNAPSHOT_SECONDS: Final = 1.0
"""How long all the newest rows are kept between two questions; what streams by is fresher anyway."""
SILENT_SECONDS: Final = 15.0
"""Without a tick in a session: stale. Without a word of the process that runs the feed: unknown."""
_ONE_BY_ONE: Final = 50
"""Symbols that one query names; for more all rows are read."""
_MARGIN_MS: Final = 86_400_000
"""Around what is known of a symbol's first and newest tick: a crash leaves it behind by a moment."""


class Streamed(Protocol):
    """What the live stream of this process has seen."""

    def newest(self, symbol: str) -> tuple[int, Wire] | None:
        """The newest tick of `symbol`: its `received_at` in milliseconds since the epoch, and the tick."""

    def symbols(self) -> list[str]:
        """The symbols of which a tick has passed by."""


class SymbolPosition(NamedTuple):
    """Where a page of a list ended that is in the order of symbols."""

    symbol: str

    def encode(self) -> str:
        """The opaque text that clients send back."""
        return urlsafe_b64encode(self.symbol.encode()).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> "SymbolPosition":
        """The position behind `text`; raises `InvalidInputError` for anything that `encode` did not make."""
        try:
            position = cls(urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode())
            if position.encode() != text:
                raise ValueError("another spelling")
            return position
        except ValueError:
            raise _wrong_cursor("This is not a cursor that a list here gave") from None


def _wrong_cursor(what: str) -> InvalidInputError:
    return InvalidInputError(f"query.cursor: {what}.", [FieldError(("query", "cursor"), what, "cursor_invalid")])


class SymbolPageRequest(NamedTuple):
    """How many rows of a list by symbol a client wants, and after which symbol."""

    limit: int
    after: SymbolPosition | None = None

    def of(self, names: Iterable[str]) -> tuple[list[str], SymbolPosition | None]:
        """The names of this page, and its position if more follow."""
        after = self.after.symbol if self.after else None
        return self._cut(sorted(name for name in names if after is None or name > after))

    def of_named(self, names: Sequence[str], known: Container[str]) -> tuple[list[str], SymbolPosition | None]:
        """Of `names`, in the order in which a client gave them, the `known` ones of this page, and its position.

        Raises `InvalidInputError` for the position of a list of other names.
        """
        first = 0
        if self.after is not None:
            if self.after.symbol not in names:
                raise _wrong_cursor("This cursor is of a list of other symbols")
            first = names.index(self.after.symbol) + 1
        return self._cut([name for name in names[first:] if name in known])

    def _cut(self, rest: list[str]) -> tuple[list[str], SymbolPosition | None]:
        return rest[: self.limit], SymbolPosition(rest[self.limit - 1]) if len(rest) > self.limit else None


class Known(NamedTuple):
    """What is known of one symbol."""

    symbol: str
    first_ms: int
    newest_ms: int


class MarketReading:
    """Answers the public questions about ticks; bounded work each, however many ticks are stored."""

    def __init__(
        self,
        *,
        clock: Clock,
        calendar: MarketCalendar,
        stream: Streamed,
        followed: Callable[[], Iterable[Instrument]] = lambda: DEFAULT_INSTRUMENTS,
        doubt: Callable[[str], str | None] = lambda _: None,
        snapshot_seconds: float = SNAPSHOT_SECONDS,
    ) -> None:
        """`followed`: what the feed is to subscribe to; known from the start, before any tick has come.

        `doubt`: what speaks against a symbol's data being of what it is called.
        """
        self._doubt = doubt
        self._clock, self._calendar, self._stream, self._followed = clock, calendar, stream, followed
        self._windows = TickWindows(TickDocument.get_pymongo_collection(), calendar, clock)
        self._snapshot: dict[str, Row] = {}
        self._snapshot_at: float | None = None
        self._snapshot_seconds = snapshot_seconds
        self._reading = asyncio.Lock()

    # One symbol

    async def known(self, symbol: str) -> Known | None:
        """What is known of `symbol`, in this spelling or in capitals; None for a followed one without stored ticks.

        Raises `NotFoundError` for a symbol that nobody has heard of; it names those that are spelt nearly so.
        """
        spellings = list(dict.fromkeys((symbol, symbol.upper())))
        for spelling in spellings:
            row = await LatestDocument.get_pymongo_collection().find_one({"_id": spelling}, {"tick": 0})
            if row is not None:
                return Known(spelling, to_ms(row["first_at"]), to_ms(row["received_at"]))
        heard = {instrument.symbol for instrument in self._followed()}.union(self._stream.symbols())
        if heard.isdisjoint(spellings):
            raise await self._unknown([symbol])
        return None

    async def _unknown(self, symbols: Sequence[str]) -> NotFoundError:
        names = set(await self._all_rows()).union(self._stream.symbols())
        names.update(instrument.symbol for instrument in self._followed())
        near = list(dict.fromkeys(name for symbol in symbols[:5] for name in _near(symbol, names)))
        what = f"There is no symbol {symbols[0]!r} here." if len(symbols) == 1 else "There are none of these symbols."
        hint = f" Did you mean {_either(near)}?" if near else ""
        error = NotFoundError(f"{what}{hint} GET /api/v1/market-data/symbols lists all.")
        error.extensions["near"] = near
        return error

    # Ticks

    async def ticks(self, symbol: str, span: Span, page: PageRequest) -> Page[Wire]:
        """Stored ticks of one symbol, newest first. Raises `NotFoundError`."""
        return await self.filtered(TickFilters(symbol=symbol, start=span.start, end=span.end), page)

    async def filtered(self, filters: TickFilters, page: PageRequest) -> Page[Wire]:
        """Stored ticks that match, newest first. Raises `NotFoundError` for an unknown symbol."""
        also = _conditions(filters)
        if filters.symbol is None:
            assert filters.start is not None  # noqa: S101 (the filters have seen to it)
            assert filters.end is not None  # noqa: S101
            now, low, high = to_ms(self._clock.now()), to_ms(filters.start), to_ms(filters.end)
            found = await self._windows.page(None, also, page, low=low, top=min(now, high), high=high)
        else:
            known = await self.known(filters.symbol)
            if known is None:
                return Page([], None)
            low, high = known.first_ms - _MARGIN_MS, max(to_ms(self._clock.now()), known.newest_ms) + _MARGIN_MS
            low = max(low, to_ms(filters.start)) if filters.start else low
            high = min(high, to_ms(filters.end)) if filters.end else high
            found = await self._windows.page(
                known.symbol, also, page, low=low, top=min(known.newest_ms, high), high=high
            )
        return Page([self._wire(row) for row in found.rows], found.next)

    def _wire(self, row: Mapping[str, Any]) -> Wire:
        ms = (row.get("raw_data") or {}).get("exchange_time") or to_ms(row["received_at"])
        return tick_of_row(row, after_hours=not self._calendar.is_open_at(ms))

    # All symbols

    async def latest(self, symbols: Sequence[str] | None, page: SymbolPageRequest) -> Page[Wire]:
        """The newest tick of each symbol that has one, in the order of symbols, or as they are named.

        Raises `NotFoundError` when none of those named is known, and `InvalidInputError` for a page after a symbol that
        is not among them.
        """
        if symbols is not None:
            spellings = list(dict.fromkeys(name for symbol in symbols for name in (symbol, symbol.upper())))
            rows = await self._rows_of(spellings)
            ticks = {name: tick for name in spellings if (tick := self._newest(name, rows.get(name))) is not None}
            if not ticks and {*rows, *(instrument.symbol for instrument in self._followed())}.isdisjoint(spellings):
                raise await self._unknown(symbols)
            names, position = page.of_named(spellings, ticks)
            return Page([ticks[name] for name in names], position)
        rows = await self._all_rows()
        names, position = page.of({*rows, *self._stream.symbols()})
        found = [tick for name in names if (tick := self._newest(name, rows.get(name))) is not None]
        return Page(found, position)

    def _newest(self, symbol: str, row: Row | None) -> Wire | None:
        """The newest tick: the stored one, or what has streamed by since."""
        streamed = self._stream.newest(symbol)
        if row is None or _emptied(row) or (streamed is not None and streamed[0] >= to_ms(row["received_at"])):
            return streamed and streamed[1]
        return self._wire(row["tick"])

    async def symbols(self, page: SymbolPageRequest) -> Page[SymbolInfo]:
        """The symbols that ticks are known of or that are followed, in their order."""
        rows = await self._all_rows()
        followed = {instrument.symbol: instrument for instrument in self._followed()}
        names, position = page.of({*rows, *followed, *self._stream.symbols()})
        found = [_info(followed.get(name), self._newest(name, rows.get(name)), name) for name in names]
        return Page(found, position)

    async def statistics(self) -> Statistics:
        """Counts of what is stored, and what the feed has counted."""
        rows = (await self._all_rows()).values()
        by_source, by_quality = Counter[str](), Counter[str]()
        for row in rows:
            by_source.update(row.get("by_source") or {})
            by_quality.update(row.get("by_quality") or {})
        by_symbol = {row["_id"]: row.get("stored", 0) for row in sorted(rows, key=lambda row: str(row["_id"]))}
        return Statistics(
            total=sum(by_symbol.values()),
            by_symbol=by_symbol,
            by_source=dict(by_source),
            by_quality=dict(by_quality),
            first_tick_at=min((row["first_at"] for row in rows), default=None),
            last_tick_at=max((row["received_at"] for row in rows), default=None),
            feed=await self.feed(),
        )

    async def feed(self) -> FeedCounters:
        """What the process that runs the feed said last."""
        row = await FeedStateDocument.get_pymongo_collection().find_one({"_id": "feed"})
        if row is None:
            return FeedCounters(state="off")
        silent = (self._clock.now() - row["at"]).total_seconds() > SILENT_SECONDS
        counted = {**(row.get("feed") or {}), **(row.get("counters") or {})}
        # Both count them: the connection its own, the pipeline those that it was told of.
        reconnects = max((row.get(part) or {}).get("reconnects", 0) for part in ("feed", "counters"))
        known = {name: counted[name] for name in _COUNTED if name in counted}
        state = "unknown" if silent and row["state"] != "off" else row["state"]
        return FeedCounters(state=state, since=row["since"], updated_at=row["at"], reconnects=reconnects, **known)

    async def _rows_of(self, symbols: Sequence[str]) -> Mapping[str, Row]:
        if len(symbols) > _ONE_BY_ONE:
            return await self._all_rows()
        query = {"_id": {"$in": list(symbols)}}
        return {row["_id"]: row for row in await LatestDocument.get_pymongo_collection().find(query).to_list()}

    async def _all_rows(self) -> dict[str, Row]:
        """The newest rows of all symbols that ticks are stored of, a moment old.

        A few thousand at most, and everybody asks for them.
        """
        async with self._reading:
            now = self._clock.monotonic()
            if self._snapshot_at is None or now - self._snapshot_at >= self._snapshot_seconds:
                rows = await LatestDocument.get_pymongo_collection().find({}).to_list()
                self._snapshot = {row["_id"]: row for row in rows if not _emptied(row)}
                self._snapshot_at = now
        return self._snapshot

    # Data quality

    async def quality(
        self, symbols: Sequence[str] | None, day: date | None, page: SymbolPageRequest
    ) -> Page[SymbolQuality]:
        """How good the data were on `day` (in India; by default that of the newest session), in the order of symbols.

        `symbols` are found in this spelling or in capitals.
        """
        now, stored = self._clock.now(), QualityDocument.get_pymongo_collection()
        day = self._newest_session(now) if day is None else day
        query: Row = {"day": day.isoformat()}
        if symbols is not None:
            spellings = {name for symbol in symbols for name in (symbol, symbol.upper())}
            query = {"_id": {"$in": [f"{name}|{day.isoformat()}" for name in sorted(spellings)]}}
        names, position = page.of([row["symbol"] for row in await stored.find(query, {"symbol": 1}).to_list()])
        rows = await stored.find({"_id": {"$in": [f"{name}|{day.isoformat()}" for name in names]}}).to_list()
        latest = await self._rows_of(names)
        found = [self._quality(row, latest.get(row["symbol"]), now) for row in rows]
        return Page(sorted(found, key=lambda one: one.symbol), position)

    def _newest_session(self, now: datetime) -> date:
        day = now.astimezone(IST).date()
        session = self._calendar.session_of(day)
        if session is not None and session.opens <= now:
            return day
        return self._calendar.previous_session(day).day

    def _quality(self, row: Row, latest: Row | None, now: datetime) -> SymbolQuality:
        streamed = self._stream.newest(row["symbol"])
        moments = [to_ms(latest["received_at"])] if latest else []
        moments += [streamed[0]] if streamed else []
        last = from_ms(max(moments)) if moments else None
        silent = max((now - last).total_seconds(), 0.0) if last else None
        return SymbolQuality(
            symbol=row["symbol"],
            day=date.fromisoformat(row["day"]),
            gaps=[QualityGap(start=gap["start"], end=gap["end"]) for gap in row.get("gaps") or []],
            gap_count=row.get("gap_count", 0),
            longest_silence_seconds=row.get("longest_silence_seconds", 0.0),
            duplicates=row.get("duplicates", 0),
            late=row.get("late", 0),
            rejected=row.get("rejected") or {},
            by_quality=row.get("by_quality") or {},
            last_tick_at=last,
            silent_seconds=silent,
            stale=self._calendar.is_open(now) and (silent is None or silent > SILENT_SECONDS),
            doubt=self._doubt(row["symbol"]),
        )


_COUNTED: Final = ("received", "stored", "duplicate", "rejected", "after_hours", "lost", "spilled", "conflated")


def _emptied(row: Row) -> bool:
    """Whether all ticks of the symbol have been deleted since; the row still says where its candles end."""
    return row.get("stored") == 0


def _conditions(filters: TickFilters) -> Row:
    """What is asked beside the symbol and the time."""
    match: Row = {}
    for name in ("exchange", "source", "data_quality", "is_realtime"):
        if (value := getattr(filters, name)) is not None:
            match[name] = value if isinstance(value, bool) else str(value)
    bounds = {"$gte": filters.min_price, "$lte": filters.max_price}
    if bounds := {operator: price for operator, price in bounds.items() if price is not None}:
        match["ltpc"] = bounds
    return match


def _info(instrument: Instrument | None, tick: Wire | None, symbol: str) -> SymbolInfo:
    if tick is not None:
        return SymbolInfo(
            symbol=symbol,
            exchange=tick["exchange"],
            exchange_type=tick["exchange_type"],
            token=tick["token"],
            instrument_type=tick["instrument_type"],
            last_price=tick["ltpc"],
            last_tick_at=tick["received_at"],
        )
    assert instrument is not None  # noqa: S101 (what has no tick is followed)
    return SymbolInfo(
        symbol=symbol,
        exchange=instrument.exchange,
        exchange_type=instrument.exchange_type,
        token=instrument.token,
        instrument_type=instrument.kind,
        last_price=None,
        last_tick_at=None,
    )


def _near(symbol: str, names: Iterable[str]) -> list[str]:
    """Up to three names that are spelt nearly so; spaces and case do not count."""
    squeezed = {"".join(name.split()).casefold(): name for name in names}
    wanted = "".join(symbol.split()).casefold()
    close = get_close_matches(wanted, squeezed, n=3, cutoff=0.6)
    begin = [name for name in sorted(squeezed) if len(wanted) >= 3 and (name.startswith(wanted))]
    return [squeezed[name] for name in dict.fromkeys([*close, *begin])][:3]


def _either(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
