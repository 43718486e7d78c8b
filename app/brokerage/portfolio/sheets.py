"""Trades, orders and P&L as tables: what their columns are."""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from beanie import PydanticObjectId
from starlette.responses import Response

from app.brokerage.portfolio.exports import Cell, table
from app.brokerage.portfolio.ports import OrdersHere
from app.brokerage.portfolio.schemas import ListFormat, PnlBy, TradeFilters
from app.brokerage.portfolio.standing_schemas import Pnl, PnlRow
from app.brokerage.portfolio.trades import EARLIEST, Trades
from app.core.clock import Clock

_PIECE: Final = 500
_TRADES: Final = (
    "order_executed_at",
    "stock_ticker",
    "exchange",
    "product",
    "type",
    "order_type",
    "quantity",
    "price",
    "buy_price",
    "sell_price",
    "capital_used",
    "status",
    "open_quantity",
    "closed_quantity",
    "realised_pnl",
    "brokerage_charge",
    "mtf_charge",
    "charges",
    "net_pnl",
    "broker",
    "source",
    "id",
    "order_id",
    "broker_order_id",
    "note",
)
_ORDERS: Final = (
    "created_at",
    "stock_symbol",
    "exchange",
    "product",
    "order_type",
    "price_type",
    "validity",
    "quantity",
    "filled_quantity",
    "price",
    "trigger_price",
    "average_price",
    "status",
    "reason",
    "order_executed_at",
    "closed_at",
    "broker",
    "id",
    "client_order_id",
    "broker_order_id",
    "tag",
)
_SUMS: Final = ("trades", "turnover", "realised_pnl", "charges", "interest", "net_pnl")
_PNL: Final = {
    PnlBy.DAY: ("day", *_SUMS, "note"),
    PnlBy.SYMBOL: ("exchange", "symbol", "product", "bought", "sold", *_SUMS),
}


class Sheets:
    """Makes files of lists."""

    def __init__(self, *, trades: Trades, orders: OrdersHere, clock: Clock) -> None:
        self._trades, self._orders, self._clock = trades, orders, clock

    async def trades(self, user_id: PydanticObjectId, filters: TradeFilters, format_: ListFormat) -> Response:
        """The trades that match, newest first."""
        found = self._trades.newest(user_id, filters, _PIECE)
        return await table(format_, "trades", _TRADES, _each(found, _TRADES, getattr))

    async def orders(
        self, user_id: PydanticObjectId, start: datetime | None, end: datetime | None, format_: ListFormat
    ) -> Response:
        """The orders of a stretch of time, newest first; by default all."""
        until = end or self._clock.now() + timedelta(days=1)
        found = self._orders.newest(str(user_id), start or EARLIEST, until)
        return await table(format_, "orders", _ORDERS, _each(found, _ORDERS, _of_mapping))


async def pnl_sheet(pnl: Pnl, by: PnlBy, format_: ListFormat) -> Response:
    """A P&L as a file."""
    names = _PNL[by]
    return await table(format_, f"pnl-{pnl.start}-{pnl.end}", names, _each(_one_by_one(pnl.rows), names, getattr))


async def _one_by_one(rows: Iterable[PnlRow]) -> AsyncIterator[PnlRow]:
    for row in rows:
        yield row


def _of_mapping(row: Mapping[str, Any], name: str) -> Any:
    return row.get(name)


async def _each(
    rows: AsyncIterator[Any], names: Sequence[str], of: Callable[[Any, str], Any]
) -> AsyncIterator[list[Cell]]:
    async for row in rows:
        yield [_cell(of(row, name)) for name in names]


def _cell(value: Any) -> Cell:
    return value if value is None or isinstance(value, int | Decimal | datetime | date) else str(value)
