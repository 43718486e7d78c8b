"""Holdings, watchlists and their values over the wire."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from app.core.schemas import AmountFromZero, NoControlCharacters, PositiveAmount, RequestModel, ResponseModel, example
from app.crypto.ports import Provider
from app.crypto.schemas.listing import Exact, NamedCoin, Slug, Symbol

MAX_LISTED = 100
"""Coins of one watchlist."""
Note = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200), NoControlCharacters]
ListName = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=64), NoControlCharacters]
Cost = Annotated[AmountFromZero, Field(description="What all of it cost, in US dollars.")]
Quantity = Annotated[PositiveAmount, Field(description="How much of the coin, exactly; at most 18 decimals.")]


class CoinChoice(RequestModel):
    """A coin, by its symbol (of several coins the largest) or by its slug."""

    model_config = ConfigDict(json_schema_extra=example({"symbol": "BTC"}, {"slug": "bitcoin"}))

    symbol: Symbol | None = None
    slug: Slug | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> "CoinChoice":
        if (self.symbol is None) == (self.slug is None):
            raise ValueError("Name the coin by symbol or by slug, one of the two")
        return self

    @property
    def kind(self) -> str:
        """The field that names it."""
        return "slug" if self.slug is not None else "symbol"


class HoldingChange(RequestModel):
    """What of a holding can change."""

    model_config = ConfigDict(json_schema_extra=example({"quantity": 0.25, "cost_basis": 15000}))

    quantity: Quantity
    cost_basis: Cost | None = None
    note: Note | None = None


class HoldingInput(CoinChoice):
    """A new holding."""

    model_config = ConfigDict(json_schema_extra=example({"symbol": "BTC", "quantity": 0.25, "cost_basis": 15000}))

    quantity: Quantity
    cost_basis: Cost | None = None
    note: Note | None = None


class Holding(ResponseModel):
    """How much of a coin you have."""

    id: str
    slug: str
    symbol: str
    name: str
    quantity: Exact
    cost_basis: Exact | None = Field(description="What all of it cost, in US dollars.")
    note: str | None
    created_at: datetime
    updated_at: datetime


class LivePrice(ResponseModel):
    """The newest price of a coin in US dollars, and how old it is."""

    price: Exact | None
    price_change_24h: Exact | None = Field(description="Per cent.")
    price_at: datetime | None = Field(description="When the provider was asked.")
    age_seconds: float | None
    stale: bool = Field(description="Whether it is older than two hours: two hourly syncs did not bring it.")
    source: Provider | None
    reason: str | None = Field(description="Why there is no price; null where there is one.")


class HoldingValue(LivePrice):
    """What a holding is worth now, in US dollars."""

    id: str
    slug: str
    symbol: str
    name: str
    quantity: Exact
    cost_basis: Exact | None
    value: Exact | None = Field(description="Quantity times price, exactly.")
    weight: Exact | None = Field(description="Share of the portfolio's value.")
    day_change: Exact | None = Field(description="How much the value changed in 24 hours; null if that is not known.")
    profit: Exact | None = Field(description="Value less cost; null without a cost basis.")
    profit_percent: Exact | None


class Portfolio(ResponseModel):
    """What everything you hold is worth now, in US dollars. What has no price is in no sum."""

    at: datetime
    currency: Literal["USD"] = "USD"
    value: Exact
    valued: int = Field(description="Holdings that have a price.")
    not_valued: int = Field(description="Holdings that have none; each says why.")
    stale: int = Field(description="Holdings whose price is older than two hours.")
    oldest_price_at: datetime | None
    oldest_price_seconds: float | None
    day_change: Exact | None
    day_change_percent: Exact | None
    day_change_covers: int = Field(description="Holdings whose change is known.")
    cost_basis: Exact | None = Field(description="Of the holdings that have one, and a price.")
    profit: Exact | None
    profit_percent: Exact | None
    profit_covers: int = Field(description="Holdings that have a cost basis, and a price.")
    holdings: list[HoldingValue] = Field(description="The most valuable first, those without a price last.")


class WatchlistInput(RequestModel):
    """A watchlist, whole."""

    model_config = ConfigDict(
        json_schema_extra=example({"name": "Layer 1", "coins": [{"symbol": "ETH"}, {"slug": "solana"}]})
    )

    name: ListName
    coins: list[CoinChoice] = Field(default_factory=list, max_length=MAX_LISTED)


class WatchedCoin(LivePrice, NamedCoin):
    """A coin on a watchlist."""


class Watchlist(ResponseModel):
    """Coins that you follow, in your order, with their newest prices."""

    id: str
    name: str
    coins: list[WatchedCoin]
    created_at: datetime
    updated_at: datetime
