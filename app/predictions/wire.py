"""Predictions as clients get them; a test holds them and `schemas` together."""

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from app.predictions.rows import Row, adjusted_of

encode: Final = msgspec.json.Encoder().encode


def prediction_wire(row: Row) -> Row:
    """A prediction from its row."""
    candles, model = row["candles"], row["model"]
    return {
        "id": str(row["_id"]),
        "symbol": row["symbol"],
        "predicted_price": row["predicted_price"],
        "confidence_score": row["confidence_score"],
        "time_horizon": row["time_horizon"],
        "timeframe": row["timeframe"],
        "model_used": row["model_used"],
        "created_at": row["created_at"],
        "verdict": row["evaluation"]["verdict"],
        "predicted_return": row["predicted_return"],
        "interval": row["interval"] | {"observed_coverage": row["evaluation"]["observed_coverage"]},
        "evaluation": row["evaluation"],
        "last_close": row["last_close"],
        "last_bar": row["last_bar"],
        "horizon_bars": row["horizon_bars"],
        "horizon_ends_at": row["horizon_ends_at"],
        "currency": candles["currency"],
        "candles": candles_wire(candles, row),
        "model": {name: model[name] for name in ("trained_through", "trained_at", "reused")},
        "outcome": row.get("outcome"),
        "unscored": row.get("unscored"),
    }


def candles_wire(candles: dict[str, Any], row: Row) -> dict[str, Any]:
    """Where the candles came from, and how old that was when the prediction was made."""
    age = (row["created_at"] - candles["fetched_at"]).total_seconds()
    return {
        "source": candles["source"],
        "fetched_at": candles["fetched_at"],
        "age_seconds": round(max(age, 0.0), 3),
        "stale": candles["stale"],
        "adjusted": adjusted_of(row),
        "count": candles["count"],
    }


def prediction_json(row: Row) -> bytes:
    """One prediction, encoded."""
    return encode(prediction_wire(row))


def predictions_json(rows: Iterable[Row]) -> bytes:
    """A JSON array of predictions."""
    return encode([prediction_wire(row) for row in rows])
