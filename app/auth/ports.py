"""What this feature needs of others; the composition root hands over who provides it."""

from typing import Protocol

from beanie import PydanticObjectId


class StrategyKeys(Protocol):
    """Knows the keys by which an account's strategies are fed."""

    async def revoke_all(self, user_id: PydanticObjectId) -> int:
        """End all keys of an account, in every process before this returns; how many they were."""
