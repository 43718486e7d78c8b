"""Stored candles: one row for each, one series for each provider's candles of a symbol, never mixed.

What is traded stays (`raw`); what it is worth today (`adjusted`) changes with every split and dividend, for all candles
before it. So what is stored has to be of one piece: `check` says when a new answer does not fit what is there, and then
the whole series is fetched again and replaced. Writing the same candles again changes nothing.
"""

import asyncio
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

import msgspec
from pymongo import ReplaceOne
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import BulkWriteError

from app.core.candles import Timeframe
from app.core.group_commit import DUPLICATE_KEY
from app.quotes.models import NewestQuoteDocument, QuoteCandleDocument, QuoteSeriesDocument
from app.quotes.ports import Bar, Fetched, Prices, Quote, SourceName

Row = dict[str, Any]

_OPERATIONS: Final = 200
"""In one request: others get their turn in between."""
_AT_ONCE: Final = 700
"""Rows that one query matches, about: the embedded database pays for every one, and serves nobody else meanwhile."""
_COMPARED: Final = 40
"""Candles among which one is stored, where what is stored and what was fetched overlap."""
_SAME: Final = 1e-5
"""By how much prices of the same basis differ, at most: providers send single precision."""
_BARS_A_DAY: Final = {Timeframe.M1: 400, Timeframe.M5: 80, Timeframe.M15: 28, Timeframe.H1: 7}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Saved(NamedTuple):
    """What became of candles."""

    added: int = 0
    updated: int = 0
    unchanged: int = 0
    removed: int = 0
    """Older ones that no provider can bring up to date any more."""
    begun: bool = False
    """Nothing of this series was stored before."""


class Use(NamedTuple):
    """When something stored was last wanted."""

    id: str
    """Of a series, or of a newest quote."""
    symbol: str
    asked_at: datetime
    fetched_at: datetime


def series_of(symbol: str, timeframe: Timeframe, source: SourceName) -> str:
    """The name of a series."""
    return f"{symbol}|{timeframe.value}|{source.value}"


