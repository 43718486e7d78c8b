"""Large lists that somebody publishes every day, kept in the database: written in parts, checked, and swapped whole.

A list is stored in compressed parts of a megabyte beside one row that names the version in force. A new one is written
whole before that row is replaced, so nobody ever reads half of it, and one that cannot be right is not taken: the last
good one stays. Whoever writes or reads one holds a part of it at a time.
"""

import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import date, datetime, time, timedelta
from typing import Any, Final, NamedTuple, Protocol

import msgspec
from pydantic import BaseModel, Field
from pymongo.asynchronous.database import AsyncDatabase

from app.core.clock import Clock
from app.core.market_calendar import IST

Row = dict[str, Any]

PART: Final = 1 << 20
"""Bytes."""
LEAST_SHARE: Final = 0.8
"""Of the rows before, without contracts that have ended since: a list with fewer is doubted."""
MOST_JUNK: Final = 0.2
BELIEVED_AFTER: Final = timedelta(hours=20)
"""A doubted list is taken after all when one of another day agrees with it: then the exchanges have changed."""
OLD_AFTER: Final = timedelta(hours=36)
LOOK_EVERY: Final = 60.0
"""Seconds after which a process looks whether another list is in force."""
LEFT_AFTER: Final = timedelta(hours=1)
"""Parts of that age that belong to no list in force were left by somebody who was killed."""
_AGREES: Final = 0.05


class DoubtfulListError(Exception):
    """A list that is not taken; the message is for a person."""


class DamagedListError(Exception):
    """What is stored is not the list that was stored, or is being replaced."""


