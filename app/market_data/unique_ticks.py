"""Brings an old collection of ticks to the unique index: what is there twice, what is done about it, and the counts.

Rows of one symbol at one time are repeats when they say the same; of repeats the first is kept. Rows that say different
things are different ticks: all are kept, the later ones at the next free milliseconds, as the feed does it.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from pymongo import IndexModel
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase

from app.market_data.models import LatestDocument, TickDocument
from app.market_data.rows import MILLISECOND, to_ms

Row = dict[str, Any]

UNIQUE: Final = "symbol_receivedAt_unique"
FREE_MS: Final = 1000
"""How far from its time a tick may be moved."""
_HELPER: Final = "symbol_1_received_at_1_for_unique"
_ABOUT_STORING: Final = frozenset({"_id", "received_at", "ingested_at", "processed", "schema_version", "created_at"})
_TELL_EVERY: Final = 50_000


class Found(NamedTuple):
    """What the collection holds."""

    rows: int
    repeats: list[Any]
    """Ids of rows that say what another says."""
    clashes: list[Any]
    """Ids of rows that share symbol and time with another, and say something else."""
    unusable: int
    """Rows without a symbol or with a time that is none: they are left as they are."""


class Report(NamedTuple):
    """What was done."""

    rows: int
    deleted: int
    moved: int
    unusable: int
    symbols: int
    indexed: bool
    """Whether the unique index is there now."""


class _Counts:
    """What `market_latest` says of one symbol."""

    def __init__(self) -> None:
        self.first: datetime | None = None
        self.newest: datetime | None = None
        self.stored = 0
        self.by_quality: dict[str, int] = {}
        self.by_source: dict[str, int] = {}

    def add(self, row: Row) -> None:
        at = row["received_at"]
        self.first = at if self.first is None else min(self.first, at)
        self.newest = at if self.newest is None else max(self.newest, at)
        self.stored += 1
        for counts, value in ((self.by_quality, row.get("data_quality")), (self.by_source, row.get("source"))):
            name = value if isinstance(value, str) else "unknown"
            counts[name] = counts.get(name, 0) + 1


class UniqueTicks:
    """The work of `scripts/create_market_data_unique_index.py`. Nothing else may write meanwhile."""

    def __init__(self, db: AsyncDatabase[Row], *, tell: Callable[[str], object]) -> None:
        """`tell` hears of the progress, in lines for a person."""
        self._ticks: AsyncCollection[Row] = db[TickDocument.Settings.name]
        self._latest: AsyncCollection[Row] = db[LatestDocument.Settings.name]
        self._tell = tell

    async def look(self) -> Found:
        """What is there twice; changes nothing but a helping index, which `build` and `forget` drop."""
        if await self._has_unique():
            return Found(await self._ticks.estimated_document_count(), [], [], 0)
        await self._ticks.create_index([("symbol", 1), ("received_at", 1)], name=_HELPER)
        repeats: list[Any] = []
        clashes: list[Any] = []
        rows = unusable = 0
        place: tuple[str, datetime] | None = None
        together: list[Any] = []
        async for row in self._in_order({"_id": 1, "symbol": 1, "received_at": 1}):
            rows += 1
            if rows % _TELL_EVERY == 0:
                self._tell(f"{rows:,} rows looked at")
            if not _usable(row):
                unusable += 1
                continue
            if place != (row["symbol"], row["received_at"]):
                await self._compare(together, repeats, clashes)
                place, together = (row["symbol"], row["received_at"]), []
            together.append(row["_id"])
        await self._compare(together, repeats, clashes)
        return Found(rows, repeats, clashes, unusable)

    async def _compare(self, ids: list[Any], repeats: list[Any], clashes: list[Any]) -> None:
        """Of rows of one symbol at one time: which say what another one says, and which something of their own."""
        if len(ids) < 2:
            return
        kept: list[Row] = []
        for row_id in sorted(ids, key=str):
            row = await self._ticks.find_one({"_id": row_id}) or {}
            says = {name: row[name] for name in row.keys() - _ABOUT_STORING}
            if says in kept:
                repeats.append(row_id)
                continue
            if kept:
                clashes.append(row_id)
            kept.append(says)

    async def forget(self) -> None:
        """Leave the collection as it was before `look`."""
        await self._drop_helper()

    async def build(self, found: Found) -> Report:
        """Resolve what `look` found, build all indexes, and count the ticks of each symbol anew."""
        for start in range(0, len(found.repeats), 500):
            for row_id in found.repeats[start : start + 500]:
                await self._ticks.delete_one({"_id": row_id})
        moved = 0
        for row_id in found.clashes:
            moved += await self._move(row_id)
        indexed = found.unusable == 0
        if not await self._has_unique():
            await self._drop_helper()
            indexes: Sequence[IndexModel] = TickDocument.Settings.indexes
            wanted = [index for index in indexes if indexed or index.document["name"] != UNIQUE]
            await self._ticks.create_indexes(wanted)
        symbols = await self._count()
        return Report(found.rows, len(found.repeats), moved, found.unusable, symbols, indexed)

    async def _has_unique(self) -> bool:
        return UNIQUE in await self._ticks.index_information()

    async def _drop_helper(self) -> None:
        if _HELPER in await self._ticks.index_information():
            await self._ticks.drop_index(_HELPER)

    async def _in_order(self, fields: Row) -> AsyncIterator[Row]:
        async for row in self._ticks.find({}, fields).sort([("symbol", 1), ("received_at", 1)]):
            yield row

    async def _move(self, row_id: Any) -> int:
        """Give a row the next free millisecond; 1 if it was moved."""
        row = await self._ticks.find_one({"_id": row_id}, {"symbol": 1, "received_at": 1})
        if row is None:
            return 0
        at = row["received_at"]
        span = {"symbol": row["symbol"], "received_at": {"$gte": at, "$lte": at + FREE_MS * MILLISECOND}}
        taken = {to_ms(other["received_at"]) for other in await self._ticks.find(span, {"received_at": 1}).to_list()}
        free = next((n for n in range(1, FREE_MS + 1) if to_ms(at) + n not in taken), None)
        if free is None:
            raise RuntimeError(f"more than {FREE_MS} different ticks of {row['symbol']} share the second of {at}")
        await self._ticks.update_one({"_id": row_id}, {"$set": {"received_at": at + free * MILLISECOND}})
        return 1

    async def _count(self) -> int:
        """Make the rows of `market_latest`, which `latest`, `symbols` and the counts are read from."""
        symbols: dict[str, _Counts] = {}
        fields = {"symbol": 1, "received_at": 1, "data_quality": 1, "source": 1}
        async for row in self._ticks.find({}, fields):
            if _usable(row):
                symbols.setdefault(row["symbol"], _Counts()).add(row)
        for name, counts in symbols.items():
            tick = await self._ticks.find_one({"symbol": name, "received_at": counts.newest})
            if tick is not None:
                await self._latest.replace_one({"_id": name}, _latest_row(tick, counts), upsert=True)
        return len(symbols)


def _latest_row(tick: Row, counts: _Counts) -> Row:
    # What rows of other programs may lack, the readers of this one rely on.
    tick = {"token": tick.get("tk", ""), "exchange": "NSE", "exchange_type": 1, "instrument_type": "", **tick}
    return {
        "schema_version": 1,
        "token": tick["token"],
        "exchange": tick["exchange"],
        "exchange_type": tick["exchange_type"],
        "tick": tick,
        "received_at": counts.newest,
        "first_at": counts.first,
        "stored": counts.stored,
        "by_quality": counts.by_quality,
        "by_source": counts.by_source,
    }


def _usable(row: Row) -> bool:
    return isinstance(row.get("symbol"), str) and isinstance(row.get("received_at"), datetime)
