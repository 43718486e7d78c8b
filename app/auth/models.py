"""What the auth feature stores. Private to the feature: others know accounts by their id alone.

Rules shared with the embedded database: every query is an equality on `_id` or on an indexed field, every change
a conditional `update_one` whose `modified_count` decides.
"""

from datetime import datetime
from typing import ClassVar

from beanie import Document, PydanticObjectId
from pydantic import Field
from pymongo import IndexModel

from app.core.security import Role


class UserDocument(Document):
    """An account. `email` and `username` are stored normalised, so that their unique indexes ignore case."""

    id: PydanticObjectId = Field(default_factory=PydanticObjectId)
    schema_version: int = 1
    email: str
    username: str | None = None
    name: str | None = None
    mobile: str | None = None
    hashed_password: str = Field(repr=False)
    role: Role = Role.USER
    is_active: bool = True
    is_verified: bool = False
    created_at: datetime
    updated_at: datetime

    class Settings:
        """Collection and indexes."""

        name = "users"
        keep_nulls = False  # an absent username is not in the sparse unique index
        indexes: ClassVar = [
            IndexModel("email", unique=True, name="email_1"),
            IndexModel("username", unique=True, sparse=True, name="username_1"),
            IndexModel("is_active", name="is_active_1"),
            IndexModel("created_at", name="created_at_1"),
        ]


class SessionDocument(Document):
    """One login and everything refreshed from it: the family that is revoked as a whole.

    `expires_at` moves on with each refresh. The database removes the document after it; a missing session is a
    dead one, so nothing depends on when that happens.
    """

    id: PydanticObjectId = Field(default_factory=PydanticObjectId)
    schema_version: int = 1
    user_id: PydanticObjectId
    created_at: datetime
    last_used_at: datetime
    expires_at: datetime
    user_agent: str | None = None
    address: str
    revoked_at: datetime | None = None
    revoked_because: str | None = None

    class Settings:
        """Collection and indexes."""

        name = "sessions"
        keep_nulls = False
        indexes: ClassVar = [
            IndexModel("user_id", name="user_id_1"),
            IndexModel("expires_at", name="expires_at_1", expireAfterSeconds=0),
        ]


class RefreshTokenDocument(Document):
    """A refresh token, known by its digest only. A spent one is kept until it would have expired:
    its return is how a theft is noticed."""

    id: PydanticObjectId = Field(default_factory=PydanticObjectId)
    schema_version: int = 1
    digest: str = Field(repr=False)
    session_id: PydanticObjectId
    user_id: PydanticObjectId
    created_at: datetime
    expires_at: datetime
    spent: bool = False
    spent_at: datetime | None = None

    class Settings:
        """Collection and indexes."""

        name = "refresh_tokens"
        keep_nulls = False
        indexes: ClassVar = [
            IndexModel("digest", unique=True, name="digest_1"),
            IndexModel("expires_at", name="expires_at_1", expireAfterSeconds=0),
        ]


DOCUMENTS: list[type[Document]] = [UserDocument, SessionDocument, RefreshTokenDocument]
"""What the database has to know of this feature."""
