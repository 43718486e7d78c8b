"""What the alerts feature stores. Private to the feature.

`seq` (microseconds since the epoch, strictly increasing in each process) orders the rows of every list here: it is in
each index after the equality fields, so that a page is a narrow range of an index.
"""

from datetime import datetime
from typing import Any, ClassVar

from beanie import DecimalAnnotation, Document, PydanticObjectId
from pydantic import Field
from pymongo import DESCENDING, IndexModel


class StrategyDocument(Document):
    """A named strategy of a user; alerts belong to one."""

    id: PydanticObjectId = Field(default_factory=PydanticObjectId)
    schema_version: int = 1
    user_id: PydanticObjectId
    name: str
    created_at: datetime

    class Settings:
        """Collection and indexes."""

        name = "strategies"
        keep_nulls = False
        indexes: ClassVar = [IndexModel([("user_id", 1), ("name", 1)], name="user_id_1_name_1", unique=True)]


class KeyDocument(Document):
    """A strategy's secret key, known by its SHA-256 alone."""

    id: PydanticObjectId = Field(default_factory=PydanticObjectId)
    schema_version: int = 1
    user_id: PydanticObjectId
    strategy_id: PydanticObjectId
    strategy_name: str
    digest: str = Field(repr=False)
    prefix: str
    seq: int
    created_at: datetime
    last_used_at: datetime | None = None
    revoked_at: datetime | None = None

    class Settings:
        """Collection and indexes."""

        name = "strategy_keys"
        keep_nulls = False
        indexes: ClassVar = [
            IndexModel("digest", name="digest_1", unique=True),
            IndexModel([("user_id", 1), ("seq", DESCENDING)], name="user_id_1_seq_-1"),
        ]


class AlertDocument(Document):
    """An alert as it was stored.

    `dedup` decides repeats (a unique index): the digest of key, idempotency key, body. `raw` is the JSON text of what
    arrived beyond the known fields: text, so that no name or number in it means anything to the database.
    A deleted alert leaves an empty row with its `dedup`: a repeat of it must not come to life as a new alert.
    """

    id: PydanticObjectId = Field(default_factory=PydanticObjectId)
    schema_version: int = 1
    user_id: PydanticObjectId
    strategy_id: PydanticObjectId
    strategy_name: str
    contract: str
    trade_type: str
    quantity: DecimalAnnotation
    price: DecimalAnnotation
    exchange: str | None = None
    product: str | None = None
    order_type: str | None = None
    stop_loss: DecimalAnnotation | None = None
    target: DecimalAnnotation | None = None
    interval: str | None = None
    comment: str | None = None
    alert_time: datetime | None = None
    alert_id: str | None = None
    raw: str | None = None
    source: str
    dedup: str | None = None
    seq: int
    created_at: datetime
    updated_at: datetime
    purge_at: datetime | None = None

    class Settings:
        """Collection and indexes."""

        name = "alerts"
        keep_nulls = False
        indexes: ClassVar = [
            IndexModel("dedup", name="dedup_1", unique=True, sparse=True),
            IndexModel([("user_id", 1), ("seq", DESCENDING)], name="user_id_1_seq_-1"),
            IndexModel(
                [("user_id", 1), ("strategy_id", 1), ("seq", DESCENDING)], name="user_id_1_strategy_id_1_seq_-1"
            ),
            IndexModel([("user_id", 1), ("contract", 1), ("seq", DESCENDING)], name="user_id_1_contract_1_seq_-1"),
            IndexModel("purge_at", name="purge_at_1", expireAfterSeconds=0, sparse=True),
        ]


class RejectedDocument(Document):
    """A delivery that did not become an alert, and why. `body` holds the bytes as they came."""

    id: PydanticObjectId = Field(default_factory=PydanticObjectId)
    schema_version: int = 1
    user_id: PydanticObjectId
    strategy_id: PydanticObjectId
    strategy_name: str
    status: int
    reason: str
    errors: list[dict[str, Any]] = []
    body: bytes
    size: int
    content_type: str | None = None
    address: str
    also_refused: int = 0
    seq: int
    created_at: datetime
    expires_at: datetime

    class Settings:
        """Collection and indexes."""

        name = "rejected_deliveries"
        keep_nulls = False
        indexes: ClassVar = [
            IndexModel([("user_id", 1), ("seq", DESCENDING)], name="user_id_1_seq_-1"),
            IndexModel([("strategy_id", 1), ("seq", DESCENDING)], name="strategy_id_1_seq_-1"),
            IndexModel("expires_at", name="expires_at_1", expireAfterSeconds=0),
        ]


DOCUMENTS: list[type[Document]] = [StrategyDocument, KeyDocument, AlertDocument, RejectedDocument]
"""What the database has to know of this feature."""
