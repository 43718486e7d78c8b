"""Between what SmartAPI sends and takes, and our words. Pure; raises `UnreadableError`."""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from app.brokerage.adapters.angel_one.words import (
    PRICE_TYPES,
    PRODUCTS,
    exchange_of,
    plain_symbol,
    price_type_of,
    product_of,
    state_of,
    variety_of,
)
from app.brokerage.adapters.http import broker_words
from app.brokerage.adapters.unreadable import UnreadableError, objects, one_of
from app.brokerage.adapters.values import count, moment, number, price, text, whole
from app.brokerage.words import (
    BookedOrder,
    BookedTrade,
    BrokerHolding,
    BrokerPosition,
    Exchange,
    Funds,
    Listing,
    OrderChange,
    OrderTicket,
    Product,
    Side,
    Validity,
)

_TIME: Final = "%d-%b-%Y %H:%M:%S"
_TIME_OF_DAY: Final = "%H:%M:%S"


def key_of(symbol: str, token: str) -> str:
    """What a listing keeps of SmartAPI's two names for an instrument."""
    return f"{symbol}|{token}"


def _names(listing: Listing) -> dict[str, str]:
    symbol, _, token = listing.key.rpartition("|")
    return {"tradingsymbol": symbol, "symboltoken": token}


def place_body(ticket: OrderTicket) -> dict[str, str]:
    """The body of `placeOrder`. Numbers are texts there."""
    body = {
        "variety": variety_of(ticket.price_type),
        **_names(ticket.listing),
        "transactiontype": ticket.side.value.upper(),
        "exchange": ticket.listing.exchange.value,
        "ordertype": PRICE_TYPES[ticket.price_type],
        "producttype": PRODUCTS[ticket.product],
        "duration": ticket.validity.value,
        "price": _written(ticket.price),
        "squareoff": "0",
        "stoploss": "0",
        "quantity": str(ticket.quantity),
        "ordertag": ticket.tag,
    }
    return body | _trigger(ticket.trigger_price)


def modify_body(order: BookedOrder, listing: Listing, change: OrderChange) -> dict[str, str]:
    """The body of `modifyOrder`."""
    body = {
        "variety": variety_of(order.price_type),
        "orderid": order.broker_order_id,
        "ordertype": PRICE_TYPES[change.price_type],
        "producttype": PRODUCTS[order.product],
        "duration": change.validity.value,
        "price": _written(change.price),
        "quantity": str(change.quantity),
        **_names(listing),
        "exchange": listing.exchange.value,
    }
    return body | _trigger(change.trigger_price)


def cancel_body(order: BookedOrder) -> dict[str, str]:
    """The body of `cancelOrder`."""
    return {"variety": variety_of(order.price_type), "orderid": order.broker_order_id}


def _written(amount: Decimal | None) -> str:
    return "0" if amount is None else f"{amount:f}"


def _trigger(amount: Decimal | None) -> dict[str, str]:
    return {} if amount is None else {"triggerprice": f"{amount:f}"}


def orders_of(data: Any) -> list[BookedOrder]:
    """The order book, without what we have no words for (other exchanges, bracket orders).

    A row of ours that cannot be read makes the whole unreadable: whoever looks for an order must not be told that it
    is not there. Null is an empty book: so SmartAPI writes it.
    """
    return [order for row in objects(data, "orders", or_null=True) if (order := order_of(row)) is not None]


def order_of(row: dict[str, Any]) -> BookedOrder | None:
    """One order, as the book and the order stream write it; None for what we have no words for."""
    place = _place(row)
    if place is None:
        return None
    exchange, symbol, product = place
    price_type = price_type_of(row.get("ordertype"), row.get("variety"))
    order_id, status = text(row.get("orderid"), 64), text(row.get("orderstatus")) or text(row.get("status"))
    quantity, filled = count(row.get("quantity")), count(row.get("filledshares") or 0)
    if not quantity or filled is None or order_id is None or status is None or price_type is None:
        raise UnreadableError("an order without its numbers")
    return BookedOrder(
        broker_order_id=order_id,
        tag=text(row.get("ordertag"), 64),
        exchange=exchange,
        symbol=symbol,
        side=_side(row),
        product=product,
        price_type=price_type,
        quantity=quantity,
        filled_quantity=filled,
        state=state_of(status, price_type, filled),
        price=price(row.get("price")),
        trigger_price=price(row.get("triggerprice")),
        average_price=price(row.get("averageprice")) if filled else None,
        reason=broker_words(row.get("text")) or None,
        validity=Validity.IOC if row.get("duration") == "IOC" else Validity.DAY,
        exchange_order_id=text(row.get("exchangeorderid"), 64),
        updated_at=moment(row.get("updatetime"), _TIME) or moment(row.get("exchorderupdatetime"), _TIME),
    )


