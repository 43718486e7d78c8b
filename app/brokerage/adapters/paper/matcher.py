"""Fills paper orders, in whichever process holds the lease; correct, only more work, if two should do it for a moment.

What it knows of accounts is a copy, good for deciding quickly whether a price concerns anybody. What it does, it does
on the account as it is stored, and stores it before anybody is told. What is to be filed and told is part of the
account until that is done: a process that is killed in between leaves it to the next.
"""

import asyncio
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, Final

import structlog
from pymongo.errors import PyMongoError

from app.brokerage.adapters.paper.book import Key, PaperBook
from app.brokerage.adapters.paper.broker import Bell, newest
from app.brokerage.adapters.paper.day import advance, due, to_mark
from app.brokerage.adapters.paper.market import Market, condensed
from app.brokerage.adapters.paper.matching import Model, Quote, arrives, concerned, look, meets
from app.brokerage.adapters.paper.store import PaperStore, Stored
from app.brokerage.ports import LastPrice, OrderNews, Prices
from app.brokerage.words import Exchange
from app.core.cancelling import raise_if_cancelled
from app.core.clock import Clock
from app.core.errors import DomainError

log = structlog.get_logger(__name__)

LOOK_SECONDS: Final = 0.5
"""Between two looks at what other processes have changed."""
QUOTE_SECONDS: Final = 5.0
"""Between two requests for the price of something that has no live one, and how long a live one counts as fresh."""
_FRESH: Final = timedelta(seconds=QUOTE_SECONDS)
_LEAST_PAUSE: Final = 0.01
_FIRST_DELAY, _LAST_DELAY = timedelta(seconds=1), timedelta(minutes=1)
_TRIES: Final = 20


