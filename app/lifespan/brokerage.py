"""Brokerage, put together: brokers, accounts, orders, the paper broker, and what becomes of fills."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

import httpx

from app.brokerage.adapters.angel_one import mapping as angel_one
from app.brokerage.adapters.making import REAL, Addresses, real_broker
from app.brokerage.adapters.paper.broker import PaperBroker
from app.brokerage.adapters.zerodha import mapping as zerodha
from app.brokerage.listing_sources import ListedElsewhere, ListedHere
from app.brokerage.orders.checks import OrderLimits, Wish
from app.brokerage.orders.guarding import OrderGuard
from app.brokerage.orders.ports import Holding, OwnPositions
from app.brokerage.portfolio.own_positions import BookedPositions
from app.brokerage.ports import Broker, Sessions
from app.brokerage.words import BrokerName, BrokerPosition, Product, Side
from app.core.charges import ChargeEngine
from app.core.deps import Registry
from app.core.hub import Hub
from app.core.scheduler import Scheduler
from app.core.settings import Settings
from app.core.staged_lists import ListSource
from app.lifespan.accounts import People
from app.lifespan.brokerage_accounts import broker_accounts, broker_ground
from app.lifespan.brokerage_orders import Orders
from app.lifespan.brokerage_paper import Paper
from app.lifespan.brokerage_portfolio import portfolio
from app.lifespan.brokerage_prices import ServicePrices
from app.lifespan.contract_prices import ContractPrices
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


class PositionsThere:
    """Asks an account's broker what it has; see `orders.guarding.Positions`."""

    def __init__(self, sessions: Sessions, brokers: Mapping[BrokerName, Broker]) -> None:
        self._sessions, self._brokers = sessions, brokers

    async def __call__(self, account_id: str) -> Sequence[BrokerPosition]:
        """Raises `DomainError`."""
        account, session = await self._sessions.open(account_id)
        return await self._brokers[account.broker].positions(account, session)


def addresses_of(settings: Settings) -> Addresses:
    """Where the real brokers are."""
    return Addresses(
        angel_one_instruments=settings.angel_one_instruments_url,
        zerodha=settings.zerodha_base_url,
        zerodha_login=settings.zerodha_login_url,
        upstox_instruments=settings.upstox_instruments_url,
        groww_instruments=settings.groww_instruments_url,
        timeout=settings.broker_timeout_seconds,
    )


def real_brokers(addresses: Addresses, ground: Ground, stack: AsyncExitStack) -> dict[BrokerName, Broker]:
    """Those that are asked over the network; `stack` closes them."""
    tls = httpx.create_ssl_context()  # 26 ms and some megabytes each
    made = {name: real_broker(name, addresses, ground.clock, tls) for name in REAL}
    for broker in made.values():
        stack.push_async_callback(broker.close)
    return made


def list_sources(settings: Settings, addresses: Addresses, paper: PaperBroker) -> dict[BrokerName, ListSource]:
    """Where the brokers' lists of instruments come from."""
    sources: dict[BrokerName, ListSource] = {name: ListedElsewhere(name, addresses) for name in REAL}
    # The exchanges' whole list is a large download: it is fetched where Angel One is configured anyway.
    whole = settings.feed_enabled
    sources[BrokerName.PAPER] = ListedElsewhere(BrokerName.PAPER, addresses) if whole else ListedHere(paper)
    return sources


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
    addresses = addresses_of(settings)
    brokers = real_brokers(addresses, ground, stack)
    engine = ChargeEngine()
    paper = Paper(settings, ground, market.calendar, engine, prices)
    brokers[BrokerName.PAPER] = paper.broker
    sources = list_sources(settings, addresses, paper.broker)
    # Until the whole list was had once, paper trades what it knows by itself.
    stand_ins = {BrokerName.PAPER: ListedHere(paper.broker)}
    made = broker_ground(settings, ground, people, hub, registry, brokers, sources, stand_ins, stack)
    if market.session is not None and settings.contract_prices_max:
        contracts = ContractPrices(
            session=market.session,
            listings=made.listings,
            cache=ground.cache,
            clock=ground.clock,
            most=settings.contract_prices_max,
        )
        prices.ask_for_contracts(contracts.last)
    orders = Orders(
        registry, ground, people.audit, hub, brokers=brokers, sessions=made.sessions, listings=made.listings
    )
    fills, books = portfolio(
        registry,
        ground,
        people,
        jobs,
        orders=orders.reading,
        sessions=made.sessions,
        brokers=brokers,
        listings=made.listings,
        prices=prices,
        calendar=market.calendar,
        mtf_funded_percent=settings.mtf_funded_percent,
        engine=engine,
    )
    positions = BookedPositions()
    limits = OrderLimits(settings.order_max_value or None, settings.order_max_price_deviation_percent or None)
    theirs = PositionsThere(made.sessions, brokers)
    guard = OrderGuard(
        limits, prices=prices, positions=positions, clock=ground.clock, glance=prices.known, theirs=theirs
    )
    stack.push_async_callback(guard.close)
    news, orders_health = orders.begin(
        settings, jobs, stack, fills=fills, positions=positions, books=books, reduces=Reducing(positions), guard=guard
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
