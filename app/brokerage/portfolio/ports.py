"""What the portfolio needs of accounts and of orders."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from app.brokerage.ports import Sessions


class AccountsHere(Sessions, Protocol):
    """Activated accounts, and whose they are."""

    async def owns(self, user_id: str, account_id: str) -> bool:
        """Whether the user has an account with this id, whatever was written for one."""


class OrdersHere(Protocol):
    """The orders that were placed through this service, one user's at a time."""

    async def owns(self, user_id: str, order_id: str) -> bool:
        """Whether the user has an order with this id, whatever was written for one."""

    async def ids(self, account_id: str, broker_order_ids: Collection[str]) -> Mapping[str, str]:
        """Our ids of an account's orders by the broker's; orders that were placed elsewhere are left out."""

    async def open_orders(self, user_id: str, account_id: str, limit: int) -> Sequence[Mapping[str, Any]]:
        """Those that wait, newest first, as clients get them; at most `limit`."""

    def newest(self, user_id: str, start: datetime, end: datetime) -> AsyncIterator[Mapping[str, Any]]:
        """All orders of a stretch of time, newest first, as clients get them, read piece by piece."""
