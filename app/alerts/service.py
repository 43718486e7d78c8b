"""The use cases around stored alerts: list, read, write by hand, replace, delete, replay."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from typing import Any

from beanie import PydanticObjectId

from app.alerts.ingest import (
    AlertIngest,
    Row,
    alert_json,
    alert_rows,
    alert_values,
    remains_of,
    repeat_digest,
)
from app.alerts.keys import KeyService
from app.alerts.models import StrategyDocument
from app.alerts.schemas import OPTIONAL_FIELDS, AlertFilters, AlertInput
from app.core.bus import Bus
from app.core.clock import Clock, from_micros, to_micros
from app.core.errors import FieldError, InvalidInputError, NotFoundError
from app.core.events import AlertChanged
from app.core.pagination import Cursor, Page, PageRequest, newest_first, oldest_first, read_page
from app.core.settings import Settings

_NO_ALERT = "There is no alert with this id."
REPLAY_OVERLAP = 60_000_000
"""Microseconds that a replay reaches back: an alert may become visible some seconds after it got its number."""
DAY = 86_400_000_000


class AlertService:
    """Stored alerts of one user at a time; nobody sees anybody else's."""

    def __init__(self, settings: Settings, keys: KeyService, ingest: AlertIngest, bus: Bus, clock: Clock) -> None:
        self._keys = keys
        self._ingest = ingest
        self._bus = bus
        self._clock = clock
        self._retention = settings.alert_retention_days

    async def create(
        self, user_id: PydanticObjectId, alert: AlertInput, idempotency_key: str | None
    ) -> tuple[bytes, bool]:
        """Store an alert written by hand: its JSON, and whether it is new.

        Raises `InvalidInputError` for an unknown strategy.
        """
        strategy_id = await self._strategy(user_id, alert.strategy_name)
        dedup = None
        if idempotency_key:
            dedup = repeat_digest(str(user_id), idempotency_key, alert.model_dump_json().encode())
        row = self._ingest.draft(
            alert,
            user_id=user_id,
            strategy_id=strategy_id,
            strategy_name=alert.strategy_name,
            source="manual",
            dedup=dedup,
        )
        return await self._ingest.store(row, identified=True)

    async def _strategy(self, user_id: PydanticObjectId, name: str) -> PydanticObjectId:
        strategy_id = await self._keys.strategy_id(user_id, name)
        if strategy_id is None:
            message = "You have no strategy of this name; POST /alerts/bind_key makes one"
            raise InvalidInputError(
                f"body.strategy_name: {message}.", [FieldError(("body", "strategy_name"), message, "strategy_unknown")]
            )
        return strategy_id

    async def page(self, user_id: PydanticObjectId, filters: AlertFilters, page: PageRequest) -> Page[Row]:
        """The user's alerts that match, newest first."""
        return await read_page(self.rows(user_id, filters, page), page)

    async def rows(
        self,
        user_id: PydanticObjectId,
        filters: AlertFilters,
        page: PageRequest,
        projection: Mapping[str, int] | None = None,
    ) -> AsyncIterator[Row]:
        """Rows that match, newest first, for as long as they are asked for."""
        equality: dict[str, Any] = {"user_id": user_id}
        if filters.strategy_name is not None:
            strategy_id = await self._keys.strategy_id(user_id, filters.strategy_name)
            if strategy_id is None:
                return
            equality["strategy_id"] = strategy_id
        if filters.contract is not None:
            equality["contract"] = filters.contract
        if filters.trade_type is not None:
            equality["trade_type"] = filters.trade_type.value
        found = newest_first(
            alert_rows(),
            equality,
            page=page,
            account=user_id,
            clock=self._clock,
            start=filters.start,
            end=filters.end,
            projection=projection,
        )
        async for row in found:
            yield row

    async def get(self, user_id: PydanticObjectId, alert_id: PydanticObjectId) -> bytes:
        """One alert's JSON; raises `NotFoundError`."""
        return alert_json(await self._mine(user_id, alert_id))

    async def _mine(self, user_id: PydanticObjectId, alert_id: PydanticObjectId) -> Row:
        row: Row | None = await alert_rows().find_one({"_id": alert_id, "user_id": user_id})
        if row is None:
            raise NotFoundError(_NO_ALERT)
        return row

    async def replace(self, user_id: PydanticObjectId, alert_id: PydanticObjectId, alert: AlertInput) -> bytes:
        """Replace what a person can give; the rest stays. Raises `NotFoundError`, `InvalidInputError`."""
        await self._mine(user_id, alert_id)
        values = alert_values(alert) | {
            "strategy_id": await self._strategy(user_id, alert.strategy_name),
            "strategy_name": alert.strategy_name,
            "updated_at": self._clock.now(),
        }
        change: dict[str, Any] = {"$set": values}
        if gone := {name: "" for name in OPTIONAL_FIELDS if name not in values}:
            change["$unset"] = gone
        await alert_rows().update_one({"_id": alert_id, "user_id": user_id}, change)
        row = await self._mine(user_id, alert_id)
        self._bus.announce(self._change(user_id, alert_id, deleted=False))
        return alert_json(row)

    async def delete(self, user_id: PydanticObjectId, alert_id: PydanticObjectId) -> None:
        """Delete an alert; raises `NotFoundError`. What decides repeats stays until no repeat can come any more."""
        alerts = alert_rows()
        row = await self._mine(user_id, alert_id)
        mine = {"_id": alert_id, "user_id": user_id}
        if "dedup" in row:
            result = await alerts.replace_one(mine, remains_of(row))
            gone = result.matched_count
        else:
            gone = (await alerts.delete_one(mine)).deleted_count
        if not gone:
            raise NotFoundError(_NO_ALERT)
        self._bus.announce(self._change(user_id, alert_id, deleted=True))

    @staticmethod
    def _change(user_id: PydanticObjectId, alert_id: PydanticObjectId, *, deleted: bool) -> AlertChanged:
        change_id = secrets.token_hex(8)
        return AlertChanged(user_id=str(user_id), alert_id=str(alert_id), change_id=change_id, deleted=deleted)

    async def since(self, user_id: str, seq: int, limit: int) -> list[tuple[int, bytes]]:
        """The oldest `limit` of the user's alerts after `seq`, oldest first, as (seq, JSON): for `/ws` resuming.

        Alerts become visible a little out of order, so it begins with what came shortly before `seq`: a repeat is
        possible, a gap is not. What comes after `seq` has most of `limit`, so that resuming always gets on.
        """
        account = PydanticObjectId(user_id)
        equality = {"user_id": account}
        now = to_micros(self._clock.now())
        seq = max(0, min(seq, now + DAY))
        again = PageRequest(limit * 2 // 5, Cursor(seq + 1, PydanticObjectId("0" * 24)))
        before = newest_first(
            alert_rows(),
            equality,
            page=again,
            account=account,
            clock=self._clock,
            start=from_micros(max(0, seq - REPLAY_OVERLAP)),
        )
        rows = (await read_page(before, again)).rows[::-1]
        begin = max(seq + 1, to_micros(account.generation_time) - DAY)
        rows += await oldest_first(alert_rows(), equality, low=begin, high=now + DAY, most=limit - len(rows))
        return [(int(row["seq"]), alert_json(row)) for row in rows]

    async def expire(self) -> None:
        """Delete alerts older than `ALERT_RETENTION_DAYS`, a few at a time; the periodic job calls this."""
        if self._retention is None:
            return
        oldest = to_micros(self._clock.now() - timedelta(days=self._retention)) - 1
        alerts = alert_rows()
        for account in await StrategyDocument.get_pymongo_collection().distinct("user_id"):
            low = to_micros(account.generation_time) - DAY
            while rows := await oldest_first(alerts, {"user_id": account}, low=low, high=oldest, most=500):
                span = {"$gte": rows[0]["seq"], "$lte": rows[-1]["seq"]}
                await alerts.delete_many({"user_id": account, "seq": span})
                low = rows[-1]["seq"] + 1
                self._bus.announce(self._change(account, rows[-1]["_id"], deleted=True))
                await asyncio.sleep(0.05)  # others get their turn
