"""What the mail feature stores. Private to the feature.

A row is the *request* for a mail, never the mail: what is secret in a mail (a one-time code, a token) is made when its
turn comes, so it never lies here, and after an outage nobody gets a code that ran out while it waited.
"""

from datetime import datetime
from enum import StrEnum
from typing import ClassVar

from beanie import Document
from pydantic import Field
from pymongo import IndexModel


class MailState(StrEnum):
    """What became of a request."""

    WAITING = "waiting"
    SENT = "sent"
    """The server took it. (A request that there was nothing to send for is deleted.)"""
    FAILED = "failed"
    """The server refused it for good, or it could not be sent for days."""


class MailDocument(Document):
    """A request for a mail.

    `id` is `<kind>:<key>` for a request with a key: a further request with the same key replaces the one that waits, in
    the same single write that stores a new one. Each request brings a `nonce`; a sender settles the row only if it
    still has the nonce that it read, so a request that arrives while its predecessor is being sent leads to one more
    mail.
    """

    id: str  # type: ignore[assignment]  # Beanie declares an ObjectId; MongoDB takes anything
    schema_version: int = 1
    nonce: str
    kind: str
    key: str | None = None
    to: str
    values: dict[str, str | int | bool | None] = {}
    state: MailState = MailState.WAITING
    attempts: int = Field(0, ge=0)
    """Tries that ended with this mail put off or settled; while the server is away none is counted."""
    next_try_at: datetime
    created_at: datetime
    settled_at: datetime | None = None
    last_error: str | None = None
    """What kind of failure the last try met; never the server's words, which may quote addresses."""
    expires_at: datetime | None = None
    """When the database removes a settled row; a waiting one has none."""

    class Settings:
        """Collection and indexes."""

        name = "outbox"
        keep_nulls = False
        indexes: ClassVar = [
            IndexModel([("state", 1), ("next_try_at", 1)], name="state_1_next_try_at_1"),
            IndexModel("expires_at", name="expires_at_1", expireAfterSeconds=0, sparse=True),
        ]


DOCUMENTS: list[type[Document]] = [MailDocument]
"""What the database has to know of this feature."""
