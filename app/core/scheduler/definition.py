"""What a job is: a name, the work, and when it is due.

Slots are aligned to the clock, not to the start of a process, so that every process of the service means the same slot
and its start can be claimed once.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Any, Final, Protocol

from app.core.market_calendar import IST

JobResult = Mapping[str, Any] | None
_NAME: Final = re.compile(r"[a-z][a-z0-9_]*(\.[a-z0-9_]+)*")
MAX_NAME: Final = 64
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DAY: Final = timedelta(days=1)


class Run(Protocol):
    """One run of a job, as its work sees it."""

    @property
    def id(self) -> str:
        """The run's id, as clients see it."""

    @property
    def job(self) -> str:
        """The job's name."""

    @property
    def arguments(self) -> Mapping[str, Any]:
        """What the run was asked for with; empty for a slot's run."""

    @property
    def due(self) -> datetime | None:
        """The slot, aware UTC; None when somebody asked for the run."""

    async def progress(self, done: int, total: int | None = None, note: str = "") -> None:
        """Tell how far it is; costs nothing, however often. A few a second reach clients, one a second the database."""


Work = Callable[[Run], Awaitable[JobResult]]
"""Gives the run's result: what JSON can hold, a few KiB, nothing secret. A `DomainError` that it raises is told to
clients in its own words, any other exception as a failure inside."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job that the service does by the clock, on request, or both. Work must bear being done again after a crash."""

    name: str
    """Dotted and stable: `crypto.top50`."""
    work: Work
    every: timedelta | None = None
    """Due at whole multiples of this since the epoch: every 5 minutes means :00, :05 … UTC."""
    at: time | None = None
    """Due once a day at this time in India instead. With neither it runs on request only."""
    skip: Callable[[datetime], bool] | None = None
    """Whether a slot is left out, because another job covers it."""
    timeout: timedelta = timedelta(minutes=5)
    """After this the run is cut off and has failed."""
    group: str | None = None
    """Of two runs of one group the later one waits its turn, in whichever process it is."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or len(self.name) > MAX_NAME:
            raise ValueError(f"{self.name!r} is no name of a job")
        if self.every is not None and self.at is not None:
            raise ValueError(f"{self.name}: every or at, not both")
        if self.every is not None and self.every < timedelta(seconds=1):
            raise ValueError(f"{self.name}: every must be a second at least")

    def slot_at(self, now: datetime) -> datetime | None:
        """The newest slot that is due at `now` (aware), left out or not."""
        if self.every is not None:
            return now - (now - _EPOCH) % self.every
        if self.at is None:
            return None
        slot = datetime.combine(now.astimezone(IST).date(), self.at, IST)
        return (slot if slot <= now else slot - _DAY).astimezone(UTC)

    def next_slot(self, now: datetime) -> datetime | None:
        """The first slot after `now`."""
        slot = self.slot_at(now)
        return None if slot is None else slot + (self.every or _DAY)

    def wants(self, slot: datetime) -> bool:
        """Whether `slot` is this job's to run."""
        return self.skip is None or not self.skip(slot)


def without_run(call: Callable[[], Awaitable[Mapping[str, Any] | None]]) -> Work:
    """Work that needs nothing of its run."""

    async def work(_: Run) -> Mapping[str, Any] | None:
        return await call()

    return work
