"""Positions that a broker moved from one product to another, by its customer's wish (intraday into delivery, or back).

No order and no trade tells of it. It shows in the positions alone: what is open here in one product is gone there, and
stands there in another one that nobody traded today. Only where that is the one explanation it is taken for one.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Final, NamedTuple, Protocol

from app.brokerage.orders.ports import Holding
from app.brokerage.words import BookedOrder, BookedTrade, BrokerPosition, Exchange, Product

_FROM: Final = (Product.MIS, Product.NRML)
"""Products whose positions are compared; what is held for delivery is not the positions' alone."""
Instrument = tuple[Exchange, str]


class Conversion(NamedTuple):
    """So much of an instrument was moved, all that there was."""

    exchange: Exchange
    symbol: str
    was: Product
    became: Product
    quantity: int
    """Below 0: short."""


class PositionBooks(Protocol):
    """What follows here from what a broker did without a trade. The portfolio fills it."""

    async def ended(self, account_id: str) -> Collection[Instrument]:
        """Contracts of the account that have expired lately: brokers show them for a while yet."""

    async def convert(self, account_id: str, conversion: Conversion) -> bool:
        """Do the same with the position here; False where it has changed meanwhile, or is being changed."""


def plain(symbol: str) -> str:
    """As positions are compared: without the series."""
    return symbol.removesuffix("-EQ")


def conversions(
    ours: Mapping[Holding, int],
    theirs: Iterable[BrokerPosition],
    trades: Collection[BookedTrade],
    orders: Iterable[BookedOrder] = (),
) -> list[Conversion]:
    """Those that explain, each alone, why a position here is not the broker's; `trades` and `orders` are all of the
    day. Where an order is filled otherwise than its trades say, some of them are late, and nothing is explained."""
    mine, net, traded = (defaultdict[Instrument, defaultdict[Product, int]](lambda: defaultdict(int)) for _ in range(3))
    spelled: dict[Instrument, str] = {}
    for holding, quantity in ours.items():
        mine[holding.exchange, plain(holding.symbol)][holding.product] += quantity
        spelled[holding.exchange, plain(holding.symbol)] = holding.symbol
    for position in theirs:
        net[position.exchange, plain(position.symbol)][position.product] += position.net_quantity
    for trade in trades:
        traded[trade.exchange, plain(trade.symbol)][trade.product] += trade.side.sign * trade.quantity
    late = _late(orders, trades)
    found = []
    for (exchange, symbol), open_ in mine.items():
        at = exchange, symbol
        if at in late:
            continue
        ways = [
            Conversion(exchange, spelled[at], was, became, open_[was])
            for was in _FROM
            for became in Product
            if became is not was and _explains(was, became, open_, net[at], traded[at])
        ]
        # Two explanations are none.
        found += ways if len(ways) == 1 else []
    return found


def _late(orders: Iterable[BookedOrder], trades: Iterable[BookedTrade]) -> set[Instrument]:
    """Instruments of which the trade book has not all trades yet."""
    told: defaultdict[str, int] = defaultdict(int)
    for trade in trades:
        told[trade.broker_order_id] += trade.quantity
    return {
        (order.exchange, plain(order.symbol))
        for order in orders
        if order.filled_quantity != told.get(order.broker_order_id, 0)
    }


def _explains(
    was: Product,
    became: Product,
    mine: Mapping[Product, int],
    net: Mapping[Product, int],
    traded: Mapping[Product, int],
) -> bool:
    quantity = mine.get(was, 0)
    if not quantity or net.get(was, 0) or net.get(became, 0) != quantity or became in traded:
        return False
    # An intraday position is of today; another one may have been carried, or is of today whole.
    if traded.get(was, 0) != quantity and (was is Product.MIS or was in traded):
        return False
    return became not in _FROM or not mine.get(became, 0)
