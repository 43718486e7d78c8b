"""What history and portfolios store. Private to the feature.

History is written once and read often, on a database that pays for every member of a document that it changes: what is
fresh are small rows, inserted in one go by each sync; days that are over are packed into buckets, once a day.
"""

from datetime import datetime
from typing import ClassVar

from beanie import DecimalAnnotation, Document, PydanticObjectId
from pydantic import Field
from pymongo import DESCENDING, IndexModel


class HistoryRowDocument(Document):
    """What a coin was worth at one time, in US dollars; `id` is `<slug>|<series>|<slot>`, so no slot has two."""

    id: str  # type: ignore[assignment]  # Beanie declares an ObjectId, MongoDB takes anything
    schema_version: int = 1
    slug: str
    series: str
    """`5m` or `1h`."""
    at: datetime
    price: DecimalAnnotation
    market_cap: DecimalAnnotation | None = None
    volume_24h: DecimalAnnotation | None = None

    class Settings:
        """Collection and indexes; two days of rows, some 20,000 with 200 coins."""

        name = "crypto_history_fresh"
        keep_nulls = False
        indexes: ClassVar = [
            IndexModel([("slug", 1), ("series", 1), ("at", 1)], name="slug_1_series_1_at_1"),
            IndexModel([("series", 1), ("at", 1)], name="series_1_at_1"),
        ]


class HistoryBucketDocument(Document):
    """A coin's points of 7 (`1h`) or 91 days (`1d`), oldest first; `id` is `<slug>|<series>|<first day>`."""

    id: str  # type: ignore[assignment]
    schema_version: int = 1
    slug: str
    series: str
    start: datetime
    revision: int
    """Whoever changes a bucket replaces the revision that was read."""
    at: list[datetime]
    price: list[DecimalAnnotation]
    market_cap: list[DecimalAnnotation | None]
    volume_24h: list[DecimalAnnotation | None]

    class Settings:
        """Collection and indexes; some 10 buckets a coin."""

        name = "crypto_history"
        indexes: ClassVar = [
            IndexModel([("slug", 1), ("series", 1), ("start", 1)], name="slug_1_series_1_start_1"),
            IndexModel([("series", 1), ("start", 1)], name="series_1_start_1"),
        ]


class HistoryDayDocument(Document):
    """A day (UTC) of which there are fresh rows, and what was done with them; `id` is its date."""

    id: str  # type: ignore[assignment]
    schema_version: int = 1
    day: datetime
    packed: bool = False
    swept: datetime
    """Up to when its rows are deleted."""

    class Settings:
        """Collection; there are two or three rows, more only while the daily job does not run."""

        name = "crypto_history_days"
        keep_nulls = False


class BackfillDocument(Document):
    """That a coin's older history is wanted, or was asked for; `id` is its slug. It is asked for once."""

    id: str  # type: ignore[assignment]
    schema_version: int = 1
    state: str
    """`wanted`, `filled`, `unknown` (at the provider) or `refused` (by it)."""
    at: datetime
    points: int = 0
    error: str | None = None

    class Settings:
        """Collection."""

        name = "crypto_backfills"
        keep_nulls = False
        indexes: ClassVar = [IndexModel("state", name="state_1")]


class HoldingDocument(Document):
    """How much of a coin a user has."""

    id: PydanticObjectId = Field(default_factory=PydanticObjectId)
    schema_version: int = 1
    user_id: PydanticObjectId
    slug: str
    symbol: str
    name: str
    quantity: DecimalAnnotation
    cost_basis: DecimalAnnotation | None = None
    """What all of it cost, in US dollars."""
    note: str | None = None
    seq: int
    created_at: datetime
    updated_at: datetime

    class Settings:
        """Collection and indexes."""

        name = "crypto_holdings"
        keep_nulls = False
        indexes: ClassVar = [
            IndexModel([("user_id", 1), ("slug", 1)], name="user_id_1_slug_1", unique=True),
            IndexModel([("user_id", 1), ("seq", DESCENDING)], name="user_id_1_seq_-1"),
            IndexModel("slug", name="slug_1"),
        ]


class WatchlistDocument(Document):
    """A named list of coins that a user follows."""

    id: PydanticObjectId = Field(default_factory=PydanticObjectId)
    schema_version: int = 1
    user_id: PydanticObjectId
    name: str
    key: str
    """The name as names are compared: no two lists of a user differ by case alone."""
    coins: list[dict[str, str]]
    """Slug, symbol and name of each, in the user's order."""
    seq: int
    created_at: datetime
    updated_at: datetime

    class Settings:
        """Collection and indexes."""

        name = "crypto_watchlists"
        keep_nulls = False
        indexes: ClassVar = [
            IndexModel([("user_id", 1), ("key", 1)], name="user_id_1_key_1", unique=True),
            IndexModel([("user_id", 1), ("seq", DESCENDING)], name="user_id_1_seq_-1"),
        ]


DOCUMENTS: list[type[Document]] = [
    HistoryRowDocument,
    HistoryBucketDocument,
    HistoryDayDocument,
    BackfillDocument,
    HoldingDocument,
    WatchlistDocument,
]
"""What the database has to know of history and portfolios."""
