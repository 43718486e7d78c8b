"""What can be traded on paper: of the exchanges' whole list where somebody has it, else some well-known shares."""

from collections.abc import Sequence
from decimal import Decimal
from importlib import resources
from typing import Final

import msgspec

from app.brokerage.adapters.paper.rules import PRODUCTS
from app.brokerage.words import Exchange, Listing

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
    """Fills `broker.ListingSource` with what is known without anybody's help."""

    async def listings(self) -> Sequence[Listing]:
        """Well-known shares."""
        return built_in()


def built_in() -> list[Listing]:
    """The shares that are known without anybody's help, on the NSE."""
    raw = (resources.files("app.brokerage.adapters.paper") / "assets" / "shares.json").read_bytes()
    data = msgspec.json.decode(raw, type=_BuiltIn)
    ticks = [(data.shares, TICK), (data.small_tick, SMALL_TICK)]
    return [Listing(Exchange.NSE, symbol, symbol, tick) for symbols, tick in ticks for symbol in symbols]


def tradable(rows: Sequence[Listing]) -> list[Listing]:
    """Those of the exchanges' list, as another broker has it, that paper trades: its exchanges, without indices."""
    return [row for row in rows if row.exchange in PRODUCTS and row.kind != "INDEX" and row.tick_size > 0]
