"""A trading day, instruments, prices that tests make, and accounts at the paper broker: pure ones, and whole ones."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, time
from decimal import Decimal

from app.brokerage.adapters.paper.book import Key, PaperBook, PaperOrder
from app.brokerage.adapters.paper.broker import Bell, PaperBroker
from app.brokerage.adapters.paper.day import advance
from app.brokerage.adapters.paper.funds import available, funds
from app.brokerage.adapters.paper.hours import Hours
from app.brokerage.adapters.paper.listings import PaperListings
from app.brokerage.adapters.paper.matcher import PaperMatcher
from app.brokerage.adapters.paper.matching import Model, Quote, look
from app.brokerage.adapters.paper.placing import cancel, modify, place
from app.brokerage.adapters.paper.rules import PaperRules
from app.brokerage.adapters.paper.store import PaperStore
from app.brokerage.errors import OrderRejectedError
from app.brokerage.ports import BrokerAccount, BrokerSession, LastPrice
from app.brokerage.words import (
    BookedOrder,
    BookedTrade,
    BrokerName,
    Exchange,
    Funds,
    Listing,
    OrderChange,
    OrderTicket,
    PriceType,
    Product,
    Side,
    Validity,
)
from app.core.charges import ChargeEngine
from app.core.market_calendar import IST, MarketCalendar
from tests.support.clocks import StandingClock
from tests.support.mongodb import Db

MONDAY = date(2026, 7, 6)
"""A regular session, as all the days of its week."""
ENGINE = ChargeEngine()
SHARE = Listing(Exchange.NSE, "RELIANCE", "RELIANCE-EQ|2885", Decimal("0.10"), isin="INE002A01018")
OTHER = Listing(Exchange.NSE, "INFY", "INFY-EQ|1594", Decimal("0.10"))
FUTURE = Listing(
    Exchange.NFO, "NIFTY26JULFUT", "NIFTY26JULFUT|1", Decimal("0.10"), 65, 1800, "FUT", expiry=date(2026, 7, 28)
)
CALL = Listing(
    Exchange.NFO,
    "NIFTY07JUL2625000CE",
    "NIFTY07JUL2625000CE|2",
    Decimal("0.05"),
    65,
    1800,
    "CE",
    expiry=date(2026, 7, 7),
    strike=Decimal(25_000),
)
EXACT = PaperRules(slippage_bps=Decimal(0), latency_ms=0, volume_share=Decimal(0))
"""Orders are filled whole, at once, at the price that there is."""
RESTLESS = PaperRules(slippage_bps=Decimal(0), latency_ms=2, volume_share=Decimal(0))
"""The same, with orders that are on their way for a moment."""


def ist(clock_time: str, day: date = MONDAY) -> datetime:
    """`09:15` or `09:15:30` in India, as UTC."""
    return datetime.combine(day, time.fromisoformat(clock_time), IST).astimezone(UTC)


def model_of(rules: PaperRules, clock: StandingClock) -> Model:
    return Model(rules, Hours(MarketCalendar(clock), always_open=rules.always_open), ENGINE)


_tags = itertools.count(1)


def ticket(
    side: Side,
    quantity: int,
    listing: Listing = SHARE,
    *,
    product: Product = Product.CNC,
    limit: str | None = None,
    trigger: str | None = None,
    validity: Validity = Validity.DAY,
    tag: str | None = None,
) -> OrderTicket:
    """The price type follows from which prices are given."""
    kinds = {
        (False, False): PriceType.MARKET,
        (True, False): PriceType.LIMIT,
        (True, True): PriceType.SL,
        (False, True): PriceType.SL_M,
    }
    return OrderTicket(
        tag=tag or f"test{next(_tags):08}",
        listing=listing,
        side=side,
        quantity=quantity,
        product=product,
        price_type=kinds[limit is not None, trigger is not None],
        price=None if limit is None else Decimal(limit),
        trigger_price=None if trigger is None else Decimal(trigger),
        validity=validity,
    )


class Trader:
    """An account without a database: what the pure parts do to it, one call after the other."""

    def __init__(self, rules: PaperRules = EXACT, at: datetime | None = None) -> None:
        self.clock = StandingClock(at or ist("10:00"))
        self.model = model_of(rules, self.clock)
        day = self.model.hours.today(self.clock.now()).day
        self.book = PaperBook(account_id="a" * 24, day=day, cash=rules.starting_cash)
        self.marks: dict[Key, Decimal] = {}
        self.trades: list[BookedTrade] = []

    def at(self, clock_time: str, day: date = MONDAY) -> None:
        self.clock.moment = ist(clock_time, day)
        self.pass_time()

    def pass_time(self, **amount: float) -> None:
        self.clock.move(**amount)
        advance(self.model, self.book, self.clock.now(), self.marks)

    def order(self, wanted: OrderTicket) -> PaperOrder:
        advance(self.model, self.book, self.clock.now(), self.marks)
        orders, number = list(self.book.orders), self.book.number
        try:
            return place(self.model, self.book, wanted, self.clock.now(), self.marks)
        except OrderRejectedError:
            self.book.orders, self.book.number = orders, number  # the broker does not keep such a book
            raise

    def buy(self, quantity: int, listing: Listing = SHARE, **options: object) -> PaperOrder:
        return self.order(ticket(Side.BUY, quantity, listing, **options))  # type: ignore[arg-type]

    def sell(self, quantity: int, listing: Listing = SHARE, **options: object) -> PaperOrder:
        return self.order(ticket(Side.SELL, quantity, listing, **options))  # type: ignore[arg-type]

    def change(self, order: PaperOrder, change: OrderChange) -> PaperOrder:
        return modify(self.model, self.book, order.id, change, self.clock.now(), self.marks)

    def cancel(self, order: PaperOrder) -> None:
        cancel(self.book, order.id, self.clock.now())

    def price(
        self, price: str | Decimal, listing: Listing = SHARE, *, usual: int | None = None, traded: int | None = None
    ) -> bool:
        key = Key(listing.exchange, listing.symbol)
        self.marks[key] = Decimal(price)
        now = self.clock.now()
        return look(self.model, self.book, Quote(key, Decimal(price), now, usual, traded), now)

    @property
    def free(self) -> Decimal:
        return available(ENGINE, self.book, self.marks)

    @property
    def funds(self) -> Funds:
        return funds(ENGINE, self.book, self.marks)


class AskedClock(StandingClock):
    """Does something when it is asked for the time, in between what its owner does."""

    _left = 0

    def when_asked(self, times: int, act: Callable[[], None]) -> None:
        """At the `times`-th time from now."""
        self._left, self._act = times, act

    def now(self) -> datetime:
        self._left -= 1
        if self._left == 0:
            self._act()
        return super().now()


class Tape:
    """Fills the port `Prices` with what tests say."""

    def __init__(self, clock: StandingClock) -> None:
        self._clock = clock
        self._last: dict[Key, LastPrice] = {}
        self._listeners: list[tuple[Callable[[Exchange, str, LastPrice], None], Callable[[Exchange, str], bool]]] = []
        self.asked = 0
        self.held_up: asyncio.Event | None = None

    async def last(self, exchange: Exchange, symbol: str) -> LastPrice | None:
        self.asked += 1
        if self.held_up is not None:
            await self.held_up.wait()
        return self._last.get(Key(exchange, symbol))

    def on_price(
        self, listener: Callable[[Exchange, str, LastPrice], None], wants: Callable[[Exchange, str], bool]
    ) -> None:
        self._listeners.append((listener, wants))

    def trade(self, price: str, volume: int | None = None, listing: Listing = SHARE) -> None:
        """A live price."""
        self._set(LastPrice(Decimal(price), self._clock.now(), volume), listing)

    def quote(self, price: str, at: datetime | None = None, listing: Listing = SHARE) -> None:
        """A price that has to be asked for."""
        self._last[Key(listing.exchange, listing.symbol)] = LastPrice(
            Decimal(price), at or self._clock.now(), live=False
        )

    def _set(self, last: LastPrice, listing: Listing) -> None:
        self._last[Key(listing.exchange, listing.symbol)] = last
        for listener, wants in self._listeners:
            if wants(listing.exchange, listing.symbol):
                listener(listing.exchange, listing.symbol, last)


class News:
    """Fills the port `OrderNews`: keeps what it is told."""

    def __init__(self) -> None:
        self.orders: list[BookedOrder] = []
        self.trades: list[BookedTrade] = []
        self.fails: Exception | None = None
        self.accounts: set[str] = set()
        self.traded = asyncio.Event()

    async def observe(self, account_id: str, orders: Sequence[BookedOrder], trades: Sequence[BookedTrade]) -> None:
        if self.fails is not None:
            raise self.fails
        self.accounts.add(account_id)
        if trades:
            self.traded.set()
        self.orders += orders
        self.trades += trades

    def look(self, account_id: str) -> None:
        raise AssertionError(f"the paper broker knows what has happened to {account_id}")


class Desk:
    """The paper broker on a database, with a matching that does its work when a test says so."""

    def __init__(self, db: Db, rules: PaperRules, at: datetime | None) -> None:
        self.db = db
        self.clock = AskedClock(at or ist("10:00"))
        self.rules, self.model = rules, model_of(rules, self.clock)
        self.store = PaperStore(db, self.clock, self.model.hours, patience=30)
        self.tape, self.news, self.bell = Tape(self.clock), News(), Bell()
        self.account = BrokerAccount(
            account_id="b" * 24, user_id="c" * 24, broker=BrokerName.PAPER, base_url="", secrets={}
        )
        self.broker = self.another_broker(self.bell)
        self.matcher = self.another_matcher()
        self.session: BrokerSession

    def another_broker(
        self, bell: Bell | None = None, patience: float = 3, store: PaperStore | None = None
    ) -> PaperBroker:
        """As in another process, unless it rings the same bell."""
        return PaperBroker(
            store=store or self.store,
            model=self.model,
            prices=self.tape,
            listings=PaperListings(),
            clock=self.clock,
            bell=bell or Bell(),
            patience=patience,
        )

    def another_matcher(self) -> PaperMatcher:
        """As after a restart."""
        matcher = PaperMatcher(
            store=self.store,
            model=self.model,
            prices=self.tape,
            news=self.news,
            clock=self.clock,
            bell=self.bell,
        )
        matcher.start()
        return matcher

    def hurried_broker(self, seconds: float) -> PaperBroker:
        """Gives the database up soon; for when it is away. The others wait for it as long as it takes."""
        return self.another_broker(store=PaperStore(self.db, self.clock, self.model.hours, patience=seconds))

    async def place(self, wanted: OrderTicket) -> str:
        return await self.broker.place(self.account, self.session, wanted)

    async def step(self, **amount: float) -> None:
        """Let time pass, and what is due be done."""
        self.clock.move(**amount)
        await self.matcher.step()

    async def order(self, order_id: str) -> BookedOrder:
        [found] = [o for o in await self.broker.orders(self.account, self.session) if o.broker_order_id == order_id]
        return found


@asynccontextmanager
async def desk_of(db: Db, rules: PaperRules = EXACT, at: datetime | None = None) -> AsyncIterator[Desk]:
    desk = Desk(db, rules, at)
    desk.session = await desk.broker.sign_in(desk.account)
    yield desk
    await desk.broker.close()
