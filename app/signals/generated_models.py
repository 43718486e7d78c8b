"""What generated signals store. Rows are written through the raw collection; this class says what is there."""

from datetime import datetime
from typing import Any, ClassVar

from beanie import Document
from pymongo import IndexModel


class TradingSignalDocument(Document):
    """What the rules said at the close of one candle. Its prices are those of a chart, not of money: doubles."""

    schema_version: int = 1
    key: str
    """Symbol, timeframe, the last candle, and the version of the rules: the same question has one answer."""
    seq: int
    symbol: str
    """As the provider of candles calls it."""
    timeframe: str
    signal_type: str
    strength: float
    price_target: float | None = None
    stop_loss: float | None = None
    support_level: float | None = None
    resistance_level: float | None = None
    reasoning: str
    candle_start: datetime
    analysis: dict[str, Any]
    """The rest of what clients get: score, rules, indicators, backtest, where the candles came from."""
    created_at: datetime

    class Settings:
        """Collection and indexes."""

        name = "trading_signals"
        keep_nulls = False
        indexes: ClassVar = [
            IndexModel("key", name="key_1", unique=True),
            IndexModel([("symbol", 1), ("seq", -1)], name="symbol_1_seq_-1"),
            IndexModel([("symbol", 1), ("timeframe", 1), ("seq", -1)], name="symbol_1_timeframe_1_seq_-1"),
            IndexModel([("timeframe", 1), ("created_at", 1)], name="timeframe_1_created_at_1"),
        ]


DOCUMENTS: list[type[Document]] = [TradingSignalDocument]
"""What the database has to know of generated signals."""