class CandleStore:
    """Reads and writes `quote_candles`. Every method raises what the database raises."""

    def __init__(self, db: AsyncDatabase[Row]) -> None:
        self._rows = db[QuoteCandleDocument.Settings.name]
        self._states = db[QuoteSeriesDocument.Settings.name]
        self._quotes = db[NewestQuoteDocument.Settings.name]

    async def state(self, series: str) -> QuoteSeriesDocument | None:
        """What is stored of a series; None if nothing is."""
        row = await self._states.find_one({"_id": series})
        return QuoteSeriesDocument.model_validate(row) if row else None

    async def check(self, fetched: Fetched) -> datetime | None:
        """From when on all has to be fetched, because what is stored before `fetched` is not of one piece with it.

        None where it is, and `save` may follow. Else the series is marked until a `save` has mended it.
        """
        series = series_of(fetched.symbol, fetched.timeframe, fetched.source)
        state = await self.state(series)
        start = fetched.bars[0].start
        if state is None or state.first >= start:
            return None
        alike = state.adjusted is fetched.adjusted
        if state.mending or not alike or not await self._fits(series, fetched.bars):
            await self._states.update_one({"_id": series}, {"$set": {"mending": True}})
            return state.first
        return None

    async def _fits(self, series: str, bars: Sequence[Bar]) -> bool:
        """Whether the oldest candle that is both stored and in `bars` has the same adjusted price in both."""
        few = bars[:_COMPARED]
        known = {row["start"]: row for row in await self._between(series, few[0].start, few[-1].start) if row["closed"]}
        for bar in few:
            if bar.closed and (row := known.get(bar.start)) is not None:
                before = float(row["adjusted"]["close"])
                return abs(bar.adjusted.close - before) <= _SAME * before + 2e-6
        return False

    async def save(self, fetched: Fetched, *, mended: bool = False) -> Saved:
        """Store what is new or has changed. `mended`: `check` wanted it, and nothing older can be brought up to date.

        A candle that is stored as closed stays when an answer has it as forming: that answer is older.
        """
        series = series_of(fetched.symbol, fetched.timeframe, fetched.source)
        bars = fetched.bars
        known = {row["start"]: row for row in await self._between(series, bars[0].start, bars[-1].start)}
        new = [_document(series, bar) for bar in bars if bar.start not in known]
        changed = []
        for bar in bars:
            row = known.get(bar.start)
            if row is not None and (bar.closed or not row["closed"]):
                document = _document(series, bar)
                if any(row.get(name) != value for name, value in document.items()):
                    changed.append(document)
        added = await self._insert(new)
        for part in _parts([*changed, *(document for document in new if document["_id"] not in added)]):
            await self._rows.bulk_write(
                [ReplaceOne({"_id": document["_id"]}, document, upsert=True) for document in part], ordered=False
            )
        removed = await self._remove_before(series, bars[0].start) if mended else 0
        begun = await self._note(series, fetched, mended=mended)
        updated = len(changed) + len(new) - len(added)
        return Saved(len(added), updated, len(bars) - len(added) - updated, removed, begun)

    async def _insert(self, documents: Sequence[Row]) -> set[str]:
        """The ids of those that nobody else has inserted meanwhile."""
        added = set()
        for part in _parts(documents):
            refused: set[int] = set()
            try:
                await self._rows.insert_many(part, ordered=False)
            except BulkWriteError as error:
                faults = error.details.get("writeErrors", [])
                if not faults or any(fault.get("code") != DUPLICATE_KEY for fault in faults):
                    raise
                refused = {fault["index"] for fault in faults}
            added |= {row["_id"] for place, row in enumerate(part) if place not in refused}
        return added

    async def _note(self, series: str, fetched: Fetched, *, mended: bool) -> bool:
        """Whether it is the first of this series."""
        first, last = fetched.bars[0].start, fetched.bars[-1].start
        told: Row = {
            "schema_version": 1,
            "symbol": fetched.symbol,
            "timeframe": fetched.timeframe.value,
            "source": fetched.source.value,
            "currency": fetched.currency,
            "adjusted": fetched.adjusted,
            "fetched_at": fetched.fetched_at,
        }
        newest = {"last": last, "asked_at": fetched.fetched_at}
        if mended:
            told |= {"mending": False, "first": first}
            change: Row = {"$set": told, "$max": newest}
        else:
            change = {
                "$set": told,
                "$min": {"first": first},
                "$max": newest,
                "$setOnInsert": {"mending": False},
            }
        return (await self._states.update_one({"_id": series}, change, upsert=True)).upserted_id is not None

    async def _remove_before(self, series: str, start: datetime) -> int:
        match = {"series": series, "start": {"$gte": _EPOCH, "$lt": start}}
        return (await self._rows.delete_many(match)).deleted_count

    async def read(self, series: str, start: datetime, end: datetime) -> Fetched | None:
        """The stored candles that begin in [start, end], as a stale answer; None where there are none."""
        state = await self.state(series)
        if state is None:
            return None
        rows = await self._between(series, max(start, state.first), min(end, state.last))
        if not rows:
            return None
        return Fetched(
            state.symbol,
            Timeframe(state.timeframe),
            tuple(_bar(row) for row in sorted(rows, key=lambda row: row["start"])),
            SourceName(state.source),
            state.fetched_at,
            adjusted=state.adjusted,
            currency=state.currency,
            stale=True,
        )

    async def _between(self, series: str, start: datetime, end: datetime) -> list[Row]:
        """Rows in no order."""
        width = _width(series)
        found: list[Row] = []
        while start <= end:
            top = min(start + width, end)
            match = {"series": series, "start": {"$gte": start, "$lte": top}}
            found += await self._rows.find(match).to_list()
            start = top + timedelta(milliseconds=1)
        return found

    async def expire(self, timeframe: Timeframe, before: datetime) -> int:
        """Delete candles of a timeframe that begin before a time, in every series; how many."""
        count = 0
        async for state in self._states.find({}):
            if state["timeframe"] == timeframe.value and state["first"] < before:
                count += await self._remove_before(state["_id"], before)
                await self._states.update_one({"_id": state["_id"]}, {"$max": {"first": before}})
        return count

    # What nobody wants any more

    async def asked(self, series: str, at: datetime) -> None:
        """Somebody wanted the series, and no provider answered. What is fetched notes this by itself."""
        await self._states.update_one({"_id": series}, {"$max": {"asked_at": at}})

    async def size(self) -> int:
        """How many series are stored, about."""
        return await self._states.estimated_document_count()

    async def uses(self) -> list[Use]:
        """When each stored series was last wanted, the longest ago first."""
        found = []
        async for row in self._states.find({}, {"symbol": 1, "asked_at": 1, "fetched_at": 1}):
            fetched_at = row["fetched_at"]
            found.append(Use(row["_id"], row["symbol"], max(row.get("asked_at") or fetched_at, fetched_at), fetched_at))
        return sorted(found, key=lambda use: use.asked_at)

    async def drop(self, use: Use) -> int | None:
        """Delete a series, a little at a time; how many candles. None if somebody has fetched it since `use`.

        Until it is all gone it is marked: who fetches it in the middle of this fetches all of it.
        """
        unchanged = {"_id": use.id, "fetched_at": use.fetched_at}
        if not (await self._states.update_one(unchanged, {"$set": {"mending": True}})).matched_count:
            return None
        state, count = await self.state(use.id), 0
        if state is None:  # another process was quicker
            return 0
        width = _width(use.id)
        low, end = state.first, state.last
        while low <= end:
            high = low + width
            match = {"series": use.id, "start": {"$gte": low, "$lt": high}}
            count, low = count + (await self._rows.delete_many(match)).deleted_count, high
            await asyncio.sleep(0)
        if not (await self._states.delete_one(unchanged)).deleted_count:
            await self._states.update_one({"_id": use.id}, {"$set": {"mending": True}})
        return count

    async def quote_uses(self) -> list[Use]:
        """When each newest quote that is kept was fetched, the longest ago first."""
        rows = await self._quotes.find({}, {"at": 1}).to_list()
        return sorted((Use(row["_id"], row["_id"], row["at"], row["at"]) for row in rows), key=lambda use: use.asked_at)

    async def drop_quote(self, use: Use) -> bool:
        """Delete a newest quote, if it is still the one of `use`."""
        return bool((await self._quotes.delete_one({"_id": use.id, "at": use.fetched_at})).deleted_count)

    async def knows(self, symbol: str) -> bool:
        """Whether any provider ever had anything of a symbol."""
        if await self._quotes.find_one({"_id": symbol}, {"_id": 1}):
            return True
        for timeframe in Timeframe:
            for source in SourceName:
                if await self.state(series_of(symbol, timeframe, source)):
                    return True
        return False

    # Newest quotes

    async def put_quotes(self, quotes: Sequence[Quote]) -> None:
        """Keep them for when no provider answers."""
        operations = [
            ReplaceOne(
                {"_id": quote.symbol},
                {
                    "_id": quote.symbol,
                    "schema_version": 1,
                    "quote": msgspec.to_builtins(quote, builtin_types=(datetime,)),
                    "at": quote.fetched_at,
                },
                upsert=True,
            )
            for quote in quotes
        ]
        if operations:
            await self._quotes.bulk_write(operations, ordered=False)

    async def quote(self, symbol: str) -> Quote | None:
        """The newest one that is kept, as a stale answer."""
        row = await self._quotes.find_one({"_id": symbol})
        return msgspec.convert({**row["quote"], "stale": True}, Quote) if row else None


