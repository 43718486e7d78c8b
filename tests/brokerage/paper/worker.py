"""A process that places paper orders and fills them, as the service does, until it is killed.

Usage: worker.py MONGODB_URL DATABASE PREFIX SHIFT. Its clock goes SHIFT seconds after the machine's. It says every tag
that was acknowledged; what its matching tells of is written to the collection `heard`.
"""

import asyncio
import itertools
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from pymongo import AsyncMongoClient

from app.brokerage.adapters.paper.broker import Bell, PaperBroker
from app.brokerage.adapters.paper.hours import Hours
from app.brokerage.adapters.paper.listings import PaperListings
from app.brokerage.adapters.paper.matcher import PaperMatcher
from app.brokerage.adapters.paper.matching import Model
from app.brokerage.adapters.paper.store import PaperStore
from app.brokerage.ports import BrokerAccount, LastPrice
from app.brokerage.words import BookedOrder, BookedTrade, BrokerName, Exchange, Product, Side
from app.core.charges import ChargeEngine
from app.core.clock import SystemClock
from app.core.market_calendar import MarketCalendar
from tests.brokerage.paper.kit import RESTLESS, ticket
from tests.support.mongodb import OPTIONS

ACCOUNT = BrokerAccount(account_id="d" * 24, user_id="e" * 24, broker=BrokerName.PAPER, base_url="", secrets={})


class ShiftedClock(SystemClock):
    """Goes after, or before, the machine's: so that the day does not end while a test runs."""

    def __init__(self, seconds: float) -> None:
        self._shift = timedelta(seconds=round(seconds))

    def now(self) -> datetime:
        return super().now() + self._shift


class Steady:
    """Fills the port `Prices`: 100 rupees, always."""

    def __init__(self, clock: ShiftedClock) -> None:
        self._clock = clock

    async def last(self, exchange: Exchange, symbol: str) -> LastPrice:  # noqa: ARG002
        return LastPrice(Decimal(100), self._clock.now(), live=False)

    def on_price(self, listener: Any, wants: Any) -> None:
        """It never moves."""


class Heard:
    """Fills the port `OrderNews`."""

    def __init__(self, db: Any) -> None:
        self._heard = db["heard"]

    async def observe(self, account_id: str, orders: Sequence[BookedOrder], trades: Sequence[BookedTrade]) -> None:
        rows = [{"account": account_id, "trade": trade.trade_id} for trade in trades]
        rows += [{"account": account_id, "tag": order.tag, "state": order.state.value} for order in orders]
        if rows:
            await self._heard.insert_many(rows)

    def look(self, account_id: str) -> None:
        """Nothing of it is a hint."""


def parts_of(db: Any, shift: float) -> tuple[PaperBroker, PaperMatcher, PaperStore]:
    clock = ShiftedClock(shift)
    model = Model(RESTLESS, Hours(MarketCalendar(clock)), ChargeEngine())
    store, bell, prices = PaperStore(db, clock, model.hours), Bell(), Steady(clock)
    broker = PaperBroker(store=store, model=model, prices=prices, listings=PaperListings(), clock=clock, bell=bell)
    matcher = PaperMatcher(store=store, model=model, prices=prices, news=Heard(db), clock=clock, bell=bell)
    return broker, matcher, store


async def main(url: str, name: str, prefix: str, shift: str) -> None:
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(url, **OPTIONS)
    broker, matcher, _ = parts_of(client[name], float(shift))
    session = await broker.sign_in(ACCOUNT)
    running = asyncio.create_task(matcher.run())
    for number in itertools.count():
        # Some wait for ever, most are filled, some of those are sales.
        side = Side.SELL if number % 5 == 4 else Side.BUY
        limit = "90" if number % 7 == 6 and side is Side.BUY else "100"
        wanted = ticket(side, 1, product=Product.MIS, limit=limit, tag=f"{prefix}{number:06}")
        await broker.place(ACCOUNT, session, wanted)
        print(wanted.tag, flush=True)  # noqa: T201 (the test reads it)
        if running.done():
            await running


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
