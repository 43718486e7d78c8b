"""The newest prices of several instruments, in bounded time."""

import asyncio
from collections.abc import Iterable
from typing import Final

import structlog

from app.brokerage.ports import LastPrice, Prices
from app.brokerage.words import Exchange
from app.core.cancelling import end
from app.core.errors import DomainError

log = structlog.get_logger("arrow.portfolio")

_AT_ONCE: Final = 8
Instrument = tuple[Exchange, str]


async def price_list(prices: Prices, wanted: Iterable[Instrument], patience: float) -> dict[Instrument, LastPrice]:
    """The prices that come within `patience` seconds; what nobody knows, or not in time, is left out."""
    gate = asyncio.Semaphore(_AT_ONCE)
    found: dict[Instrument, LastPrice] = {}

    async def ask(exchange: Exchange, symbol: str) -> None:
        async with gate:
            try:
                price = await prices.last(exchange, symbol)
            except DomainError as error:
                log.debug("no price", symbol=symbol, error=type(error).__name__)
                return
        if price is not None and price.price > 0:
            found[exchange, symbol] = price

    tasks = [asyncio.ensure_future(ask(exchange, symbol)) for exchange, symbol in sorted(set(wanted))]
    if tasks:
        try:
            done, _ = await asyncio.wait(tasks, timeout=patience)
        finally:
            await end(tasks)
        for task in done:
            task.result()
    return dict(found)
