"""The one source of time, so that tests own it and no feature asks the system clock by itself."""

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Wall-clock and monotonic time."""

    def now(self) -> datetime:
        """Now as aware UTC, cut to whole milliseconds (the resolution of BSON dates)."""

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back; only differences mean anything."""


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> datetime:
        """See `Clock.now`."""
        now = datetime.now(UTC)
        return now.replace(microsecond=now.microsecond // 1000 * 1000)

    def monotonic(self) -> float:
        """See `Clock.monotonic`."""
        return time.monotonic()


_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)


def to_micros(moment: datetime) -> int:
    """Microseconds since the Unix epoch of an aware `moment`."""
    return (moment - _EPOCH) // _MICROSECOND


def from_micros(micros: int) -> datetime:
    """The aware UTC moment `micros` microseconds after the Unix epoch."""
    return _EPOCH + micros * _MICROSECOND


class Sequence:
    """Numbers that order what one process makes: microseconds since the epoch, strictly increasing.

    They fit a double exactly (below 2**53 until the year 2255), so JavaScript clients can keep them.
    Two processes may hand out the same number; whoever needs a total order breaks ties by id.
    """

    __slots__ = ("_clock", "_last")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last = 0

    def next(self) -> int:
        """A number larger than every one before it, never behind the clock's milliseconds."""
        self._last = max(self._last + 1, to_micros(self._clock.now()))
        return self._last
