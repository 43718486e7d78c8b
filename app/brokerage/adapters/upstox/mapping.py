"""Between what Upstox sends and takes, and our words. Pure; raises `UnreadableError`."""

from collections.abc import Mapping
from datetime import datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final

from app.brokerage.adapters.http import broker_words
from app.brokerage.adapters.unreadable import UnreadableError, objects, one_of
from app.brokerage.adapters.upstox.words import (
    exchange_of,
    plain_symbol,
    product_of,
    product_word,
    state_of,
)
from app.brokerage.adapters.values import IST, count, moment, number, price, text, whole
from app.brokerage.words import (
    BookedOrder,
    BookedTrade,
    BrokerHolding,
    BrokerPosition,
    Exchange,
    Funds,
    OrderChange,
    OrderState,
    OrderTicket,
    PriceType,
    Product,
    Side,
    Validity,
)

TOKENS_DIE: Final = time(3, 30)
"""In India, whenever they were made (the vendor's documentation of October 2026)."""
AUTOMATIC_PROTECTION: Final = -1
"""Of market orders: Upstox chooses how far from the last price they may go. Without any they are refused."""
_API: Final = "https://api.upstox.com"
_ORDERS: Final = "https://api-hft.upstox.com"
_TIMES: Final = ("%Y-%m-%d %H:%M:%S", "%d-%b-%Y %H:%M:%S", "%d-%m-%Y %H:%M:%S")
_EXPLAINED: Final = frozenset({OrderState.REJECTED, OrderState.CANCELLED, OrderState.EXPIRED})
Symbols = Mapping[str, str]
"""What is known of Upstox's instrument keys: the exchange's symbol of each."""


def api_base(base_url: str) -> str:
    """Where everything but orders goes."""
    base = base_url.rstrip("/")
    return _API if base == _ORDERS else base


def order_base(base_url: str) -> str:
    """Where orders go: Upstox has a host of their own for them, others (a simulator) have not."""
    base = base_url.rstrip("/")
    return _ORDERS if base == _API else base


def place_body(ticket: OrderTicket) -> dict[str, Any]:
    """The body of `POST /v3/order/place`. Sliced orders are never asked for: one ticket is one order."""
    return {
        "quantity": ticket.quantity,
        "product": product_word(ticket.product),
        "validity": ticket.validity.value,
        "price": ticket.price if ticket.price is not None else 0,
        "tag": ticket.tag,
        "instrument_token": ticket.listing.key,
        "order_type": ticket.price_type.value,
        "transaction_type": ticket.side.value.upper(),
        "disclosed_quantity": 0,
        "trigger_price": ticket.trigger_price if ticket.trigger_price is not None else 0,
        "is_amo": False,
        "slice": False,
        **_protection(ticket.price_type),
    }


def modify_body(order: BookedOrder, change: OrderChange) -> dict[str, Any]:
    """The body of `PUT /v3/order/modify`. `disclosed_quantity` is left out: given, it must not be 0."""
    return {
        "order_id": order.broker_order_id,
        "quantity": change.quantity,
        "validity": change.validity.value,
        "price": change.price if change.price is not None else 0,
        "order_type": change.price_type.value,
        "trigger_price": change.trigger_price if change.trigger_price is not None else 0,
        **_protection(change.price_type),
    }


def _protection(price_type: PriceType) -> dict[str, int]:
    return {} if price_type.has_limit else {"market_protection": AUTOMATIC_PROTECTION}


def placed_id(content: Any) -> str | None:
    """The order id in the answer to placing; None if it does not hold exactly one."""
    data = content.get("data") if isinstance(content, dict) else None
    ids = data.get("order_ids") if isinstance(data, dict) else None
    return text(ids[0], 64) if isinstance(ids, list) and len(ids) == 1 else None


def tokens_die(now: datetime) -> datetime:
    """When a token of now dies."""
    local = now.astimezone(IST)
    end = datetime.combine(local.date(), TOKENS_DIE, IST)
    return (end if local < end else end + timedelta(days=1)).astimezone(now.tzinfo)


def orders_of(data: Any, symbols: Symbols) -> list[BookedOrder]:
    """The order book, without what is not of our kinds. One row that cannot be read makes the whole unreadable:

    whoever looks for an order must not be told that it is not there.
    """
    return [order for row in objects(data, "orders") if (order := _order(row, symbols)) is not None]


def trades_of(data: Any, symbols: Symbols) -> list[BookedTrade]:
    """The trade book, in the same way."""
    return [trade for row in objects(data, "trades") if (trade := _trade(row, symbols)) is not None]


def _order(row: dict[str, Any], symbols: Symbols) -> BookedOrder | None:
    place = _place(row, symbols)
    if place is None:
        return None
    exchange, symbol, product = place
    price_type = one_of(PriceType, row.get("order_type"))
    order_id, status = text(row.get("order_id"), 64), text(row.get("status"))
    quantity, filled = count(row.get("quantity")), count(row.get("filled_quantity"))
    if row.get("filled_quantity") is None:
        filled = quantity if str(status).lower() == "complete" else 0
    if quantity is None or filled is None or order_id is None or status is None:
        raise UnreadableError("an order without its numbers")
    state = state_of(status, price_type, filled)
    return BookedOrder(
        broker_order_id=order_id,
        tag=text(row.get("tag"), 64),
        exchange=exchange,
        symbol=symbol,
        side=one_of(Side, str(row.get("transaction_type")).lower()),
        product=product,
        price_type=price_type,
        quantity=quantity,
        filled_quantity=filled,
        state=state,
        price=price(row.get("price")),
        trigger_price=price(row.get("trigger_price")),
        average_price=price(row.get("average_price")) if filled else None,
        reason=_reason(row) if state in _EXPLAINED else None,
        validity=Validity.IOC if row.get("validity") == "IOC" else Validity.DAY,
        exchange_order_id=text(row.get("exchange_order_id"), 64),
        placed_at=moment(row.get("order_timestamp"), *_TIMES),
        updated_at=moment(row.get("exchange_timestamp"), *_TIMES) or moment(row.get("order_timestamp"), *_TIMES),
    )


