"""The score of a model: what it said beside what happened. Pure."""

import math
from collections.abc import Sequence
from typing import Any, Final

from app.predictions.rows import Row

LATEST: Final = 5
FEW: Final = 30
"""Fewer outcomes tell next to nothing."""


def score_of(rows: Sequence[Row]) -> dict[str, Any]:
    """The score of predictions of one timeframe, model and horizon, newest first and one at least."""
    scored = [row for row in rows if row.get("outcome")]
    newest = rows[0]
    figures = _figures(scored)
    return {
        "timeframe": newest["timeframe"],
        "model_used": newest["model_used"],
        "time_horizon": newest["time_horizon"],
        "scored": len(scored),
        "pending": sum(row.get("look_at") is not None for row in rows),
        "unscored": sum(row.get("unscored") is not None for row in rows),
        **figures,
        "promised_coverage": newest["interval"]["level"],
        "verdict": newest["evaluation"]["verdict"],
        "summary": _summary(len(scored), figures),
        "latest": [_scored(row) for row in scored[:LATEST]],
    }


def _figures(scored: Sequence[Row]) -> dict[str, float | None]:
    outcomes = [row["outcome"] for row in scored]
    hits = [outcome["hit"] for outcome in outcomes if outcome["hit"] is not None]
    errors = [(row["predicted_return"] - row["outcome"]["return"]) ** 2 for row in scored]
    naive = math.fsum(outcome["return"] ** 2 for outcome in outcomes)
    return {
        "hit_rate": _mean([float(hit) for hit in hits]),
        "mean_error_percent": _mean([100 * abs(outcome["error"]) / outcome["price"] for outcome in outcomes]),
        "naive_mean_error_percent": _mean(
            [100 * abs(outcome["naive_error"]) / outcome["price"] for outcome in outcomes]
        ),
        "skill_vs_naive": round(1 - math.fsum(errors) / naive, 6) if naive else None,
        "observed_coverage": _mean([float(outcome["inside_interval"]) for outcome in outcomes]),
    }


def _mean(values: Sequence[float]) -> float | None:
    return round(math.fsum(values) / len(values), 6) if values else None


def _scored(row: Row) -> dict[str, Any]:
    names = ("created_at", "last_bar", "last_close", "predicted_price", "outcome")
    interval = row["interval"]
    return {
        "id": str(row["_id"]),
        **{name: row[name] for name in names},
        "low": interval["low"],
        "high": interval["high"],
    }


def _summary(count: int, figures: dict[str, float | None]) -> str:
    error, naive, hits = figures["mean_error_percent"], figures["naive_mean_error_percent"], figures["hit_rate"]
    if error is None or naive is None:
        return "The time of no prediction has come yet."
    told = "" if hits is None else f"{hits:.0%} of directions right, "
    known = f"{count} scored: {told}mean error {error:.2f} %, and {naive:.2f} % if the price had stayed as it was."
    return f"{known} These are too few to tell skill from luck." if count < FEW else known
