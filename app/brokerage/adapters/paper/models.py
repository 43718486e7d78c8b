"""What the paper broker stores."""

from datetime import datetime
from typing import Any, ClassVar

from beanie import Document
from pymongo import IndexModel

KEPT_SECONDS = 35 * 86_400
"""Books of the paper broker are of the day; what lasts is in the service's own orders and trades."""


class PaperAccountDocument(Document):
    """An account whole, as a `book.PaperBook`; `id` is that of the activated brokerage."""

    id: str  # type: ignore[assignment]  # Beanie declares an ObjectId, MongoDB takes anything
    schema_version: int = 1
    user_id: str
    revision: int
    """Counts the changes: who changes a row, changes the revision that was read."""
    mark: str
    """Of the last change, by which its writer knows it again."""
    awake: bool
    """Whether prices or the time can change it, or something of it is to be filed."""
    book: dict[str, Any]
    updated_at: datetime

    class Settings:
        """Collection and indexes."""

        name = "paper_accounts"
        indexes: ClassVar = [IndexModel("awake", name="awake_1")]


class PaperOrderDocument(Document):
    """An order that has ended, as a `words.BookedOrder`; `id` is the broker's."""

    id: str  # type: ignore[assignment]
    schema_version: int = 1
    account_id: str
    reference: str
    """Its tag; of the broker's own orders their id."""
    day: str
    """The trading day on which it ended, ISO 8601."""
    ended_at: datetime
    order: dict[str, Any]

    class Settings:
        """Collection and indexes."""

        name = "paper_orders"
        indexes: ClassVar = [
            IndexModel([("account_id", 1), ("reference", 1)], name="account_id_1_reference_1", unique=True),
            IndexModel([("account_id", 1), ("day", 1)], name="account_id_1_day_1"),
            IndexModel("ended_at", name="ended_at_1", expireAfterSeconds=KEPT_SECONDS),
        ]


class PaperTradeDocument(Document):
    """A fill, as a `words.BookedTrade`; `id` is the trade's."""

    id: str  # type: ignore[assignment]
    schema_version: int = 1
    account_id: str
    day: str
    at: datetime
    trade: dict[str, Any]

    class Settings:
        """Collection and indexes."""

        name = "paper_trades"
        indexes: ClassVar = [
            IndexModel([("account_id", 1), ("day", 1)], name="account_id_1_day_1"),
            IndexModel("at", name="at_1", expireAfterSeconds=KEPT_SECONDS),
        ]


DOCUMENTS: list[type[Document]] = [PaperAccountDocument, PaperOrderDocument, PaperTradeDocument]
"""What the database has to know of the paper broker."""
