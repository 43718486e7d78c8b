"""What this feature needs of others; the composition root hands over who provides it."""

from typing import Protocol

from beanie import PydanticObjectId

from app.core.security import Principal


class AccountStatus(Protocol):
    """Knows which accounts may act."""

    async def is_active(self, user_id: PydanticObjectId) -> bool:
        """Whether this account exists and is not deactivated, according to the database."""


class CallerStatus(Protocol):
    """Knows whether who was let in a moment ago still would be."""

    async def holds(self, caller: Principal) -> bool:
        """Whether the credential behind `caller` still works, according to the database."""
