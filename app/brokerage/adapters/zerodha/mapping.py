"""Between what Kite Connect sends and takes, and our words. Pure; raises `UnreadableError`."""

from decimal import Decimal
from typing import Any, Final

from app.brokerage.adapters.http import broker_words
from app.brokerage.adapters.symbols import share_symbol
from app.brokerage.adapters.unreadable import UnreadableError, objects, one_of
from app.brokerage.adapters.values import count, moment, number, price, text, whole
from app.brokerage.adapters.zerodha.words import AUTOMATIC_PROTECTION, VARIETY, exchange_of, state_of
from app.brokerage.words import (
    BookedOrder,
    BookedTrade,
    BrokerHolding,
    BrokerPosition,
    Exchange,
    Funds,
    OrderChange,
    OrderTicket,
    PriceType,
    Product,
    Side,
    Validity,
)

Form = dict[str, str | int]
_TIME: Final = "%Y-%m-%d %H:%M:%S"
_SHARES: Final = frozenset({Exchange.NSE, Exchange.BSE})


def place_form(ticket: OrderTicket) -> Form:
    """The body of `POST /orders/regular`."""
    form: Form = {
        "variety": VARIETY,
        "exchange": ticket.listing.exchange.value,
        "tradingsymbol": ticket.listing.key,
        "transaction_type": ticket.side.value.upper(),
        "quantity": ticket.quantity,
        "product": ticket.product.value,
        "order_type": ticket.price_type.value,
    }
    form |= _prices(ticket.price, None)
    form["validity"] = ticket.validity.value
    form |= _prices(None, ticket.trigger_price)
    form["tag"] = ticket.tag
    return form | _protection(ticket.price_type)


def modify_form(order: BookedOrder, change: OrderChange) -> Form:
    """The body of `PUT /orders/regular/{order_id}`."""
    form: Form = {"variety": VARIETY, "order_id": order.broker_order_id, "quantity": change.quantity}
    form |= _prices(change.price, None)
    form["order_type"] = change.price_type.value
    form |= _prices(None, change.trigger_price)
    form["validity"] = change.validity.value
    return form | _protection(change.price_type)


def _prices(limit: Decimal | None, trigger: Decimal | None) -> Form:
    named = {"price": limit, "trigger_price": trigger}
    return {name: f"{value:f}" for name, value in named.items() if value is not None}


def _protection(price_type: PriceType) -> Form:
    return {} if price_type.has_limit else {"market_protection": AUTOMATIC_PROTECTION}


def orders_of(data: Any) -> list[BookedOrder]:
    """The order book, without what we have no words for (other exchanges, cover orders).

    A row of ours that cannot be read makes the whole unreadable: whoever looks for an order must not be told that it
    is not there.
    """
    return [order for row in objects(data, "orders") if (order := order_of(row)) is not None]


def order_of(row: dict[str, Any]) -> BookedOrder | None:
    """One order, as the book and the postbacks write it; None for what we have no words for."""
    place = _place(row)
    if place is None:
        return None
    exchange, symbol, product = place
    price_type = one_of(PriceType, row.get("order_type"))
    order_id, status = text(row.get("order_id"), 64), text(row.get("status"))
    quantity, filled = count(row.get("quantity")), count(row.get("filled_quantity") or 0)
    if not quantity or filled is None or order_id is None or status is None:
        raise UnreadableError("an order without its numbers")
    return BookedOrder(
        broker_order_id=order_id,
        tag=_tag(row),
        exchange=exchange,
        symbol=symbol,
        side=_side(row),
        product=product,
        price_type=price_type,
        quantity=quantity,
        filled_quantity=filled,
        state=state_of(status, price_type, filled),
        price=price(row.get("price")),
        trigger_price=price(row.get("trigger_price")),
        average_price=price(row.get("average_price")) if filled else None,
        reason=broker_words(row.get("status_message")) or broker_words(row.get("status_message_raw")) or None,
        validity=Validity.IOC if row.get("validity") == "IOC" else Validity.DAY,
        exchange_order_id=text(row.get("exchange_order_id"), 64),
        placed_at=moment(row.get("order_timestamp"), _TIME),
        updated_at=moment(row.get("exchange_update_timestamp"), _TIME) or moment(row.get("order_timestamp"), _TIME),
    )


