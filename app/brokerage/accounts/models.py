"""What accounts at brokers are stored as. Private to this room.

Every credential is sealed by `core.encryption.Vault` under a context that names the account and the field, so that a
row copied over another's opens nothing.
"""

from datetime import datetime
from typing import ClassVar

from beanie import Document, PydanticObjectId
from pydantic import Field
from pymongo import IndexModel


class BrokerAccountDocument(Document):
    """An activated brokerage: one of each broker for each user."""

    id: PydanticObjectId = Field(default_factory=PydanticObjectId)
    schema_version: int = 1
    user_id: PydanticObjectId
    broker: str
    base_url: str | None = None
    """None: what the settings say at the time."""
    secrets: dict[str, str] = Field(default={}, repr=False)
    """By their names, each sealed."""
    renews: bool = False
    """Whether its credentials suffice for a session without a person."""
    revision: int = 1
    """Counts the changes of credentials and session: who changes a row, changes the revision that was read."""
    chosen_at: datetime | None = None
    """Orders go through the account that was chosen last."""
    session: str | None = Field(None, repr=False)
    """The broker's tokens, sealed."""
    session_live: bool = False
    """False from the moment it is known to be over; one that has run out stays True until somebody looks."""
    session_made_at: datetime | None = None
    session_expires_at: datetime | None = None
    """None with a live session: it does not end."""
    session_ended: str | None = None
    """Why it is over, in a word: `expired`, `refused`, `replaced`."""
    warned_for: datetime | None = None
    """The end that the owner was told of."""
    identity: str | None = Field(None, repr=False)
    """A keyed digest of the client code, once the broker has told it: pushes name it."""
    early_deaths: int = 0
    not_before: datetime | None = None
    """Sessions that die as soon as they are made are not made again before."""
    claimed_by: str | None = None
    claimed_until: datetime | None = None
    """Which process signs in at this moment: a code works once."""
    last_error: str | None = None
    """Why the newest try brought no session; our words."""
    created_at: datetime
    updated_at: datetime

    class Settings:
        """Collection and indexes."""

        name = "broker_accounts"
        keep_nulls = False
        indexes: ClassVar = [
            IndexModel([("user_id", 1), ("broker", 1)], unique=True, name="user_id_1_broker_1"),
            IndexModel([("broker", 1), ("session_live", 1)], name="broker_1_session_live_1"),
            IndexModel([("broker", 1), ("identity", 1)], name="broker_1_identity_1"),
        ]


class BrokerRefusalsDocument(Document):
    """Refused sign-ins of one user at one broker, in a row; `id` is `<user>|<broker>`. Outlives the account."""

    id: str  # type: ignore[assignment]  # Beanie declares an ObjectId; MongoDB takes anything
    schema_version: int = 1
    digest: str = Field(repr=False)
    """Tells one set of credentials from another: a keyed digest."""
    times: int
    """In a row, of these."""
    recent: list[datetime] = []
    """When the newest were, of whatever credentials."""
    last_at: datetime
    expires_at: datetime

    class Settings:
        """Collection and indexes."""

        name = "broker_refusals"
        keep_nulls = False
        indexes: ClassVar = [IndexModel("expires_at", name="expires_at_1", expireAfterSeconds=0)]


DOCUMENTS: list[type[Document]] = [BrokerAccountDocument, BrokerRefusalsDocument]
"""What the database has to know of this room."""