class BuiltList(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be known of a list before it is taken."""

    rows: int
    parts: int
    sha256: str
    """Of the parts, joined."""
    by_expiry: dict[str, int] = {}
    """How many contracts end on a day."""
    rejected: dict[str, int] = {}
    """Junk, by what is wrong with it."""
    skipped: dict[str, int] = {}
    """Of exchanges that are not wanted."""
    stamp: tuple[str, str] = ("", "")
    """By what the publisher knows it: its entity tag, and when it was modified."""

    @classmethod
    def of(cls, data: bytes, **known: Any) -> "BuiltList":
        """What holds of `data`, which is the whole list, beside what is `known`."""
        return cls(parts=-(-len(data) // PART), sha256=hashlib.sha256(data).hexdigest(), **known)


class NewList(Protocol):
    """A list that was built, here or in another process."""

    @property
    def built(self) -> BuiltList:
        """What is to be known of it."""

    async def part(self, number: int) -> bytes:
        """One of its parts; raises what its source's `fetch` does."""


class ListSource(Protocol):
    """Where new lists come from."""

    def fetch(self, known: tuple[str, str] | None = None) -> AbstractAsyncContextManager[NewList | None]:
        """The newest list; None if it is the one whose stamp is `known`. Raises the source's own errors."""


class ListHere(NamedTuple):
    """A list that was built in this process."""

    built: BuiltList
    data: bytes

    async def part(self, number: int) -> bytes:
        """See `NewList`."""
        return part_of(self.data, number)


def part_of(data: bytes, number: int) -> bytes:
    """One of the parts that a list is stored in."""
    return data[number * PART : (number + 1) * PART]


class ListState(BaseModel):
    """What is stored of a list: which one is in force, and what became of the newest try to get another."""

    schema_version: int = 1
    version: str | None = None
    """Of the list in force; None as long as there was none."""
    rows: int = 0
    parts: int = 0
    sha256: str = ""
    """Of the parts, joined."""
    by_expiry: dict[str, int] = Field(default_factory=dict)
    """How many contracts end on a day."""
    rejected: dict[str, int] = Field(default_factory=dict)
    skipped: dict[str, int] = Field(default_factory=dict)
    stamp: list[str] = Field(default_factory=list)
    """By what the provider knows it: its entity tag, and when it was modified."""
    fetched_at: datetime | None = None
    checked_at: datetime | None = None
    """When it was last known to be the provider's newest."""
    tried_at: datetime | None = None
    last_error: str | None = None
    doubted: dict[str, Any] | None = None
    """A newer list that was not taken: since when, how many rows it has, and why."""


class ListPart(BaseModel):
    """A piece of a list, compressed."""

    schema_version: int = 1
    version: str
    number: int = 0
    at: datetime
    data: bytes


class StagedList:
    """One list in the database. One process at a time, decided elsewhere, puts a new one in force."""

    def __init__(
        self,
        db: AsyncDatabase[Row],
        clock: Clock,
        *,
        states: str,
        parts: str,
        name: str,
        mark: Mapping[str, str] | None = None,
    ) -> None:
        """`states` and `parts`: the collections; `name`: the id of its row in `states`. `mark`: what tells its parts
        from those of other lists, where several share the collection."""
        self._states, self._parts, self._clock, self._name = db[states], db[parts], clock, name
        self._mark = dict(mark or {})

    async def state(self) -> Row:
        """What is stored of it, see `ListState`."""
        return await self._states.find_one({"_id": self._name}) or {"_id": self._name, "schema_version": 1}

    async def note(self, state: Row, **told: Any) -> Row:
        """Store what every process is to know of the newest try; gives the new state."""
        row = {name: value for name, value in {**state, **told}.items() if value is not None}
        await self._states.replace_one({"_id": self._name}, row, upsert=True)
        return row

    async def note_same(self, state: Row) -> Row:
        """It is known to be the newest still."""
        now = self._clock.now()
        return await self.note(state, checked_at=now, tried_at=now, last_error=None, doubted=None)

    async def note_failure(self, state: Row, reason: str) -> Row:
        """There was no list; `reason` is a word for `/health`."""
        return await self.note(state, tried_at=self._clock.now(), last_error=reason)

    async def read(self, state: Row) -> AsyncIterator[bytes]:
        """The parts of the list in force, in their order. Raises `DamagedListError`, also after the last one."""
        digest = hashlib.sha256()
        for number in range(state.get("parts", 0)):
            row = await self._parts.find_one({"_id": self._part_id(state["version"], number)})
            if row is None:
                raise DamagedListError("a part is missing")
            digest.update(row["data"])
            yield row["data"]
        if digest.hexdigest() != state.get("sha256"):
            raise DamagedListError("it is not what was stored")

    async def is_sound(self, state: Row) -> bool:
        """Whether all of it is there, as it was stored."""
        if state.get("version") is None:
            return False
        try:
            async for _ in self.read(state):
                pass
        except DamagedListError:
            return False
        return True

    async def doubt(self, state: Row, built: BuiltList, reason: str) -> Row:
        """Note that it was not taken."""
        now = self._clock.now()
        before = state.get("doubted")
        since = before["since"] if before and _agrees(built.rows, before) else now
        doubted = {"since": since, "rows": built.rows, "reason": reason}
        return await self.note(state, tried_at=now, last_error="doubtful list", doubted=doubted)

    async def put(self, state: Row, new: NewList, *, newest: bool = True) -> Row:
        """Write it, and put it in force; gives the new state. Raises what `new` does: then all is as it was.

        One that is not the `newest` stands in for that, and what is known of the last try stays.
        """
        now, built = self._clock.now(), new.built
        version = f"{now:%Y%m%dT%H%M%S%f}-{built.sha256[:8]}"
        for number in range(built.parts):
            row = {"_id": self._part_id(version, number), "schema_version": 1, **self._mark, "version": version}
            row |= {"number": number, "at": now, "data": await new.part(number)}
            await self._parts.replace_one({"_id": row["_id"]}, row, upsert=True)
        told = {
            "version": version,
            "rows": built.rows,
            "parts": built.parts,
            "sha256": built.sha256,
            "by_expiry": built.by_expiry,
            "fetched_at": now,
        }
        noted = self._note_newest(state, built, **told) if newest else self.note(state, **told, checked_at=None)
        after = await noted
        # What was in force (who is reading it looks again), and what somebody who was killed has left.
        if state.get("version") not in {None, version}:
            await self._parts.delete_many({**self._mark, "version": state["version"]})
        await self._parts.delete_many({**self._mark, "version": {"$ne": version}, "at": {"$lt": now - LEFT_AFTER}})
        return after

    async def put_again(self, state: Row, built: BuiltList) -> Row:
        """The same list came once more: only what is known of it is stored."""
        return await self._note_newest(state, built, fetched_at=self._clock.now())

    async def _note_newest(self, state: Row, built: BuiltList, **told: Any) -> Row:
        now = self._clock.now()
        told |= {"rejected": built.rejected, "skipped": built.skipped, "stamp": list(built.stamp)}
        return await self.note(state, checked_at=now, tried_at=now, last_error=None, doubted=None, **told)

    def _part_id(self, version: str, number: int) -> str:
        return "|".join([*self._mark.values(), version, str(number)])


def check(built: BuiltList, before: Row | None, now: datetime) -> None:
    """Raise `DoubtfulListError` for a list that cannot be right beside the one `before`; None: there is none."""
    junk = sum(built.rejected.values())
    if not built.rows or junk > MOST_JUNK * (built.rows + junk + sum(built.skipped.values())):
        raise DoubtfulListError(f"{junk:,} of its rows are unreadable, and {built.rows:,} are left")
    if before is None or believed(built, before, now):
        return
    expected = before["rows"] - ended(before.get("by_expiry") or {}, now.astimezone(IST).date())
    if built.rows < LEAST_SHARE * expected:
        raise DoubtfulListError(f"it has {built.rows:,} instruments, where {expected:,} were expected")


def believed(built: BuiltList, before: Row, now: datetime) -> bool:
    """Whether one of another day was like it."""
    doubted = before.get("doubted")
    return doubted is not None and now - doubted["since"] >= BELIEVED_AFTER and _agrees(built.rows, doubted)


def _agrees(rows: int, doubted: Mapping[str, Any]) -> bool:
    return abs(rows - int(doubted["rows"])) <= _AGREES * rows


def ended(by_expiry: Mapping[str, int], today: date) -> int:
    """How many contracts have ended before `today`."""
    return sum(count for day, count in by_expiry.items() if day < today.isoformat())


def is_old(state: Row, now: datetime) -> bool:
    """Whether it was not known to be the newest for too long."""
    checked = state.get("checked_at")
    return checked is None or now - checked > OLD_AFTER


def last_turn(now: datetime, at: time) -> datetime:
    """When it was last time for a new list, which is there at `at` in India."""
    turn = datetime.combine(now.astimezone(IST).date(), at, IST)
    return turn if turn <= now else turn - timedelta(days=1)