_FIELDS: Final = ("open", "high", "low", "close", "volume")


def _document(series: str, bar: Bar) -> Row:
    return {
        "_id": f"{series}|{(bar.start - _EPOCH) // timedelta(milliseconds=1)}",
        "schema_version": 1,
        "series": series,
        "start": bar.start,
        "end": bar.end,
        "raw": _prices(bar.raw),
        "adjusted": _prices(bar.adjusted),
        "closed": bar.closed,
        "dividend": bar.dividend,
        "split": bar.split,
    }


def _prices(prices: Prices) -> dict[str, float]:
    return {name: float(getattr(prices, name)) for name in _FIELDS}


def _bar(row: Row) -> Bar:
    raw, adjusted = (Prices(*(row[kind][name] for name in _FIELDS)) for kind in ("raw", "adjusted"))
    return Bar(row["start"], row["end"], raw, adjusted, row["closed"], row["dividend"], row["split"])


def _width(series: str) -> timedelta:
    """The stretch of a series that one query is for."""
    timeframe = Timeframe(series.rsplit("|", 2)[1])
    return timedelta(days=max(_AT_ONCE // _BARS_A_DAY.get(timeframe, 1), 1))


def _parts(documents: Sequence[Row]) -> Iterator[Sequence[Row]]:
    for start in range(0, len(documents), _OPERATIONS):
        yield documents[start : start + _OPERATIONS]
