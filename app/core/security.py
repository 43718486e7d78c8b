"""Who is asking: the value types and the port that the auth feature fills."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from beanie import PydanticObjectId


class Role(StrEnum):
    """What an account may do, least first."""

    USER = "user"
    OPERATOR = "operator"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Principal:
    """The account behind a verified access token, good until `expires_at` (UTC)."""

    user_id: PydanticObjectId
    session_id: PydanticObjectId
    role: Role
    expires_at: datetime


class Authenticator(Protocol):
    """Turns an access token into a `Principal`."""

    async def authenticate(self, access_token: str) -> Principal:
        """The principal of a valid token of a live session; raises `UnauthorizedError` otherwise."""
