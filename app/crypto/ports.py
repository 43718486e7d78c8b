"""The words of cryptocurrency listings, and what the feature needs from a provider of them.

Amounts are exact decimals in US dollars, as the provider's JSON spells them. Whatever a provider does not know is None.
"""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple, Protocol

import msgspec


class Provider(StrEnum):
    """Where listings come from, first choice first."""

    COINGECKO = "coingecko"
    COINMARKETCAP = "coinmarketcap"


class CoinListing(msgspec.Struct, frozen=True, kw_only=True):
    """One coin, as a provider listed it at one time."""

    provider: Provider
    provider_id: str
    """The provider's own id of the coin: symbols and names collide and change, this does not."""
    slug: str
    symbol: str
    """In upper case."""
    name: str
    rank: int | None = None
    """By market capitalisation, from 1."""
    price: Decimal | None = None
    market_cap: Decimal | None = None
    fully_diluted_valuation: Decimal | None = None
    volume_24h: Decimal | None = None
    high_24h: Decimal | None = None
    low_24h: Decimal | None = None
    price_change_1h: Decimal | None = None
    """In per cent, as the two below."""
    price_change_24h: Decimal | None = None
    price_change_7d: Decimal | None = None
    circulating_supply: Decimal | None = None
    total_supply: Decimal | None = None
    max_supply: Decimal | None = None
    ath: Decimal | None = None
    """The highest price ever, and when."""
    ath_date: datetime | None = None
    atl: Decimal | None = None
    """The lowest price ever, and when."""
    atl_date: datetime | None = None
    categories: tuple[str, ...] = ()
    """Slugs of the provider's categories (CoinMarketCap: tags); CoinGecko's listing names none."""
    image: str | None = None
    updated_at: datetime | None = None
    """When the provider last changed the row."""


class PricePoint(NamedTuple):
    """What a coin was worth at one time."""

    at: datetime
    price: Decimal
    market_cap: Decimal | None
    volume_24h: Decimal | None


class Fetched(NamedTuple):
    """The answer of a provider."""

    provider: Provider
    rows: list[CoinListing]
    """By rank, at most as many as were asked for."""
    rejected: int
    """Rows that could not be read."""
    failed_over: str | None
    """Why an earlier provider was passed over, in words for a person; None if the first choice answered."""


class Cost(NamedTuple):
    """What a question to a provider takes of its plan."""

    calls: int = 1
    """Requests."""
    credits: int = 1
    """What the plan counts by the month: requests at CoinGecko, rows too at CoinMarketCap."""
    category: bool = False
    """About categories, which anybody may ask for: these calls have a limit of their own a day."""


class ListingProvider(Protocol):
    """A provider's client. Every call raises a `ProviderError` (see `errors`) for whatever is not a usable answer."""

    name: Provider

    def cost(self, limit: int) -> Cost:
        """What `listings(limit)` takes of the plan: one request as far as the provider's page size allows."""

    async def listings(self, limit: int) -> tuple[list[CoinListing], int]:
        """The `limit` largest coins by market capitalisation, by rank, and how many rows could not be read."""

    async def close(self) -> None:
        """Give the connections up."""


class Category(NamedTuple):
    """A provider's category of coins."""

    slug: str
    name: str


class CategoryMembers(NamedTuple):
    """The largest coins in a category."""

    ids: list[str]
    """The provider's, the largest first."""
    at: datetime
    """When it was asked."""


class CoinArchive(Protocol):
    """What only one provider has. Every call is one request, and raises a `ProviderError` as `ListingProvider` does."""

    name: Provider

    async def history(self, provider_id: str, days: int) -> list[PricePoint]:
        """What a coin was worth in the last `days` (1–365), the oldest first."""

    async def categories(self) -> list[Category]:
        """Every category."""

    async def category(self, slug: str) -> list[CoinListing]:
        """The largest coins of a category, by rank."""


class HistoryWriter(Protocol):
    """Keeps a point per sync."""

    async def append(self, at: datetime, rows: Sequence[tuple[str, CoinListing]]) -> int:
        """Store what each coin (named by our slug) was worth at `at`; how many points are new. Idempotent."""


class CoinPrice(NamedTuple):
    """The newest price of a coin."""

    slug: str
    symbol: str
    name: str
    price: Decimal
    price_change_24h: Decimal | None
    at: datetime
    provider: Provider


class CoinPrices(Protocol):
    """Newest prices, from memory."""

    def price(self, slug: str) -> CoinPrice | None:
        """The newest price of the coin with our slug; None for an unknown coin or one without a price."""

    def slug_of(self, symbol: str) -> str | None:
        """Our slug of the largest coin with `symbol`, in any case; None if there is none."""
