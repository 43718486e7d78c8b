"""What this feature needs of others; the composition root hands over who provides it."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple, Protocol


class PriceBar(NamedTuple):
    """The prices of a stretch of time, in rupees."""

    start: datetime
    open: Decimal
    high: Decimal
    low: Decimal


class PriceHistory(Protocol):
    """Knows what prices were while nobody looked."""

    async def bars(self, symbol: str, start: datetime, end: datetime) -> Sequence[PriceBar]:
        """Candles of `symbol` that begin at `start` or later and before `end` (aware), oldest first, as fine as they
        are kept; the newest may still be forming. Nothing for a symbol that is not known. At most a week is asked for.

        Raises `UnavailableError` when it cannot be said now.
        """
