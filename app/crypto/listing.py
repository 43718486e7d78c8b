"""The listing as it is served: the newest generation in memory, in every process the same one."""

import asyncio
from typing import Any, Final, TypeVar

import structlog
from cachetools import LRUCache
from pymongo.errors import PyMongoError

from app.core.bus import Bus
from app.core.cancelling import end
from app.core.clock import Clock
from app.core.errors import NotFoundError, UnavailableError
from app.core.events import GenerationMade, PeersChanged
from app.core.scheduler import RunState
from app.crypto.encoding import Coin, encoded, wire_of
from app.crypto.generations import PAGE_BYTES, Generation, GenerationStore
from app.crypto.ports import CoinPrice
from app.crypto.register import CoinRegister
from app.crypto.runs import SYNC, Runs
from app.crypto.selection import Part, Rendered, Selection, cursor_refused, etag_of, render
from app.crypto.sync import USUAL_COINS

log = structlog.get_logger(__name__)

T = TypeVar("T")

COLD_SECONDS: Final = 10.0
"""How long a request waits for the first listing of all."""
HOLD_BACK_SECONDS: Final = 30.0
"""After a first sync that failed, how long this process starts no other."""


class ReadyPage:
    """An answer that was given before; `sent` is for whoever sends it, to keep its headers in."""

    __slots__ = ("page", "sent")

    def __init__(self, page: Rendered) -> None:
        self.page = page
        self.sent: Any = None


