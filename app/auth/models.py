"""What the auth feature stores. Private to the feature: others know accounts by their id alone.

Rules shared with the embedded database: every query is an equality on `_id` or on an indexed field, every change
a conditional `update_one` whose `modified_count` decides. `seq` (microseconds since the epoch) orders the rows of a
list: it stands in an index after the equality fields, so that a page is a narrow range of it.
"""

from datetime import datetime
from typing import Any, ClassVar

from beanie import Document, PydanticObjectId
from pydantic import Field
from pymongo import DESCENDING, IndexModel

from app.core.security import Role, Scope


class UserDocument(Document):
    """An account. `email` and `username` are stored normalised, so that their unique indexes ignore case."""

    id: PydanticObjectId = Field(default_factory=PydanticObjectId)
    schema_version: int = 1
    seq: int
    email: str
    username: str | None = None
    name: str | None = None
    mobile: str | None = None
    hashed_password: str = Field(repr=False)
    role: Role = Role.USER
    is_active: bool = True
    is_verified: bool = False
    """Somebody who reads the mail of `email` has said so. It says nothing of who made the account."""
    owner_proven: bool = False
    """Who reads the mail of `email` has the account, and nobody else (see `TakeOvers`); absent means not yet."""
    session_epoch: int = 0
    """Counts how often all sessions were ended: only those of the present count live. So one write ends them all, the
    same one that stores a new password, and a sign-in that began before it opens none."""
    kept_session: PydanticObjectId | None = None
    """The session that the last end of all others spared."""
    created_at: datetime
    updated_at: datetime

    def keeps(self, session_id: PydanticObjectId, epoch: int) -> bool:
        """Whether a session that was opened at the count `epoch` has outlived every end of all sessions."""
        return epoch == self.session_epoch or session_id == self.kept_session

    def lets_in(self, session: "SessionDocument") -> bool:
        """Whether `session`, one of this account's, can be used; its expiry apart."""
        return session.revoked_at is None and self.is_active and self.keeps(session.id, session.epoch)

    class Settings:
        """Collection and indexes."""

        name = "users"
        keep_nulls = False  # an absent username is not in the sparse unique index
        indexes: ClassVar = [
            IndexModel("email", unique=True, name="email_1"),
            IndexModel("username", unique=True, sparse=True, name="username_1"),
            IndexModel("is_active", name="is_active_1"),
            IndexModel("created_at", name="created_at_1"),
            IndexModel([("seq", DESCENDING)], name="seq_-1"),
            IndexModel([("role", 1), ("seq", DESCENDING)], name="role_1_seq_-1"),
            IndexModel([("is_active", 1), ("seq", DESCENDING)], name="is_active_1_seq_-1"),
        ]


def all_sessions_end(*, but: PydanticObjectId | None = None) -> dict[str, dict[str, Any]]:
    """The update of an account that ends all its sessions except `but`; to be joined with the reason for it."""
    return {"$inc": {"session_epoch": 1}, "$set": {"kept_session": but}}


class SessionDocument(Document):
    """One login and everything refreshed from it: the family that is revoked as a whole.

    `expires_at` moves on with each refresh. The database removes the document after it; a missing session is a
    dead one, so nothing depends on when that happens.
    """

    id: PydanticObjectId = Field(default_factory=PydanticObjectId)
    schema_version: int = 1
    seq: int
    user_id: PydanticObjectId
    epoch: int
    """The account's `session_epoch` when it was opened."""
    live: bool = True
    """False from the moment it is revoked; an expired one stays True until it is removed."""
    method: str = "password"
    """How it was signed in: `password`, `otp`, with `+totp` or `+recovery_code` where a second factor was asked."""
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
            IndexModel([("user_id", 1), ("live", 1), ("seq", DESCENDING)], name="user_id_1_live_1_seq_-1"),
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


