"""Stored candles. What cannot be written waits here, newest state of each candle, until the database takes it.

Whoever makes candles does so in a term of its own, which each row names. A process that was stopped in the middle of
its term and wakes up in another's finds rows of a later term, and leaves them alone.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

import structlog
from pymongo import ReplaceOne, UpdateOne
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import BulkWriteError, DuplicateKeyError, PyMongoError

from app.core.group_commit import DUPLICATE_KEY
from app.market_data.candle_bars import CandleRow
from app.market_data.models import CandleDocument, LatestDocument
from app.market_data.ports import Timeframe
from app.market_data.retention import MARKS
from app.market_data.rows import MILLISECOND, from_ms, to_ms

log = structlog.get_logger(__name__)

Row = dict[str, Any]

MOST_WAITING = 100_000
"""Candles kept while the database is away, about 100 MB; beyond it the oldest are given up, and counted."""
MOST_READ = 5_000
_OPERATIONS, _IDS = 200, 50
"""In one request: others get their turn in between."""
STARTS: Final = "market_candle_starts"
"""When the earliest candle of a symbol begins: a reader who finds too few need not look for more before that."""
BEFORE: Final = timedelta(days=366)
"""How long before a symbol's first tick its candles are looked for, where it is not known when they begin: they may be
a provider's history."""
_LONG: Final = timedelta(days=1)
_TERM = "candles written in term"


