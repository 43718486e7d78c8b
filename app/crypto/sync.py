"""Syncs: a provider is asked, its rows find their coins, and a new generation of the listing is made of them."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Protocol

import msgspec
import structlog

from app.core.bus import Bus
from app.core.clock import Clock
from app.core.errors import UnavailableError
from app.core.events import GenerationMade
from app.core.scheduler import Run
from app.crypto.coins import CoinFinder, Merged, merge
from app.crypto.generations import Generation, GenerationStore, OvertakenError
from app.crypto.ports import Fetched, HistoryWriter
from app.crypto.register import CoinRegister

log = structlog.get_logger(__name__)

MAX_COINS: Final = 250
"""That one request to a provider lists."""
USUAL_COINS: Final = 200
_TRIES: Final = 5


class Source(Protocol):
    """Where rows come from."""

    async def fetch(self, limit: int, provider: str | None = None, *, on_demand: bool = False) -> Fetched:
        """The `limit` largest coins: of `provider`, or of the first provider that can be asked.

        `on_demand`: nobody depends on it, so the calls are left alone that the periodic syncs need.
        """


class CryptoSync:
    """The work of the jobs `crypto.top50`, `crypto.top200` and `crypto.sync`."""

    def __init__(
        self,
        *,
        source: Source,
        store: GenerationStore,
        register: CoinRegister,
        history: HistoryWriter,
        bus: Bus,
        clock: Clock,
    ) -> None:
        self._source = source
        self._store = store
        self._register = register
        self._history = history
        self._bus = bus
        self._clock = clock

    async def top_50(self, run: Run) -> Mapping[str, Any]:
        """Every five minutes."""
        return await self._sync(run, 50, None)

    async def top_200(self, run: Run) -> Mapping[str, Any]:
        """Every hour."""
        return await self._sync(run, USUAL_COINS, None)

    async def sync(self, run: Run) -> Mapping[str, Any]:
        """What somebody asked for: `limit` (up to `MAX_COINS`) and `provider`.

        With `unless_listed` nothing is asked of a provider when there is a listing already: that is how requests to a
        service that has none yet come to one call in all processes.
        """
        arguments, first = run.arguments, bool(run.arguments.get("unless_listed"))
        if first and (number := await self._store.newest()) is not None:
            return {"provider": None, "rows": 0, "changes": 0, "generation": number}
        limit = int(arguments.get("limit") or USUAL_COINS)
        return await self._sync(run, limit, arguments.get("provider"), on_demand=not first)

    async def _sync(self, run: Run, limit: int, provider: str | None, *, on_demand: bool = False) -> Mapping[str, Any]:
        await run.progress(0, limit, "asking the provider")
        fetched = await self._source.fetch(limit, provider, on_demand=on_demand)
        if not fetched.rows:
            raise UnavailableError("The provider listed no coin; the listing stays as it was.")
        await run.progress(len(fetched.rows), limit, "storing")
        at = self._clock.now()
        number, merged = await self._switch(fetched, limit, at)
        # Every process has heard of it before the run is over: whoever waited for it sees it wherever they ask next.
        await self._bus.publish(GenerationMade(number), confirm=True)
        points = await self._history.append(at, [(coin.slug, coin.listing) for coin in merged.written])
        await run.progress(len(fetched.rows), len(fetched.rows), "stored")
        changes = merged.changes
        result = {
            "provider": str(fetched.provider),
            "failed_over": fetched.failed_over,
            "rows": len(merged.written),
            "rejected": fetched.rejected,
            "listed": len(merged.coins),
            "generation": number,
            "added": len(changes.added),
            "renamed": len(changes.renamed),
            "left": len(changes.left),
            "changed": changes.changed,
            "unchanged": changes.unchanged,
            "changes": len(changes.added) + len(changes.renamed) + len(changes.left) + changes.changed,
            "points": points,
        }
        log.info("listing synced", job=run.job, **{name: value for name, value in result.items() if name != "changes"})
        return result

    async def _switch(self, fetched: Fetched, limit: int, at: datetime) -> tuple[int, Merged]:
        """Store what `fetched` makes of the newest listing, and let that be the newest one."""
        for tries_left in reversed(range(_TRIES)):
            newest = await self._store.newest()
            before = await self._listed(newest)
            listed = {coin.slug: coin for coin in before.coins} if before else {}
            found = await CoinFinder(listed.values(), self._register).find(fetched.rows)
            merged = merge(listed, found, limit, at)
            report = msgspec.to_builtins(merged.changes)
            try:
                await self._register.write(merged.written, merged.fresh)
                return await self._store.put(newest, at, fetched.provider, merged.coins, report), merged
            except OvertakenError:  # another sync was faster: what it brought is what this one changes
                if not tries_left:
                    raise
        raise AssertionError("unreachable")

    async def _listed(self, number: int | None) -> Generation | None:
        return None if number is None else await self._store.load(number)
