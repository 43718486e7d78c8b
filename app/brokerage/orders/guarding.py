"""Stops orders that nobody can have meant, by what is known of prices and positions; see `checks.limit_faults`.

It must not be in the way of those that were meant. A price that is in memory, and with which an order is right, is
asked no further. An old price holds no exit, and nothing at all in options, whose prices are old after minutes. A stop
that ends a position may have any limit: brokers that take no SL-M orders for options are given a wide one.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Final

import structlog
from pymongo.errors import PyMongoError

from app.brokerage.orders.checks import OrderLimits, Wish, is_option, limit_faults, needs_newest, refuse
from app.brokerage.orders.ports import Holding, OwnPositions
from app.brokerage.ports import LastPrice, Prices
from app.brokerage.words import BrokerPosition, Exchange, Listing, Product, Side
from app.core.cancelling import end, raise_if_cancelled
from app.core.clock import Clock
from app.core.errors import DomainError, FieldError

log = structlog.get_logger(__name__)

RECENT: Final = timedelta(days=4)
"""How old a price may be that a limit is compared with: a weekend and a holiday."""
CURRENT: Final = timedelta(minutes=2)
"""How old one may be that an option's limit, or that of an exit, is compared with."""
PATIENCE: Final = 0.3

Glance = Callable[[Exchange, str], LastPrice | None]
"""The newest price in memory."""
Positions = Callable[[str], Awaitable[Sequence[BrokerPosition]]]
"""An account's positions at its broker. Raises `DomainError`."""


class OrderGuard:
    """Holds orders to the operator's limits."""

    def __init__(
        self,
        limits: OrderLimits,
        *,
        prices: Prices,
        positions: OwnPositions,
        clock: Clock,
        glance: Glance | None = None,
        theirs: Positions | None = None,
        patience: float = PATIENCE,
    ) -> None:
        """`theirs`: asked before an order is refused that may end a position which is not known here.

        `patience`: seconds that an order waits for a provider of quotes, at most.
        """
        self._limits, self._prices, self._positions, self._clock = limits, prices, positions, clock
        self._glance, self._theirs, self._patience = glance, theirs, patience
        self._asked: dict[tuple[Exchange, str], asyncio.Task[LastPrice | None]] = {}

    async def check(self, account_id: str, wish: Wish, listing: Listing, filled: int = 0) -> None:
        """Raises `InvalidInputError` for an order beyond the limits; what is not known stops none.

        `filled`: how much of the order, which is to be changed, is filled already.
        """
        limits = self._limits
        if limits.value is None and limits.deviation is None:
            return
        last: LastPrice | None = None
        if needs_newest(wish.side, wish.terms, listing, limits):
            last = self._usable(self._glance(wish.exchange, wish.symbol) if self._glance else None, listing)
            if last is not None and not self._faults(wish, listing, last):
                return
            if wish.price is None and await self._reduces(account_id, wish, filled):
                return  # whatever it is worth
            last = self._usable(await self._ask(wish), listing) or last
        faults = self._faults(wish, listing, last)
        if faults and await self._is_exit(account_id, wish, filled):
            current = wish.trigger_price is None and last is not None and self._age(last) <= CURRENT
            faults = [one for one in faults if one.type == "price_deviation" and current]
        refuse(faults)

    async def close(self) -> None:
        """End what is being asked."""
        await end(self._asked.values())

    def _faults(self, wish: Wish, listing: Listing, last: LastPrice | None) -> list[FieldError]:
        return limit_faults(wish.side, wish.terms, listing, self._limits, last.price if last else None)

    def _age(self, last: LastPrice) -> timedelta:
        return self._clock.now() - last.at

    def _usable(self, last: LastPrice | None, listing: Listing) -> LastPrice | None:
        oldest = CURRENT if is_option(listing) else RECENT
        return last if last is not None and last.price > 0 and self._age(last) <= oldest else None

    async def _ask(self, wish: Wish) -> LastPrice | None:
        """The newest price, if it comes in time; if not, the next order of this instrument finds it."""
        key = wish.exchange, wish.symbol
        task = self._asked.get(key)
        if task is None:
            task = self._asked[key] = asyncio.create_task(self._last(*key))
            task.add_done_callback(lambda _: self._asked.pop(key, None))
        await asyncio.wait([task], timeout=self._patience)
        return task.result() if task.done() and not task.cancelled() else None

    async def _last(self, exchange: Exchange, symbol: str) -> LastPrice | None:
        try:
            return await self._prices.last(exchange, symbol)
        except (DomainError, PyMongoError, OSError) as error:
            raise_if_cancelled()
            log.info("no price to compare an order with", symbol=symbol, error=type(error).__name__)
            return None

    async def _is_exit(self, account_id: str, wish: Wish, filled: int) -> bool:
        """Whether the order reduces what is held here, or at the broker: what was opened before the account was
        connected is known there only."""
        if await self._reduces(account_id, wish, filled):
            return True
        if self._theirs is None:
            return False
        try:
            theirs = await self._theirs(account_id)
        except DomainError as error:
            log.info("positions cannot be asked for", account=account_id, error=type(error).__name__)
            return False
        same = wish.exchange, wish.symbol, wish.product
        held = sum(one.net_quantity for one in theirs if (one.exchange, one.symbol, one.product) == same)
        return _ends(held, wish, filled)

    async def _reduces(self, account_id: str, wish: Wish, filled: int) -> bool:
        """Whether the order ends or reduces what is held here, and no more; also where that cannot be said just now."""
        if wish.side is Side.SELL and wish.product in {Product.CNC, Product.MTF}:
            return True  # shares that are delivered can be sold only where they are held
        try:
            net = await self._positions.net(account_id)
        except PyMongoError as error:
            raise_if_cancelled()
            log.warning("positions cannot be read", error=type(error).__name__)
            return True
        held = 0 if net is None else net.get(Holding(wish.exchange, wish.symbol, wish.product), 0)
        return net is None or _ends(held, wish, filled)


def _ends(held: int, wish: Wish, filled: int) -> bool:
    # What is filled is in the position already.
    return held * wish.side.sign < 0 and wish.quantity - filled <= abs(held)
