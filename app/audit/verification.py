"""Walks the chain and names what does not fit: entries changed, removed or put in, and a head that is not theirs.

It reads window by window and may run beside the service: what looks wrong is read again with a fresh head before it is
called wrong. What a crash leaves behind (entries that only the head carries) and what retention leaves behind (entries
older than the base, to be deleted yet) is counted, and is no defect.

The hashes need no secret, so somebody who may write to the database can replace the whole chain by another one that
fits. That is what anchors are for: numbers and hashes that were noted elsewhere at some time and have to be in it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from pymongo.asynchronous.database import AsyncDatabase

from app.audit.chain import Row, is_whole
from app.audit.store import LOST, WINDOW, ChainStore, DamagedHeadError, Head, stated_base

_INT64 = (-(2**63), 2**63 - 1)
_TRIES = 5


class Fault(StrEnum):
    """What can be wrong."""

    CHANGED = "changed"
    MISSING = "missing"
    INSERTED = "inserted"
    BROKEN = "broken"
    HEAD = "head"
    BASE = "base"
    ANCHOR = "anchor"


@dataclass(frozen=True, slots=True)
class Defect:
    """One thing wrong, with the entries from `first` to `last` (or with the head), in words."""

    fault: Fault
    first: int
    last: int
    text: str

    def __str__(self) -> str:
        entries = f"entry {self.first}" if self.first == self.last else f"entries {self.first} to {self.last}"
        return f"{entries}: {self.text}"


@dataclass
class Report:
    """What a verification found. `count` entries of the chain were read, from `first_at` to `last_at`."""

    head: Head | None
    count: int = 0
    first_at: datetime | None = None
    last_at: datetime | None = None
    only_in_head: int = 0
    """Entries that a crash left in the head alone; the next start or act of the service inserts them."""
    expired_left: int = 0
    """Entries older than the base; the next run of the retention job deletes them."""
    defects: list[Defect] = field(default_factory=list)

    def add(self, fault: Fault, first: int, last: int, text: str) -> None:
        """Note a defect; one that goes on where the last one ended is the same one."""
        if self.defects:
            before = self.defects[-1]
            if fault is Fault.MISSING is before.fault and before.last == first - 1:
                self.defects[-1] = Defect(fault, before.first, last, text)
                return
        self.defects.append(Defect(fault, first, last, text))


@dataclass
class Stretch:
    """What `judge` says of some numbers: faults, the entries that stand there, and the hash that the next one needs."""

    previous: str | None
    faults: list[tuple[Fault, int, str]] = field(default_factory=list)
    chain: list[Row] = field(default_factory=list)
    documents: int = 0
    only_in_head: int = 0

    def add(self, number: int, candidates: Sequence[Row]) -> None:
        """Judge what stands at `number`: one entry that follows the one before."""
        if not candidates:
            self.faults.append((Fault.MISSING, number, "removed"))
            self.previous = None
            return
        entry = next((row for row in candidates if _follows(row, self.previous)), candidates[0])
        if len(candidates) > 1:
            self.faults.append((Fault.INSERTED, number, "another document with this number was put in"))
        if not is_whole(entry):
            self.faults.append((Fault.CHANGED, number, "its content is not what was written"))
        elif not _follows(entry, self.previous):
            text = f"it does not follow entry {number - 1}: one of the two was replaced"
            self.faults.append((Fault.BROKEN, number, text))
        if entry.get("action") == LOST:
            details = entry.get("details")
            damaged = isinstance(details, dict) and details.get("head") == "damaged"
            what = "changed so that it could not be read" if damaged else "removed"
            text = f"the head had been {what} before it was written; entries after {number - 1} may be gone with it"
            self.faults.append((Fault.HEAD, number, text))
        self.previous = str(entry.get("hash"))
        self.chain.append(entry)


def judge(rows: Sequence[Row], carried: Mapping[int, Row], low: int, high: int, previous: str | None) -> Stretch:
    """Judge the entries `low` to `high`: `rows` are what stands there, `carried` what the head has of them.

    `previous` is the hash that the first one has to follow; None where that is unknown, after a gap.
    """
    found = Stretch(previous, documents=len(rows))
    by_number: dict[Any, list[Row]] = {}
    for row in rows:
        by_number.setdefault(row["number"], []).append(row)
    for number in range(low, high + 1):
        candidates = by_number.pop(number, [])
        if not candidates and number in carried:
            candidates = [carried[number]]
            found.only_in_head += 1
        found.add(number, candidates)
    for number in by_number:  # 7.5, between 7 and 8
        found.faults.append((Fault.INSERTED, int(number), f"a document with the number {number} was put in"))
    return found


def _follows(row: Row, previous: str | None) -> bool:
    return is_whole(row) and previous in (None, row.get("previous_hash"))


async def verify(db: AsyncDatabase[Row], anchors: Sequence[tuple[int, str]] = ()) -> Report:
    """Verify the whole chain, and that each of `anchors` (number, hash) is in it. Changes nothing."""
    store = ChainStore(db)
    head, ends, wrong = None, None, "removed"
    try:
        head = await store.head()
        if head is None and (ends := await store.ends()) is not None:
            head = await store.head()  # the service may have begun the chain just now
    except DamagedHeadError:
        ends, wrong = await store.ends(), "changed and cannot be read"
    walk = _Walk(store, head, dict(anchors))
    await (walk.all() if head else walk.headless(wrong, ends))
    walk.judge_anchors(anchors)
    return walk.report


class _Walk:
    """One verification at work."""

    def __init__(self, store: ChainStore, head: Head | None, anchors: Mapping[int, str]) -> None:
        self._store = store
        self._head = head or Head.first(datetime.min.replace(tzinfo=UTC))
        self._previous: str | None = self._head.base.hash
        self._position = self._head.base.number
        self._documents = 0
        self._marks: set[int] = set()
        """`seq` of some entries: between two of them there are a window's at most."""
        self._bases: set[tuple[int, str]] = set()
        self._hashes: dict[int, str | None] = dict.fromkeys(anchors)
        self.report = Report(head)
        self._note_hash(self._head.base.number, self._head.base.hash)

    async def all(self) -> None:
        """Everything, from the base to the head, and what stands before and after."""
        await self._to_the_head()
        await self._what_is_beyond()
        self._judge_head()
        await self._what_is_left()
        await self._strays()

    async def headless(self, wrong: str, ends: tuple[Row, Row] | None) -> None:
        """Without a head there is nothing to hold the entries against but one another."""
        if ends is None:
            if wrong != "removed":
                self.report.add(Fault.HEAD, 0, 0, f"the head was {wrong}, and there are no entries")
            return
        least, last = int(ends[0]["number"]), int(ends[1]["number"])
        text = f"the head was {wrong}; entries after this one may be gone with it"
        self.report.add(Fault.HEAD, last, last, text)
        self._position, self._previous = least - 1, None if least > 1 else self._previous
        await self._walk(last)

    async def _to_the_head(self) -> None:
        """Walk, and go on for as long as the service adds entries meanwhile."""
        while self._position < self._head.number:
            await self._walk(self._head.number)
            await self._fresh_head()

    async def _fresh_head(self) -> None:
        head = await self._store.head()
        if head is None:
            self.report.add(Fault.HEAD, self._head.number, self._head.number, "the head was removed just now")
        elif head.number >= self._head.number:
            self.report.head = self._head = head
        else:
            self.report.add(Fault.HEAD, head.number, head.number, "the head went back to it just now")

    async def _walk(self, target: int) -> None:
        while self._position < target:
            low, high = self._position + 1, min(self._position + WINDOW, target)
            found = await self._judge(low, high)
            if found.faults and self.report.head:
                await self._fresh_head()  # it may have changed between the two reads
                if self._head.base.number > self._position:
                    self._begin_again()
                    continue
                found = await self._judge(low, high)
            self._take(found, high)

    async def _judge(self, low: int, high: int) -> Stretch:
        rows = await self._store.window(low, high)
        carried = {row["number"]: row for row in self._head.carried}
        return judge(rows, carried, low, high, self._previous)

    def _begin_again(self) -> None:
        """Entries expired under our eyes."""
        base = self._head.base
        self._position, self._previous, self._documents = base.number, base.hash, 0
        self.report.count = self.report.only_in_head = 0
        self.report.first_at = None
        self._note_hash(base.number, base.hash)

    def _take(self, found: Stretch, high: int) -> None:
        report = self.report
        for fault, number, text in found.faults:
            report.add(fault, number, number, text)
        for row in found.chain:
            if isinstance(row.get("at"), datetime):
                report.first_at, report.last_at = report.first_at or row["at"], row["at"]
            self._note_hash(row["number"], str(row.get("hash")))
            if base := stated_base(row):
                self._bases.add((base.number, base.hash))
        report.count += len(found.chain)
        report.only_in_head += found.only_in_head
        self._mark(found.chain)
        self._documents += found.documents
        self._position, self._previous = high, found.previous

    def _mark(self, rows: Sequence[Row]) -> None:
        seq = rows[-1].get("seq") if rows else None
        if isinstance(seq, int) and _INT64[0] < seq < _INT64[1]:
            self._marks.add(seq)

    def _note_hash(self, number: int, hash_: str) -> None:
        if number in self._hashes:
            self._hashes[number] = hash_

    async def _what_is_beyond(self) -> None:
        """After the head there is nothing."""
        for _ in range(_TRIES):
            rows = await self._store.window(self._head.number + 1, self._head.number + WINDOW)
            before = self._head.number
            await self._fresh_head()
            if self._head.number == before:
                break
            await self._to_the_head()
        else:
            return
        if not rows:
            return
        self._documents += len(rows)
        ahead, others = await self._store.beyond(self._head)
        if ahead.number > self._head.number:
            text = (
                "the head is behind them. A copy made of a running service has such a head: its next start moves it "
                "on, and writes that down. Else somebody put an older head back, or these entries in"
            )
            self.report.add(Fault.HEAD, self._head.number + 1, ahead.number, text)
        if others:
            text = "documents were put in after the head"
            self.report.add(Fault.INSERTED, int(rows[0]["number"]), int(rows[-1]["number"]), text)

    def _judge_head(self) -> None:
        head, report = self._head, self.report
        if self._previous not in (None, head.hash):
            report.add(Fault.HEAD, head.number, head.number, "the head has another hash for it")
        if head.carried:
            first = head.carried[0]
            end = judge(head.carried, {}, head.number - len(head.carried) + 1, head.number, first.get("previous_hash"))
            if end.faults or end.previous != head.hash:
                report.add(Fault.HEAD, head.number, head.number, "what the head carries is not the end of the chain")
        base = head.base
        if base.number and (base.number, base.hash) not in self._bases:
            text = "the head says that they expired, but no entry says so: they were removed"
            report.add(Fault.BASE, 1, base.number, text)

    async def _what_is_left(self) -> None:
        """Entries up to the base that were not deleted yet; they have to be true ones all the same."""
        base = self._head.base
        high, following = base.number, base.hash
        while high > 0 and (rows := await self._store.window(max(1, high - WINDOW + 1), high)):
            self._documents += len(rows)
            self._mark(rows)
            self.report.expired_left += len(rows)
            for row in reversed(rows):
                number = row["number"]
                true = is_whole(row) and number <= high and (number < high or row["hash"] == following)
                if not true:
                    text = "it expired, is still there, and is not what was written"
                    self.report.add(Fault.CHANGED, int(number), int(number), text)
                high, following = number - 1, str(row.get("previous_hash"))

    async def _strays(self) -> None:
        """Documents that no number leads to: the lists, which go by `seq`, would show them."""
        marks = sorted(self._marks)
        last = marks[-1] if marks else _INT64[0]
        count = 0
        for low, high in zip([_INT64[0] - 1, *marks], marks, strict=False):
            count += await self._store.between(low + 1, high)
        newest = 0
        for _ in range(_TRIES):
            before = self._head.number
            newest = await self._store.between(last + 1, _INT64[1])
            await self._fresh_head()
            if self._head.number == before:
                break
            await self._to_the_head()
        # Entries that only the head had when they were read may have been inserted since.
        strays = count + newest - self._documents - self.report.only_in_head
        if strays > 0 and not self.report.defects:
            text = f"{strays} documents are among the entries that are none"
            self.report.add(Fault.INSERTED, self._head.number, self._head.number, text)

    def judge_anchors(self, anchors: Sequence[tuple[int, str]]) -> None:
        """Whether what was noted elsewhere is in the chain."""
        for number, hash_ in anchors:
            there = self._hashes[number]
            if there == hash_:
                continue
            if there is not None:
                text = "it is not the one that was noted: the chain up to it was replaced"
            elif number > self._position:
                text = f"it was noted, but the chain ends with entry {self._position}: what came after was removed"
            elif number < self._head.base.number:
                text = "it has expired, so the chain cannot be held against it: note a newer one"
            else:
                text = "it was noted, and is gone"
            self.report.add(Fault.ANCHOR, number, number, text)
