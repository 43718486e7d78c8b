"""Stored predictions: made from what a model says, found by their key, newest first."""

from collections.abc import AsyncIterator, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from beanie import PydanticObjectId
from bson import ObjectId
from msgspec import to_builtins
from pymongo.errors import DuplicateKeyError

from app.core.candles import CandleSeries, Timeframe
from app.core.clock import Clock, Sequence, from_micros
from app.core.pagination import PageRequest, newest_first
from app.predictions.horizons import horizon_text
from app.predictions.ml.values import Evaluation, Family, Forecast
from app.predictions.models import PredictionDocument

Row = dict[str, Any]

_KEPT_DAYS: Final = {"1m": 30, "5m": 60, "15m": 120, "1H": 400}
"""How long predictions of less than a day are kept at most; those of days and weeks as long as the setting says."""


SETTLES: Final = timedelta(minutes=30)
"""How long after a session its close is taken to be the official one: NSE's is the mean of the last half hour, known
some minutes later. Until then providers have the last trade, and an outcome is written once."""


def adjusted_of(row: Row) -> bool:
    """Whether a prediction is made of adjusted candles; rows of before this was noted have their source."""
    candles = row["candles"]
    return bool(candles.get("adjusted", candles["source"] == "yahoo"))


class PredictionRows:
    """The collection of predictions."""

    def __init__(self, clock: Clock, *, retention_days: int) -> None:
        self._clock, self._retention = clock, timedelta(days=retention_days)
        self._sequence = Sequence(clock)

    async def of(self, key: str) -> Row | None:
        """The prediction of this key, if there is one."""
        row: Row | None = await PredictionDocument.get_pymongo_collection().find_one({"key": key})
        return row

    async def by_id(self, prediction_id: str) -> Row | None:
        """The prediction of this id, if there is one."""
        rows = PredictionDocument.get_pymongo_collection()
        row: Row | None = await rows.find_one({"_id": ObjectId(prediction_id)})
        return row

    async def add(
        self, key: str, series: CandleSeries, forecast: Forecast, evaluation: Evaluation, ends: datetime, model: Row
    ) -> Row:
        """Store a prediction made of `series`, or give the one that another process stored meanwhile.

        `ends`: when its horizon is over; `model`: its `family`, `trained_through`, `trained_at` and `reused`.
        """
        row = self._row(key, series, forecast, evaluation, ends, model)
        try:
            await PredictionDocument.get_pymongo_collection().insert_one(row)
        except DuplicateKeyError:
            stored = await self.of(key)
            if stored is None:
                raise
            return stored
        return row

    def _row(
        self, key: str, series: CandleSeries, forecast: Forecast, evaluation: Evaluation, ends: datetime, model: Row
    ) -> Row:
        family: Family = model["family"]
        interval = {"low": forecast.interval_low, "high": forecast.interval_high, "level": forecast.interval_level}
        candles: Row = {
            "source": series.source,
            "fetched_at": series.fetched_at,
            "stale": series.stale,
            "adjusted": series.adjusted,
            "count": len(series.close),
            "currency": series.currency,
        }
        return {
            "_id": PydanticObjectId(),
            "schema_version": 1,
            "key": key,
            "seq": self._sequence.next(),
            "symbol": series.symbol,
            "timeframe": series.timeframe,
            "model_used": family,
            "time_horizon": horizon_text(forecast.horizon_bars, Timeframe(series.timeframe)),
            "horizon_bars": forecast.horizon_bars,
            "predicted_price": forecast.predicted_price,
            "predicted_return": forecast.predicted_return,
            "confidence_score": forecast.confidence_score,
            "interval": interval,
            "evaluation": to_builtins(evaluation),
            "last_close": forecast.last_close,
            "last_bar": from_micros(forecast.last_bar * 1_000_000),
            "horizon_ends_at": ends,
            "candles": candles,
            "model": {name: value for name, value in model.items() if name != "family"},
            "created_at": self._clock.now(),
            "look_at": ends if Timeframe(series.timeframe).intraday else ends + SETTLES,
        }

    def newest(
        self, equality: Mapping[str, Any], page: PageRequest, projection: Mapping[str, int] | None = None
    ) -> AsyncIterator[Row]:
        """Predictions that match, newest first; `equality` has the symbol, and may have timeframe and model."""
        rows = PredictionDocument.get_pymongo_collection()
        oldest = ObjectId.from_datetime(self._clock.now() - self._retention)
        return newest_first(rows, equality, page=page, account=oldest, clock=self._clock, projection=projection)

    async def expire(self) -> int:
        """Delete what is older than it is kept; how many that were."""
        rows, now, deleted = PredictionDocument.get_pymongo_collection(), self._clock.now(), 0
        for timeframe in Timeframe:
            kept = min(timedelta(days=_KEPT_DAYS.get(timeframe.value, 1_000_000)), self._retention)
            match = {"timeframe": timeframe.value, "created_at": {"$lt": now - kept}}
            deleted += (await rows.delete_many(match)).deleted_count
        return deleted
