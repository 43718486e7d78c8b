"""Reads orders for those whose they are: lists, one of them, and what a WebSocket client missed."""

from collections.abc import AsyncIterator, Collection, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from beanie import PydanticObjectId
from pymongo import ASCENDING

from app.brokerage.orders.ledger import Ledger, order_rows
from app.brokerage.orders.merging import Row
from app.brokerage.orders.schemas import OrderFilters
from app.brokerage.orders.wire import news_json, order_json, order_wire
from app.brokerage.words import OrderState
from app.core.clock import Clock, to_micros
from app.core.errors import NotFoundError
from app.core.market_calendar import IST, MarketCalendar
from app.core.pagination import Page, PageRequest, newest_first, read_page
from app.core.schemas import parse_id

REPLAYED: Final = timedelta(hours=24)
"""How far back changes are replayed: a client that was away longer reads the list."""
REPLAY_OVERLAP: Final = 5_000_000
"""Microseconds that a replay reaches back: machines' clocks differ, and a change is visible after it got its number."""

_SHORT: Final = {"listing": 0, "transitions": 0}
_PIECE: Final = 500


class OrderReading:
    """Orders of one user at a time; nobody sees anybody else's."""

    def __init__(self, ledger: Ledger, clock: Clock, calendar: MarketCalendar) -> None:
        self._ledger, self._clock, self._calendar = ledger, clock, calendar

    async def page(self, user_id: PydanticObjectId, filters: OrderFilters, page: PageRequest) -> Page[Row]:
        """The user's orders that match, newest first."""
        equality: dict[str, Any] = {"user_id": user_id}
        if filters.status is not None:
            equality["state"] = filters.status.value
        if filters.symbol is not None:
            equality["stock_symbol"] = filters.symbol.removesuffix("-EQ")  # as brokers' listings are stored
        if filters.broker is not None:
            equality["broker"] = filters.broker.value
        rows = newest_first(
            order_rows(),
            equality,
            page=page,
            account=user_id,
            clock=self._clock,
            start=filters.start,
            end=filters.end,
            projection=_SHORT,
        )
        return await read_page(rows, page)

    async def get(self, user_id: PydanticObjectId, order_id: PydanticObjectId) -> bytes:
        """One order's JSON; raises `NotFoundError`."""
        return order_json(await self._ledger.mine(user_id, order_id))

    async def open_orders(self, user_id: str, account_id: str, limit: int) -> list[Mapping[str, Any]]:
        """The account's orders that have not ended, newest first, as clients get them; at most `limit`."""
        rows = [
            row
            for row in await self._ledger.watched(account_id)
            if not OrderState(row["state"]).final and str(row["user_id"]) == user_id
        ]
        rows.sort(key=lambda row: row["seq"], reverse=True)
        return [order_wire(row, whole=False) for row in rows[:limit]]

    async def newest(self, user_id: str, start: datetime, end: datetime) -> AsyncIterator[Mapping[str, Any]]:
        """The user's orders of a stretch of time, newest first, as clients get them, read piece by piece."""
        owner = PydanticObjectId(user_id)
        rows = newest_first(
            order_rows(),
            {"user_id": owner},
            page=PageRequest(_PIECE),
            account=owner,
            clock=self._clock,
            start=start,
            end=end,
            projection=_SHORT,
        )
        async for row in rows:
            yield order_wire(row, whole=False)

    async def owns(self, user_id: str, order_id: str) -> bool:
        """Whether the user has an order with this id, whatever was written for one."""
        try:
            await self._ledger.mine(PydanticObjectId(user_id), parse_id(order_id, "order"))
        except NotFoundError:
            return False
        return True

    async def ids(self, account_id: str, broker_order_ids: Collection[str]) -> dict[str, str]:
        """Our ids of an account's orders by the broker's; orders that were placed elsewhere are left out."""
        wanted, found = sorted({*broker_order_ids}), dict[str, str]()
        for start in range(0, len(wanted), _PIECE):
            where = {"account_id": account_id, "broker_order_id": {"$in": wanted[start : start + _PIECE]}}
            rows = await order_rows().find(where, {"broker_order_id": 1}).to_list()
            found |= {row["broker_order_id"]: str(row["_id"]) for row in rows}
        return found

    async def unsettled(self, account_id: str) -> int:
        """How many orders of an account are not final, or have fills that the trade book is to bring yet.

        Those do not count that no broker's book has any more, whoever signs in there: an order lives until the end of
        the session that it was placed in, one that was placed after a close until the end of the next session.
        """
        now = self._clock.now()
        close = self._calendar.previous_session(now.astimezone(IST).date()).closes
        oldest = min(close, now - timedelta(days=2))  # brokers show what has ended for a while
        return sum(row["created_at"] >= oldest for row in await self._ledger.watched(account_id))

    async def since(self, user_id: str, seq: int, limit: int) -> list[tuple[int, bytes]]:
        """The oldest `limit` orders that changed after `seq`, as (seq, JSON), for `/ws` resuming: a repeat is possible.

        An order that changed several times comes once, as it is now.
        """
        now = self._clock.now()
        low = max(seq - REPLAY_OVERLAP, to_micros(now - REPLAYED))
        # Not by when they were made: over a weekend, or while nobody signs in at the broker, that is days before.
        changed = {"$gt": low, "$lte": to_micros(now + timedelta(hours=1))}
        where = {"user_id": PydanticObjectId(user_id), "change_seq": changed}
        rows = await order_rows().find(where, _SHORT).sort("change_seq", ASCENDING).limit(limit).to_list()
        return [(int(row["change_seq"]), news_json(row)) for row in rows]
