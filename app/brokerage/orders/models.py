"""What orders are stored as. Private to brokerage."""

from datetime import datetime
from typing import Any, ClassVar

from beanie import DecimalAnnotation, Document, PydanticObjectId
from pydantic import Field
from pymongo import DESCENDING, IndexModel


class OrderDocument(Document):
    """An order of a user, from the intent to its end."""

    id: PydanticObjectId = Field(default_factory=PydanticObjectId)
    schema_version: int = 1
    user_id: PydanticObjectId
    account_id: str
    """The account at the broker, ours: 24 hex digits."""
    broker: str
    client_order_id: str | None = None
    client_key: str
    """`given:` and the client's id, or `own:` and the tag: unique per user."""
    fingerprint: str
    """SHA-256 of what was asked for: a repeat asks for the same."""
    tag: str
    """The id, as brokers keep it: it is found by that."""
    stock_symbol: str
    exchange: str
    order_type: str
    """`buy` or `sell`."""
    quantity: int
    price: DecimalAnnotation | None = None
    trigger_price: DecimalAnnotation | None = None
    price_type: str
    product: str
    validity: str
    mtf_enabled: bool = False
    listing: dict[str, Any]
    """The instrument as it was when the order was checked; it is what a change of the order is checked against."""

    state: str
    watch: bool
    """Whether the broker is still to be asked about it."""
    reason: str | None = None
    broker_code: str | None = None
    broker_order_id: str | None = None
    exchange_order_id: str | None = None
    twins: list[str] = Field(default_factory=list)
    """Further orders at the broker with this tag: there must never be one."""
    filled_quantity: int = 0
    average_price: DecimalAnnotation | None = None
    traded_quantity: int = 0
    """What the broker's trade book has of it, as far as it was taken."""
    told_state: str | None = None
    told_at: datetime | None = None
    """The newest live state that the broker told, and its time of it."""
    told_end: str | None = None
    """The end that the broker told last, if it did."""
    certain: bool = True
    """False where the end was concluded because the broker's book of that day is gone."""
    sent_at: datetime | None = None
    absent_since: datetime | None = None
    """Since when the broker's book, read late enough, has not had it."""
    act: dict[str, Any] | None = None
    """A change or a cancellation that is under way; see `acts`."""
    transitions: list[dict[str, Any]]
    transitions_left_out: int = 0

    order_executed_at: datetime | None = None
    """When it was last filled, as far as is known."""
    seq: int
    change_seq: int
    revision: int
    """Counts the changes: who changes a row, changes the revision that was read."""
    mark: PydanticObjectId
    """Of the last write: its writer knows it by this where the answer was lost."""
    created_at: datetime
    updated_at: datetime
    closed_at: datetime | None = None

    class Settings:
        """Collection and indexes: few, as each costs every change of a row."""

        name = "orders"
        indexes: ClassVar = [
            IndexModel([("user_id", 1), ("client_key", 1)], name="user_id_1_client_key_1", unique=True),
            IndexModel([("user_id", 1), ("seq", DESCENDING)], name="user_id_1_seq_-1"),
            IndexModel([("user_id", 1), ("state", 1), ("seq", DESCENDING)], name="user_id_1_state_1_seq_-1"),
            IndexModel([("user_id", 1), ("change_seq", 1)], name="user_id_1_change_seq_1"),
            IndexModel([("account_id", 1), ("broker_order_id", 1)], name="account_id_1_broker_order_id_1"),
            IndexModel([("watch", 1), ("account_id", 1)], name="watch_1_account_id_1"),
        ]


class OrderBudgetDocument(Document):
    """What an account has used of its broker's limits; `id` is the account's."""

    id: str  # type: ignore[assignment]  # Beanie declares an ObjectId, MongoDB takes anything
    schema_version: int = 1
    version: int
    used: dict[str, Any]

    class Settings:
        """Collection."""

        name = "order_budgets"


class ReconciliationDocument(Document):
    """The newest comparison of an account with its broker's books; `id` is the account's."""

    id: str  # type: ignore[assignment]  # see above
    schema_version: int = 1
    user_id: PydanticObjectId
    broker: str
    report: dict[str, Any]
    at: datetime
    idle: bool = False
    """Nothing was open, and nothing had changed: such an account is compared once a day."""

    class Settings:
        """Collection and index."""

        name = "order_reconciliations"
        indexes: ClassVar = [IndexModel("user_id", name="user_id_1")]


DOCUMENTS: list[type[Document]] = [OrderDocument, OrderBudgetDocument, ReconciliationDocument]
"""What the database has to know of orders."""