class PaperMatcher:
    """Fills orders while `run` runs; without it whatever it hears is nothing to it."""

    def __init__(
        self, *, store: PaperStore, model: Model, prices: Prices, news: OrderNews, clock: Clock, bell: Bell
    ) -> None:
        self._store, self._model, self._prices = store, model, prices
        self._news, self._clock = news, clock
        self._market = Market(model.rules, model.hours)
        self._accounts: dict[str, Stored] = {}
        self._keys: dict[str, set[Key]] = {}
        self._followers: dict[Key, set[str]] = {}
        self._due: dict[str, list[Quote]] = {}
        self._asked: dict[Key, datetime] = {}
        self._later: dict[str, tuple[datetime, timedelta]] = {}
        self._running = False
        self._wake, self._wanted = asyncio.Event(), asyncio.Event()
        self._last_error: str | None = None
        bell.listen(self._on_bell)
        prices.on_price(self._on_price, self._wants)

    # What is heard; quick, and never raises

    def _on_bell(self, account_id: str) -> None:
        if self._running:
            self._due.setdefault(account_id, [])
            self._wake.set()

    def _wants(self, exchange: Exchange, symbol: str) -> bool:
        return self._running and Key(exchange, symbol) in self._followers

    def _on_price(self, exchange: Exchange, symbol: str, last: LastPrice) -> None:
        if self._running:
            self._take(Key(exchange, symbol), last)

    def _take(self, key: Key, last: LastPrice) -> None:
        now = self._clock.now()
        quote = self._market.take(key, last, now)
        if quote is None or key not in self._followers or not meets(self._model, quote, now):
            return
        for account_id in self._followers[key]:
            if concerned(self._accounts[account_id].book, quote, now):
                self._due[account_id] = condensed([*self._due.get(account_id, []), quote])
                self._wake.set()

    # What is done

    async def run(self) -> None:
        """Fill orders until cancelled."""
        self.start()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._fill())
                tasks.create_task(self._quote())
        finally:
            self._running = False
            for kept in (
                self._accounts,
                self._keys,
                self._followers,
                self._due,
                self._asked,
                self._later,
                self._market,
            ):
                kept.clear()

    def start(self) -> None:
        """Listen from now on; `run` does it."""
        self._running = True

    async def step(self) -> None:
        """All that is to be done at this moment: for tests, with a clock of their own."""
        await self._refresh()
        await self.ask()
        await self._work_off()

    async def _fill(self) -> None:
        while True:
            try:
                self._wake.clear()
                await self._refresh()
                await self._work_off()
                self._last_error = None
            except (PyMongoError, TimeoutError) as error:
                raise_if_cancelled()
                if self._last_error is None:
                    log.warning("paper orders cannot be filled now", error=type(error).__name__)
                self._last_error = type(error).__name__
                await asyncio.sleep(LOOK_SECONDS)
            try:
                async with asyncio.timeout(self._pause()):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _quote(self) -> None:
        while True:
            await self.ask()
            self._wanted.clear()
            try:
                async with asyncio.timeout(QUOTE_SECONDS):
                    await self._wanted.wait()
            except TimeoutError:
                pass

    def _pause(self) -> float:
        """Seconds until something is due."""
        now = self._clock.now()
        moments = [moment for stored in self._accounts.values() for moment in self._moments(stored.book, now)]
        first = min(moments, default=now + timedelta(seconds=LOOK_SECONDS))
        return min(LOOK_SECONDS, max(_LEAST_PAUSE, (first - now).total_seconds()))

    def _moments(self, book: PaperBook, now: datetime) -> Iterable[datetime]:
        moment = due(self._model, book, now)
        if moment is not None:
            yield moment
        yield from (order.eligible_at for order in book.open_orders() if order.eligible_at > now)

    async def _refresh(self) -> None:
        """Learn what others have changed, and what the time has."""
        now = self._clock.now()
        awake = await self._store.awake()
        for account_id in self._accounts.keys() - awake.keys():
            self._forget(account_id)
        for account_id, revision in awake.items():
            known = self._accounts.get(account_id)
            if known is None or known.revision != revision:
                await self._reload(account_id)
        for account_id, stored in self._accounts.items():
            if self._is_due(account_id, stored.book, now):
                self._due.setdefault(account_id, [])

    def _is_due(self, account_id: str, book: PaperBook, now: datetime) -> bool:
        if not self._may_file(account_id, now):
            return False
        moment = due(self._model, book, now)
        if moment is not None and moment <= now:
            return True
        if any(
            not order.arrived and self._offer(order.key, now) for order in book.open_orders() if arrives(order, now)
        ):
            return True
        return _unfiled(book)

    def _offer(self, key: Key, now: datetime) -> Quote | None:
        """The newest price, if it was heard of lately and orders are filled at it now."""
        quote, age = self._market.newest(key), self._market.age(key, now)
        if quote is None or age is None or age > 2 * _FRESH:
            return None
        return quote if meets(self._model, quote, now) else None

    async def _reload(self, account_id: str) -> None:
        stored = await self._store.load(account_id)
        if stored is None:
            self._forget(account_id)
        else:
            self._keep(stored)

    def _keep(self, stored: Stored) -> None:
        account_id = stored.book.account_id
        self._forget(account_id)
        if not stored.book.awake:
            return
        self._accounts[account_id] = stored
        keys = self._keys[account_id] = {order.key for order in stored.book.open_orders()}
        now = self._clock.now()
        for key in keys:
            self._followers.setdefault(key, set()).add(account_id)
            if self._stale(key, now):
                self._wanted.set()

    def _forget(self, account_id: str) -> None:
        self._accounts.pop(account_id, None)
        for key in self._keys.pop(account_id, ()):
            followers = self._followers[key]
            followers.discard(account_id)
            if not followers:
                del self._followers[key]

    def _stale(self, key: Key, now: datetime) -> bool:
        """Whether its price is to be asked for."""
        age, asked = self._market.age(key, now), self._asked.get(key)
        return (age is None or age >= _FRESH) and (asked is None or now - asked >= _FRESH)

    async def ask(self) -> None:
        """Fetch the prices that orders need and that do not come by themselves."""
        now = self._clock.now()
        if not self._model.hours.is_open(now):
            return
        wanted = [key for key in self._followers if self._stale(key, now)]
        self._asked = {key: at for key, at in self._asked.items() if now - at < _FRESH} | dict.fromkeys(wanted, now)
        await asyncio.gather(*(self._ask(key) for key in wanted))

    async def _ask(self, key: Key) -> None:
        try:
            last = await self._prices.last(key.exchange, key.symbol)
        except DomainError as error:
            log.warning("a price cannot be had", symbol=key.symbol, error=type(error).__name__)
            return
        if last is not None:
            self._take(key, last)
            self._wake.set()

    async def _work_off(self) -> None:
        while self._due:
            account_id = next(iter(self._due))
            quotes = self._due.pop(account_id)
            try:
                await self._process(account_id, quotes)
            except (PyMongoError, TimeoutError):
                # These prices were; the orders are still to meet them.
                self._due[account_id] = condensed([*quotes, *self._due.get(account_id, [])])
                raise
            except Exception:  # whatever is wrong with one account: the others trade on
                self._postpone(account_id, self._clock.now())
                log.exception("a paper account cannot be worked on", account=account_id)

    async def _process(self, account_id: str, quotes: list[Quote]) -> None:
        for _ in range(_TRIES):
            stored = await self._store.load(account_id)
            if stored is None:
                self._forget(account_id)
                return
            book, now = stored.book, self._clock.now()
            ending = to_mark(self._model, book, now)
            marks = await newest(self._prices, [position.key for position in ending])
            changed = advance(self._model, book, now, marks)
            for quote in [*quotes, *self._arrivals(book, now)]:
                changed |= look(self._model, book, quote, now)
            if changed and not await self._store.save(stored):
                continue
            self._keep(stored)
            await self._file(stored, now)
            return
        self._due.setdefault(account_id, quotes)
        raise TimeoutError  # somebody else changes it all the time

    def _arrivals(self, book: PaperBook, now: datetime) -> list[Quote]:
        """The newest prices, for those orders that have met none."""
        keys = {order.key for order in book.open_orders() if not order.arrived and arrives(order, now)}
        return [quote for key in sorted(keys) if (quote := self._offer(key, now)) is not None]

    # Filing, and telling

    def _may_file(self, account_id: str, now: datetime) -> bool:
        return account_id not in self._later or self._later[account_id][0] <= now

    def _postpone(self, account_id: str, now: datetime) -> None:
        delay = min(self._later[account_id][1] * 2, _LAST_DELAY) if account_id in self._later else _FIRST_DELAY
        self._later[account_id] = (now + delay, delay)

    async def _file(self, stored: Stored, now: datetime) -> None:
        """File what has ended and tell what has changed; then take it out of the account."""
        book, account_id = stored.book, stored.book.account_id
        if not _unfiled(book) or not self._may_file(account_id, now):
            return
        ended = [order for order in book.orders if not order.is_open]
        versions = {order.id: order.version for order in book.orders if order.version != order.told}
        trades = list(book.trades)
        try:
            await self._store.file(account_id, ended, trades)
            await self._news.observe(
                account_id, [order.booked() for order in book.orders if order.id in versions], trades
            )
        except (PyMongoError, TimeoutError, DomainError) as error:
            raise_if_cancelled()
            self._postpone(account_id, now)
            log.warning("paper orders cannot be told of now", account=account_id, error=type(error).__name__)
            return
        self._later.pop(account_id, None)
        gone, told = {order.id for order in ended}, {trade.trade_id for trade in trades}
        for _ in range(_TRIES):
            book.orders = [order for order in book.orders if order.id not in gone]
            book.trades = [trade for trade in book.trades if trade.trade_id not in told]
            for order in book.orders:
                order.told = max(order.told, versions.get(order.id, 0))
            if await self._store.save(stored):
                self._keep(stored)
                return
            again = await self._store.load(account_id)
            if again is None:
                return
            stored, book = again, again.book

    def health(self) -> dict[str, Any]:
        """`accounts`: in which something can happen; `waiting`: those whose news nobody takes."""
        failing = self._last_error is not None or bool(self._later)
        return {
            "status": "degraded" if failing else "ok",
            "here": self._running,
            "accounts": len(self._accounts),
            "waiting": len(self._later),
            "last_error": self._last_error,
        }


def _unfiled(book: PaperBook) -> bool:
    return bool(book.trades) or any(not order.is_open or order.version != order.told for order in book.orders)
