"""What users' signals are stored as. Private to the feature."""

from datetime import datetime
from typing import Any, ClassVar

from beanie import DecimalAnnotation, Document, PydanticObjectId
from pydantic import Field
from pymongo import DESCENDING, IndexModel


class SignalDocument(Document):
    """A signal that a user entered."""

    id: PydanticObjectId = Field(default_factory=PydanticObjectId)
    schema_version: int = 1
    user_id: PydanticObjectId
    symbol: str
    option_type: str | None = None
    signal_type: str
    entry_price: DecimalAnnotation
    target_price: DecimalAnnotation
    stop_loss: DecimalAnnotation
    quantity: int
    confidence: int
    status: str
    notes: str | None = None
    seq: int
    revision: int
    """Counts the changes: who changes a row, changes the revision that was read."""
    levels_at: datetime
    """Since when target and stop are what they are: what prices did before does not count."""
    created_at: datetime
    updated_at: datetime
    closed_at: datetime | None = None
    outcome: dict[str, Any] | None = None
    """`kind`, `price`, `at`, `seen_in`, `certain`, and `mark`, by which its writer knows it again."""

    class Settings:
        """Collection and indexes: the names of the first six are part of the contract, the others serve the lists."""

        name = "signals"
        keep_nulls = False
        indexes: ClassVar = [
            IndexModel("user_id", name="user_id_1"),
            IndexModel("symbol", name="symbol_1"),
            IndexModel("status", name="status_1"),
            IndexModel([("created_at", DESCENDING)], name="created_at_-1"),
            IndexModel([("user_id", 1), ("status", 1)], name="user_id_1_status_1"),
            IndexModel([("symbol", 1), ("created_at", DESCENDING)], name="symbol_1_created_at_-1"),
            IndexModel([("user_id", 1), ("seq", DESCENDING)], name="user_id_1_seq_-1"),
            IndexModel([("user_id", 1), ("status", 1), ("seq", DESCENDING)], name="user_id_1_status_1_seq_-1"),
            IndexModel([("user_id", 1), ("symbol", 1), ("seq", DESCENDING)], name="user_id_1_symbol_1_seq_-1"),
        ]


class SignalCheckDocument(Document):
    """Until when the prices of a symbol have been looked at for signals; `id` is the symbol."""

    id: str  # type: ignore[assignment]  # Beanie declares an ObjectId, MongoDB takes anything
    schema_version: int = 1
    checked_at: datetime

    class Settings:
        """Collection."""

        name = "signal_checks"


DOCUMENTS: list[type[Document]] = [SignalDocument, SignalCheckDocument]
"""What the database has to know of users' signals."""
