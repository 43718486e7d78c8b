"""What this room needs of the rest of the service."""

from typing import NamedTuple, Protocol

from beanie import PydanticObjectId


class Owner(NamedTuple):
    """Whom an account at a broker belongs to."""

    email: str
    name: str | None


class Owners(Protocol):
    """Knows people."""

    async def owner(self, user_id: PydanticObjectId) -> Owner | None:
        """Where to write to them; None for an account that is not active (any more)."""