def trades_of(data: Any, now: datetime) -> list[BookedTrade]:
    """The trade book, in the same way. Its times are those of a day that it does not name: the last one, by `now`."""
    rows = objects(data, "trades", or_null=True)
    return [trade for row in rows if (trade := _trade(row, now)) is not None]


def _trade(row: dict[str, Any], now: datetime) -> BookedTrade | None:
    place = _place(row)
    if place is None:
        return None
    exchange, symbol, product = place
    trade_id, order_id = text(row.get("fillid"), 64), text(row.get("orderid"), 64)
    quantity, paid = count(row.get("fillsize")), price(row.get("fillprice"))
    at = moment(row.get("filltime"), _TIME, _TIME_OF_DAY, now=now)
    if not quantity or paid is None or trade_id is None or order_id is None or at is None:
        raise UnreadableError("a trade without its numbers")
    return BookedTrade(
        trade_id=trade_id,
        broker_order_id=order_id,
        exchange=exchange,
        symbol=symbol,
        side=_side(row),
        product=product,
        quantity=quantity,
        price=paid,
        # Yesterday's, looked at after midnight; an hour is more than two clocks differ.
        at=at if at <= now + timedelta(hours=1) else at - timedelta(days=1),
    )


def positions_of(data: Any) -> list[BrokerPosition]:
    """Positions of the day and those carried over."""
    rows = objects(data, "positions", or_null=True)
    return [position for row in rows if (position := _position(row)) is not None]


def _position(row: dict[str, Any]) -> BrokerPosition | None:
    place = _place(row)
    if place is None:
        return None
    net = whole(row.get("netqty"))
    if net is None:
        raise UnreadableError("a position without its quantity")
    side = row.get("totalbuyavgprice") if net > 0 else row.get("totalsellavgprice") if net else None
    average = price(side) or price(row.get("avgnetprice")) or Decimal(0)
    realised, unrealised = number(row.get("realised")), number(row.get("unrealised"))
    return BrokerPosition(*place, net, average if net else Decimal(0), price(row.get("ltp")), realised, unrealised)


def holdings_of(data: Any) -> list[BrokerHolding]:
    """Shares, those that are not settled yet (`t1quantity`) among them."""
    rows = data.get("holdings") if isinstance(data, dict) else data
    found = []
    for row in objects(rows, "holdings", or_null=True):
        counts = [count(row.get(name) or 0) for name in ("quantity", "realisedquantity", "t1quantity")]
        exchange, symbol = exchange_of(row.get("exchange")), text(row.get("tradingsymbol"), 64)
        if exchange is None or symbol is None or None in counts:
            raise UnreadableError("a holding without its numbers")
        quantity, settled, unsettled = (each or 0 for each in counts)
        held = max(quantity, settled + unsettled)
        average = price(row.get("averageprice")) or Decimal(0)
        isin = text(row.get("isin"), 12)
        found.append(
            BrokerHolding(exchange, plain_symbol(symbol, exchange), isin, held, average, price(row.get("ltp")))
        )
    return [holding for holding in found if holding.quantity]


def funds_of(data: Any) -> Funds:
    """Money (SmartAPI's `getRMS`)."""
    if not isinstance(data, dict):
        raise UnreadableError("no funds")
    free, bound = number(data.get("net")), number(data.get("utiliseddebits"))
    if free is None or bound is None:
        raise UnreadableError("funds without their numbers")
    return Funds(free, bound, free + bound)


def _place(row: dict[str, Any]) -> tuple[Exchange, str, Product] | None:
    """Where and as what; None for exchanges and products that we have no words for."""
    exchange, product = exchange_of(row.get("exchange")), product_of(row.get("producttype"))
    if exchange is None or product is None:
        if text(row.get("ordertag")) and (text(row.get("exchange")) is None or text(row.get("producttype")) is None):
            raise UnreadableError("an order that does not say where")
        return None
    symbol = text(row.get("tradingsymbol"), 64)
    if symbol is None:
        raise UnreadableError("a row without its symbol")
    return exchange, plain_symbol(symbol, exchange), product


def _side(row: dict[str, Any]) -> Side:
    return one_of(Side, str(row.get("transactiontype")).lower())
