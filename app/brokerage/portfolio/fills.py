"""Fills that brokers report, each stored once."""

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

import structlog
from beanie import PydanticObjectId
from cachetools import LRUCache
from pymongo.errors import BulkWriteError

from app.brokerage.portfolio.book_rows import Row, trade_rows
from app.brokerage.portfolio.ledger import Ledger
from app.brokerage.portfolio.naming import Source, day_of, type_of
from app.brokerage.portfolio.places import Places
from app.brokerage.portfolio.ports import OrdersHere
from app.brokerage.words import BookedTrade, BrokerName
from app.core.charges.words import EXACT
from app.core.clock import Clock, to_micros
from app.core.database import DUPLICATE_KEY

log = structlog.get_logger("arrow.portfolio")

MAX_PRICE: Final = Decimal(1_000_000_000)
MAX_QUANTITY: Final = 1_000_000_000
_KNOWN: Final = 20_000
_CHUNK: Final = 500


class TradeFills:
    """Fills the port `Fills`. Brokers tell the same trades again and again: in answers, polls and pushes."""

    def __init__(self, *, ledger: Ledger, orders: OrdersHere, clock: Clock, places: Places | None = None) -> None:
        self._places = places or Places()
        self._ledger, self._orders, self._clock = ledger, orders, clock
        self._known: LRUCache[str, bool] = LRUCache(_KNOWN)

    async def take(self, account_id: str, user_id: str, broker: BrokerName, trades: Sequence[BookedTrade]) -> int:
        """See `Fills.take`."""
        told = {key_of(account_id, trade): trade for trade in trades if _sound(trade, account_id)}
        told = {key: trade for key, trade in told.items() if key not in self._known}
        stored = await _stored(told)
        self._known.update(dict.fromkeys(stored, True))
        fresh = {key: trade for key, trade in told.items() if key not in stored}
        if not fresh:
            return 0
        orders = await self._orders.ids(account_id, {trade.broker_order_id for trade in fresh.values()})
        rows = [
            await self._row(key, trade, account_id, user_id, broker, orders.get(trade.broker_order_id))
            for key, trade in fresh.items()
        ]
        taken = 0

        async def write() -> Sequence[Row] | None:
            nonlocal taken
            taken, alone = await _insert(rows)
            return rows if alone else None

        await self._ledger.change(rows, write)
        self._known.update(dict.fromkeys(fresh, True))
        return taken

    async def _row(
        self, key: str, trade: BookedTrade, account_id: str, user_id: str, broker: BrokerName, order_id: str | None
    ) -> Row:
        now = self._clock.now()
        row: Row = {
            "_id": PydanticObjectId(),
            "schema_version": 1,
            "user_id": PydanticObjectId(user_id),
            "account_id": account_id,
            "broker": broker.value,
            "source": Source.BROKER.value,
            "book": await self._places.book(
                broker, account_id, Source.BROKER, trade.exchange, trade.symbol, trade.product
            ),
            "key": key,
            "ref": trade.trade_id,
            "broker_order_id": trade.broker_order_id,
            "exchange": trade.exchange.value,
            "stock_ticker": trade.symbol,
            "product": trade.product.value,
            "type": type_of(trade.exchange, trade.symbol, trade.product).value,
            "order_type": trade.side.value,
            "quantity": trade.quantity,
            "price": trade.price,
            "capital_used": EXACT.multiply(Decimal(trade.quantity), trade.price),
            "day": day_of(trade.at).isoformat(),
            "seq": to_micros(trade.at),
            "order_executed_at": trade.at.replace(microsecond=trade.at.microsecond // 1000 * 1000),
            "created_at": now,
            "updated_at": now,
            "revision": 1,
        }
        return row | ({"order_id": order_id} if order_id else {})


def key_of(account_id: str, trade: BookedTrade) -> str:
    """What makes it one trade: brokers and exchanges use their numbers again on another day."""
    day = day_of(trade.at).isoformat()
    return f"{account_id}|{day}|{trade.exchange}|{trade.broker_order_id}|{trade.trade_id}"


def _sound(trade: BookedTrade, account_id: str) -> bool:
    sound = 0 < trade.quantity <= MAX_QUANTITY and trade.price.is_finite() and 0 < trade.price <= MAX_PRICE
    if not sound:
        log.warning("a broker told a trade that is none", account=account_id, trade=trade.trade_id[:40])
    return sound


async def _stored(keys: Iterable[str]) -> set[str]:
    wanted, found = list(keys), set()
    for start in range(0, len(wanted), _CHUNK):
        query: Mapping[str, Any] = {"key": {"$in": wanted[start : start + _CHUNK]}}
        found |= {row["key"] async for row in trade_rows().find(query, {"key": 1})}
    return found


async def _insert(rows: Sequence[Row]) -> tuple[int, bool]:
    """How many are new, and whether nobody else was storing any of them meanwhile."""
    try:
        await trade_rows().insert_many(rows, ordered=False)
    except BulkWriteError as error:
        faults = error.details["writeErrors"]
        if any(fault["code"] != DUPLICATE_KEY for fault in faults):
            raise
        return len(rows) - len(faults), False
    return len(rows), True
