"""What the brokers' lists of instruments are stored as. Private to the listing store."""

from beanie import Document

from app.core.staged_lists import ListPart, ListState


class BrokerListingsDocument(ListState, Document):
    """The state of a broker's list; `id` is the broker."""

    id: str  # type: ignore[assignment]  # Beanie declares an ObjectId; MongoDB takes anything

    class Settings:
        """Collection; a row for each broker."""

        name = "broker_listings"
        keep_nulls = False


class BrokerListingPartDocument(ListPart, Document):
    """A piece of a list; `id` is `<broker>|<version>|<number>`, by which alone it is asked for."""

    id: str  # type: ignore[assignment]
    broker: str

    class Settings:
        """Collection; a few dozen rows."""

        name = "broker_listing_parts"


DOCUMENTS: list[type[Document]] = [BrokerListingsDocument, BrokerListingPartDocument]
"""What the database has to know of the lists."""
