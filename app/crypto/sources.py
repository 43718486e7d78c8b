"""Where listings come from: the first provider that answers, each behind its budget and its circuit breaker."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

import structlog
from pymongo.errors import PyMongoError

from app.crypto.errors import TITLES, AllFailedError, NotConfiguredError, ProviderError
from app.crypto.gate import Gate
from app.crypto.ports import Category, CoinArchive, CoinListing, Cost, Fetched, ListingProvider, PricePoint, Provider

log = structlog.get_logger(__name__)

MOST: Final = 1000
"""Coins of one listing."""
_KEYS: Final = {
    Provider.COINGECKO: "COINGECKO_API_KEY",
    Provider.COINMARKETCAP: "COINMARKETCAP_API_KEY",
}
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Source:
    """A provider and the gate before it."""

    provider: ListingProvider
    gate: Gate


class ListingSources:
    """Asks providers, first choice first. Every call is sent at most once; nothing is tried again by itself."""

    def __init__(self, sources: Sequence[Source], archive: CoinArchive | None = None) -> None:
        """`archive`: whoever has histories and categories; one of the `sources`, too."""
        self._sources = {source.provider.name: source for source in sources}
        self._archive = archive

    async def fetch(self, limit: int, provider: str | None = None, *, on_demand: bool = False) -> Fetched:
        """The `limit` (1–1,000) largest coins, from `provider`, or from the first that answers.

        The next is asked when one does not answer, fails, limits, is used up, is left alone, or makes no sense; never
        when it refuses our key or our request, which a person has to see. `on_demand`: leave the calls alone that the
        periodic syncs need for the rest of the month. Raises a `ProviderError` (which is a `DomainError`), and what the
        database raises, without which nothing can be counted, and so nothing asked.
        """
        if not 1 <= limit <= MOST:
            raise ValueError(f"a listing has 1 to {MOST} coins")
        failures: list[ProviderError] = []
        for source in self._asked(provider):
            asked = source.provider
            try:
                rows, rejected = await self._ask(
                    source,
                    asked.cost(limit),
                    partial(asked.listings, limit),
                    on_demand=on_demand,
                )
            except ProviderError as error:
                if not error.fails_over:
                    raise
                failures.append(error)
                continue
            if rejected:
                log.warning("rows of a listing could not be read", provider=asked.name, rows=rejected)
            why = AllFailedError(failures).word if failures else None
            if why:
                log.warning("listing from another provider", provider=asked.name, instead_of=why)
            return Fetched(asked.name, rows, rejected, why)
        raise failures[0] if len(failures) == 1 else AllFailedError(failures)

    async def history(self, provider_id: str, days: int) -> list[PricePoint]:
        """What the coin with CoinGecko's id was worth in the last `days` (1–365), the oldest first; one call on demand.

        Points are 5 minutes apart for one day, an hour up to 90 days, a day beyond. Raises as `fetch` does.
        """
        return await self._of_archive(Cost(), lambda archive: archive.history(provider_id, days))

    async def categories(self) -> list[Category]:
        """CoinGecko's categories; one call on demand, so ask `Categories`, which remembers. Raises as `fetch` does."""
        return await self._of_archive(Cost(category=True), lambda archive: archive.categories())

    async def category(self, slug: str) -> list[CoinListing]:
        """The largest coins of a category of CoinGecko's; one call on demand. Raises as `fetch` does."""
        return await self._of_archive(Cost(category=True), lambda archive: archive.category(slug))

    async def health(self) -> dict[str, Any]:
        """The line for `/health`: budgets, circuits, and what last went wrong. Never raises.

        `degraded` if the first choice is not well, or a key is refused, which does not pass by itself.
        """
        line: dict[str, Any] = {"status": "ok"}
        for place, (name, source) in enumerate(self._sources.items()):
            try:
                standing, line[name.value] = await source.gate.standing(), await source.gate.state()
            except PyMongoError as error:
                line |= {"status": "degraded", name.value: {"error": type(error).__name__}}
                continue
            if standing.key_refused or (place == 0 and standing.last_error is not None):
                line["status"] = "degraded"
        for name in Provider:
            if name not in self._sources:
                line[name.value] = {"circuit": "off", "needs": _KEYS[name]}
        return line

    async def close(self) -> None:
        """Give all connections up."""
        for source in self._sources.values():
            await source.provider.close()

    def _asked(self, provider: str | None) -> list[Source]:
        if provider is None and self._sources:
            return list(self._sources.values())
        name = Provider(provider or Provider.COINGECKO)
        if name not in self._sources:
            raise NotConfiguredError(name, "no key", f"Set {_KEYS[name]} to use {TITLES[name]}.")
        return [self._sources[name]]

    async def _of_archive(self, cost: Cost, question: Callable[[CoinArchive], Awaitable[_T]]) -> _T:
        archive = self._archive
        if archive is None:
            raise NotConfiguredError(Provider.COINGECKO, "off")
        return await self._ask(self._sources[archive.name], cost, lambda: question(archive), on_demand=True)

    @staticmethod
    async def _ask(source: Source, cost: Cost, question: Callable[[], Awaitable[_T]], *, on_demand: bool) -> _T:
        await source.gate.enter(cost, spare=on_demand)
        try:
            answer = await question()
        except ProviderError as error:
            log.warning("provider failed", provider=error.provider, error=error.word)
            await source.gate.leave(error)
            raise
        await source.gate.leave(None)
        return answer
