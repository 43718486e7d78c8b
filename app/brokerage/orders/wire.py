"""Orders as clients get them; amounts stay exact. A test holds them and `schemas.Order` together."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from app.brokerage.orders.merging import Row
from app.core.events import OrderChanged

_encode: Final = msgspec.json.Encoder(decimal_format="number", enc_hook=str).encode
_PLAIN: Final = (
    "account_id",
    "broker",
    "client_order_id",
    "tag",
    "broker_order_id",
    "exchange_order_id",
    "stock_symbol",
    "exchange",
    "order_type",
    "quantity",
    "filled_quantity",
    "price",
    "trigger_price",
    "average_price",
    "price_type",
    "product",
    "validity",
    "mtf_enabled",
)


def order_wire(row: Mapping[str, Any], *, whole: bool = True) -> dict[str, Any]:
    """An order from its row; `whole`: with its transitions."""
    act = row["act"]
    wire: dict[str, Any] = {"id": str(row["_id"]), "user_id": str(row["user_id"])}
    wire |= {name: row[name] for name in _PLAIN}
    wire |= {
        "status": row["state"],
        "certain": row["certain"],
        "reason": row["reason"],
        "pending": act and {"kind": act["kind"], "state": act["state"], "since": act["at"], "wanted": act["wanted"]},
        "order_executed_at": row["order_executed_at"],
        "created_at": row["created_at"],
        "updated_at": row["updated_at"],
        "closed_at": row["closed_at"],
    }
    if whole:
        wire["transitions"] = [
            {"status": each["state"], "at": each["at"], "cause": each["cause"], "note": each.get("note")}
            for each in row["transitions"]
        ]
    return wire


def order_json(row: Row) -> bytes:
    """One order with its transitions, encoded."""
    return _encode(order_wire(row))


def orders_json(rows: Iterable[Row]) -> bytes:
    """A JSON array of orders."""
    return _encode([order_wire(row, whole=False) for row in rows])


def news_json(row: Row) -> bytes:
    """An order as it goes over the channel."""
    return _encode(order_wire(row, whole=False))


def changed(row: Row) -> OrderChanged:
    """The event that tells of the row's newest change."""
    return OrderChanged(
        user_id=str(row["user_id"]),
        account_id=row["account_id"],
        order_id=str(row["_id"]),
        state=row["state"],
        open=row["watch"],
        seq=row["change_seq"],
        body=news_json(row),
    )
