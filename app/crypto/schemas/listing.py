"""Coins over the wire."""

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema

from app.core.schemas import AmountFromZero, NoControlCharacters, ResponseModel, example
from app.crypto.generations import Sort
from app.crypto.ports import Provider
from app.crypto.top import Window

MAX_SYMBOLS = 100
"""In one filter."""
_TRIMMED = StringConstraints(strip_whitespace=True, min_length=1, max_length=64)


def _lower(value: Any) -> Any:
    return value.strip().lower() if isinstance(value, str) else value


class Direction(StrEnum):
    """Which way a list goes."""

    ASC = "asc"
    DESC = "desc"


Symbol = Annotated[str, _TRIMMED, NoControlCharacters]
Slug = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200), NoControlCharacters]
Prefix = Annotated[str, _TRIMMED, NoControlCharacters]
Bound = AmountFromZero
SortIn = Annotated[Sort, BeforeValidator(_lower)]
DirectionIn = Annotated[Direction, BeforeValidator(_lower)]
WindowIn = Annotated[Window, BeforeValidator(_lower)]
ProviderIn = Annotated[Provider, BeforeValidator(_lower)]

Exact = Annotated[Decimal, WithJsonSchema({"type": "number"})]
"""A number in JSON, spelled as the provider spelled it: read it as a decimal to have it exactly."""

_COIN = {
    "slug": "bitcoin",
    "symbol": "BTC",
    "name": "Bitcoin",
    "rank": 1,
    "price": 67187.34,
    "market_cap": 1317802988326.25,
    "fully_diluted_valuation": 1411066138321.0,
    "volume_24h": 31260929299.5,
    "high_24h": 67841.02,
    "low_24h": 66112.9,
    "price_change_1h": 0.0809,
    "price_change_24h": 1.2434,
    "price_change_7d": -2.5144,
    "circulating_supply": 19675962.0,
    "total_supply": 21000000.0,
    "max_supply": 21000000.0,
    "ath": 73738.0,
    "ath_date": "2024-03-14T07:10:36.635Z",
    "atl": 67.81,
    "atl_date": "2013-07-06T00:00:00Z",
    "categories": ["mineable", "store-of-value"],
    "image": "https://coin-images.coingecko.com/coins/images/1/large/bitcoin.png",
    "ids": {"coingecko": "bitcoin", "coinmarketcap": "1"},
    "source": "coingecko",
    "updated_at": "2026-11-22T10:04:40.512Z",
    "synced_at": "2026-11-22T10:05:01.250Z",
}


class CoinRow(ResponseModel):
    """A coin; amounts are US dollars, changes per cent. What the source does not say is null."""

    model_config = ConfigDict(frozen=True, json_schema_extra=example(_COIN))

    slug: str = Field(description="Our name of the coin: it stays when the coin is renamed.")
    symbol: str = Field(description="Several coins may have the same.")
    name: str
    rank: int | None = Field(description="By market capitalisation. Of a coin that fell out of a sync: at best this.")
    price: Exact | None
    market_cap: Exact | None
    fully_diluted_valuation: Exact | None
    volume_24h: Exact | None
    high_24h: Exact | None
    low_24h: Exact | None
    price_change_1h: Exact | None
    price_change_24h: Exact | None
    price_change_7d: Exact | None
    circulating_supply: Exact | None
    total_supply: Exact | None
    max_supply: Exact | None
    ath: Exact | None = Field(description="The highest price ever.")
    ath_date: datetime | None
    atl: Exact | None = Field(description="The lowest price ever.")
    atl_date: datetime | None
    categories: list[str] = Field(description="CoinMarketCap's tags, where it was ever asked.")
    image: str | None
    ids: dict[str, str] = Field(description="What each provider calls it.")
    source: Provider = Field(description="Whose figures these are.")
    updated_at: datetime | None = Field(description="When the source last changed them.")
    synced_at: datetime = Field(description="When the source was asked: how old the row is.")


class NamedCoin(ResponseModel):
    """What tells a coin."""

    slug: str = Field(examples=["bitcoin"])
    symbol: str = Field(examples=["BTC"])
    name: str = Field(examples=["Bitcoin"])


class CoinDetail(CoinRow):
    """A coin, and the others that share its symbol."""

    model_config = ConfigDict(frozen=True, json_schema_extra=example({**_COIN, "listed": True, "same_symbol": []}))

    listed: bool = Field(description="False: it has left the listing, and this is the last that was known.")
    same_symbol: list[NamedCoin] = Field(description="The largest first; ask for one with `?slug=`.")