class CandleStore:
    """Writes and reads `candles`."""

    def __init__(self, db: AsyncDatabase[Row], *, most_waiting: int = MOST_WAITING) -> None:
        self._rows = db[CandleDocument.Settings.name]
        self._marks, self._starts, self._latest = db[MARKS], db[STARTS], db[LatestDocument.Settings.name]
        self._begun: dict[str, int] = {}
        self._term = 0
        self.outdated = False
        """Whether rows of a later term were found: then nothing is written until the next `lead`."""
        self._most = most_waiting
        self._waiting: dict[str, CandleRow] = {}
        self._failing = False
        self.lost = 0
        """Candles given up: too many waited, or the database refused them. Their ticks are stored all the same."""

    async def lead(self) -> None:
        """Begin the next term: from now on rows of earlier ones do not replace those written here. Raises
        `PyMongoError`."""
        while True:
            row = await self._marks.find_one({"_id": _TERM})
            term = row["term"] + 1 if row else 1
            if row is None:
                try:
                    await self._marks.insert_one({"_id": _TERM, "term": term})
                    break
                except DuplicateKeyError:
                    continue
            # Of two at once one gets this term, and the other the next.
            if (await self._marks.update_one(row, {"$set": {"term": term}})).modified_count:
                break
        self._term, self.outdated = term, False

    async def write(self, rows: Iterable[CandleRow] = ()) -> bool:
        """Store `rows` and what waits; says whether nothing waits any more. Never raises `PyMongoError`."""
        for row in rows:
            self._waiting.pop(row.id, None)
            self._waiting[row.id] = row
        while len(self._waiting) > self._most:
            del self._waiting[next(iter(self._waiting))]
            self.lost += 1
        names = list(self._waiting)
        try:
            for start in range(0, len(names), _OPERATIONS):
                if self.outdated:
                    return False
                some = [self._waiting[name] for name in names[start : start + _OPERATIONS]]
                await self._note_starts(some)
                await self._write(some)
        except PyMongoError as error:
            if not self._failing:
                log.warning("candles cannot be stored now", error=type(error).__name__, waiting=len(self._waiting))
            self._failing = True
            return False
        self._failing = False
        return not self._waiting

    async def _write(self, rows: Sequence[CandleRow]) -> None:
        # Of a later term the filter finds nothing; the insertion that is tried then fails on the id.
        operations = [
            ReplaceOne(
                {"_id": row.id, "term": {"$not": {"$gt": self._term}}},
                {**row.document(), "term": self._term},
                upsert=True,
            )
            for row in rows
        ]
        faults: list[Row] = []
        try:
            await self._rows.bulk_write(operations, ordered=False)
        except BulkWriteError as error:
            faults = error.details.get("writeErrors", [])
            if not faults:
                raise
        # A later term's, or two upserts of one candle at once: the second time there is a row to replace.
        again = {rows[fault["index"]].id for fault in faults if fault.get("code") == DUPLICATE_KEY}
        if refused := len(faults) - len(again):
            self.lost += refused
            log.error("the database refused candles", count=refused, code=faults[0].get("code"))
        if again and await self._any_later(sorted(again)):
            self.outdated = True
            log.warning("another process makes the candles now", term=self._term)
        for row in rows:
            # While it was written a newer state may have come.
            if row.id not in again and self._waiting.get(row.id) is row:
                del self._waiting[row.id]

    async def _note_starts(self, rows: Sequence[CandleRow]) -> None:
        """Before they are written: nobody overlooks them."""
        earliest: dict[str, int] = {}
        for row in rows:
            if row.start_ms < self._begun.get(row.symbol, row.start_ms + 1):
                earliest[row.symbol] = min(row.start_ms, earliest.get(row.symbol, row.start_ms))
        new = [symbol for symbol in earliest if symbol not in self._begun]
        for start in range(0, len(new), _IDS):
            await self._learn_starts(new[start : start + _IDS], earliest)
        earlier = {name: ms for name, ms in earliest.items() if ms < self._begun.get(name, ms + 1)}
        if earlier:
            least = [
                UpdateOne({"_id": name}, {"$min": {"start": from_ms(ms)}}, upsert=True) for name, ms in earlier.items()
            ]
            await self._starts.bulk_write(least, ordered=False)
            self._begun |= earlier

    async def _learn_starts(self, symbols: Sequence[str], earliest: dict[str, int]) -> None:
        """What is stored of `symbols`; where nothing is, but ticks have come for long, candles may be older, too."""
        self._begun |= {row["_id"]: to_ms(row["start"]) for row in await self._rows_of(self._starts, symbols)}
        unknown = [symbol for symbol in symbols if symbol not in self._begun]
        for row in await self._rows_of(self._latest, unknown, {"first_at": 1}) if unknown else ():
            first = to_ms(row["first_at"])
            if first < earliest[row["_id"]] - _LONG // MILLISECOND:
                earliest[row["_id"]] = first - BEFORE // MILLISECOND

    @staticmethod
    async def _rows_of(
        collection: AsyncCollection[Row], ids: Sequence[str], fields: Mapping[str, int] | None = None
    ) -> list[Row]:
        return await collection.find({"_id": {"$in": list(ids)}}, fields).to_list()

    async def _any_later(self, ids: Sequence[str]) -> bool:
        for start in range(0, len(ids), _IDS):
            later = {"_id": {"$in": ids[start : start + _IDS]}, "term": {"$gt": self._term}}
            if await self._rows.find_one(later, {"_id": 1}) is not None:
                return True
        return False

    async def read(
        self, symbol: str, timeframe: Timeframe, start_ms: int, end_ms: int, most: int = MOST_READ
    ) -> list[Row]:
        """The candles that begin in [start, end), oldest first, as rows; what still waits to be written, too."""
        match = {
            "symbol": symbol,
            "timeframe": timeframe.value,
            "start": {"$gte": from_ms(start_ms), "$lt": from_ms(end_ms)},
        }
        found = {row["_id"]: row for row in await self._rows.find(match).sort("start", 1).limit(most).to_list()}
        for row in self._waiting.values():
            if row.symbol == symbol and row.timeframe is timeframe and start_ms <= row.start_ms < end_ms:
                found[row.id] = row.document()
        return sorted(found.values(), key=lambda row: row["start"])[:most]

    async def rows(self, ids: Sequence[str]) -> list[Row]:
        """The candles with these ids, in no order; what still waits to be written, too."""
        found: list[Row] = [self._waiting[name].document() for name in ids if name in self._waiting]
        others = [name for name in ids if name not in self._waiting]
        for start in range(0, len(others), _IDS):
            found += await self._rows.find({"_id": {"$in": others[start : start + _IDS]}}).to_list()
        return found

    def forget(self) -> None:
        """Drop what waits: another process made the candles meanwhile."""
        self._waiting.clear()

    def health(self) -> dict[str, int]:
        """How many candles wait, and how many were given up."""
        return {"waiting": len(self._waiting), "lost": self.lost}
