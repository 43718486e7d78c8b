"""Brokerage, put together: brokers, accounts, orders, the paper broker, and what becomes of fills."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

import httpx

from app.brokerage.adapters.angel_one import mapping as angel_one
from app.brokerage.adapters.angel_one.client import AngelOneBroker
from app.brokerage.adapters.groww.client import GrowwBroker
from app.brokerage.adapters.http import Timeouts
from app.brokerage.adapters.upstox.client import UpstoxBroker
from app.brokerage.adapters.zerodha import mapping as zerodha
from app.brokerage.adapters.zerodha.client import ZerodhaBroker
from app.brokerage.orders.checks import Wish
from app.brokerage.orders.ports import Holding, OwnPositions
from app.brokerage.portfolio.own_positions import BookedPositions
from app.brokerage.ports import Broker
from app.brokerage.words import BrokerName, Product, Side
from app.core.charges import ChargeEngine
from app.core.deps import Registry
from app.core.hub import Hub
from app.core.scheduler import Scheduler
from app.core.settings import Settings
from app.lifespan.accounts import People
from app.lifespan.brokerage_accounts import broker_accounts, broker_ground
from app.lifespan.brokerage_orders import Orders
from app.lifespan.brokerage_paper import Paper
from app.lifespan.brokerage_portfolio import portfolio
from app.lifespan.brokerage_prices import ServicePrices
from app.lifespan.ground import Ground
from app.lifespan.market import Market
from app.quotes.newest import Quotes

Probe = Callable[[], Awaitable[dict[str, Any]]]


class Reducing:
    """Says whether an order ends or reduces a position: such orders go first where the broker's limits are near."""

    def __init__(self, positions: OwnPositions) -> None:
        self._positions = positions

    async def __call__(self, account_id: str, wish: Wish) -> bool:
        """See `orders.placing.Reduces`."""
        if wish.side is Side.SELL and wish.product in {Product.CNC, Product.MTF}:
            return True  # shares that are delivered can be sold only where they are held
        net = await self._positions.net(account_id)
        return net is not None and net.get(Holding(wish.exchange, wish.symbol, wish.product), 0) * wish.side.sign < 0


def real_brokers(settings: Settings, ground: Ground, stack: AsyncExitStack) -> dict[BrokerName, Broker]:
    """Those that are asked over the network; `stack` closes them."""
    clock, timeouts = ground.clock, Timeouts(whole=settings.broker_timeout_seconds)
    tls = httpx.create_ssl_context()  # 26 ms and some megabytes each
    made: dict[BrokerName, Broker] = {
        BrokerName.ANGEL_ONE: AngelOneBroker(
            clock, instruments_url=settings.angel_one_instruments_url, tls=tls, timeouts=timeouts
        ),
        BrokerName.ZERODHA: ZerodhaBroker(
            clock, base_url=settings.zerodha_base_url, login_url=settings.zerodha_login_url, tls=tls, timeouts=timeouts
        ),
        BrokerName.UPSTOX: UpstoxBroker(
            clock, instruments_url=settings.upstox_instruments_url, tls=tls, timeouts=timeouts
        ),
        BrokerName.GROWW: GrowwBroker(
            clock, instruments_url=settings.groww_instruments_url, tls=tls, timeouts=timeouts
        ),
    }
    for broker in made.values():
        stack.push_async_callback(broker.close)
    return made


def brokerage(
    registry: Registry,
    settings: Settings,
    ground: Ground,
    people: People,
    hub: Hub,
    jobs: Scheduler,
    market: Market,
    quotes: Quotes,
    stack: AsyncExitStack,
) -> Mapping[str, Probe]:
    """Make the services and provide what endpoints ask for; gives what `/health` asks."""
    prices = ServicePrices(newest=market.newest, quotes=quotes, bus=ground.bus, clock=ground.clock)
    market.on_ticks(prices.on_ticks)
    brokers = real_brokers(settings, ground, stack)
    engine = ChargeEngine()
    # The exchanges' whole list is a large download: it is fetched where Angel One is configured anyway.
    whole = brokers[BrokerName.ANGEL_ONE].listings if settings.feed_enabled else None
    paper = Paper(settings, ground, market.calendar, engine, prices, whole)
    brokers[BrokerName.PAPER] = paper.broker
    made = broker_ground(settings, ground, people, hub, registry, brokers, stack)
    orders = Orders(
        registry, ground, people.audit, hub, brokers=brokers, sessions=made.sessions, listings=made.listings
    )
    fills = portfolio(
        registry,
        ground,
        people,
        jobs,
        orders=orders.reading,
        sessions=made.sessions,
        brokers=brokers,
        prices=prices,
        calendar=market.calendar,
        mtf_funded_percent=settings.mtf_funded_percent,
        engine=engine,
    )
    positions = BookedPositions()
    news, orders_health = orders.begin(
        settings, jobs, stack, fills=fills, positions=positions, reduces=Reducing(positions)
    )
    accounts_health = broker_accounts(
        settings,
        ground,
        people,
        registry,
        jobs,
        made,
        news=news,
        orders=orders.reading,
        readers={BrokerName.ZERODHA: zerodha.order_of, BrokerName.ANGEL_ONE: angel_one.order_of},
    )
    return {"brokerage": accounts_health, "orders": orders_health, "paper": paper.start(news)}
