"""Reading the history of prices: pages of it, newest first, stretches for charts, days for the measures of risk.

A provider's older history is daily. Where the finest points are asked for, each daily point stands in for the slot of
the finer interval that it is in, if that slot is empty. Which ones do so does not depend on where pages end, so that
cursors neither skip nor repeat.

What a page costs depends on its length, not on how much is stored: fresh points are read in narrow windows of time, and
packed ones some buckets at a time.
"""

import base64
import binascii
import math
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from cachetools import TTLCache

from app.core.clock import Clock
from app.core.errors import FieldError, InvalidInputError
from app.core.pagination import Page
from app.crypto.history_rows import HistoryRows
from app.crypto.history_slots import (
    BUCKETS,
    DAY,
    EPOCH,
    HOUR,
    MILLISECOND,
    Interval,
    Kept,
    Stretch,
    floor,
    slot_of,
    thinned,
)
from app.crypto.ports import PricePoint

ANCHORED_FOR: Final = HOUR
"""How long the pages after the first one go by its time, so that no point changes its interval between two pages."""
AHEAD: Final = timedelta(minutes=5)
"""Another process's clock may be."""
_AIR: Final = 2
_LATE: Final = 4 * DAY
"""How late the daily packing may be before fresh points are not looked for any more."""
_FRESH_SECONDS: Final = 60
_DAILY_SECONDS: Final = 600
_MOST_DAILY: Final = 512


class Placed(NamedTuple):
    """A point, and how far apart it and its neighbours are."""

    interval: Interval
    point: PricePoint


class HistoryPosition(NamedTuple):
    """Where a page ended, and as of when the first page was read; milliseconds since the epoch."""

    at: int
    anchor: int

    def encode(self) -> str:
        """The opaque text that clients send back."""
        raw = b"".join(number.to_bytes(8, "big", signed=True) for number in self)
        return base64.urlsafe_b64encode(raw).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> "HistoryPosition":
        """The position behind `text`; raises `InvalidInputError` for anything that `encode` did not make."""
        try:
            raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
            if len(raw) != 16:
                raise ValueError("wrong length")
            position = cls(int.from_bytes(raw[:8], "big", signed=True), int.from_bytes(raw[8:], "big", signed=True))
            if position.encode() != text or not all(0 <= number < _LATEST for number in position):
                raise ValueError("another spelling")
            return position
        except (binascii.Error, ValueError):
            problem = FieldError(("query", "cursor"), "This is not a cursor that a list here gave", "cursor_invalid")
            raise InvalidInputError("query.cursor: This is not a cursor that a list here gave.", [problem]) from None


_LATEST: Final = 1 << 43
"""Milliseconds: the year 2248."""


