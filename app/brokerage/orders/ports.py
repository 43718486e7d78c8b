"""What orders need of the rest of brokerage beyond `brokerage.ports`."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from app.brokerage.words import Exchange, Product


class Holding(NamedTuple):
    """What positions are told apart by."""

    exchange: Exchange
    symbol: str
    product: Product


class OwnPositions(Protocol):
    """Positions as this service reckons them from the fills that it knows."""

    async def net(self, account_id: str) -> Mapping[Holding, int] | None:
        """Net quantities (below 0: short) of everything that is open; None where that cannot be said now."""
