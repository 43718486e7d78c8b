"""Ticks and candles as clients get them, over HTTP and over the WebSocket: the same members in the same order.

Both are dicts, made without a model in between: a page has a thousand of them, a second of the feed twenty thousand.
`schemas` describes them, and a test holds the two together. Prices are rupees, as JSON numbers.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

Wire = dict[str, Any]


def _plain(value: Any) -> int:
    """Whole numbers beyond 32 bits come out of the database as a class of their own."""
    if isinstance(value, int):
        return int(value)
    raise TypeError(f"{type(value).__name__} is no JSON")


_encode = msgspec.json.Encoder(enc_hook=_plain).encode

_MAIN: Final = (
    "symbol",
    "exchange",
    "ltpc",
    "ch",
    "chp",
    "open",
    "high",
    "low",
    "close",
    "volume",
    "tk",
    "token",
    "exchange_type",
    "instrument_type",
    "received_at",
    "ingested_at",
    "source",
    "data_quality",
    "is_realtime",
    "processed",
)
"""Members of every tick; what its mode does not bring is null."""
_EXTRA: Final = ("expiry", "strike_price", "depth")
"""Members of the ticks that have them."""
_CANDLE: Final = (
    "symbol",
    "timeframe",
    "start",
    "end",
    "open",
    "high",
    "low",
    "close",
    "volume",
    "ticks",
    "revision",
    "source",
    "closed",
)


def encoded(content: Any) -> bytes:
    """JSON of what the functions below make, alone or in lists."""
    return _encode(content)


def tick_of_row(row: Mapping[str, Any], *, after_hours: bool) -> Wire:
    """A tick from its document, or from what will become it; `after_hours`: it belongs to no session."""
    get = row.get
    wire: Wire = {name: get(name) for name in _MAIN}
    for name in _EXTRA:
        if (value := get(name)) is not None:
            wire[name] = value
    if (id_ := get("_id")) is not None:
        wire["id"] = str(id_)
    wire["raw_data"] = get("raw_data") or {}
    wire["after_hours"] = after_hours
    return wire


def candle_of_row(row: Mapping[str, Any]) -> Wire:
    """A candle from its document."""
    return {name: row[name] for name in _CANDLE}
