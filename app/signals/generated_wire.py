"""Generated signals as clients get them; a test holds them and `generated_schemas` together."""

from collections.abc import Iterable
from typing import Any, Final

import msgspec

Row = dict[str, Any]

_encode: Final = msgspec.json.Encoder().encode
_LEVELS: Final = ("price_target", "stop_loss", "support_level", "resistance_level")


def signal_wire(row: Row) -> Row:
    """A signal from its row."""
    return {
        "id": str(row["_id"]),
        "symbol": row["symbol"],
        "timeframe": row["timeframe"],
        "signal_type": row["signal_type"],
        "strength": row["strength"],
        **{name: row.get(name) for name in _LEVELS},
        "reasoning": row["reasoning"],
        # Signals of before this was noted have their source.
        "adjusted": row["analysis"]["source"] == "yahoo",
        **row["analysis"],
        "candle_start": row["candle_start"],
        "created_at": row["created_at"],
    }


def signal_json(row: Row, *, kind: str | None = None) -> bytes:
    """One signal, encoded; on the channel with its `kind`, because users' own signals come there, too."""
    return _encode(signal_wire(row) if kind is None else {"kind": kind, **signal_wire(row)})


def signals_json(rows: Iterable[Row]) -> bytes:
    """A JSON array of signals."""
    return _encode([signal_wire(row) for row in rows])
