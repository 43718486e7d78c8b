"""The chain in the database: its head and its entries, which change together although nothing binds them.

No transaction spans two documents everywhere (a standalone MongoDB has none), so the head carries the newest entries:

1. what the head carries is made sure to be among the entries;
2. one conditional update moves the head from the (number, hash) that was read, and makes it carry the new entries;
3. the new entries are inserted.

After (2) the entries are durable and have their place. A crash before (3) leaves them in the head alone, where the next
writer finds them by (1); nothing is lost, and it looks like nothing else that can happen to the two collections.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bson import Int64
from pymongo import ASCENDING, DESCENDING
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import BulkWriteError, DuplicateKeyError
from pymongo.read_concern import ReadConcern

from app.audit.chain import FORMAT, GENESIS, Row, is_whole
from app.audit.models import HEAD, AuditEntryDocument, AuditHeadDocument

WINDOW = 500
"""Entries that one query reads at most."""
_DUPLICATE_KEY = 11000


_LOOKED_AT = 50
"""Entries among which the end of the chain is looked for when there is no head."""


class DamagedHeadError(Exception):
    """The head is there, but no writer here wrote it so; `row` is what is there."""

    def __init__(self, row: Row) -> None:
        super().__init__("the head of the audit trail was changed by somebody else and cannot be read")
        self.row = row


@dataclass(frozen=True, slots=True)
class Base:
    """The newest entry that expired (number 0: none did), and about its time: nothing that is left is much older."""

    number: int
    hash: str
    since: datetime


@dataclass(frozen=True, slots=True)
class Head:
    """The newest entry's number, hash and seq, where the chain begins, and the entries that the last move added."""

    number: int
    hash: str
    seq: int
    base: Base
    carried: tuple[Row, ...] = ()

    @classmethod
    def first(cls, now: datetime) -> "Head":
        """The head of an empty chain."""
        return cls(0, GENESIS, 0, Base(0, GENESIS, now))

    @classmethod
    def of(cls, row: Row) -> "Head":
        """The head as it is stored; raises `DamagedHeadError`."""
        try:
            base = Base(row["base_number"], row["base_hash"], row["since"])
            head = cls(row["number"], row["hash"], row["seq"], base, tuple(row["carried"]))
            if (
                all(type(row[name]) in {int, Int64} for name in ("number", "seq", "base_number"))
                and all(type(row[name]) is str for name in ("hash", "base_hash"))
                and 0 <= base.number <= head.number
                and head.seq >= 0
                and isinstance(row["since"], datetime)
                and all({"_id", "number"} <= set(entry) for entry in head.carried)
            ):
                return head
        except (KeyError, TypeError):
            pass
        raise DamagedHeadError(row)

    def row(self) -> Row:
        """What is stored of it."""
        return {
            "schema_version": FORMAT,
            "number": self.number,
            "hash": self.hash,
            "seq": self.seq,
            "base_number": self.base.number,
            "base_hash": self.base.hash,
            "since": self.base.since,
            "carried": list(self.carried),
        }

    def moved(self, rows: Sequence[Row], base: Base | None = None, *, carry: bool = True) -> "Head":
        """The head after `rows`, which follow it."""
        last = rows[-1]
        if base is None or base.number < self.base.number:  # two who expire at once: what is gone stays gone
            base = self.base
        carried = tuple(rows) if carry else ()
        return Head(last["number"], last["hash"], last["seq"], base, carried)


EXPIRED = "audit.expired"
"""The action that `retention` writes down before it deletes."""
ADVANCED = "audit.head_advanced"
"""The head had stayed behind its entries and was moved over them."""
LOST = "audit.head_lost"
"""The head was gone, or damaged; the chain goes on after the last entry that was found."""


def stated_base(row: Row) -> Base | None:
    """The base that an entry about expired entries moved to; None for every other entry."""
    if row.get("action") != EXPIRED:
        return None
    try:
        details = row["details"]
        return Base(int(details["number"]), str(details["hash"]), datetime.fromisoformat(details["before"]))
    except (KeyError, TypeError, ValueError):  # written by somebody else
        return None


def _usable(row: Row) -> bool:
    """Whether something can follow this entry, or it something else; not whether it is true."""
    numbers, texts = (row.get("number"), row.get("seq")), (row.get("hash"), row.get("previous_hash"))
    return (
        all(type(number) in {int, Int64} for number in numbers)
        and all(isinstance(text, str) and len(text) == len(GENESIS) for text in texts)
        and isinstance(row.get("at"), datetime)
    )


