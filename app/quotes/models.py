"""What quotes and candles store."""

from datetime import datetime
from typing import Any, ClassVar

from beanie import Document
from pymongo import IndexModel


class QuoteCandleDocument(Document):
    """One candle of one provider; `id` is `<series>|<start in ms>`."""

    id: str  # type: ignore[assignment]  # Beanie declares an ObjectId, MongoDB takes anything
    schema_version: int = 1
    series: str
    """`<symbol>|<timeframe>|<source>`."""
    start: datetime
    end: datetime
    raw: dict[str, float]
    """`open`, `high`, `low`, `close`, `volume` as they were traded."""
    adjusted: dict[str, float]
    """The same, for splits and dividends since."""
    closed: bool
    dividend: float = 0.0
    split: float = 0.0

    class Settings:
        """Collection and indexes."""

        name = "quote_candles"
        indexes: ClassVar = [IndexModel([("series", 1), ("start", 1)], name="series_1_start_1", unique=True)]


class QuoteSeriesDocument(Document):
    """What is stored of a series; `id` is its name."""

    id: str  # type: ignore[assignment]
    schema_version: int = 1
    symbol: str
    timeframe: str
    source: str
    currency: str | None = None
    adjusted: bool = True
    first: datetime
    last: datetime
    """When the first and the last candle begin."""
    fetched_at: datetime
    asked_at: datetime | None = None
    """When somebody last wanted it; None in rows of before this was noted: then not before `fetched_at`."""
    mending: bool = False
    """A split or a dividend has changed older candles, and they are not all rewritten yet."""

    class Settings:
        """Collection; a row for each series that was ever asked for."""

        name = "quote_series"


class NewestQuoteDocument(Document):
    """The newest quote of a symbol, for when no provider answers."""

    id: str  # type: ignore[assignment]  # the symbol
    schema_version: int = 1
    quote: dict[str, Any]
    at: datetime

    class Settings:
        """Collection; a row for each symbol that was ever asked for."""

        name = "quote_newest"


DOCUMENTS: list[type[Document]] = [QuoteCandleDocument, QuoteSeriesDocument, NewestQuoteDocument]
"""What the database has to know of this feature."""
