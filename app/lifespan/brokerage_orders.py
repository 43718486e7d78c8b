"""Orders, put together."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from datetime import timedelta
from functools import partial
from typing import Any, Final

import msgspec

from app.brokerage.orders.budget import OrderBudget
from app.brokerage.orders.changing import Changing
from app.brokerage.orders.conversions import PositionBooks
from app.brokerage.orders.guarding import OrderGuard
from app.brokerage.orders.ledger import Ledger
from app.brokerage.orders.merging import Timing
from app.brokerage.orders.news import OrdersHeard
from app.brokerage.orders.placing import Placing, Reduces
from app.brokerage.orders.polling import IDLE, OrderPolling
from app.brokerage.orders.ports import OwnPositions
from app.brokerage.orders.reading import OrderReading
from app.brokerage.orders.reconciliation import Reconciliation
from app.brokerage.ports import Broker, Fills, Listings, Sessions
from app.brokerage.words import BrokerName
from app.core.audit import AuditTrail
from app.core.clock import Sequence as Numbers
from app.core.deps import Registry
from app.core.events import BrokerAccountChanged, OrderChanged
from app.core.hub import Hub
from app.core.lease_holder import LeaseHolder
from app.core.market_calendar import MarketCalendar
from app.core.outbox import Channel
from app.core.scheduler import Job, Scheduler, without_run
from app.core.settings import Settings
from app.lifespan.ground import Ground

LEASE_SECONDS = 9.0
"""A killed process's orders wait this long, and a third, for another one to follow them."""
RECONCILED_EVERY = timedelta(minutes=5)


class _Change(msgspec.Struct):
    """What of the news of an account is needed."""

    change: str


_CHANGE: Final = msgspec.json.Decoder(type=_Change)


def order_reading(registry: Registry, ground: Ground, calendar: MarketCalendar) -> OrderReading:
    """What others need to know of orders; before everything else that there is of them."""
    ledger = Ledger(bus=ground.bus, clock=ground.clock, sequence=Numbers(ground.clock))
    return registry.provide(OrderReading, OrderReading(ledger, ground.clock, calendar))


class Orders:
    """Orders in this process. `reading` fills the ports of those who need to know of orders; see `order_reading`."""

    def __init__(
        self,
        registry: Registry,
        ground: Ground,
        audit: AuditTrail,
        hub: Hub,
        *,
        brokers: Mapping[BrokerName, Broker],
        sessions: Sessions,
        listings: Listings,
        timing: Timing | None = None,
        idle: float = IDLE,
    ) -> None:
        """Make the parts that others need; `begin` makes the rest, when those others are there."""
        clock, bus = ground.clock, ground.bus
        self._registry, self._ground, self._audit = registry, ground, audit
        self._brokers, self._sessions, self._listings = brokers, sessions, listings
        self._timing, self._idle = timing, idle
        self._ledger = Ledger(bus=bus, clock=clock, sequence=Numbers(clock))
        self.reading = registry.get(OrderReading)
        bus.subscribe(OrderChanged, partial(_stream, hub))

    def begin(
        self,
        settings: Settings,
        jobs: Scheduler | None,
        stack: AsyncExitStack,
        *,
        fills: Fills,
        positions: OwnPositions | None = None,
        books: PositionBooks | None = None,
        reduces: Reduces | None = None,
        guard: OrderGuard | None = None,
    ) -> tuple[OrdersHeard, Callable[[], Awaitable[dict[str, Any]]]]:
        """Make the services, provide what endpoints ask for, add the tasks and the job.

        Gives what fills the port `OrderNews`, and what `/health` asks. `stack` waits, at the end, for what was sent.
        """
        registry, ground, ledger = self._registry, self._ground, self._ledger
        news = OrdersHeard(
            ledger=ledger,
            brokers=self._brokers,
            sessions=self._sessions,
            fills=fills,
            audit=self._audit,
            timing=self._timing,
        )
        registry.provide(OrdersHeard, news)
        budget = OrderBudget(ground.clock, ground.bus)
        placing = Placing(
            ledger=ledger,
            brokers=self._brokers,
            sessions=self._sessions,
            listings=self._listings,
            budget=budget,
            news=news,
            audit=self._audit,
            reduces=reduces,
            guard=guard,
        )
        registry.provide(Placing, placing)
        changing = Changing(
            ledger=ledger,
            brokers=self._brokers,
            sessions=self._sessions,
            budget=budget,
            news=news,
            audit=self._audit,
            guard=guard,
        )
        registry.provide(Changing, changing)
        reconciliation = Reconciliation(
            ledger=ledger, news=news, sessions=self._sessions, positions=positions, books=books
        )
        registry.provide(Reconciliation, reconciliation)
        polling = OrderPolling(ledger=ledger, news=news, bus=ground.bus, idle=self._idle)
        ground.bus.subscribe(BrokerAccountChanged, partial(_account_changed, polling, reconciliation))
        ground.supervisor.add("order books", news.run)
        ground.supervisor.add("reports of removed accounts", reconciliation.forget_removed)
        if settings.background_tasks_enabled:
            lease = LeaseHolder(ground.database.db, ground.clock, "open orders", ground.holder, LEASE_SECONDS)
            ground.supervisor.add("open orders", partial(lease.run, polling.run))
        if jobs is not None:
            work = without_run(reconciliation.run)
            jobs.add(Job("orders.reconcile", work, every=RECONCILED_EVERY, timeout=timedelta(minutes=4)))
        stack.push_async_callback(budget.close)
        stack.push_async_callback(changing.drain)
        stack.push_async_callback(placing.drain)

        async def health() -> dict[str, Any]:
            return polling.health() if settings.background_tasks_enabled else {"status": "off"}

        return news, health


def _stream(hub: Hub, event: OrderChanged) -> None:
    hub.publish(Channel.ORDERS, event.body, seq=event.seq, owner=event.user_id)


def _account_changed(polling: OrderPolling, reconciliation: Reconciliation, event: BrokerAccountChanged) -> None:
    change = _CHANGE.decode(event.body).change
    if change == "removed":
        reconciliation.removed(event.account_id)
    elif change in {"session", "activated"}:
        polling.retry(event.account_id)
