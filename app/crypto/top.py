"""Top lists: what rose, fell, was traded or weighs most, and the largest coins of a provider's category."""

from decimal import Decimal
from enum import StrEnum
from typing import Final, Protocol

from app.core.errors import NotFoundError
from app.crypto.errors import ProviderError
from app.crypto.generations import Sort
from app.crypto.listing import Listings
from app.crypto.ports import Category, CategoryMembers
from app.crypto.selection import Part, Rendered, Selection

LIVELY: Final = Decimal(1_000_000)
"""US dollars that have to be traded in a day before a coin can lead the gainers or the losers: the price of one that
nobody trades moves by any per cent with a single order."""
_NAMED_IN_DETAIL: Final = 20


class Window(StrEnum):
    """Over which time gains and losses are."""

    HOUR = "1h"
    DAY = "24h"
    WEEK = "7d"


_CHANGE: Final = {
    Window.HOUR: Sort.PRICE_CHANGE_1H,
    Window.DAY: Sort.PRICE_CHANGE_24H,
    Window.WEEK: Sort.PRICE_CHANGE_7D,
}
OWN: Final = ("gainers", "losers", "volume", "market_cap")


class VendorCategories(Protocol):
    """CoinGecko's categories, which its listing does not name: asked for when somebody wants one, and remembered."""

    async def names(self) -> list[Category]:
        """Every one; raises a `ProviderError` where none could be had."""

    async def members(self, slug: str) -> CategoryMembers | None:
        """The largest coins in one; None if there is no such category. Raises as `names`."""


class TopLists:
    """Computed from the newest listing: a provider is asked only for a category that rows do not name."""

    def __init__(self, listings: Listings, vendor: VendorCategories | None = None) -> None:
        self._listings = listings
        self._vendor = vendor

    async def page(self, category: str, window: Window, min_volume: Decimal | None, part: Part) -> Rendered:
        """Coins of `category`, the first ones first.

        Raises `NotFoundError` with the categories there are, and a `ProviderError` (503) where CoinGecko has the
        category and cannot be asked for its coins now.
        """
        name = category.strip().lower()
        if name in OWN:
            return await self._listings.page(_own(name, window, min_volume), part)
        told = (await self._listings.newest()).categories
        if name in told:
            return await self._listings.page(Selection(category=name, min_volume=min_volume), part)
        try:
            others = [each.slug for each in await self._vendor.names()] if self._vendor else []
        except ProviderError as error:
            raise _unknown(category, [*OWN, *told], f" CoinGecko's own cannot be had now: {error.detail}") from error
        members = await self._vendor.members(name) if self._vendor and name in others else None
        if members is None:
            raise _unknown(category, list(dict.fromkeys([*OWN, *told, *others])))
        page = await self._listings.page(Selection(ids=frozenset(members.ids), min_volume=min_volume), part)
        return page._replace(category_at=members.at)


def _own(name: str, window: Window, min_volume: Decimal | None) -> Selection:
    if name == "volume":
        return Selection(sort=Sort.VOLUME_24H, min_volume=min_volume)
    if name == "market_cap":
        return Selection(sort=Sort.MARKET_CAP, min_volume=min_volume)
    gain = name == "gainers"
    floor = LIVELY if min_volume is None else min_volume
    return Selection(sort=_CHANGE[window], descending=gain, min_volume=floor, sign=1 if gain else -1)


def _unknown(category: str, known: list[str], doubt: str = "") -> NotFoundError:
    shown = ", ".join(known[:_NAMED_IN_DETAIL])
    rest = f" and {len(known) - _NAMED_IN_DETAIL} more in `categories`" if len(known) > _NAMED_IN_DETAIL else ""
    error = NotFoundError(f"There is no category {category[:64]!r}; there are {shown}{rest}.{doubt}")
    error.extensions = {"categories": known}
    return error
