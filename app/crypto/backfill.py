"""Older history of coins that somebody holds, and of the largest ones, from CoinGecko.

Without it a new service could say nothing about risk for its first month. A coin costs one call of the monthly budget,
once; only calls that the periodic syncs leave over are spent, and a few at a time.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import structlog
from pymongo.errors import DuplicateKeyError

from app.core.clock import Clock
from app.core.scheduler import Run
from app.crypto.errors import ProviderError, RequestRefusedError
from app.crypto.generations import Generation
from app.crypto.history import CryptoHistory
from app.crypto.history_reading import HistoryReading
from app.crypto.portfolio_models import BackfillDocument
from app.crypto.ports import PricePoint, Provider

log = structlog.get_logger(__name__)

DAYS: Final = 365
"""What CoinGecko gives without a plan, a point a day."""
LARGEST: Final = 10
"""Coins that are filled in without being asked for."""
AT_ONCE: Final = 5
"""Calls of one run."""


class HistorySource(Protocol):
    """Who has older history."""

    async def history(self, provider_id: str, days: int) -> list[PricePoint]:
        """What a coin was worth in the last `days`, the oldest first; raises a `ProviderError`."""


class ProviderIds(Protocol):
    """What coins are called elsewhere."""

    def largest(self, count: int) -> list[str]:
        """Slugs of the largest coins that are listed."""

    def ids(self, slug: str) -> Mapping[str, str]:
        """By provider, the id of a listed coin; empty for an unknown one."""


class ListedIds:
    """Fills the port `ProviderIds` from the newest listing."""

    def __init__(self, current: Callable[[], Generation | None]) -> None:
        """`current` gives the newest listing that this process has."""
        self._current = current

    def largest(self, count: int) -> list[str]:
        """See `ProviderIds.largest`; a listing has them by rank."""
        generation = self._current()
        return [coin.slug for coin in generation.coins[:count]] if generation else []

    def ids(self, slug: str) -> Mapping[str, str]:
        """See `ProviderIds.ids`."""
        generation = self._current()
        place = generation.by_slug.get(slug) if generation else None
        return generation.coins[place].ids if generation and place is not None else {}


class Backfill:
    """Remembers which coins are wanted, and fills them in."""

    def __init__(
        self, *, source: HistorySource, ids: ProviderIds, history: CryptoHistory, reading: HistoryReading, clock: Clock
    ) -> None:
        self._source, self._ids = source, ids
        self._history, self._reading, self._clock = history, reading, clock

    async def want(self, slug: str) -> None:
        """Have the coin filled in by one of the next runs, unless it was before."""
        row = {"_id": slug, "schema_version": 1, "state": "wanted", "at": self._clock.now(), "points": 0}
        try:
            await BackfillDocument.get_pymongo_collection().insert_one(row)
        except DuplicateKeyError:
            return

    async def work(self, run: Run) -> dict[str, Any]:
        """Fill in a few coins; the periodic job calls this. When the provider cannot be asked, the next run goes on."""
        for slug in self._ids.largest(LARGEST):
            await self.want(slug)
        rows = (
            await BackfillDocument.get_pymongo_collection()
            .find({"state": "wanted"})
            .sort("at", 1)
            .limit(AT_ONCE)
            .to_list()
        )
        filled, points, waiting = 0, 0, None
        for number, row in enumerate(rows):
            await run.progress(number, len(rows), row["_id"])
            try:
                points += await self._fill(row["_id"])
            except RequestRefusedError as error:
                await self._note(row["_id"], "refused", 0, error.word)
                continue
            except ProviderError as error:
                waiting = error.word
                break
            filled += 1
        if filled:
            self._reading.forget()
        return {"coins": filled, "points": points, "waiting": waiting}

    async def _fill(self, slug: str) -> int:
        id_ = self._ids.ids(slug).get(Provider.COINGECKO)
        if id_ is None:
            await self._note(slug, "unknown", 0, "CoinGecko does not list it")
            return 0
        found = await self._source.history(id_, DAYS)
        points = await self._history.fill(slug, found)
        await self._note(slug, "filled", points, None)
        log.info("older history is filled in", coin=slug, points=points)
        return points

    async def _note(self, slug: str, state: str, points: int, error: str | None) -> None:
        change = {"state": state, "at": self._clock.now(), "points": points, "error": error}
        await BackfillDocument.get_pymongo_collection().update_one({"_id": slug}, {"$set": change})
