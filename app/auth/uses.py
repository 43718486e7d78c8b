"""When sessions and API tokens were last used: noted in memory, written now and then."""

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import structlog
from beanie import Document, PydanticObjectId
from pymongo import UpdateOne
from pymongo.errors import PyMongoError

from app.auth.models import ApiTokenDocument, SessionDocument
from app.core.clock import Clock

log = structlog.get_logger(__name__)

SAVE_SECONDS = 60.0
"""How far behind `last_used_at` may be: one write per credential and minute, however often it is used."""
AT_ONCE = 200
"""Updates in one command: the embedded database serves nobody else meanwhile."""

_Used = dict[PydanticObjectId, datetime]


class CredentialUses:
    """Keeps `last_used_at` of sessions and API tokens."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._used: dict[type[Document], _Used] = {SessionDocument: {}, ApiTokenDocument: {}}

    def note(self, credential_id: PydanticObjectId, *, api_token: bool) -> None:
        """This session or API token has just been used."""
        self._used[ApiTokenDocument if api_token else SessionDocument][credential_id] = self._clock.now()

    async def save(self) -> None:
        """Write what was noted; what cannot be written now is kept for the next time. Never raises `PyMongoError`."""
        for kind in self._used:
            used, self._used[kind] = self._used[kind], {}
            try:
                await _write(kind, used)
            except PyMongoError as error:
                self._used[kind] = used | self._used[kind]
                log.warning("times of credentials' use are not saved yet", error=type(error).__name__)

    async def run(self) -> None:
        """Save every `SAVE_SECONDS`; the supervisor runs this."""
        while True:
            await asyncio.sleep(SAVE_SECONDS)
            await self.save()


async def _write(kind: type[Document], used: Mapping[PydanticObjectId, datetime]) -> None:
    collection = kind.get_pymongo_collection()
    # `$max`: another process, or a refresh, may have written a later time already.
    updates: list[UpdateOne] = [_update(id_, moment) for id_, moment in used.items()]
    for start in range(0, len(updates), AT_ONCE):
        await collection.bulk_write(updates[start : start + AT_ONCE], ordered=False)


def _update(id_: PydanticObjectId, moment: datetime) -> UpdateOne:
    change: dict[str, Any] = {"$max": {"last_used_at": moment}}
    return UpdateOne({"_id": id_}, change)
