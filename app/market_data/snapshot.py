"""What a subscriber to ticks gets at once: the newest tick of each symbol, also when the market is closed."""

from collections.abc import Sequence
from typing import Final

from app.core.errors import NotFoundError
from app.market_data.reading import MarketReading, SymbolPageRequest
from app.market_data.wire import encoded

MOST: Final = 1000
"""Symbols, where a client subscribes to all."""


class TickSnapshot:
    """Fills the stream's port `Snapshot`."""

    def __init__(self, reading: MarketReading) -> None:
        self._reading = reading

    async def newest(self, symbols: Sequence[str] | None) -> list[bytes]:
        """See the port. A symbol that nobody has heard of yet may come: it is left out, and no error."""
        try:
            page = await self._reading.latest(symbols, SymbolPageRequest(MOST))
        except NotFoundError:
            return []
        return [encoded(tick) for tick in page.rows]
