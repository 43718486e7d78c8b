"""Stops orders that nobody can have meant, by what is known of prices and positions; see `checks.check_limits`."""

import asyncio
from datetime import timedelta
from decimal import Decimal
from typing import Final

import structlog
from pymongo.errors import PyMongoError

from app.brokerage.orders.checks import OrderLimits, Wish, check_limits, is_too_large, needs_newest
from app.brokerage.orders.ports import Holding, OwnPositions
from app.brokerage.ports import Prices
from app.brokerage.words import Listing, Product, Side
from app.core.cancelling import raise_if_cancelled
from app.core.clock import Clock

log = structlog.get_logger(__name__)

RECENT: Final = timedelta(days=4)
"""How old a price may be that a limit is compared with: a weekend and a holiday."""
PATIENCE: Final = 1.0


class OrderGuard:
    """Holds orders to the operator's limits."""

    def __init__(
        self,
        limits: OrderLimits,
        *,
        prices: Prices,
        positions: OwnPositions,
        clock: Clock,
        patience: float = PATIENCE,
    ) -> None:
        """`patience`: seconds that an order waits for a provider of quotes, at most."""
        self._limits, self._prices, self._positions, self._clock = limits, prices, positions, clock
        self._patience = patience

    async def check(self, account_id: str, wish: Wish, listing: Listing) -> None:
        """Raises `InvalidInputError` for an order beyond the limits; what is not known stops none."""
        terms, limits = wish.terms, self._limits
        if limits.value is None and limits.deviation is None:
            return
        newest = await self._newest(wish) if needs_newest(terms, listing, limits) else None
        reduces = is_too_large(terms, limits, newest) and await self._reduces(account_id, wish)
        check_limits(wish.side, terms, listing, limits, newest, reduces=reduces)

    async def _newest(self, wish: Wish) -> Decimal | None:
        try:
            async with asyncio.timeout(self._patience):
                last = await self._prices.last(wish.exchange, wish.symbol)
        except TimeoutError:
            raise_if_cancelled()
            return None
        return last.price if last is not None and self._clock.now() - last.at <= RECENT else None

    async def _reduces(self, account_id: str, wish: Wish) -> bool:
        """Whether the order ends or reduces what is held, and no more; also where that cannot be said just now."""
        if wish.side is Side.SELL and wish.product in {Product.CNC, Product.MTF}:
            return True  # shares that are delivered can be sold only where they are held
        try:
            net = await self._positions.net(account_id)
        except PyMongoError as error:
            raise_if_cancelled()
            log.warning("positions cannot be read", error=type(error).__name__)
            return True
        held = 0 if net is None else net.get(Holding(wish.exchange, wish.symbol, wish.product), 0)
        return net is None or (held * wish.side.sign < 0 and wish.quantity <= abs(held))
