"""What the brokers' lists of instruments are stored as. Private to the listing store."""

from datetime import datetime
from typing import Any

from beanie import Document
from pydantic import Field


class BrokerListingsDocument(Document):
    """Which list of a broker is in force, and what became of the newest try to get another; `id` is the broker."""

    id: str  # type: ignore[assignment]  # Beanie declares an ObjectId; MongoDB takes anything
    schema_version: int = 1
    version: str | None = None
    """Of the list in force; None as long as there was none."""
    rows: int = 0
    parts: int = 0
    sha256: str = ""
    """Of the parts, joined."""
    rejected: dict[str, int] = Field(default_factory=dict)
    fetched_at: datetime | None = None
    checked_at: datetime | None = None
    """When it was last known to be the broker's newest."""
    tried_at: datetime | None = None
    last_error: str | None = None
    doubted: dict[str, Any] | None = None
    """A newer list that was not taken: since when, how many rows it has, and why."""

    class Settings:
        """Collection; a row for each broker."""

        name = "broker_listings"
        keep_nulls = False


class BrokerListingPartDocument(Document):
    """A piece of a list, compressed; `id` is `<broker>|<version>|<number>`, by which alone it is asked for."""

    id: str  # type: ignore[assignment]
    schema_version: int = 1
    broker: str
    version: str
    at: datetime
    data: bytes

    class Settings:
        """Collection; a few dozen rows."""

        name = "broker_listing_parts"


DOCUMENTS: list[type[Document]] = [BrokerListingsDocument, BrokerListingPartDocument]
"""What the database has to know of the lists."""
