"""Users' signals as clients get them; amounts stay exact. A test holds them and `user_schemas` together."""

from collections.abc import Iterable
from typing import Any, Final

import msgspec
from pymongo.asynchronous.collection import AsyncCollection

from app.core.bson_codec import exact_rows
from app.core.events import SignalChanged
from app.signals.price_names import PriceNames
from app.signals.status import Status
from app.signals.user_models import SignalDocument
from app.signals.user_schemas import followed_live

Row = dict[str, Any]

_encode: Final = msgspec.json.Encoder(decimal_format="number", enc_hook=int).encode
_OUTCOME: Final = ("kind", "price", "at", "seen_in", "certain")


def signal_rows() -> AsyncCollection[Row]:
    """The collection, with exact numbers."""
    return exact_rows(SignalDocument.get_pymongo_collection())


def signal_wire(row: Row, names: PriceNames) -> Row:
    """A signal from its row; `names`: what live prices call it."""
    outcome = row.get("outcome")
    option_type = row.get("option_type")
    return {
        "id": str(row["_id"]),
        "user_id": str(row["user_id"]),
        "symbol": row["symbol"],
        "option_type": option_type,
        "signal_type": row["signal_type"],
        "entry_price": row["entry_price"],
        "target_price": row["target_price"],
        "stop_loss": row["stop_loss"],
        "quantity": row["quantity"],
        "confidence": row["confidence"],
        "status": row["status"],
        "notes": row.get("notes"),
        "followed_live": (
            row["status"] == Status.ACTIVE
            and followed_live(row["symbol"], option_type)
            and names(row["symbol"]) is not None
        ),
        "outcome": outcome and {name: outcome[name] for name in _OUTCOME},
        "created_at": row["created_at"],
        "updated_at": row["updated_at"],
        "closed_at": row.get("closed_at"),
    }


def signal_json(row: Row, names: PriceNames) -> bytes:
    """One signal, encoded."""
    return _encode(signal_wire(row, names))


def signals_json(rows: Iterable[Row], names: PriceNames) -> bytes:
    """A JSON array of signals."""
    return _encode([signal_wire(row, names) for row in rows])


def changed(row: Row, change: str, seq: int, names: PriceNames) -> SignalChanged:
    """The event that tells of `change` (`created`, `changed`, `completed`, `cancelled`, `deleted`).

    On the channel generated signals come, too: `kind` tells a user's own apart.
    """
    return SignalChanged(
        user_id=str(row["user_id"]),
        signal_id=str(row["_id"]),
        status=row["status"],
        deleted=change == "deleted",
        seq=seq,
        body=_encode({"kind": "user", "change": change, **signal_wire(row, names)}),
    )
