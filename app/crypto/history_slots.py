"""Which points of a coin's history are kept: the words and the arithmetic of it, without a database.

Each interval divides time (UTC, from the epoch) into slots, and of a slot the earliest point stays. So what is kept
never changes once it is there, whichever order points come in, and the point of a day is the one next to midnight.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final, NamedTuple

from app.crypto.ports import PricePoint

DAY: Final = timedelta(days=1)
HOUR: Final = timedelta(hours=1)
MILLISECOND: Final = timedelta(milliseconds=1)
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Interval(StrEnum):
    """How far apart points are."""

    M5 = "5m"
    H1 = "1h"
    D1 = "1d"

    @property
    def length(self) -> timedelta:
        """The length of a slot."""
        return _LENGTHS[self]


_LENGTHS: Final = {Interval.M5: timedelta(minutes=5), Interval.H1: HOUR, Interval.D1: DAY}
FINE_FOR: Final = DAY
"""How long every point is kept."""
HOURLY_FOR: Final = timedelta(days=31)
BUCKETS: Final = {Interval.H1: timedelta(days=7), Interval.D1: timedelta(days=91)}
"""How much one bucket holds: 168 and 91 points, some milliseconds to read."""


class Stretch(NamedTuple):
    """Points of one interval, from `low` to `high`, both included."""

    interval: Interval
    low: datetime
    high: datetime


def slot_of(at: datetime, interval: Interval) -> int:
    """The number of the slot that `at` is in."""
    return (at - EPOCH) // interval.length


def floor(at: datetime, length: timedelta) -> datetime:
    """The beginning of the stretch of `length` that `at` is in; stretches are counted from the epoch."""
    return EPOCH + (at - EPOCH) // length * length


class Kept(NamedTuple):
    """From when on points of each interval are kept."""

    fine: datetime
    hourly: datetime
    daily: datetime

    @classmethod
    def at(cls, now: datetime, retention_days: int) -> "Kept":
        """As of `now`. Limits lie between slots, so that no slot is cut in two."""
        daily = floor(now - timedelta(days=retention_days), DAY)
        hourly = max(floor(now - HOURLY_FOR, DAY), daily)
        return cls(max(floor(now - FINE_FOR, HOUR), daily), hourly, daily)

    def since(self, interval: Interval) -> datetime:
        """From when on points of `interval` are kept."""
        return {Interval.M5: self.fine, Interval.H1: self.hourly, Interval.D1: self.daily}[interval]

    def stretches(self, interval: Interval | None, low: datetime | None, high: datetime) -> Iterator[Stretch]:
        """What to read for the time from `low` to `high`, newest first; without an interval the finest of each age.

        A coarser interval may have points of that age, too, where nothing finer is: see `HistoryReading`.
        """
        if interval is not None:
            since = self.since(interval)
            yield Stretch(interval, max(low or since, since), high)
            return
        for each in Interval:
            since = self.since(each)
            yield Stretch(each, max(low or since, since), high)
            high = min(high, since - MILLISECOND)


def thinned(points: Iterable[PricePoint], interval: Interval) -> list[PricePoint]:
    """The earliest point of each slot, oldest first. `points` may be in any order."""
    kept: dict[int, PricePoint] = {}
    for point in points:
        slot = slot_of(point.at, interval)
        known = kept.get(slot)
        if known is None or point.at < known.at:
            kept[slot] = point
    return [kept[slot] for slot in sorted(kept)]
