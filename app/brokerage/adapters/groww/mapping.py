"""Between what Groww sends and takes, and our words. Pure; raises `UnreadableError`."""

import hashlib
from collections.abc import Iterable
from datetime import datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final

from app.brokerage.adapters.groww.words import (
    EXECUTED,
    PRODUCTS,
    place_of,
    plain_symbol,
    price_type_word,
    state_of,
    words_of,
)
from app.brokerage.adapters.http import broker_words
from app.brokerage.adapters.unreadable import UnreadableError, objects, one_of
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
)

TOKENS_DIE: Final = time(6, 0)
"""In India, whenever they were made (the vendor's documentation of October 2026)."""
_NO_TRADE: Final = frozenset({"CANCELLED", "REJECTED", "FAILED"})
_EXPLAINED: Final = frozenset({OrderState.REJECTED, OrderState.CANCELLED, OrderState.EXPIRED})


def place_body(ticket: OrderTicket) -> dict[str, Any]:
    """The body of `POST /v1/order/create`."""
    exchange, segment = words_of(ticket.listing.exchange)
    return {
        "trading_symbol": ticket.listing.key,
        "quantity": ticket.quantity,
        "price": ticket.price if ticket.price is not None else 0,
        "trigger_price": ticket.trigger_price,
        "validity": ticket.validity.value,
        "exchange": exchange,
        "segment": segment,
        "product": ticket.product.value,
        "order_type": price_type_word(ticket.price_type),
        "transaction_type": ticket.side.value.upper(),
        "order_reference_id": ticket.tag,
    }


def modify_body(order: BookedOrder, change: OrderChange) -> dict[str, Any]:
    """The body of `POST /v1/order/modify`."""
    return {
        "quantity": change.quantity,
        "price": change.price,
        "trigger_price": change.trigger_price,
        "groww_order_id": order.broker_order_id,
        "order_type": price_type_word(change.price_type),
        "segment": words_of(order.exchange)[1],
    }


def cancel_body(order: BookedOrder) -> dict[str, Any]:
    """The body of `POST /v1/order/cancel`."""
    return {"segment": words_of(order.exchange)[1], "groww_order_id": order.broker_order_id}


def sign_in_by_code(code: str) -> dict[str, Any]:
    """The body of `POST /v1/token/api/access` for a code of the authenticator."""
    return {"key_type": "totp", "totp": code}


def sign_in_by_secret(secret: str, now: datetime) -> dict[str, Any]:
    """The same for a key and its secret, which a person approves each day: the secret does not travel."""
    seconds = int(now.timestamp())
    checksum = hashlib.sha256(f"{secret}{seconds}".encode()).hexdigest()
    return {"key_type": "approval", "checksum": checksum, "timestamp": seconds}


def tokens_die(now: datetime, said: Any = None) -> datetime:
    """When a token of now dies: at 06:00 in India, or before if Groww says so."""
    local = now.astimezone(IST)
    end = datetime.combine(local.date(), TOKENS_DIE, IST)
    end = (end if local < end else end + timedelta(days=1)).astimezone(now.tzinfo)
    told = moment(said)
    return min(end, told) if told is not None and told > now else end


def page_of(payload: Any, name: str, id_of: str, or_else: str = "") -> dict[str, dict[str, Any]]:
    """The rows of a page, by what tells one from another."""
    rows = objects(_member(payload, name), name)
    return {str(row.get(id_of) or row.get(or_else)): row for row in rows}


def orders_of(rows: Iterable[dict[str, Any]]) -> list[BookedOrder]:
    """Orders, without what is not of our kinds. One row that cannot be read makes the whole unreadable:

    whoever looks for an order must not be told that it is not there.
    """
    return [order for row in rows if (order := _order(row)) is not None]


def trades_of(rows: Iterable[dict[str, Any]], order: BookedOrder) -> list[BookedTrade]:
    """An order's trades."""
    return [_trade(row, order) for row in rows if str(row.get("trade_status")).upper() not in _NO_TRADE]


def positions_of(payload: Any) -> list[BrokerPosition]:
    """Positions of a segment. Groww tells no last price and no unrealised profit."""
    rows = objects(_member(payload, "positions"), "positions", or_null=True)
    return [position for row in rows if (position := _position(row)) is not None]


