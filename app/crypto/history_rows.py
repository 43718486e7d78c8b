"""History as it lies in the database: fresh rows, buckets of packed points, and which days are fresh."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from bson.decimal128 import create_decimal128_context
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import BulkWriteError, DuplicateKeyError

from app.core.bson_codec import exact_rows
from app.core.group_commit import DUPLICATE_KEY
from app.crypto.history_slots import BUCKETS, MILLISECOND, Interval, floor, slot_of, thinned
from app.crypto.portfolio_models import HistoryBucketDocument, HistoryDayDocument, HistoryRowDocument
from app.crypto.ports import PricePoint

Row = dict[str, Any]
Collection = AsyncCollection[Row]

FRESH: Final = (Interval.M5, Interval.H1)
"""Intervals that a sync writes rows of; days are made of hours."""
_COLUMNS: Final = PricePoint._fields
_TRIES: Final = 5


class HistoryRows:
    """Reads and writes what `portfolio_models` describes; decimals are exact both ways."""

    def __init__(self, db: AsyncDatabase[Row]) -> None:
        self.fresh = exact_rows(db[HistoryRowDocument.Settings.name])
        self.buckets = exact_rows(db[HistoryBucketDocument.Settings.name])
        self._days = exact_rows(db[HistoryDayDocument.Settings.name])

    # Fresh rows

    async def insert(self, rows: Sequence[Row]) -> set[str]:
        """Store the rows whose slots are free; the ids of these. Raises `PyMongoError`."""
        if not rows:
            return set()
        try:
            await self.fresh.insert_many(rows, ordered=False)
        except BulkWriteError as error:
            faults = error.details.get("writeErrors", [])
            if any(fault.get("code") != DUPLICATE_KEY for fault in faults) or not faults:
                raise
            taken = {fault["index"] for fault in faults}
            return {row["_id"] for place, row in enumerate(rows) if place not in taken}
        return {row["_id"] for row in rows}

    async def points(self, slug: str, interval: Interval, low: datetime, high: datetime) -> list[PricePoint]:
        """Fresh points of a coin, in no order."""
        query = {"slug": slug, "series": str(interval), "at": {"$gte": low, "$lte": high}}
        return [point_of(row) for row in await self.fresh.find(query).to_list()]

    # Buckets

    async def packed(self, slug: str, interval: Interval, low: datetime, high: datetime) -> list[PricePoint]:
        """Packed points of a coin from `low` to `high`, in no order; whole buckets are read."""
        query = {
            "slug": slug,
            "series": str(interval),
            "start": {"$gte": floor(low, BUCKETS[interval]), "$lte": high},
        }
        rows = await self.buckets.find(query).to_list()
        return [point for row in rows for point in points_of(row) if low <= point.at <= high]

    async def pack(self, slug: str, interval: Interval, points: Iterable[PricePoint]) -> int:
        """Put points into the coin's buckets, the earliest of each slot; how many points the buckets gained.

        Raises `PyMongoError`.
        """
        by_start: dict[datetime, list[PricePoint]] = {}
        for point in points:
            by_start.setdefault(floor(point.at, BUCKETS[interval]), []).append(point)
        return sum([await self._pack(slug, interval, start, some) for start, some in by_start.items()])

    async def _pack(self, slug: str, interval: Interval, start: datetime, points: list[PricePoint]) -> int:
        name = f"{slug}|{interval}|{start:%Y-%m-%d}"
        for _ in range(_TRIES):
            row = await self.buckets.find_one({"_id": name})
            known = points_of(row) if row else []
            merged = thinned([*known, *points], interval)
            if merged == known:
                return 0
            made = _bucket(name, slug, interval, start, merged, row["revision"] + 1 if row else 1)
            if row is None:
                try:
                    await self.buckets.insert_one(made)
                except DuplicateKeyError:
                    continue
                return len(merged)
            result = await self.buckets.replace_one({"_id": name, "revision": row["revision"]}, made)
            if result.matched_count:
                return len(merged) - len(known)
        raise RuntimeError(f"the bucket {name} changes all the time")

    # Days

    async def note_day(self, day: datetime) -> None:
        """Note that there are fresh rows of a day."""
        try:
            await self._days.insert_one(
                {"_id": f"{day:%Y-%m-%d}", "schema_version": 1, "day": day, "packed": False, "swept": day}
            )
        except DuplicateKeyError:
            return

    async def days(self) -> list[Row]:
        """The days that fresh rows are of, oldest first; see `HistoryDayDocument`."""
        return sorted(await self._days.find({}).to_list(), key=lambda row: row["day"])

    async def change_day(self, row: Row, **values: Any) -> None:
        """Note what was done with the rows of a day."""
        await self._days.update_one({"_id": row["_id"]}, {"$set": values})

    async def forget_day(self, row: Row) -> None:
        """There are no fresh rows of this day any more."""
        await self._days.delete_one({"_id": row["_id"]})


def fresh_row(slug: str, interval: Interval, point: PricePoint) -> Row:
    """The row of a fresh point; what is not known is left out."""
    row = {"_id": f"{slug}|{interval}|{slot_of(point.at, interval)}", "slug": slug, "series": str(interval)}
    return row | {name: value for name, value in point._asdict().items() if value is not None}


def point_of(row: Mapping[str, Any]) -> PricePoint:
    """The point of a row."""
    return PricePoint(row["at"], row["price"], row.get("market_cap"), row.get("volume_24h"))


def points_of(bucket: Mapping[str, Any]) -> list[PricePoint]:
    """The points of a bucket, oldest first."""
    return [PricePoint(*values) for values in zip(*(bucket[name] for name in _COLUMNS), strict=True)]


def _bucket(
    name: str, slug: str, interval: Interval, start: datetime, points: Sequence[PricePoint], revision: int
) -> Row:
    columns = {column: [getattr(point, column) for point in points] for column in _COLUMNS}
    fixed = {"_id": name, "schema_version": 1, "slug": slug, "series": str(interval), "start": start}
    return {**fixed, "revision": revision, **columns}


def storable(point: PricePoint) -> PricePoint | None:
    """`point` as the database gives it back (34 digits an amount); None if its price is no positive number."""
    context = create_decimal128_context()

    def fitting(value: Decimal | None) -> Decimal | None:
        return context.create_decimal(value) if value is not None and value.is_finite() else None

    price = fitting(point.price)
    if price is None or price <= 0:
        return None
    at = point.at - (point.at - floor(point.at, MILLISECOND))
    return PricePoint(at, price, fitting(point.market_cap), fitting(point.volume_24h))
