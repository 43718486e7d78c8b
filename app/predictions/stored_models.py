"""Trained models kept for the candles to come, and how long they are good for."""

from datetime import datetime, timedelta
from typing import Final

import structlog
from beanie import PydanticObjectId

from app.core.candles import CandleSeries, Timeframe
from app.core.clock import Clock, from_micros
from app.predictions.ml.values import TrainResult
from app.predictions.models import PredictionModelDocument
from app.predictions.rows import Row
from app.predictions.service_ports import ModelStore

log = structlog.get_logger(__name__)

GOOD_FOR: Final = {
    Timeframe.M1: 375,
    Timeframe.M5: 75,
    Timeframe.M15: 50,
    Timeframe.H1: 35,
    Timeframe.D1: 20,
    Timeframe.W1: 4,
}
"""Newer candles that a model forecasts from before another is trained: those of a session, of two days, a week, a
month, and a month. Beside the five years of days that it learnt from these are few; its evaluation stays with it."""
OLDEST: Final = timedelta(days=35)
"""A model is not used any longer than that, whatever candles there were."""
UNUSED: Final = timedelta(days=60)
"""After which a model is forgotten."""


class StoredModels:
    """Keeps one model for each symbol, timeframe, family and horizon: the newest."""

    def __init__(self, files: ModelStore, clock: Clock) -> None:
        self._files, self._clock = files, clock

    async def of(self, key: str, series: CandleSeries) -> tuple[Row, bytes] | None:
        """The model named `key` and its bytes, if it is good for the newest candle of `series` and on this machine."""
        row: Row | None = await PredictionModelDocument.get_pymongo_collection().find_one({"key": key})
        if row is None or not self._good(row, series):
            return None
        blob = await self._files.load(row["file"])
        return None if blob is None else (row, blob)

    def _good(self, row: Row, series: CandleSeries) -> bool:
        through: datetime = row["trained_through"]
        if not series.start[0] <= through <= series.start[-1] or self._clock.now() - row["trained_at"] > OLDEST:
            return False
        newer = sum(start > through for start in reversed(series.start))
        return newer <= GOOD_FOR[Timeframe(series.timeframe)]

    async def keep(self, key: str, result: TrainResult) -> None:
        """Store what was trained in place of what there was."""
        now = self._clock.now()
        row: Row = {
            "schema_version": 1,
            "key": key,
            "file": await self._files.save(result.blob),
            "bytes": len(result.blob),
            "trained_through": from_micros(result.trained_through * 1_000_000),
            "trained_at": now,
            "used_at": now,
            "feature_names": list(result.feature_names),
            "versions": result.versions,
            "seconds": result.seconds,
        }
        models = PredictionModelDocument.get_pymongo_collection()
        new = {"$set": row, "$setOnInsert": {"_id": PydanticObjectId()}}
        await models.update_one({"key": key}, new, upsert=True)

    async def used(self, key: str) -> None:
        """It was of use."""
        models = PredictionModelDocument.get_pymongo_collection()
        await models.update_one({"key": key}, {"$set": {"used_at": self._clock.now()}})

    async def expire(self) -> dict[str, int]:
        """Forget models that nobody uses, and remove files that no model names."""
        models = PredictionModelDocument.get_pymongo_collection()
        gone = await models.delete_many({"used_at": {"$lt": self._clock.now() - UNUSED}})
        named = frozenset([row["file"] async for row in models.find({}, {"file": 1})])
        return {"models": gone.deleted_count, "files": await self._files.prune(named)}
