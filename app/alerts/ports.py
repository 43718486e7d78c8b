"""What this feature needs of others; the composition root hands over who provides it."""

from typing import Protocol

from beanie import PydanticObjectId


class AccountStatus(Protocol):
    """Knows which accounts may act."""

    async def is_active(self, user_id: PydanticObjectId) -> bool:
        """Whether this account exists and is not deactivated, according to the database."""
