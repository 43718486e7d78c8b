"""What can be traded on paper: the exchanges' whole list where somebody provides it, else some well-known shares."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal
from importlib import resources
from typing import Final

import msgspec
import structlog

from app.brokerage.adapters.paper.rules import PRODUCTS
from app.brokerage.words import Exchange, Listing
from app.core.errors import DomainError

log = structlog.get_logger(__name__)

Whole = Callable[[], Awaitable[Sequence[Listing]]]
"""Fetches the exchanges' list, as another broker has it. Raises `DomainError`."""

TICK: Final = Decimal("0.05")
"""Of shares between ₹250 and ₹1,000, and a divisor of what dearer ones have: right prices are never refused."""
SMALL_TICK: Final = Decimal("0.01")
"""Of shares below ₹250, and of funds."""


class _BuiltIn(msgspec.Struct, forbid_unknown_fields=True):
    about: str
    as_of: str
    shares: list[str]
    small_tick: list[str]


class PaperListings:
    """Fills `broker.ListingSource`."""

    def __init__(self, whole: Whole | None = None) -> None:
        """`whole`: None where nobody provides the exchanges' list."""
        self._whole = whole

    async def listings(self) -> Sequence[Listing]:
        """Those of the exchanges that paper trades on, without indices."""
        if self._whole is not None:
            try:
                rows = await self._whole()
            except DomainError as error:
                log.warning("the exchanges' list is not to be had", error=type(error).__name__)
            else:
                tradable = await asyncio.to_thread(_tradable, rows)
                if tradable:
                    return tradable
        return built_in()


def built_in() -> list[Listing]:
    """The shares that are known without anybody's help, on the NSE."""
    raw = (resources.files("app.brokerage.adapters.paper") / "assets" / "shares.json").read_bytes()
    data = msgspec.json.decode(raw, type=_BuiltIn)
    ticks = [(data.shares, TICK), (data.small_tick, SMALL_TICK)]
    return [Listing(Exchange.NSE, symbol, symbol, tick) for symbols, tick in ticks for symbol in symbols]


def _tradable(rows: Sequence[Listing]) -> list[Listing]:
    return [row for row in rows if row.exchange in PRODUCTS and row.kind != "INDEX" and row.tick_size > 0]
