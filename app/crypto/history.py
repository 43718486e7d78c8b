"""Writing the history of prices: a point per sync, thinned with age, deleted in the end.

Every point is kept for a day (at most one in five minutes), one an hour for 31 days, one a day for
`CRYPTO_HISTORY_RETENTION_DAYS`. A sync writes its points once, or a second time where it changes nothing: the
first of a slot stays. A daily job packs what is over and deletes what is too old; until it has run, readers make the
same choice from the fresh rows, so that nobody notices when it comes late.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from app.core.clock import Clock
from app.crypto.history_rows import FRESH, HistoryRows, Row, fresh_row, point_of, storable
from app.crypto.history_slots import BUCKETS, DAY, HOUR, Interval, Kept, floor, slot_of, thinned
from app.crypto.ports import CoinListing, PricePoint

PAUSE: Final = 0.01
"""Seconds between two steps of the daily work: the embedded database serves others meanwhile."""
SETTLED: Final = timedelta(minutes=10)
"""After midnight: a sync that began before it may still be writing."""
MARGIN: Final = HOUR
"""How much longer than promised fresh rows stay: for readers with a cursor, or with an old mark."""
_READ: Final = 3 * HOUR
"""How much is read at once: 600 rows with 200 coins."""
_STEP: Final = timedelta(minutes=15)
_STEP_ROWS: Final = 200
"""How much is deleted at once: about so many rows, of at least this time."""
_IDS: Final = 50
_OLDEST: Final = timedelta(days=36_500)
"""How far back a bucket can be that a retention which was shortened since lets go of."""
_HOURLY_BACK: Final = timedelta(days=366)
_MOST_KNOWN: Final = 4_096


class CryptoHistory:
    """Fills the port `HistoryWriter`, and does the daily work."""

    def __init__(self, *, rows: HistoryRows, clock: Clock, retention_days: int, pause: float = PAUSE) -> None:
        self._rows, self._clock = rows, clock
        self._retention = retention_days
        self._pause = pause
        self._noted: datetime | None = None
        # The newest hour written of each coin: of twelve syncs an hour eleven need not try.
        self._hours: dict[str, int] = {}

    async def append(self, at: datetime, rows: Sequence[tuple[str, CoinListing]]) -> int:
        """Store what each coin (named by our slug) was worth at `at`; how many points are new.

        Coins without a price are passed over. Written again, nothing changes. Raises `PyMongoError`.
        """
        points = {slug: point for slug, listing in rows if (point := _point(at, listing)) is not None}
        if not points:
            return 0
        if (day := floor(at, DAY)) != self._noted:
            await self._rows.note_day(day)
            self._noted = day
        hour = slot_of(at, Interval.H1)
        hourly = [slug for slug in points if self._hours.get(slug) != hour]
        fine = await self._rows.insert([fresh_row(slug, Interval.M5, point) for slug, point in points.items()])
        await self._rows.insert([fresh_row(slug, Interval.H1, points[slug]) for slug in hourly])
        if len(self._hours) + len(hourly) > _MOST_KNOWN:
            self._hours.clear()
        self._hours |= dict.fromkeys(hourly, hour)
        return len(fine)

    async def fill(self, slug: str, points: Sequence[PricePoint]) -> int:
        """Put in older points of a coin, from a provider's history, as daily ones; how many are new.

        The day that is not over is left to the syncs. Raises `PyMongoError`.
        """
        today = floor(self._clock.now(), DAY)
        since = Kept.at(self._clock.now(), self._retention).daily
        fitting = [one for point in points if (one := storable(point)) is not None and since <= one.at < today]
        return await self._rows.pack(slug, Interval.D1, fitting)

    async def expire(self) -> dict[str, int]:
        """Pack the days that are over and delete what is too old; how many points, and how many rows and buckets.

        The daily job calls this. What is interrupted goes on in the next run. Raises `PyMongoError`.
        """
        packed = sum([await self._pack_day(row) for row in await self._rows.days() if not row["packed"]])
        deleted = sum([await self._sweep_day(row) for row in await self._rows.days() if row["packed"]])
        return {"packed": packed, "deleted": deleted + await self._expire_buckets()}

    async def _pack_day(self, row: Row) -> int:
        if row["day"] + DAY > self._clock.now() - SETTLED:
            return 0
        packed = 0
        for slug, points in (await self._hourly(row["day"])).items():
            packed += await self._rows.pack(slug, Interval.H1, points)
            await self._rows.pack(slug, Interval.D1, points)
            await asyncio.sleep(self._pause)
        await self._rows.change_day(row, packed=True)
        return packed

    async def _hourly(self, day: datetime) -> dict[str, list[PricePoint]]:
        """The hourly points of a day, by coin, oldest first."""
        found: dict[str, list[PricePoint]] = {}
        for start in (day + number * _READ for number in range(DAY // _READ)):
            query = {"series": str(Interval.H1), "at": {"$gte": start, "$lt": start + _READ}}
            for row in await self._rows.fresh.find(query).to_list():
                found.setdefault(row["slug"], []).append(point_of(row))
        return {slug: thinned(points, Interval.H1) for slug, points in found.items()}

    async def _sweep_day(self, row: Row) -> int:
        """Delete the rows of a packed day, as far as they are older than promised."""
        kept, end = Kept.at(self._clock.now(), self._retention), row["day"] + DAY
        until = min(end, kept.fine - MARGIN)
        if row["swept"] >= until:
            return 0
        deleted = sum([await self._sweep(interval, row["swept"], until) for interval in FRESH])
        if until == end:
            await self._rows.forget_day(row)
        else:
            await self._rows.change_day(row, swept=until)
        return deleted

    async def _sweep(self, interval: Interval, low: datetime, high: datetime) -> int:
        deleted, step = 0, _STEP
        while low < high:
            until = min(low + step, high)
            query = {"series": str(interval), "at": {"$gte": low, "$lt": until}}
            count = (await self._rows.fresh.delete_many(query)).deleted_count
            deleted, low = deleted + count, until
            step = max(step / 2, _STEP) if count > _STEP_ROWS else min(step * 2, DAY)
            await asyncio.sleep(self._pause)
        return deleted

    async def _expire_buckets(self) -> int:
        """Delete the buckets in which nothing is kept any more; how many they were."""
        kept = Kept.at(self._clock.now(), self._retention)
        deleted = 0
        for interval, back in ((Interval.H1, _HOURLY_BACK), (Interval.D1, _OLDEST)):
            length = BUCKETS[interval]
            start = floor(kept.since(interval) - length, length)
            oldest = max(start - back, _FIRST)
            while start >= oldest:
                deleted += await self._delete_buckets({"series": str(interval), "start": start})
                start -= length
        return deleted

    async def _delete_buckets(self, query: Row) -> int:
        """Delete what matches, a few at a time."""
        ids = [row["_id"] for row in await self._rows.buckets.find(query, {"_id": 1}).to_list()]
        for place in range(0, len(ids), _IDS):
            await self._rows.buckets.delete_many({"_id": {"$in": ids[place : place + _IDS]}})
            await asyncio.sleep(self._pause)
        return len(ids)


_FIRST: Final = datetime.fromisoformat("2009-01-03T00:00:00+00:00")
"""No coin is older."""


def _point(at: datetime, listing: CoinListing) -> PricePoint | None:
    if listing.price is None:
        return None
    return storable(PricePoint(at, listing.price, listing.market_cap, listing.volume_24h))
