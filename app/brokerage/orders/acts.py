"""Changes and cancellations that are under way. Pure.

Like the placing of an order, each is stored before it is sent, and the broker's book is what tells that it happened.
`state`: `SENDING`, then `ACCEPTED` (the broker took the request, the exchange may still refuse it) or `UNKNOWN`.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from bson import ObjectId

from app.brokerage.words import BookedOrder, OrderChange, PriceType

MODIFY: Final = "modify"
CANCEL: Final = "cancel"
SENDING, ACCEPTED, UNKNOWN = "SENDING", "ACCEPTED", "UNKNOWN"
_TERMS: Final = ("quantity", "price_type", "price", "trigger_price", "validity")


def new_act(
    kind: str, row: Mapping[str, Any], now: datetime, change: OrderChange | None = None, *, id_: ObjectId | None = None
) -> dict[str, Any]:
    """An act that is about to be sent; `id_`: by which whoever sends it knows it."""
    return {
        "id": id_ or ObjectId(),
        "kind": kind,
        "state": SENDING,
        "at": now,
        "wanted": stored(change) if change else None,
        "was": terms_of(row),
    }


def stored(change: OrderChange) -> dict[str, Any]:
    """As it is kept in a row."""
    return {
        "quantity": change.quantity,
        "price_type": change.price_type.value,
        "price": change.price,
        "trigger_price": change.trigger_price,
        "validity": change.validity.value,
    }


def terms_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """What of an order can be changed."""
    return {name: row[name] for name in _TERMS}


def is_shown(act: Mapping[str, Any], booked: BookedOrder) -> bool:
    """Whether the broker's book shows that the change happened."""
    wanted, was = act["wanted"], act["was"]
    kind = PriceType(wanted["price_type"])
    if booked.quantity != wanted["quantity"]:
        return False
    if kind.has_limit:
        fits = booked.price_type is kind and booked.price == wanted["price"]
    else:  # brokers may show the limit that protects a market order
        fits = booked.price_type is kind or booked.price_type.value != was["price_type"]
    return fits and (not kind.has_trigger or booked.trigger_price == wanted["trigger_price"])


def summary(wanted: Mapping[str, Any], was: Mapping[str, Any]) -> str:
    """`price 2500 → 2510`."""
    parts = [f"{name} {was[name]} → {wanted[name]}" for name in _TERMS if wanted[name] != was[name]]
    return ", ".join(parts)


def is_no_change(wanted: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    """Whether everything would stay as it is."""
    return all(wanted[name] == row[name] for name in _TERMS)
