"""A provider's categories and the coins in them, remembered for a day: each costs a call of the month's budget."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

import structlog
from cachetools import LRUCache
from pymongo.asynchronous.database import AsyncDatabase

from app.core.clock import Clock
from app.crypto.errors import BudgetUsedError, ProviderError
from app.crypto.ports import Category, CategoryMembers, CoinListing

log = structlog.get_logger(__name__)

COLLECTION: Final = "crypto_categories"
KEPT: Final = timedelta(days=1)
_IN_MEMORY: Final = 100
_NAMES: Final = "names"
_Rows = list[list[str]]
_Kept = tuple[datetime, _Rows]
"""With when they were asked for."""


class CategorySource(Protocol):
    """Fetches them: `ListingSources`."""

    async def categories(self) -> list[Category]:
        """Every category."""

    async def category(self, slug: str) -> list[CoinListing]:
        """The largest coins of one."""


class Categories:
    """CoinGecko's categories; in the database for all processes, the newest in memory."""

    def __init__(self, db: AsyncDatabase[dict[str, Any]], clock: Clock, source: CategorySource) -> None:
        self._stored, self._clock, self._source = db[COLLECTION], clock, source
        self._memory: LRUCache[str, _Kept] = LRUCache(_IN_MEMORY)
        self._turn = asyncio.Lock()

    async def names(self) -> list[Category]:
        """Every category, from at most a day ago; older ones if the provider does not answer.

        Raises a `ProviderError` if it never did.
        """

        async def ask() -> _Rows:
            return [list(category) for category in await self._source.categories()]

        _, rows = await self._rows(_NAMES, ask)
        return [Category(slug, name) for slug, name in rows]

    async def members(self, slug: str) -> CategoryMembers | None:
        """The largest coins in a category; None if there is no such category.

        From at most a day ago, or older if the provider does not answer or the day's calls for categories are made;
        raises a `ProviderError` where there are none yet.
        """
        if all(category.slug != slug for category in await self.names()):
            return None

        async def ask() -> _Rows:
            return [[listing.provider_id] for listing in await self._source.category(slug)]

        at, rows = await self._rows(f"coins of {slug}", ask)
        return CategoryMembers([row[0] for row in rows], at)

    async def _rows(self, name: str, ask: Callable[[], Awaitable[_Rows]]) -> _Kept:
        if (fresh := self._fresh(self._memory.get(name))) is not None:
            return fresh
        async with self._turn:  # many at once make one call
            kept = self._memory.get(name)
            if self._fresh(kept) is None and (row := await self._stored.find_one({"_id": name})):
                kept = self._memory[name] = row["at"], row["rows"]
            if (fresh := self._fresh(kept)) is not None:
                return fresh
            try:
                rows = await ask()
            except ProviderError as error:
                if kept is None:
                    raise
                if not isinstance(error, BudgetUsedError):  # which is no fault, and holds for many requests
                    log.warning("categories are old", name=name, error=error.word)
                return kept
            at = self._clock.now()
            self._memory[name] = at, rows
            await self._stored.replace_one({"_id": name}, {"at": at, "rows": rows}, upsert=True)
            return at, rows

    def _fresh(self, kept: _Kept | None) -> _Kept | None:
        return kept if kept is not None and self._clock.now() - kept[0] < KEPT else None
