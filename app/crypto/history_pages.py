"""The history of a coin as clients get it."""

from typing import Any

from app.core.errors import NotFoundError
from app.core.pagination import Page
from app.crypto.chart_service import NO_HISTORY
from app.crypto.history_reading import HistoryPosition, HistoryReading
from app.crypto.history_slots import Interval
from app.crypto.naming import CoinNames
from app.crypto.schemas.history import HistorySpan


class HistoryPages:
    """Pages of points, by symbol."""

    def __init__(self, *, reading: HistoryReading, names: CoinNames) -> None:
        self._reading, self._names = reading, names

    async def page(
        self,
        symbol: str,
        slug: str | None,
        interval: Interval | None,
        span: HistorySpan,
        limit: int,
        after: HistoryPosition | None,
    ) -> Page[dict[str, Any]]:
        """Points within `span`, newest first, as `schemas.history.HistoryPoint` describes them.

        Raises `NotFoundError` for an unknown coin; a listed one without points has an empty page.
        """
        coin = await self._names.find(symbol, slug)
        found = await self._reading.page(coin.slug, interval, span.start, span.end, limit, after)
        if not found.rows and coin.name is None and not await self._reading.exists(coin.slug):
            raise NotFoundError(NO_HISTORY)
        told = {"symbol": coin.symbol, "slug": coin.slug}
        rows = [{**told, "interval": placed.interval, **placed.point._asdict()} for placed in found.rows]
        return Page(rows, found.next)
