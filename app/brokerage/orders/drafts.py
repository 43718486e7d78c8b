"""An order before it is sent: what was asked for, the row that is stored, the ticket that is sent."""

import hashlib
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

import msgspec
from beanie import PydanticObjectId
from bson import ObjectId

from app.brokerage.orders.checks import Wish, default_product
from app.brokerage.orders.merging import Row, moved
from app.brokerage.orders.schemas import OrderInput
from app.brokerage.ports import BrokerAccount
from app.brokerage.words import Listing, OrderState, OrderTicket, PriceType, Product, Side

_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
TAG_LENGTH: Final = 19
"""Letters and digits that hold an id; no broker keeps fewer."""
_NOTHING_YET: Final = (
    "reason",
    "broker_code",
    "broker_order_id",
    "exchange_order_id",
    "average_price",
    "told_state",
    "told_at",
    "told_end",
    "sent_at",
    "absent_since",
    "act",
    "order_executed_at",
    "closed_at",
)


def draft(
    now: datetime,
    user_id: PydanticObjectId,
    account: BrokerAccount,
    given: OrderInput,
    wish: Wish,
    listing: Listing,
    print_: str,
) -> Row:
    """The row of an intent."""
    id_ = PydanticObjectId()
    tag, client_id = tag_of(id_), given.client_order_id
    intent = {"state": OrderState.INTENT.value, "at": now, "cause": "client"}
    return {
        "_id": id_,
        "schema_version": 1,
        "user_id": user_id,
        "account_id": account.account_id,
        "broker": account.broker.value,
        "client_order_id": client_id,
        "client_key": f"own:{tag}" if client_id is None else f"given:{client_id}",
        "fingerprint": print_,
        "tag": tag,
        "stock_symbol": listing.symbol,
        "exchange": wish.exchange.value,
        "order_type": wish.side.value,
        "quantity": wish.quantity,
        "price": wish.price,
        "trigger_price": wish.trigger_price,
        "price_type": wish.price_type.value,
        "product": wish.product.value,
        "validity": wish.validity.value,
        "mtf_enabled": wish.product is Product.MTF,
        "listing": kept(listing),
        "state": OrderState.INTENT.value,
        "watch": True,
        **dict.fromkeys(_NOTHING_YET),
        "twins": [],
        "filled_quantity": 0,
        "traded_quantity": 0,
        "certain": True,
        "transitions": [intent],
        "transitions_left_out": 0,
        "created_at": now,
        "updated_at": now,
    }


def about_to_be_sent(intent: Row, now: datetime) -> Row:
    """The row of an intent as it is stored: whoever stores it sends it, at once."""
    return intent | moved(intent, OrderState.SENDING, now, "client", sent_at=now)


def wish_of(side: Side, given: OrderInput) -> Wish:
    """The order that was asked for, with what was left out filled in."""
    product = Product.MTF if given.mtf_enabled else given.product or default_product(given.exchange)
    kind = given.price_type or (PriceType.MARKET if given.price is None else PriceType.LIMIT)
    return Wish(
        side=side,
        exchange=given.exchange,
        symbol=given.stock_ticker,
        quantity=given.quantity,
        product=product,
        price_type=kind,
        price=plain(given.price),
        trigger_price=plain(given.trigger_price),
        validity=given.validity,
    )


def plain(price: Decimal | None) -> Decimal | None:
    """The same price without zeros at its end."""
    return None if price is None else Decimal(f"{price.normalize():f}")


def fingerprint(side: Side, given: OrderInput) -> str:
    """SHA-256 of what was asked for, however its numbers were written."""
    return hashlib.sha256("\n".join(str(value) for value in wish_of(side, given)).encode()).hexdigest()


def tag_of(order_id: ObjectId) -> str:
    """What brokers keep of an order: its id in letters and digits, so that no other order has it."""
    number, tag = int.from_bytes(order_id.binary, "big"), ""
    while len(tag) < TAG_LENGTH:
        number, digit = divmod(number, len(_ALPHABET))
        tag = _ALPHABET[digit] + tag
    return tag


def id_in(tag: str) -> ObjectId | None:
    """The id that a tag holds; None for one that was not made here."""
    if len(tag) != TAG_LENGTH or not set(tag) <= set(_ALPHABET):
        return None
    number = int(tag, len(_ALPHABET))
    return ObjectId(number.to_bytes(12, "big")) if number < 1 << 96 else None


def ticket_of(row: Row, wish: Wish, listing: Listing) -> OrderTicket:
    """What is sent."""
    return OrderTicket(
        tag=row["tag"],
        listing=listing,
        side=wish.side,
        quantity=wish.quantity,
        product=wish.product,
        price_type=wish.price_type,
        price=wish.price,
        trigger_price=wish.trigger_price,
        validity=wish.validity,
    )


def kept(listing: Listing) -> dict[str, Any]:
    """An instrument as it is kept in an order."""
    row: dict[str, Any] = msgspec.to_builtins(listing, builtin_types=(Decimal, datetime))
    return row


def listing_of(row: Row) -> Listing:
    """The instrument that an order keeps."""
    return msgspec.convert(row["listing"], Listing)
