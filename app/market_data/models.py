"""What market data stores. Ticks are written through the raw collection, in batches; these classes say what is there.

Index names are part of the contract. No index has a descending string key: the embedded database loses rows with them.
"""

from datetime import datetime
from typing import Any, ClassVar

from beanie import Document, PydanticObjectId
from pydantic import Field
from pymongo import DESCENDING, IndexModel

from app.core.staged_lists import ListPart, ListState


class TickDocument(Document):
    """One tick, as it is listed. Prices are rupees."""

    id: PydanticObjectId = Field(default_factory=PydanticObjectId)
    schema_version: int = 1
    tk: str
    symbol: str
    exchange: str
    ltpc: float
    ch: float | None = None
    chp: float | None = None
    high: float | None = None
    low: float | None = None
    open: float | None = None
    close: float | None = None
    volume: int | None = None
    exchange_type: int
    token: str
    instrument_type: str
    expiry: str | None = None
    strike_price: float | None = None
    depth: dict[str, Any] | None = None
    received_at: datetime
    ingested_at: datetime
    source: str
    processed: bool = False
    raw_data: dict[str, Any] = {}
    data_quality: str
    is_realtime: bool = True

    class Settings:
        """Collection and indexes."""

        name = "market_data"
        keep_nulls = False
        indexes: ClassVar = [
            IndexModel("tk", name="tk_1"),
            IndexModel([("received_at", DESCENDING)], name="received_at_-1"),
            IndexModel("source", name="source_1"),
            IndexModel("processed", name="processed_1"),
            IndexModel([("tk", 1), ("received_at", DESCENDING)], name="tk_1_received_at_-1"),
            IndexModel([("symbol", 1), ("received_at", 1)], name="symbol_receivedAt_unique", unique=True),
        ]


class LatestDocument(Document):
    """The newest tick of a symbol and how many there are: what is asked for often, and must not grow with the ticks."""

    id: str  # type: ignore[assignment]  # the symbol; Beanie declares an ObjectId, MongoDB takes anything
    schema_version: int = 1
    token: str
    exchange: str
    exchange_type: int
    tick: dict[str, Any]
    received_at: datetime
    first_at: datetime
    stored: int = 0
    by_quality: dict[str, int] = {}
    by_source: dict[str, int] = {}

    class Settings:
        """Collection; there is a row for each symbol, a few thousand at most."""

        name = "market_latest"
        keep_nulls = False


class CandleDocument(Document):
    """One candle; `id` is `<symbol>|<timeframe>|<start in ms>`. Prices are rupees."""

    id: str  # type: ignore[assignment]
    schema_version: int = 1
    symbol: str
    timeframe: str
    start: datetime
    end: datetime
    open: float
    high: float
    low: float
    close: float
    volume: int = 0
    ticks: int = 0
    revision: int = 0
    """Counts what changed after it was closed: a late tick, a backfill."""
    source: str
    """`ticks`, `backfill` or `mixed`."""
    closed: bool = False
    term: int = 0
    """Of the process that wrote it: none of an earlier term may write over it, see `candle_store`."""
    progress: dict[str, int] = {}
    """What is needed to go on with it after a restart, see `candle_bars`."""

    class Settings:
        """Collection and indexes."""

        name = "candles"
        keep_nulls = False
        indexes: ClassVar = [
            IndexModel(
                [("symbol", 1), ("timeframe", 1), ("start", 1)], name="symbol_1_timeframe_1_start_1", unique=True
            )
        ]


class FeedStateDocument(Document):
    """What the process that runs the feed says of it, for all the others; one row."""

    id: str  # type: ignore[assignment]
    schema_version: int = 1
    leader: str
    state: str
    since: datetime
    at: datetime
    """When it was written: every few seconds as long as somebody leads."""
    through: datetime | None = None
    """Until when no outage is known."""
    feed: dict[str, Any] = {}
    counters: dict[str, Any] = {}

    class Settings:
        """Collection."""

        name = "market_feed"
        keep_nulls = False


class QualityDocument(Document):
    """How good the data of a symbol were on a day; `id` is `<symbol>|<YYYY-MM-DD>`."""

    id: str  # type: ignore[assignment]
    schema_version: int = 1
    symbol: str
    day: str
    gaps: list[dict[str, Any]] = []
    gap_count: int = 0
    longest_silence_seconds: float = 0.0
    booked_until: datetime | None = None
    """When the last silence ended that `gaps` tells of, or that was no gap."""
    usual_ms: float | None = None
    """How far apart the symbol's ticks usually were, in milliseconds."""
    duplicates: int = 0
    late: int = 0
    by_quality: dict[str, int] = {}
    rejected: dict[str, int] = {}

    class Settings:
        """Collection and indexes."""

        name = "market_quality"
        keep_nulls = False
        indexes: ClassVar = [IndexModel("day", name="day_1")]


class InstrumentsDocument(ListState, Document):
    """The state of the list of instruments; one row."""

    id: str  # type: ignore[assignment]

    class Settings:
        """Collection."""

        name = "market_instruments"
        keep_nulls = False


class InstrumentPartDocument(ListPart, Document):
    """A piece of a list of instruments; `id` is `<version>|<number>`."""

    id: str  # type: ignore[assignment]

    class Settings:
        """Collection; a few rows."""

        name = "market_instrument_parts"


class WatchlistDocument(Document):
    """What the feed is to follow, where somebody has said so; one row."""

    id: str  # type: ignore[assignment]
    schema_version: int = 1
    revision: int
    items: list[dict[str, Any]] | None = None
    """None: what the settings say."""
    at: datetime
    by: PydanticObjectId | None = None

    class Settings:
        """Collection."""

        name = "market_watchlist"


DOCUMENTS: list[type[Document]] = [
    TickDocument,
    LatestDocument,
    CandleDocument,
    FeedStateDocument,
    QualityDocument,
    InstrumentsDocument,
    InstrumentPartDocument,
    WatchlistDocument,
]
"""What the database has to know of this feature."""
