"""Stored candles. What cannot be written waits here, newest state of each candle, until the database takes it."""

from collections.abc import Iterable, Sequence
from typing import Any

import structlog
from pymongo import ReplaceOne
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import BulkWriteError, PyMongoError

from app.core.group_commit import DUPLICATE_KEY
from app.market_data.candle_bars import CandleRow
from app.market_data.models import CandleDocument
from app.market_data.ports import Timeframe
from app.market_data.rows import from_ms

log = structlog.get_logger(__name__)

Row = dict[str, Any]

MOST_WAITING = 100_000
"""Candles kept while the database is away, about 100 MB; beyond it the oldest are given up, and counted."""
MOST_READ = 5_000
_OPERATIONS, _IDS = 200, 50
"""In one request: others get their turn in between."""


class CandleStore:
    """Writes and reads `candles`."""

    def __init__(self, db: AsyncDatabase[Row], *, most_waiting: int = MOST_WAITING) -> None:
        self._rows = db[CandleDocument.Settings.name]
        self._most = most_waiting
        self._waiting: dict[str, CandleRow] = {}
        self._failing = False
        self.lost = 0
        """Candles given up: too many waited, or the database refused them. Their ticks are stored all the same."""

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
                await self._write([self._waiting[name] for name in names[start : start + _OPERATIONS]])
        except PyMongoError as error:
            if not self._failing:
                log.warning("candles cannot be stored now", error=type(error).__name__, waiting=len(self._waiting))
            self._failing = True
            return False
        self._failing = False
        return not self._waiting

    async def _write(self, rows: Sequence[CandleRow]) -> None:
        operations = [ReplaceOne({"_id": row.id}, row.document(), upsert=True) for row in rows]
        faults: list[Row] = []
        try:
            await self._rows.bulk_write(operations, ordered=False)
        except BulkWriteError as error:
            faults = error.details.get("writeErrors", [])
            if not faults:
                raise
        # Two upserts of one candle at once: the second time there is a row to replace.
        again = {rows[fault["index"]].id for fault in faults if fault.get("code") == DUPLICATE_KEY}
        if refused := len(faults) - len(again):
            self.lost += refused
            log.error("the database refused candles", count=refused, code=faults[0].get("code"))
        for row in rows:
            # While it was written a newer state may have come.
            if row.id not in again and self._waiting.get(row.id) is row:
                del self._waiting[row.id]

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
