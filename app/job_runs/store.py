"""Fills `core.scheduler.RunStore` with MongoDB: every decision is one conditional write."""

import asyncio
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from bson import ObjectId
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import DuplicateKeyError

from app.core.clock import Clock, to_micros
from app.core.scheduler import Added, Claim, Progress, RunState, RunView, SlotTakenError
from app.job_runs.models import JobRunDocument

Row = dict[str, Any]

KEPT: Final = timedelta(days=30)
"""How long a run is kept after its end."""
MOST: Final = 10_000
"""Runs of one job that are kept, give or take a day's."""
_DAY: Final = 86_400_000_000
_ATTEMPTS: Final = 5
_UNDER_WAY: Final = (RunState.QUEUED, RunState.RUNNING)


class MongoRunStore:
    """Runs of jobs in the collection `job_runs`."""

    def __init__(self, clock: Clock, *, most: int = MOST) -> None:
        """Beanie has to know the feature's documents. `most`: runs of one job that are kept."""
        self._clock, self._most = clock, most
        self._runs: AsyncCollection[Row] = JobRunDocument.get_pymongo_collection()

    def new_id(self) -> str:
        """See `RunStore`."""
        return str(ObjectId())

    async def add(self, view: RunView, *, slot: str | None, identity: str | None, alive_until: datetime) -> Added:
        """See `RunStore`."""
        row = row_of(view) | {"_id": ObjectId(view.id), "seq": view.seq, "schema_version": 1}
        row |= {"slot": slot} if slot else {}
        row |= {"identity": identity, "alive_until": alive_until} if identity else {}
        for _ in range(_ATTEMPTS):
            try:
                await self._runs.insert_one(row)
            except DuplicateKeyError as error:
                # An attempt without an answer may have been carried out: then this run itself is in the way.
                in_the_way = await self._in_the_way(error, row)
                if in_the_way is None:
                    continue  # it has ended meanwhile
                if in_the_way == row["_id"]:
                    return Added(view.id, joined=False)
                return Added(str(in_the_way), joined=True)
            return Added(view.id, joined=False)
        raise SlotTakenError

    async def _in_the_way(self, error: DuplicateKeyError, row: Row) -> ObjectId | None:
        details = error.details or {}
        key = next(iter(details.get("keyPattern", {})), "identity")
        found = await self._runs.find_one({key: row.get(key)}, {"_id": 1})
        if key == "slot" and (found is None or found["_id"] != row["_id"]):
            raise SlotTakenError
        return None if found is None else found["_id"]

    async def get(self, run_id: str) -> RunView | None:
        """See `RunStore`."""
        if not ObjectId.is_valid(run_id):
            return None
        row = await self._runs.find_one({"_id": ObjectId(run_id)})
        return None if row is None else view_of(row)

    async def claim(self, view: RunView, *, runner: str, group: str | None, alive_until: datetime) -> Claim:
        """See `RunStore`."""
        changes = row_of(view) | {"runner": runner, "alive_until": alive_until}
        changes |= {"exclusive": group} if group else {}
        waiting = {"_id": ObjectId(view.id), "state": RunState.QUEUED.value}
        try:
            result = await self._runs.update_one(waiting, {"$set": changes})
        except DuplicateKeyError:
            return Claim.BUSY
        return Claim.STARTED if result.matched_count else Claim.GONE

    async def keep_queued(self, run_id: str, *, seen: datetime | None, alive_until: datetime) -> bool:
        """See `RunStore`."""
        waiting: Row = {"_id": ObjectId(run_id), "state": RunState.QUEUED.value}
        waiting |= {"alive_until": seen} if seen else {}
        result = await self._runs.update_one(waiting, {"$set": {"alive_until": alive_until}})
        return bool(result.matched_count)

    async def beat(self, run_id: str, *, runner: str, alive_until: datetime, progress: Progress | None) -> bool:
        """See `RunStore`."""
        changes: Row = {"alive_until": alive_until}
        changes |= {"progress": msgspec.to_builtins(progress)} if progress else {}
        running = {"_id": ObjectId(run_id), "state": RunState.RUNNING.value, "runner": runner}
        result = await self._runs.update_one(running, {"$set": changes})
        return bool(result.matched_count)

    async def finish(self, view: RunView, *, runner: str | None, seen: datetime | None, again: bool) -> bool:
        """See `RunStore`."""
        under_way: Row = {"_id": ObjectId(view.id)}
        under_way |= {"runner": runner} if runner else {}
        under_way |= {"alive_until": seen} if seen else {}
        changes = row_of(view) | {"expires_at": self._clock.now() + KEPT}
        changes |= {"again": True} if again else {}
        gone = dict.fromkeys(("identity", "exclusive", "runner", "alive_until"), "")
        result = await self._runs.update_one(under_way, {"$set": changes, "$unset": gone})
        return bool(result.matched_count)

    async def overdue(self, now: datetime) -> list[tuple[RunView, datetime]]:
        """See `RunStore`."""
        rows: list[Row] = []
        for state in _UNDER_WAY:
            rows += await self._runs.find({"state": state.value, "alive_until": {"$lt": now}}).to_list()
        return [(view_of(row), row["alive_until"]) for row in rows]

    async def to_repeat(self) -> list[RunView]:
        """See `RunStore`."""
        return [view_of(row) for row in await self._runs.find({"again": True}).to_list()]

    async def repeated(self, run_id: str, *, successor: str | None, slot: str) -> None:
        """See `RunStore`."""
        # Somebody may have begun it before, and not come as far as this.
        begun = await self._runs.find_one({"slot": slot}, {"_id": 1})
        by = begun["_id"] if begun else ObjectId(successor) if successor else None
        change: Row = {"$unset": {"again": ""}} | ({"$set": {"retried_as": by}} if by else {})
        await self._runs.update_one({"_id": ObjectId(run_id)}, change)

    async def trim(self, job: str) -> None:
        """See `RunStore`; counted a day at a time, so that no single query is long."""
        top, kept = to_micros(self._clock.now()) + _DAY, 0
        for _ in range(KEPT.days + 2):
            bottom = top - _DAY
            kept += await self._runs.count_documents({"job": job, "seq": {"$gt": bottom, "$lte": top}})
            if kept >= self._most:
                # What is under way is newer: it would have been given up long ago.
                await self._runs.delete_many({"job": job, "seq": {"$lte": bottom}})
                return
            top = bottom
            await asyncio.sleep(0)


