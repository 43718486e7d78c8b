"""The paper broker, put together."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from app.brokerage.adapters.paper.broker import Bell, PaperBroker
from app.brokerage.adapters.paper.hours import Hours
from app.brokerage.adapters.paper.listings import PaperListings
from app.brokerage.adapters.paper.matcher import PaperMatcher
from app.brokerage.adapters.paper.matching import Model
from app.brokerage.adapters.paper.rules import PaperRules
from app.brokerage.adapters.paper.store import PaperStore
from app.brokerage.ports import OrderNews, Prices
from app.core.charges import ChargeEngine
from app.core.lease_holder import LeaseHolder
from app.core.market_calendar import MarketCalendar
from app.core.settings import Settings
from app.lifespan.ground import Ground

LEASE_SECONDS = 15.0


class Paper:
    """The paper broker in this process."""

    def __init__(
        self,
        settings: Settings,
        ground: Ground,
        calendar: MarketCalendar,
        engine: ChargeEngine,
        prices: Prices,
    ) -> None:
        rules = PaperRules(
            starting_cash=settings.paper_starting_cash,
            slippage_bps=settings.paper_slippage_bps,
            latency_ms=settings.paper_latency_ms,
            volume_share=settings.paper_volume_share,
            always_open=settings.paper_always_open,
            seed=settings.paper_seed,
        )
        hours = Hours(calendar, always_open=settings.paper_always_open)
        self._model = Model(rules, hours, engine)
        self._store = PaperStore(ground.database.db, ground.clock, hours)
        self._settings, self._ground, self._prices, self._bell = settings, ground, prices, Bell()
        self.broker = PaperBroker(
            store=self._store,
            model=self._model,
            prices=prices,
            listings=PaperListings(),
            clock=ground.clock,
            bell=self._bell,
        )

    def start(self, news: OrderNews) -> Callable[[], Awaitable[dict[str, Any]]]:
        """Hand the filling of orders to the supervisor, where background tasks are on; gives what `/health` asks."""
        if not self._settings.background_tasks_enabled:
            return self._off
        ground = self._ground
        matcher = PaperMatcher(
            store=self._store,
            model=self._model,
            prices=self._prices,
            news=news,
            clock=ground.clock,
            bell=self._bell,
        )
        lease = LeaseHolder(ground.database.db, ground.clock, "paper broker", ground.holder, LEASE_SECONDS)
        ground.supervisor.add("paper broker", partial(lease.run, matcher.run))

        async def health() -> dict[str, Any]:
            return matcher.health()

        return health

    async def _off(self) -> dict[str, Any]:
        return {"status": "off"}