class HistoryReading:
    """Reads what `CryptoHistory` writes."""

    def __init__(self, *, rows: HistoryRows, clock: Clock, retention_days: int) -> None:
        self._rows, self._clock = rows, clock
        self._retention = retention_days
        self._fresh: tuple[float, datetime] | None = None
        self._daily: TTLCache[str, list[PricePoint]] = TTLCache(_MOST_DAILY, _DAILY_SECONDS, clock.monotonic)

    async def page(
        self,
        slug: str,
        interval: Interval | None,
        start: datetime | None,
        end: datetime | None,
        limit: int,
        after: HistoryPosition | None = None,
    ) -> Page[Placed]:
        """Points of a coin from `start` to `end`, newest first; without an interval the finest that there is.

        Raises `PyMongoError`.
        """
        now = anchor = self._clock.now()
        if after is not None and now - ANCHORED_FOR <= (told := EPOCH + after.anchor * MILLISECOND) <= now + AHEAD:
            anchor = told
        high = min(end or now + AHEAD, now + AHEAD)
        if after is not None:
            high = min(high, EPOCH + (after.at - 1) * MILLISECOND)
        found: list[Placed] = []
        filled_until = floor(anchor, DAY) if interval is None else None
        for stretch in Kept.at(anchor, self._retention).stretches(interval, start, high):
            async for placed in self._newest_first(stretch, slug, limit + 1 - len(found), filled_until):
                found.append(placed)
                if len(found) > limit:
                    last = found[limit - 1].point.at
                    position = HistoryPosition((last - EPOCH) // MILLISECOND, (anchor - EPOCH) // MILLISECOND)
                    return Page(found[:limit], position)
        return Page(found, None)

    async def points(
        self, slug: str, start: datetime | None, end: datetime | None, interval: Interval | None = None
    ) -> list[Placed]:
        """All points of a coin from `start` to `end`, oldest first. Raises `PyMongoError`."""
        now = self._clock.now()
        high = min(end or now + AHEAD, now + AHEAD)
        stretches = Kept.at(now, self._retention).stretches(interval, start, high)
        filled_until = floor(now, DAY) if interval is None else None
        found = [
            placed for each in stretches async for placed in self._newest_first(each, slug, _EVERYTHING, filled_until)
        ]
        return found[::-1]

    async def daily(self, slug: str, days: int) -> list[PricePoint]:
        """The daily points of a coin of the last `days` days, oldest first; some minutes old at most.

        Raises `PyMongoError`.
        """
        found = self._daily.get(slug)
        if found is None:
            found = [placed.point for placed in await self.points(slug, None, None, Interval.D1)]
            self._daily[slug] = found
        since = floor(self._clock.now() - days * DAY, DAY)
        return [point for point in found if point.at >= since]

    def forget(self) -> None:
        """Daily points are read again: some were filled in."""
        self._daily.clear()

    async def exists(self, slug: str) -> bool:
        """Whether a coin has any point at all."""
        return bool((await self.page(slug, None, None, None, 1)).rows)

    # Windows

    async def _newest_first(
        self, stretch: Stretch, slug: str, need: int, filled_until: datetime | None
    ) -> AsyncIterator[Placed]:
        """The points of a stretch; daily ones stand in, if they are from before `filled_until`."""
        interval, low, high = stretch
        width = _window(interval, need)
        while low <= high:
            bottom = max(low, floor(high, _unit(interval)) - width)
            window = Stretch(interval, bottom, high)
            if filled_until is None or interval is Interval.D1 or bottom >= filled_until:
                found = [Placed(interval, point) for point in await self._window(slug, window)]
            else:
                found = await self._filled_window(slug, window, filled_until)
            for placed in reversed(found):
                yield placed
            high, width = bottom - MILLISECOND, width * 4

    async def _filled_window(self, slug: str, stretch: Stretch, until: datetime) -> list[Placed]:
        """The points of a window, oldest first, with daily ones where there are no others."""
        interval, low, high = stretch
        # Whole slots: a window may end within one, whose finer point is beyond it.
        whole = Stretch(interval, floor(low, interval.length), floor(high, interval.length) + interval.length)
        finer = await self._window(slug, whole._replace(high=whole.high - MILLISECOND))
        taken = {slot_of(point.at, interval) for point in finer}
        # Only packed ones: a day that is not packed has its hours, too, and what is filled in is packed at once.
        daily = await self._rows.packed(slug, Interval.D1, low, min(high, until - MILLISECOND))
        found = [Placed(interval, point) for point in finer if low <= point.at <= high]
        found += [Placed(Interval.D1, point) for point in daily if slot_of(point.at, interval) not in taken]
        return sorted(found, key=lambda placed: placed.point.at)

    async def _window(self, slug: str, stretch: Stretch) -> list[PricePoint]:
        """The points of a window, oldest first."""
        interval, low, high = stretch
        if interval is Interval.M5:
            return thinned(await self._rows.points(slug, interval, low, high), interval)
        since = max(low, await self._fresh_since())
        found = await self._rows.packed(slug, interval, low, high)
        if since <= high:
            # A day's point is its first hour's.
            found += await self._rows.points(slug, Interval.H1, floor(since, interval.length), high)
        return [point for point in thinned(found, interval) if low <= point.at <= high]

    async def _fresh_since(self) -> datetime:
        """From when on points may not be packed yet."""
        passed, now = self._clock.monotonic(), self._clock.now()
        if self._fresh is None or passed - self._fresh[0] > _FRESH_SECONDS:
            days = (row["day"] for row in await self._rows.days() if not row["packed"])
            self._fresh = passed, min(days, default=floor(now, DAY))
        return max(self._fresh[1], now - _LATE)


_EVERYTHING: Final = 1 << 20


def _unit(interval: Interval) -> timedelta:
    """What windows are made of: a bucket is read whole."""
    return BUCKETS.get(interval, interval.length)


def _window(interval: Interval, need: int) -> timedelta:
    """How far back `need` points may reach at least."""
    unit = _unit(interval)
    return unit * min(math.ceil(need * interval.length / unit) + (_AIR if interval is Interval.M5 else 0), 400)