def row_of(view: RunView) -> Row:
    """What of a run changes or may be set with its state."""
    row: Row = {
        "job": view.job,
        "state": view.state.value,
        "arguments": msgspec.json.encode(view.arguments).decode(),
        "created_at": view.created_at,
        "changed": view.seq,
    }
    optional: Row = {
        "requested_by": ObjectId(view.requested_by) if view.requested_by else None,
        "due": view.due,
        "retry_of": ObjectId(view.retry_of) if view.retry_of else None,
        "retried_as": ObjectId(view.retried_as) if view.retried_as else None,
        "started_at": view.started_at,
        "finished_at": view.finished_at,
        "duration_ms": view.duration_ms,
        "progress": msgspec.to_builtins(view.progress) if view.progress else None,
        "result": msgspec.json.encode(view.result).decode() if view.result is not None else None,
        "error": view.error,
    }
    if view.finished:
        optional["expires_at"] = view.finished_at + KEPT if view.finished_at else None
    return row | {name: value for name, value in optional.items() if value is not None}


def view_of(row: Row) -> RunView:
    """The run that a row holds."""
    # Numbers that need 64 bits come as the driver's own type, which encoders do not know.
    progress, result, took = row.get("progress"), row.get("result"), row.get("duration_ms")
    return RunView(
        id=str(row["_id"]),
        job=row["job"],
        state=RunState(row["state"]),
        arguments=msgspec.json.decode(row["arguments"]),
        requested_by=_text(row.get("requested_by")),
        due=row.get("due"),
        retry_of=_text(row.get("retry_of")),
        retried_as=_text(row.get("retried_as")),
        created_at=row["created_at"],
        started_at=row.get("started_at"),
        finished_at=row.get("finished_at"),
        duration_ms=None if took is None else int(took),
        progress=_progress(progress) if progress else None,
        result=msgspec.json.decode(result) if result is not None else None,
        error=row.get("error"),
        seq=int(row["changed"]),
    )


def _progress(row: Row) -> Progress:
    total = row.get("total")
    return Progress(int(row["done"]), None if total is None else int(total), row.get("note", ""))


def _text(value: ObjectId | None) -> str | None:
    return None if value is None else str(value)