class Listings:
    """Reads of the listing; see `ports.CoinPrices` for the prices that others ask for.

    A process hears over the bus of a new generation and reads it before it answers the next request. Where the bus is
    interrupted it looks at every request, and in any case every `CRYPTO_CACHE_SECONDS`.
    """

    def __init__(
        self,
        *,
        store: GenerationStore,
        register: CoinRegister,
        bus: Bus,
        clock: Clock,
        cache_seconds: float,
        runs: Runs | None,
        cold_seconds: float = COLD_SECONDS,
    ) -> None:
        """`runs` gets the first listing when there is none; without it somebody has to start a sync by hand.

        `cold_seconds`: how long a request waits for that one.
        """
        self._store = store
        self._register = register
        self._bus = bus
        self._clock = clock
        self._cache_seconds = cache_seconds
        self._runs = runs
        self._cold_seconds = cold_seconds
        self._current: Generation | None = None
        self._pages: LRUCache[bytes, ReadyPage] = LRUCache(
            PAGE_BYTES, getsizeof=lambda ready: len(ready.page.body) + 2048
        )
        # What was heard of and not looked at yet: counted, for something may be heard while a look is under way.
        self._heard, self._seen = 1, 0
        self._looked_at = 0.0
        self._looking: asyncio.Task[None] | None = None
        self._starting: asyncio.Task[str] | None = None
        self._held_back: tuple[float, str] | None = None
        bus.subscribe(GenerationMade, self._on_made)
        bus.subscribe(PeersChanged, self._on_peers_changed)

    def current(self) -> Generation | None:
        """The newest generation that this process has, without waiting."""
        return self._current

    @property
    def fresh(self) -> bool:
        """Whether `current()` is known to be the newest there is."""
        return (
            self._seen == self._heard
            and self._bus.connected
            and self._current is not None
            and self._clock.monotonic() - self._looked_at < self._cache_seconds
        )

    def _on_made(self, event: GenerationMade) -> None:
        if self._current is None or event.number > self._current.number:
            self._heard += 1
            self._look_soon()

    def _on_peers_changed(self, _: PeersChanged) -> None:
        self._heard += 1

    def _look_soon(self) -> asyncio.Task[None]:
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(), name="crypto listing")
            self._looking.add_done_callback(_note_failure)
        return self._looking

    async def refresh(self) -> None:
        """Have the newest generation in memory, as far as the database can be read; none before the first sync."""
        while not self.fresh:
            heard = self._heard
            await asyncio.shield(self._look_soon())
            if self._heard == heard:  # else something newer was heard of meanwhile
                return

    async def _look(self) -> None:
        heard = self._heard
        number = await self._store.newest()
        if number is not None and (self._current is None or number != self._current.number):
            found = await self._store.load(number)
            if found is None:  # replaced and forgotten in between: the next look finds what replaced it
                return
            self._current = found
            self._pages.clear()
        self._seen, self._looked_at = heard, self._clock.monotonic()

    async def newest(self) -> Generation:
        """The newest generation; where there is none at all, the first sync is started and waited for.

        Raises `UnavailableError` when that does not bring one in time.
        """
        if self.fresh and self._current is not None:
            return self._current
        try:
            await self.refresh()
        except PyMongoError:
            if self._current is None:
                raise
            log.warning("the newest listing cannot be read; serving the one before")
        return self._current or await self._first()

    async def _first(self) -> Generation:
        if self._runs is None:
            raise UnavailableError(
                "No listing has been fetched yet and periodic syncs are off; an account can start one with "
                "POST /api/v1/cryptocurrencies/sync.",
                retry_after=60,
            )
        if self._held_back and (left := self._held_back[0] - self._clock.monotonic()) > 0:
            raise UnavailableError(self._held_back[1], retry_after=left)
        if self._starting is None or self._starting.done():
            self._starting = asyncio.create_task(self._first_sync(self._runs), name="first crypto listing")
            self._starting.add_done_callback(_note_failure)
        failure = await _within(self._cold_seconds, self._starting)
        if self._current is None:
            detail = failure or "The first listing is being fetched; try again in a few seconds."
            raise UnavailableError(detail, retry_after=HOLD_BACK_SECONDS if failure else 5)
        return self._current

    async def _first_sync(self, runs: Runs) -> str:
        """Start or join the first sync of all processes and read what it made; why there is nothing, if so."""
        arguments = {"limit": USUAL_COINS, "provider": None, "unless_listed": True}
        started = await runs.start(SYNC, arguments, requested_by=None)
        run = await runs.wait(started.id, self._cold_seconds)
        if run is None or not run.finished:
            return ""
        if run.state is RunState.SUCCEEDED:
            self._heard += 1
            await self.refresh()
            return ""
        failure = f"No listing has been fetched yet. {run.error or 'The last attempt failed.'}"
        self._held_back = self._clock.monotonic() + HOLD_BACK_SECONDS, failure
        return failure

    # ── pages ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def ready(self, query: bytes) -> ReadyPage | None:
        """The answer to a query string that was answered before from the generation that is still the newest."""
        return self._pages.get(query) if self.fresh else None

    async def page(self, selection: Selection, part: Part, query: bytes | None = None) -> Rendered:
        """Coins as `selection` and `part` say; `query`: what the client sent, under which the answer is kept ready.

        Raises `InvalidInputError` for a cursor of another list, or of a generation that is not kept any more.
        """
        if part.after is None:
            generation = await self.newest()
        else:
            if part.after.selection != selection.digest():
                raise cursor_refused(
                    "This cursor is of another list: keep filters and sort as they were", "cursor_other"
                )
            generation = await self._generation(part.after.generation)
        rendered = render(generation, selection, part)
        if query is not None and generation is self._current:
            self._pages[query] = ReadyPage(rendered)
        return rendered

    async def _generation(self, number: int) -> Generation:
        """An older generation, or the newest, if it is still kept."""
        if self._current is not None and self._current.number == number:
            return self._current
        found = await self._store.load(number)
        if found is None:
            raise cursor_refused(
                "The listing that this cursor goes on with is not kept any more: begin again without a cursor",
                "cursor_expired",
            )
        return found

    async def coin(self, symbol: str, slug: str | None) -> Rendered:
        """The largest coin with `symbol`, or the one called `slug`; one that is not listed any more as it was last.

        Raises `NotFoundError`.
        """
        generation = await self.newest()
        places = generation.by_symbol.get(symbol.upper(), ())
        coins = [generation.coins[place] for place in places]
        listed = True
        if not coins or (slug is not None and all(coin.slug != slug for coin in coins)):
            listed = False
            others = await self._register.by_symbol(symbol.upper())
            coins += sorted((coin for coin in others if coin.slug not in generation.by_slug), key=_by_market_cap)
        chosen = next((coin for coin in coins if slug is None or coin.slug == slug), None)
        if chosen is None:
            raise NotFoundError(_no_such(symbol, slug, coins, generation))
        told = wire_of(chosen)
        told["listed"] = listed
        told["same_symbol"] = [coin.name for coin in coins if coin is not chosen]
        body = encoded(told)
        return Rendered(body, etag_of(body))

    # ── prices, see `ports.CoinPrices` ───────────────────────────────────────────────────────────────────────────────

    def price(self, slug: str) -> CoinPrice | None:
        """The newest price of the coin with our slug; None for an unknown coin or one without a price."""
        generation = self._current
        place = generation.by_slug.get(slug) if generation else None
        if generation is None or place is None:
            return None
        coin = generation.coins[place]
        listing = coin.listing
        if listing.price is None:
            return None
        return CoinPrice(
            coin.slug,
            listing.symbol,
            listing.name,
            listing.price,
            listing.price_change_24h,
            coin.synced_at,
            listing.provider,
        )

    def slug_of(self, symbol: str) -> str | None:
        """Our slug of the largest coin with `symbol`, in any case; None if there is none."""
        generation = self._current
        places = generation.by_symbol.get(symbol.upper()) if generation else None
        return generation.coins[places[0]].slug if generation and places else None

    async def close(self) -> None:
        """End what is under way."""
        await end(task for task in (self._looking, self._starting) if task is not None)


def _by_market_cap(coin: Coin) -> tuple[bool, object, str]:
    cap = coin.listing.market_cap
    return cap is None, -cap if cap is not None else 0, coin.slug


def _no_such(symbol: str, slug: str | None, coins: list[Coin], generation: Generation) -> str:
    if slug is None or not coins:
        place = generation.by_slug.get(symbol.lower())
        meant = generation.coins[place] if place is not None else None
        hint = f"; {meant.slug} has the symbol {meant.listing.symbol}" if meant else ""
        return f"There is no coin with the symbol {symbol.upper()}{hint}."
    known = ", ".join(coin.slug for coin in coins[:10])
    return f"No coin with the symbol {symbol.upper()} is called {slug}; there are {known}."


async def _within(seconds: float, task: asyncio.Task[T]) -> T | None:
    """What `task` gives, if it does so in time; it goes on in any case, for others wait for it too."""
    try:
        async with asyncio.timeout(seconds):
            return await asyncio.shield(task)
    except TimeoutError:
        return None


def _note_failure(task: asyncio.Task[Any]) -> None:
    """Whoever waits for it is told; a look that nobody waits for says it here, and the next request looks again."""
    if not task.cancelled() and (error := task.exception()):
        log.warning("the newest listing could not be read", error=type(error).__name__)