def holdings_of(payload: Any) -> list[BrokerHolding]:
    """Shares; Groww does not say of which exchange, and they are the same on both: NSE."""
    found = []
    for row in objects(_member(payload, "holdings"), "holdings", or_null=True):
        quantity, written = count(row.get("quantity")), text(row.get("trading_symbol"))
        symbol = written and plain_symbol(written, Exchange.NSE)
        if quantity is None or not symbol:
            raise UnreadableError("a holding without its numbers")
        average = price(row.get("average_price")) or Decimal(0)
        found.append(BrokerHolding(Exchange.NSE, symbol, text(row.get("isin"), 12), quantity, average, None))
    return [holding for holding in found if holding.quantity]


def funds_of(payload: Any) -> Funds:
    """Money. What new orders can use is what Groww grants for delivery."""
    equity = _member(payload, "equity_margin_details")
    clear, used = number(_member(payload, "clear_cash")), number(_member(payload, "net_margin_used"))
    if clear is None or used is None:
        raise UnreadableError("funds without their numbers")
    granted = number(equity.get("cnc_balance_available")) if isinstance(equity, dict) else None
    free = granted if granted is not None else clear - used
    return Funds(free, used, free + used)


def placed_id(payload: Any) -> str | None:
    """The order id in the answer to placing, or to looking for a reference."""
    return text(_member(payload, "groww_order_id"), 64)


def _member(payload: Any, name: str) -> Any:
    return payload.get(name) if isinstance(payload, dict) else None


def _order(row: dict[str, Any]) -> BookedOrder | None:
    place = _place(row)
    if place is None:
        return None
    exchange, symbol, product = place
    price_type = one_of(PriceType, "SL-M" if row.get("order_type") == "SL_M" else row.get("order_type"))
    order_id, status = text(row.get("groww_order_id"), 64), text(row.get("order_status"))
    quantity, filled = count(row.get("quantity")), count(row.get("filled_quantity"))
    if row.get("filled_quantity") is None:
        filled = quantity if str(status).upper() in EXECUTED else 0
    if quantity is None or filled is None or order_id is None or status is None:
        raise UnreadableError("an order without its numbers")
    state = state_of(status, price_type, quantity, filled)
    placed = moment(row.get("created_at"))
    return BookedOrder(
        broker_order_id=order_id,
        tag=text(row.get("order_reference_id"), 64),
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
        average_price=price(row.get("average_fill_price")) if filled else None,
        reason=broker_words(row.get("remark")) or None if state in _EXPLAINED else None,
        exchange_order_id=text(row.get("exchange_order_id"), 64),
        placed_at=placed,
        updated_at=moment(row.get("exchange_time")) or placed,
    )


def _trade(row: dict[str, Any], order: BookedOrder) -> BookedTrade:
    quantity, paid = count(row.get("quantity")), price(row.get("price"))
    trade_id = text(row.get("groww_trade_id"), 64) or text(row.get("exchange_trade_id"), 64)
    at = moment(row.get("trade_date_time")) or moment(row.get("created_at"))
    if not quantity or paid is None or trade_id is None or at is None:
        raise UnreadableError("a trade without its numbers")
    return BookedTrade(
        trade_id=trade_id,
        broker_order_id=order.broker_order_id,
        exchange=order.exchange,
        symbol=order.symbol,
        side=order.side,
        product=order.product,
        quantity=quantity,
        price=paid,
        at=at,
    )


def _position(row: dict[str, Any]) -> BrokerPosition | None:
    place = _place(row)
    if place is None:
        return None
    exchange, symbol, product = place
    net = whole(row.get("quantity"))
    if net is None:
        raise UnreadableError("a position without its quantity")
    side = row.get("credit_price") if net >= 0 else row.get("debit_price")
    average = price(row.get("net_price")) or price(side) or Decimal(0)
    return BrokerPosition(exchange, symbol, product, net, average, None, number(row.get("realised_pnl")), None)


def _place(row: dict[str, Any]) -> tuple[Exchange, str, Product] | None:
    """Where and as what; None for exchanges, segments and products that we have no words for."""
    place, segment, word = (text(row.get(name)) for name in ("exchange", "segment", "product"))
    if place is None or segment is None or word is None:
        raise UnreadableError("a row that does not say where, or as what")
    exchange = place_of(place, segment)
    if exchange is None or word not in PRODUCTS:
        return None
    written = text(row.get("trading_symbol"))
    symbol = written and plain_symbol(written, exchange)
    if not symbol:
        raise UnreadableError("a row without its symbol")
    return exchange, symbol, Product(word)