class ApiTokenDocument(Document):
    """A token that an account made for a program, known by its digest only."""

    id: PydanticObjectId = Field(default_factory=PydanticObjectId)
    schema_version: int = 1
    seq: int
    user_id: PydanticObjectId
    name: str
    digest: str = Field(repr=False)
    prefix: str
    scopes: list[Scope]
    live: bool = True
    """False from the moment it is revoked; an expired one stays True until the account makes another."""
    created_at: datetime
    expires_at: datetime
    last_used_at: datetime | None = None
    revoked_at: datetime | None = None

    class Settings:
        """Collection and indexes."""

        name = "api_tokens"
        keep_nulls = False
        indexes: ClassVar = [
            IndexModel("digest", unique=True, name="digest_1"),
            IndexModel([("user_id", 1), ("live", 1), ("seq", DESCENDING)], name="user_id_1_live_1_seq_-1"),
            IndexModel("expires_at", name="expires_at_1", expireAfterSeconds=90 * 86_400),
        ]


class OneTimeSecretDocument(Document):
    """A secret that somebody was sent or given, to be shown back once: a code by e-mail, a reset token, the first half
    of a two-step login.

    `id` is the slot that it lies in (`otp:<whom>`): at most one secret lives in a slot, a new one replaces the old one.
    """

    id: str  # type: ignore[assignment]  # Beanie declares an ObjectId; MongoDB takes anything
    schema_version: int = 1
    nonce: str
    """Tells the secrets apart that lay in one slot: a try that began with one must not count against the next."""
    digest: str = Field(repr=False)
    user_id: PydanticObjectId | None = None
    """None: a decoy. Unknown addresses get one, so that nothing tells them from known ones."""
    tries: int = 0
    details: dict[str, str] = {}
    created_at: datetime
    expires_at: datetime

    class Settings:
        """Collection and indexes."""

        name = "one_time_secrets"
        keep_nulls = False
        indexes: ClassVar = [IndexModel("expires_at", name="expires_at_1", expireAfterSeconds=0)]


class SignInGuardDocument(Document):
    """Failed attempts against one account from one side, or from one network, in a row. `id` names whose they are."""

    id: str  # type: ignore[assignment]  # Beanie declares an ObjectId; MongoDB takes anything
    schema_version: int = 1
    failures: int
    last_failure_at: datetime
    expires_at: datetime

    class Settings:
        """Collection and indexes."""

        name = "sign_in_guards"
        keep_nulls = False
        indexes: ClassVar = [IndexModel("expires_at", name="expires_at_1", expireAfterSeconds=0)]


class SignInPlaceDocument(Document):
    """A network that an account has signed in from, and with which devices.

    `id` is `<account>:<network>`, or `<account>` alone: that it has signed in at all.
    """

    id: str  # type: ignore[assignment]  # Beanie declares an ObjectId; MongoDB takes anything
    schema_version: int = 1
    user_id: PydanticObjectId
    devices: list[str] = []
    """Digests of user agents, newest last."""
    last_seen_at: datetime
    expires_at: datetime

    class Settings:
        """Collection and indexes."""

        name = "sign_in_places"
        keep_nulls = False
        indexes: ClassVar = [
            IndexModel("user_id", name="user_id_1"),
            IndexModel("expires_at", name="expires_at_1", expireAfterSeconds=0),
        ]


class SecondFactorDocument(Document):
    """An account's authenticator app and recovery codes; `id` is the account's. Not asked for before `confirmed_at`."""

    id: PydanticObjectId
    schema_version: int = 1
    secret: str = Field(repr=False)
    """The TOTP secret, encrypted with ENCRYPTION_KEYS."""
    created_at: datetime
    confirmed_at: datetime | None = None
    last_step: int = 0
    """The time step (30 s since the epoch) of the newest code that was taken: no code works twice."""
    recovery_digests: list[str] = Field(default=[], repr=False)

    class Settings:
        """Collection; the accounts' ids are all that it is asked by."""

        name = "second_factors"
        keep_nulls = False


DOCUMENTS: list[type[Document]] = [
    UserDocument,
    SessionDocument,
    RefreshTokenDocument,
    ApiTokenDocument,
    OneTimeSecretDocument,
    SignInGuardDocument,
    SignInPlaceDocument,
    SecondFactorDocument,
]
"""What the database has to know of this feature."""
