"""What Zerodha pushes when an order changes: signed by a checksum with the API secret. Pure."""

import hashlib
import hmac
from typing import Any

from app.brokerage.adapters.values import text
from app.brokerage.adapters.zerodha.mapping import order_of
from app.brokerage.words import BookedOrder


def is_genuine(body: Any, api_secret: str) -> bool:
    """Whether the checksum is sha256(order_id + order_timestamp + api_secret), in constant time.

    It covers nothing else: the rest of a genuine postback is Zerodha's only as far as the connection it came over is.
    Whoever wants to be sure takes it as a reason to fetch the order book.
    """
    if not isinstance(body, dict):
        return False
    order_id, at, checksum = (text(body.get(name)) for name in ("order_id", "order_timestamp", "checksum"))
    if order_id is None or at is None or checksum is None:
        return False
    right = hashlib.sha256(f"{order_id}{at}{api_secret}".encode()).hexdigest()
    return hmac.compare_digest(right.encode(), checksum.lower().encode())


def order_in(body: dict[str, Any]) -> BookedOrder | None:
    """The order; None for what we have no words for. Raises `UnreadableError`."""
    return order_of(body)