def trades_of(data: Any) -> list[BookedTrade]:
    """The trade book, in the same way."""
    return [trade for row in objects(data, "trades") if (trade := _trade(row)) is not None]


def _trade(row: dict[str, Any]) -> BookedTrade | None:
    place = _place(row)
    if place is None:
        return None
    exchange, symbol, product = place
    trade_id, order_id = text(row.get("trade_id"), 64), text(row.get("order_id"), 64)
    quantity, paid = count(row.get("quantity")), price(row.get("average_price"))
    names = ("fill_timestamp", "exchange_timestamp", "order_timestamp")
    # Some have a time of the day alone in `order_timestamp`, which says nothing.
    at = next((at for name in names if (at := moment(row.get(name), _TIME)) is not None), None)
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
        at=at,
    )


def positions_of(data: Any) -> list[BrokerPosition]:
    """Positions: the net ones, which hold the day's and those carried over."""
    rows = data.get("net") if isinstance(data, dict) else None
    return [position for row in objects(rows, "positions") if (position := _position(row)) is not None]


def _position(row: dict[str, Any]) -> BrokerPosition | None:
    place = _place(row)
    if place is None:
        return None
    net = whole(row.get("quantity"))
    if net is None:
        raise UnreadableError("a position without its quantity")
    average = price(row.get("average_price")) or Decimal(0)
    realised, unrealised = number(row.get("realised")), number(row.get("unrealised"))
    return BrokerPosition(*place, net, average, price(row.get("last_price")), realised, unrealised)


def holdings_of(data: Any) -> list[BrokerHolding]:
    """Shares, those that are not settled yet (`t1_quantity`) and those that are pledged among them."""
    found = []
    for row in objects(data, "holdings"):
        counts = [count(row.get(name) or 0) for name in ("quantity", "t1_quantity", "collateral_quantity")]
        exchange, symbol = exchange_of(row.get("exchange")), text(row.get("tradingsymbol"), 64)
        if exchange is None or symbol is None or None in counts:
            raise UnreadableError("a holding without its numbers")
        held = sum(each for each in counts if each is not None)
        average = price(row.get("average_price")) or Decimal(0)
        isin = text(row.get("isin"), 12)
        found.append(BrokerHolding(exchange, share_symbol(symbol), isin, held, average, price(row.get("last_price"))))
    return [holding for holding in found if holding.quantity]


def funds_of(data: Any) -> Funds:
    """Money for shares and their derivatives."""
    equity = data.get("equity") if isinstance(data, dict) else None
    used = equity.get("utilised") if isinstance(equity, dict) else None
    if not isinstance(equity, dict) or not isinstance(used, dict):
        raise UnreadableError("no funds")
    free, bound = number(equity.get("net")), number(used.get("debits"))
    if free is None or bound is None:
        raise UnreadableError("funds without their numbers")
    return Funds(free, bound, free + bound)


def _place(row: dict[str, Any]) -> tuple[Exchange, str, Product] | None:
    """Where and as what; None for exchanges and products that we have no words for."""
    exchange = exchange_of(row.get("exchange"))
    product = next((product for product in Product if product.value == row.get("product")), None)
    if exchange is None or product is None:
        if _tag(row) is not None and (text(row.get("exchange")) is None or text(row.get("product")) is None):
            raise UnreadableError("an order that does not say where")
        return None
    symbol = text(row.get("tradingsymbol"), 64)
    if symbol is None:
        raise UnreadableError("a row without its symbol")
    return exchange, share_symbol(symbol) if exchange in _SHARES else symbol.upper(), product


def _side(row: dict[str, Any]) -> Side:
    return one_of(Side, str(row.get("transaction_type")).lower())


def _tag(row: dict[str, Any]) -> str | None:
    """The tag that it was placed with: the first, where Zerodha has added others."""
    tags = row.get("tags")
    first = tags[0] if isinstance(tags, list) and tags else None
    return text(row.get("tag"), 64) or text(first, 64)
