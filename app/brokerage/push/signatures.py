"""Whether a push comes from whom it says. Pure, and in a time that says nothing of the secret."""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from typing import Any, Final

ALGORITHM: Final = "HMAC-SHA256"
_HEX: Final = 64


def signed_by_one(body: bytes, signature: str, algorithm: str | None, secrets: Sequence[str]) -> bool:
    """Whether `signature` is the hex HMAC-SHA256 of `body` with one of `secrets`.

    All of them are tried, whichever fits: rotation must not show in the time. Without secrets nothing is signed.
    """
    known = algorithm is None or algorithm.strip().upper() == ALGORITHM
    given = signature.strip().lower()
    given = given if len(given) == _HEX and given.isascii() else "-" * _HEX
    fits = False
    for secret in secrets:
        right = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        fits |= hmac.compare_digest(right, given)
    return fits and known


def kite_checksum(order_id: str, order_timestamp: str, api_secret: str) -> str:
    """What Kite puts into a postback as `checksum` (kite.trade/docs/connect/v3/postbacks)."""
    return hashlib.sha256(f"{order_id}{order_timestamp}{api_secret}".encode()).hexdigest()


def is_kites(event: Mapping[str, Any], api_secret: str) -> bool:
    """Whether the checksum of a postback fits.

    It covers order id and time alone: the rest could be another's, so it is a reason to look at the order, no fact.
    """
    names = ("order_id", "order_timestamp", "checksum")
    order_id, at, checksum = (value if isinstance(value := event.get(name), str) else "" for name in names)
    right = kite_checksum(order_id, at, api_secret)
    given = checksum.strip().lower()
    fits = hmac.compare_digest(right, given if given.isascii() else "")
    return fits and bool(order_id and at)
