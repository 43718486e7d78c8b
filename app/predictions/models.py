"""What predictions store. Rows are written through the raw collections; these classes say what is there."""

from datetime import datetime
from typing import Any, ClassVar

from beanie import Document
from pymongo import IndexModel


class PredictionDocument(Document):
    """What a model said of a price, what that is worth, and what became of it. Prices are doubles, as in charts."""

    schema_version: int = 1
    key: str
    """Symbol, timeframe, model, horizon and the last candle: the same question has one answer."""
    seq: int
    """Orders predictions by their making: microseconds since the epoch."""
    symbol: str
    """As the provider of candles calls it."""
    timeframe: str
    model_used: str
    time_horizon: str
    horizon_bars: int
    predicted_price: float
    predicted_return: float
    confidence_score: float
    interval: dict[str, float]
    """`low`, `high`, and the `level` that they are to hold with."""
    evaluation: dict[str, Any]
    last_close: float
    last_bar: datetime
    """When the candle that it is made from begins."""
    horizon_ends_at: datetime
    candles: dict[str, Any]
    """Where they came from, when, how many."""
    model: dict[str, Any]
    """When it was trained, up to which candle, and whether for this prediction."""
    created_at: datetime
    look_at: datetime | None = None
    """When to look what became of it; gone once that is known, or never will be."""
    outcome: dict[str, Any] | None = None
    unscored: str | None = None
    """Why nobody will know what became of it."""

    class Settings:
        """Collection and indexes."""

        name = "predictions"
        keep_nulls = False
        indexes: ClassVar = [
            IndexModel("key", name="key_1", unique=True),
            IndexModel([("symbol", 1), ("seq", -1)], name="symbol_1_seq_-1"),
            IndexModel([("symbol", 1), ("timeframe", 1), ("seq", -1)], name="symbol_1_timeframe_1_seq_-1"),
            IndexModel([("symbol", 1), ("model_used", 1), ("seq", -1)], name="symbol_1_model_used_1_seq_-1"),
            IndexModel(
                [("symbol", 1), ("timeframe", 1), ("model_used", 1), ("seq", -1)],
                name="symbol_1_timeframe_1_model_used_1_seq_-1",
            ),
            IndexModel("look_at", name="look_at_1", sparse=True),
            IndexModel([("timeframe", 1), ("created_at", 1)], name="timeframe_1_created_at_1"),
        ]


class PredictionModelDocument(Document):
    """The newest trained model for a symbol, timeframe, family and horizon. Its bytes are a file, signed."""

    schema_version: int = 1
    key: str
    file: str
    """The name by which `ModelStore` has it, on the machine that trained it."""
    bytes: int
    trained_through: datetime
    trained_at: datetime
    used_at: datetime
    feature_names: list[str]
    versions: dict[str, str]
    seconds: float

    class Settings:
        """Collection and indexes."""

        name = "prediction_models"
        keep_nulls = False
        indexes: ClassVar = [
            IndexModel("key", name="key_1", unique=True),
            IndexModel("used_at", name="used_at_1"),
        ]


DOCUMENTS: list[type[Document]] = [PredictionDocument, PredictionModelDocument]
"""What the database has to know of this feature."""
