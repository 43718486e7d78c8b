"""The outbox in the database: every query and every write of it."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from bson import ObjectId
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import ConnectionFailure, DuplicateKeyError

from app.core.clock import Clock
from app.core.errors import UnavailableError
from app.core.mail import MailRequest
from app.mail.models import MailDocument, MailState

Row = dict[str, Any]

# A look at the backlog costs about 25 µs a row on the embedded database, which serves one query at a time: it may take
# one part in a hundred of the time.
_LOOK_SHARE = 100
_PATIENCE = (0.1, 0.3, 0.6, 1.0, 2.0, 3.0)
"""Seconds between the tries to settle a mail that was sent: the embedded database restarts within them."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """The waiting rows: how many, how many of them are due, and since when the one that is due the longest has been."""

    waiting: int = 0
    due: int = 0
    due_since: datetime | None = None


class MailStore:
    """Rows of `MailDocument`. At most about `cap` of them wait; settled ones are kept for `keep`."""

    def __init__(self, clock: Clock, *, cap: int, keep: timedelta) -> None:
        self._clock = clock
        self._cap = cap
        self._keep = keep
        self._backlog = Backlog()
        self._added = 0
        self._looked_at = float("-inf")
        self._look_took = 0.0

    @property
    def _rows(self) -> AsyncCollection[Row]:
        return MailDocument.get_pymongo_collection()

    async def put(self, request: MailRequest) -> None:
        """Store a request in one write. `UnavailableError` when too many wait already.

        A request whose key waits already takes that one's place and is due at once, whatever the other was put off for.
        """
        await self._admit()
        now = self._clock.now()
        key = request.key
        row_id = f"{request.kind}:{key}" if key is not None else f"{request.kind}#{ObjectId()}"
        fresh = {
            "schema_version": 1,
            "nonce": str(ObjectId()),
            "kind": str(request.kind),
            "to": request.to,
            "values": dict(request.values),
            "state": MailState.WAITING.value,
            "attempts": 0,
            "next_try_at": now,
            "created_at": now,
        } | ({"key": key} if key is not None else {})
        change = {"$set": fresh, "$unset": {"settled_at": "", "last_error": "", "expires_at": ""}}
        try:
            await self._rows.update_one({"_id": row_id}, change, upsert=True)
        except DuplicateKeyError:  # another request with this key made the row between the server's two steps
            await self._rows.update_one({"_id": row_id}, change, upsert=True)
        self._added += 1

    async def _admit(self) -> None:
        if self._backlog.waiting + self._added < self._cap:
            return
        await self.look(max_age=1)
        if self._backlog.waiting + self._added >= self._cap:
            raise UnavailableError("Too many e-mails are waiting to be sent; try again later.", retry_after=60)

    async def due(self, limit: int, *, drawn_over: int | None = None) -> list[str]:
        """Ids of up to `limit` rows whose time has come: the longest due first, but the new ones before the others.

        A mail that is tried again has met trouble, and may hold the line until a timeout. Of more than `drawn_over`
        the order is drawn by lot.
        """
        wanted = {"state": MailState.WAITING.value, "next_try_at": {"$lte": self._clock.now()}}
        found = await self._rows.find(wanted, {"attempts": 1}).sort("next_try_at", 1).limit(limit).to_list()
        if drawn_over is not None and len(found) > drawn_over:
            random.SystemRandom().shuffle(found)
        return [row["_id"] for row in sorted(found, key=lambda row: row["attempts"] > 0)]

    async def read(self, row_id: str) -> Row | None:
        """The row as it is now, if it is still due."""
        row = await self._rows.find_one({"_id": row_id})
        if row is None or row["state"] != MailState.WAITING or row["next_try_at"] > self._clock.now():
            return None
        return row

    async def settle(self, row: Mapping[str, Any], state: MailState, error: str | None = None) -> None:
        """Note that the request read as `row` was sent or has failed; one that has replaced it goes on waiting."""
        now = self._clock.now()
        change: dict[str, Any] = {
            "state": state.value,
            "attempts": row["attempts"] + 1,
            "settled_at": now,
            "expires_at": now + self._keep,
        }
        await self._change(row, change | ({"last_error": error} if error else {}))

    async def defer(self, row: Mapping[str, Any], until: datetime, error: str) -> None:
        """Put the request read as `row` off until then."""
        await self._change(row, {"attempts": row["attempts"] + 1, "next_try_at": until, "last_error": error})

    async def drop(self, row: Mapping[str, Any]) -> None:
        """Delete the request read as `row`, with the address that somebody typed; one that has replaced it stays."""
        await _patiently(lambda: self._rows.delete_one(_same(row)))

    async def _change(self, row: Mapping[str, Any], values: dict[str, Any]) -> None:
        await _patiently(lambda: self._rows.update_one(_same(row), {"$set": values}))

    async def look(self, *, max_age: float) -> Backlog:
        """The backlog, not older than `max_age` seconds, or than looking at a very long one allows."""
        age = time.monotonic() - self._looked_at
        if age >= max(max_age, self._look_took * _LOOK_SHARE):
            began, added = time.monotonic(), self._added
            now = self._clock.now()
            is_due = {"$cond": [{"$lte": ["$next_try_at", now]}, 1, 0]}
            pipeline: list[dict[str, Any]] = [
                {"$match": {"state": MailState.WAITING.value}},
                {"$limit": self._cap + 1},
                {
                    "$group": {
                        "_id": None,
                        "waiting": {"$sum": 1},
                        "due": {"$sum": is_due},
                        "since": {"$min": "$next_try_at"},
                    }
                },
            ]
            found = [row async for row in await self._rows.aggregate(pipeline)]
            self._looked_at, self._look_took = began, time.monotonic() - began
            self._backlog = _backlog(found[0]) if found else Backlog()
            self._added = max(0, self._added - added)
        return self._backlog


def _backlog(row: Mapping[str, Any]) -> Backlog:
    return Backlog(row["waiting"], row["due"], row["since"] if row["due"] else None)


def _same(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"_id": row["_id"], "nonce": row["nonce"]}


async def _patiently(write: Callable[[], Awaitable[object]]) -> None:
    """Do `write`, again while the database is away: a sent mail that is not noted as sent would go out again."""
    for pause in _PATIENCE:
        try:
            await write()
            return
        except ConnectionFailure:
            await asyncio.sleep(pause)
    await write()