def _trade(row: dict[str, Any], symbols: Symbols) -> BookedTrade | None:
    place = _place(row, symbols)
    if place is None:
        return None
    exchange, symbol, product = place
    quantity, paid = count(row.get("quantity")), price(row.get("average_price"))
    trade_id, order_id = text(row.get("trade_id"), 64), text(row.get("order_id"), 64)
    at = moment(row.get("exchange_timestamp"), *_TIMES) or moment(row.get("order_timestamp"), *_TIMES)
    if not quantity or paid is None or trade_id is None or order_id is None or at is None:
        raise UnreadableError("a trade without its numbers")
    return BookedTrade(
        trade_id=trade_id,
        broker_order_id=order_id,
        exchange=exchange,
        symbol=symbol,
        side=one_of(Side, str(row.get("transaction_type")).lower()),
        product=product,
        quantity=quantity,
        price=paid,
        at=at,
    )


def positions_of(data: Any, symbols: Symbols) -> list[BrokerPosition]:
    """Positions of the day and those carried over."""
    return [
        position
        for row in objects(data, "positions", or_null=True)
        if (position := _position(row, symbols)) is not None
    ]


def _position(row: dict[str, Any], symbols: Symbols) -> BrokerPosition | None:
    place = _place(row, symbols)
    if place is None:
        return None
    exchange, symbol, product = place
    net = whole(row.get("quantity"))
    if net is None:
        raise UnreadableError("a position without its quantity")
    return BrokerPosition(
        exchange,
        symbol,
        product,
        net,
        _average(row, net),
        price(row.get("last_price")),
        number(row.get("realised")),
        number(row.get("unrealised")),
    )


def _average(row: dict[str, Any], net: int) -> Decimal:
    # `average_price` is null for some; what the open side was bought or sold for is the same then.
    side = row.get("buy_price") if net >= 0 else row.get("sell_price")
    return price(row.get("average_price")) or price(side) or Decimal(0)


def holdings_of(data: Any, symbols: Symbols) -> list[BrokerHolding]:
    """Shares. What is not settled yet is part of `quantity`, and beside it in `t1_quantity`."""
    found = []
    for row in objects(data, "holdings", or_null=True):
        quantity, unsettled = count(row.get("quantity")), count(row.get("t1_quantity") or 0)
        exchange = exchange_of(str(row.get("exchange")))
        symbol = exchange and _symbol(row, exchange, symbols)
        if quantity is None or unsettled is None or exchange is None or symbol is None:
            raise UnreadableError("a holding without its numbers")
        average = price(row.get("average_price")) or Decimal(0)
        # The larger of the two, should the vendor ever count them apart on the first day.
        held = max(quantity, unsettled)
        found.append(
            BrokerHolding(exchange, symbol, text(row.get("isin"), 12), held, average, price(row.get("last_price")))
        )
    return [holding for holding in found if holding.quantity]


def funds_of(data: Any) -> Funds:
    """Money: shares and commodities together (since July 2025 Upstox puts all of it under `equity`)."""
    parts = [part for name in ("equity", "commodity") if isinstance(data, dict) and (part := data.get(name))]
    if not parts or not all(isinstance(part, dict) for part in parts):
        raise UnreadableError("no funds")
    available = [number(part.get("available_margin")) for part in parts]
    used = [number(part.get("used_margin")) for part in parts]
    free = sum((amount for amount in available if amount is not None), Decimal(0))
    bound = sum((amount for amount in used if amount is not None), Decimal(0))
    if None in available or None in used:
        raise UnreadableError("funds without their numbers")
    return Funds(free, bound, free + bound)


def _place(row: dict[str, Any], symbols: Symbols) -> tuple[Exchange, str, Product] | None:
    """Where and as what; None for exchanges and products that we have no words for."""
    written = text(row.get("exchange")), text(row.get("product"))
    if None in written:
        raise UnreadableError("a row that does not say where, or as what")
    exchange = exchange_of(str(written[0]))
    product = product_of(str(written[1]), exchange) if exchange is not None else None
    if exchange is None or product is None:
        return None
    symbol = _symbol(row, exchange, symbols)
    if symbol is None:
        raise UnreadableError("a row without its symbol")
    return exchange, symbol, product


def _symbol(row: dict[str, Any], exchange: Exchange, symbols: Symbols) -> str | None:
    known = symbols.get(str(row.get("instrument_token")))
    if known is not None:
        return known
    written = text(row.get("trading_symbol")) or text(row.get("tradingsymbol"))
    return plain_symbol(written, exchange) if written else None


def _reason(row: dict[str, Any]) -> str | None:
    return broker_words(row.get("status_message")) or broker_words(row.get("status_message_raw")) or None
