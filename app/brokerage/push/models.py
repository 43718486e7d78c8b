"""What pushes are remembered by. Private to this room."""

from datetime import datetime
from typing import ClassVar

from beanie import Document
from pymongo import IndexModel


class BrokerPushDocument(Document):
    """A genuine push that was taken in full; `id` is a digest of broker and body, so that a replay is known."""

    id: str  # type: ignore[assignment]  # Beanie declares an ObjectId; MongoDB takes anything
    schema_version: int = 1
    at: datetime
    expires_at: datetime

    class Settings:
        """Collection and indexes."""

        name = "broker_pushes"
        indexes: ClassVar = [IndexModel("expires_at", name="expires_at_1", expireAfterSeconds=0)]


DOCUMENTS: list[type[Document]] = [BrokerPushDocument]
"""What the database has to know of this room."""
