"""Trades, positions and P&L, put together."""

from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal

from app.brokerage.portfolio.broker_view import BrokerView
from app.brokerage.portfolio.days import Days
from app.brokerage.portfolio.expiry import Expiries
from app.brokerage.portfolio.fills import TradeFills
from app.brokerage.portfolio.ledger import Ledger
from app.brokerage.portfolio.moved import MovedPositions
from app.brokerage.portfolio.places import Places
from app.brokerage.portfolio.ports import AccountsHere, OrdersHere
from app.brokerage.portfolio.reading import Portfolio
from app.brokerage.portfolio.sheets import Sheets
from app.brokerage.portfolio.trades import Trades
from app.brokerage.portfolio.upkeep import PortfolioUpkeep
from app.brokerage.ports import Broker, Listings, Prices
from app.brokerage.words import BrokerName
from app.core.charges import ChargeEngine
from app.core.deps import Registry
from app.core.market_calendar import MarketCalendar
from app.core.scheduler import Job, Scheduler, without_run
from app.lifespan.accounts import People
from app.lifespan.ground import Ground


def portfolio(
    registry: Registry,
    ground: Ground,
    people: People,
    jobs: Scheduler,
    *,
    orders: OrdersHere,
    sessions: AccountsHere,
    brokers: Mapping[BrokerName, Broker],
    listings: Listings,
    prices: Prices,
    calendar: MarketCalendar,
    mtf_funded_percent: Decimal = Decimal(75),
    engine: ChargeEngine | None = None,
) -> tuple[TradeFills, MovedPositions]:
    """Make the services, provide what endpoints ask for, add the jobs.

    Gives the way of fills into trades, and what moves a book to the product that the broker converted it to.
    """
    clock, engine = ground.clock, engine or ChargeEngine()
    days = Days(engine)
    ledger = Ledger(clock=clock, engine=engine, days=days, mtf_funded_share=mtf_funded_percent / 100)
    places = Places(listings)
    fills = TradeFills(ledger=ledger, orders=orders, clock=clock, places=places)
    view = BrokerView(sessions=sessions, brokers=brokers, clock=clock)
    trades = Trades(ledger=ledger, sessions=sessions, orders=orders, clock=clock, audit=people.audit, places=places)
    registry.provide(Trades, trades)
    registry.provide(Sheets, Sheets(trades=trades, orders=orders, clock=clock))
    registry.provide(
        Portfolio,
        Portfolio(
            ledger=ledger, view=view, trades=trades, orders=orders, sessions=sessions, prices=prices, clock=clock
        ),
    )
    upkeep = PortfolioUpkeep(
        ledger=ledger, days=days, view=view, prices=prices, calendar=calendar, clock=clock, places=places
    )
    jobs.add(Job("portfolio.repair", without_run(upkeep.repair), every=timedelta(minutes=1)))
    half_an_hour = timedelta(minutes=30)
    jobs.add(Job("portfolio.snapshot", without_run(upkeep.snapshot), every=timedelta(minutes=5), timeout=half_an_hour))
    expiries = Expiries(
        ledger=ledger, prices=prices, listings=listings, calendar=calendar, clock=clock, audit=people.audit
    )
    jobs.add(
        Job("portfolio.expire", without_run(expiries.run), every=timedelta(minutes=5), timeout=timedelta(minutes=4))
    )
    jobs.add(Job("portfolio.rebuild", upkeep.rebuild, timeout=timedelta(hours=2)))
    return fills, MovedPositions(ledger=ledger, clock=clock, audit=people.audit, places=places)