class ChainStore:
    """Reads and changes the two collections; several processes do at once."""

    def __init__(self, db: AsyncDatabase[Row]) -> None:
        majority = ReadConcern("majority")
        self.entries: AsyncCollection[Row] = db[AuditEntryDocument.Settings.name]
        self._heads: AsyncCollection[Row] = db[AuditHeadDocument.Settings.name]
        self._sure_entries = self.entries.with_options(read_concern=majority)
        self._sure_heads = self._heads.with_options(read_concern=majority)

    async def head(self, *, sure: bool = False) -> Head | None:
        """The head; with `sure` as a majority has it. None before the first entry, or when somebody removed it."""
        row = await (self._sure_heads if sure else self._heads).find_one({"_id": HEAD})
        return Head.of(row) if row is not None else None

    async def found(self, head: Head) -> bool:
        """Make `head` the head where there is none; whether this did."""
        try:
            await self._heads.insert_one({"_id": HEAD, **head.row()})
        except DuplicateKeyError:
            return False
        return True

    async def replaced(self, damaged: Row, head: Head) -> bool:
        """Make `head` the head in place of the `damaged` one; False when another writer did so first."""
        where = {"_id": HEAD, **{name: {"$eq": damaged.get(name)} for name in ("number", "hash")}}
        return (await self._heads.replace_one(where, head.row())).matched_count == 1

    async def salvage(self, damaged: Row) -> None:
        """Insert what a damaged head still carries of entries: a crash may have left them there alone."""
        carried = damaged.get("carried")
        rows = [row for row in carried if isinstance(row, dict)] if isinstance(carried, list) else []
        if whole := [row for row in rows if "_id" in row and _usable(row) and is_whole(row)]:
            await self.insert(whole)

    async def move(self, old: Head, new: Head) -> bool:
        """Step 2; False when another writer moved it first."""
        where = {"_id": HEAD, "number": old.number, "hash": old.hash}
        return (await self._heads.update_one(where, {"$set": new.row()})).matched_count == 1

    async def settle(self, head: Head) -> None:
        """Step 1 (and 3, for entries that were never tried): insert what only the head has."""
        if not head.carried:
            return
        between = {"$gte": head.carried[0]["number"], "$lte": head.carried[-1]["number"]}
        there = {row["_id"] async for row in self.entries.find({"number": between}, {"_id": 1})}
        if missing := [row for row in head.carried if row["_id"] not in there]:
            await self.insert(missing)

    async def insert(self, rows: Sequence[Row]) -> None:
        """Step 3; those that are there already (another writer settled them) count as done."""
        try:
            await self.entries.insert_many([dict(row) for row in rows], ordered=False)
        except BulkWriteError as error:
            details: dict[str, Any] = dict(error.details or {})
            codes = {problem.get("code") for problem in details.get("writeErrors", ())}
            if codes != {_DUPLICATE_KEY} or details.get("writeConcernErrors"):
                raise

    async def stored(self, row: Row) -> bool:
        """Whether a majority has this entry."""
        return await self._sure_entries.find_one({"_id": row["_id"]}, {"_id": 1}) is not None

    async def window(self, low: int, high: int) -> list[Row]:
        """Entries with these numbers (`WINDOW` of them at most, and whatever else stands there), by number."""
        query = {"number": {"$gte": low, "$lte": high}}
        return await self.entries.find(query).sort("number", ASCENDING).to_list()

    async def between(self, low: int, high: int) -> int:
        """How many documents have a `seq` from `low` to `high`, both included."""
        return await self.entries.count_documents({"seq": {"$gte": low, "$lte": high}})

    async def delete(self, low: int, high: int) -> None:
        """Delete the entries with these numbers; they have to be no part of the chain any more."""
        await self.entries.delete_many({"number": {"$gte": low, "$lte": high}})

    async def ends(self) -> tuple[Row, Row] | None:
        """The entries with the least and the highest number: a scan on the embedded database, for emergencies.

        Of those that a chain can begin or go on with: there may be others, when somebody meddled with it.
        """
        found: list[Row] = []
        for direction in (ASCENDING, DESCENDING):
            rows = self.entries.find({"number": {"$gte": 1}}).sort("number", direction).limit(_LOOKED_AT)
            row = next((row for row in await rows.to_list() if _usable(row)), None)
            if row is None:
                return None
            found.append(row)
        return found[0], found[1]

    async def beyond(self, head: Head) -> tuple[Head, bool]:
        """The head moved over every entry that follows it, and whether others stand there that do not follow.

        A head stays behind its entries when an older copy of it is put back, or comes from an export that read it
        before them.
        """
        moved = head
        while rows := await self.window(moved.number + 1, moved.number + WINDOW):
            began = moved.number
            for row in rows:
                if row["number"] == moved.number + 1 and row.get("previous_hash") == moved.hash and is_whole(row):
                    moved = moved.moved([row], stated_base(row), carry=False)
            if moved.number == began:
                return moved, True
        return moved, False
