"""What crypto listings store. Rows are written through the raw collections; these classes say what is there.

Lists are served from memory, where the newest generation has the order of every sort ready: no query sorts by price or
market capitalisation, so there are no indexes for that, which every sync would have to pay for.
"""

from datetime import datetime
from typing import Any, ClassVar

from beanie import Document
from beanie.odm.custom_types import DecimalAnnotation
from pymongo import IndexModel


class CoinDocument(Document):
    """A coin, listed now or once; amounts are US dollars, changes per cent."""

    id: str  # type: ignore[assignment]  # our slug; Beanie declares an ObjectId, MongoDB takes anything
    schema_version: int = 1
    ids: dict[str, str]
    """The providers' own ids: a coin is one row, whoever lists it."""
    symbol: str
    name: str
    source: str
    source_slug: str
    rank: int | None = None
    price: DecimalAnnotation | None = None
    market_cap: DecimalAnnotation | None = None
    fully_diluted_valuation: DecimalAnnotation | None = None
    volume_24h: DecimalAnnotation | None = None
    high_24h: DecimalAnnotation | None = None
    low_24h: DecimalAnnotation | None = None
    price_change_1h: DecimalAnnotation | None = None
    price_change_24h: DecimalAnnotation | None = None
    price_change_7d: DecimalAnnotation | None = None
    circulating_supply: DecimalAnnotation | None = None
    total_supply: DecimalAnnotation | None = None
    max_supply: DecimalAnnotation | None = None
    ath: DecimalAnnotation | None = None
    ath_date: datetime | None = None
    atl: DecimalAnnotation | None = None
    atl_date: datetime | None = None
    categories: list[str] = []
    image: str | None = None
    updated_at: datetime | None = None
    first_seen: datetime
    synced_at: datetime
    reach: int
    reached_at: datetime

    class Settings:
        """Collection and indexes."""

        name = "crypto_coins"
        keep_nulls = False
        indexes: ClassVar = [
            IndexModel("symbol", name="symbol_1"),
            IndexModel("ids.coingecko", name="ids.coingecko_1", unique=True, sparse=True),
            IndexModel("ids.coinmarketcap", name="ids.coinmarketcap_1", unique=True, sparse=True),
        ]


class GenerationDocument(Document):
    """The whole listing as one sync left it: written once, read whole, so that a switch is atomic."""

    id: int  # type: ignore[assignment]  # grows from one to the next: microseconds since the epoch
    schema_version: int = 1
    made_at: datetime
    provider: str
    report: dict[str, Any] = {}
    """What the sync changed, with names; see `coins.Changes`."""
    rows: bytes
    """The coins, as BSON of its own (`encoding.row_of`; amounts are `Decimal128` there, too). The embedded database
    walks through every value of a document: 70 ms for 200 coins, in which nobody else is served."""

    class Settings:
        """Collection and indexes."""

        name = "crypto_generations"
        indexes: ClassVar = [IndexModel("made_at", name="made_at_1")]


class ListingDocument(Document):
    """Which generation is the newest, and which are kept for cursors; one row, `newest`."""

    id: str  # type: ignore[assignment]
    schema_version: int = 1
    number: int
    made_at: datetime
    kept: list[dict[str, Any]]
    """`number` and `made_at` of the generations that can still be read, oldest first."""

    class Settings:
        """Collection."""

        name = "crypto_listing"


DOCUMENTS: list[type[Document]] = [CoinDocument, GenerationDocument, ListingDocument]
"""What the database has to know of the listing; `portfolio_models` has the rest of the feature's."""
