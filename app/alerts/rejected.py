"""Deliveries that did not become alerts: kept with the reason, bounded per strategy, for some weeks."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from collections.abc import Sequence as Errors
from contextlib import suppress
from datetime import timedelta
from typing import Any

import structlog
from beanie import PydanticObjectId
from pymongo.errors import PyMongoError

from app.alerts.keys import ActiveKey
from app.alerts.models import RejectedDocument
from app.alerts.schemas import FieldProblem, Rejected
from app.core.clock import Clock, Sequence
from app.core.errors import FieldError, UnavailableError
from app.core.group_commit import GroupCommit
from app.core.pagination import Page, PageRequest, newest_first, read_page
from app.core.settings import Settings

log = structlog.get_logger(__name__)

FIRST_KIB = 1024
_FLOOD = 30
"""Refusals of one kind that get rows of their own per key and minute; the rest are counted in the next row."""


class RejectedDeliveries:
    """Records and lists refused deliveries."""

    def __init__(self, settings: Settings, clock: Clock, sequence: Sequence) -> None:
        self._clock = clock
        self._sequence = sequence
        self._keep = timedelta(days=settings.rejected_retention_days)
        self._most = settings.rejected_max_per_strategy
        self._trim_every = max(1, self._most // 10)
        self._rows = GroupCommit(RejectedDocument.get_pymongo_collection())
        self._since_trim: Counter[PydanticObjectId] = Counter()
        # (key, kind) → the minute, rows written in it, and refusals that got no row of their own with the last of them
        self._floods: dict[tuple[PydanticObjectId, str], _Flood] = {}

    async def record(
        self,
        key: ActiveKey,
        *,
        status: int,
        reason: str,
        errors: Errors[FieldError] = (),
        body: bytes,
        size: int,
        content_type: str | None,
        address: str,
    ) -> None:
        """Keep a delivery that was answered `status`; returns when it is stored.

        Under a flood of refusals of one kind most are only counted, in the next row of that kind.
        """
        row: dict[str, Any] = {
            "_id": PydanticObjectId(),
            "schema_version": 1,
            "user_id": key.user_id,
            "strategy_id": key.strategy_id,
            "strategy_name": key.strategy_name,
            "status": status,
            "reason": reason,
            "errors": [
                {"loc": [str(part) for part in error.loc], "msg": error.msg, "type": error.type} for error in errors
            ],
            "body": body,
            "size": size,
            "content_type": content_type,
            "address": address,
            "also_refused": 0,
        }
        flood = self._floods.setdefault((key.id, str(status)), _Flood(time.monotonic()))
        if flood.swallows(row):
            return
        await self._insert(row, flood)

    async def _insert(self, row: dict[str, Any], flood: "_Flood") -> None:
        now = self._clock.now()
        count, owed = flood.take()
        row |= {
            "also_refused": count,
            "seq": self._sequence.next(),
            "created_at": now,
            "expires_at": now + self._keep,
        }
        try:
            await self._rows.insert(row)
        except BaseException:
            flood.give_back(count, owed)
            raise
        strategy = row["strategy_id"]
        self._since_trim[strategy] += 1
        if self._since_trim[strategy] >= self._trim_every or self._since_trim[strategy] == 1:
            self._since_trim[strategy] = 1
            with suppress(PyMongoError):  # the row is stored; the next one trims
                await self._trim(strategy)

    async def _trim(self, strategy: PydanticObjectId) -> None:
        collection = RejectedDocument.get_pymongo_collection()
        numbers = [row["seq"] async for row in collection.find({"strategy_id": strategy}, {"seq": 1})]
        if len(numbers) > self._most:
            oldest = sorted(numbers, reverse=True)[self._most]
            await collection.delete_many({"strategy_id": strategy, "seq": {"$lte": oldest}})

    async def run(self) -> None:
        """Write the rows that floods still owe, and forget floods that are over; the supervisor runs this."""
        while True:
            await asyncio.sleep(10)
            await self.settle()

    async def settle(self) -> None:
        """Write a last row for every flood that swallowed refusals since its last one."""
        for name, flood in list(self._floods.items()):
            if (row := flood.owed) is not None:
                flood.owed = None
                flood.count -= 1  # the row that is written now stands for itself
                try:
                    await self._insert(row, flood)
                except BaseException:
                    flood.give_back(1, row)
                    raise
            elif time.monotonic() - flood.began > 120:
                del self._floods[name]

    async def drain(self) -> None:
        """Wait until everything that was recorded is stored, or the database has had its time."""
        try:
            await self.settle()
        except UnavailableError:
            log.warning("counts of refused deliveries are lost: the database is away")
        await self._rows.drain()

    async def page(
        self, user_id: PydanticObjectId, page: PageRequest, strategy_id: PydanticObjectId | None
    ) -> Page[Rejected]:
        """The user's refused deliveries, newest first."""
        found = await read_page(self._read(user_id, page, strategy_id), page)
        return Page([_wire(row) for row in found.rows], found.next)

    def _read(
        self, user_id: PydanticObjectId, page: PageRequest, strategy_id: PydanticObjectId | None
    ) -> AsyncIterator[dict[str, Any]]:
        equality = {"strategy_id": strategy_id} if strategy_id else {"user_id": user_id}
        collection = RejectedDocument.get_pymongo_collection()
        return newest_first(collection, equality, page=page, account=user_id, clock=self._clock)


class _Flood:
    """Refusals of one kind for one key: a minute's allowance of rows, and what did not fit."""

    __slots__ = ("began", "count", "owed", "rows")

    def __init__(self, now: float) -> None:
        self.began = now
        self.rows = 0
        self.count = 0
        self.owed: dict[str, Any] | None = None

    def swallows(self, row: dict[str, Any]) -> bool:
        """Whether this refusal is only counted; the newest one of them is remembered in full."""
        now = time.monotonic()
        if now - self.began > 60:
            self.began, self.rows = now, 0
        if self.rows < _FLOOD:
            self.rows += 1
            return False
        self.count += 1
        self.owed = row
        return True

    def take(self) -> tuple[int, dict[str, Any] | None]:
        """How many refusals the next row stands for beside its own, and the one owed: that row settles both."""
        taken = self.count, self.owed
        self.count, self.owed = 0, None
        return taken

    def give_back(self, count: int, owed: dict[str, Any] | None) -> None:
        """What was taken was not written after all."""
        self.count += count
        self.owed = self.owed or owed


def _wire(row: dict[str, Any]) -> Rejected:
    return Rejected(
        id=str(row["_id"]),
        strategy_name=row["strategy_name"],
        status=row["status"],
        reason=row["reason"],
        errors=[FieldProblem(**error) for error in row.get("errors", ())],
        body=bytes(row["body"]).decode("utf-8", "replace"),
        size=row["size"],
        content_type=row.get("content_type"),
        address=row["address"],
        also_refused=row.get("also_refused", 0),
        created_at=row["created_at"],
    )
