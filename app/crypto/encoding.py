"""Coins as they are stored and as clients get them; amounts stay exact on both ways.

In the database an amount is a `Decimal128`, in JSON a number spelled as the decimal itself (`1E-12`, `67123.45`): it
never passes through binary floating point, so whoever reads it as a decimal has what the provider wrote.
`schemas.listing` describes the JSON, and a test holds the two together.
"""

from collections.abc import Mapping
from datetime import datetime
from decimal import Context, Decimal
from typing import Any, Final

import msgspec
from bson.decimal128 import create_decimal128_context

from app.crypto.ports import CoinListing, Provider

Row = dict[str, Any]

AMOUNTS: Final = tuple(field.name for field in msgspec.structs.fields(CoinListing) if field.type == Decimal | None)
TIMES: Final = ("ath_date", "atl_date", "updated_at")
_ENCODE: Final = msgspec.json.Encoder(decimal_format="number").encode
_LARGEST, _SMALLEST = Decimal("1e300"), Decimal("1e-300")
"""Numbers beyond what a JSON reader with doubles can hold are nobody's price."""


class Coin(msgspec.Struct, frozen=True, kw_only=True):
    """A coin in a listing: what a provider said of it last, under our own name for it."""

    slug: str
    """Ours: it stays when providers rename the coin."""
    ids: dict[str, str]
    """By provider, the provider's own id."""
    listing: CoinListing
    first_seen: datetime
    synced_at: datetime
    """When a provider was last asked and listed it."""
    reach: int
    """How many coins the widest sync asked for that listed it lately."""
    reached_at: datetime
    """And when that was."""

    @property
    def name(self) -> dict[str, str]:
        """What a person tells it by."""
        return {"slug": self.slug, "symbol": self.listing.symbol, "name": self.listing.name}


def storable(listing: CoinListing) -> CoinListing:
    """`listing` as the database gives it back: 34 digits an amount, whole milliseconds; what is no number is None."""
    context = create_decimal128_context()
    amounts = {name: _amount(getattr(listing, name), context) for name in AMOUNTS}
    times = {name: _milliseconds(getattr(listing, name)) for name in TIMES}
    return msgspec.structs.replace(listing, **amounts, **times)


def _amount(value: Decimal | None, context: Context) -> Decimal | None:
    if value is None or not value.is_finite():
        return None
    if value and not _SMALLEST <= abs(value) <= _LARGEST:
        return None
    return context.create_decimal(value)


def _milliseconds(moment: datetime | None) -> datetime | None:
    return moment and moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def row_of(coin: Coin) -> Row:
    """The row of a coin, for a collection that keeps decimals (`exact_rows`); unknown figures are left out."""
    listing = msgspec.structs.asdict(coin.listing)
    figures = {name: value for name, value in listing.items() if value is not None and name not in _NAMED}
    return {
        "slug": coin.slug,
        "ids": coin.ids,
        "source": str(coin.listing.provider),
        "source_slug": coin.listing.slug,
        **figures,
        "categories": list(coin.listing.categories),
        "first_seen": coin.first_seen,
        "synced_at": coin.synced_at,
        "reach": coin.reach,
        "reached_at": coin.reached_at,
    }


_NAMED: Final = frozenset({"provider", "provider_id", "slug", "categories"})


def coin_of(row: Mapping[str, Any]) -> Coin:
    """The coin of a row that `row_of` made."""
    source = Provider(row["source"])
    figures = {name: row[name] for name in _FIGURES if name in row}
    listing = CoinListing(
        provider=source,
        provider_id=row["ids"][source],
        slug=row["source_slug"],
        categories=tuple(row["categories"]),
        **figures,
    )
    return Coin(
        slug=row["slug"],
        ids=dict(row["ids"]),
        listing=listing,
        first_seen=row["first_seen"],
        synced_at=row["synced_at"],
        reach=row["reach"],
        reached_at=row["reached_at"],
    )


_FIGURES: Final = tuple(field.name for field in msgspec.structs.fields(CoinListing) if field.name not in _NAMED)


def wire_of(coin: Coin) -> Row:
    """A coin as clients get it."""
    listing = msgspec.structs.asdict(coin.listing)
    return {
        "slug": coin.slug,
        "symbol": coin.listing.symbol,
        "name": coin.listing.name,
        "rank": coin.listing.rank,
        **{name: listing[name] for name in AMOUNTS if name not in {"ath", "atl"}},
        "ath": coin.listing.ath,
        "ath_date": coin.listing.ath_date,
        "atl": coin.listing.atl,
        "atl_date": coin.listing.atl_date,
        "categories": coin.listing.categories,
        "image": coin.listing.image,
        "ids": coin.ids,
        "source": coin.listing.provider,
        "updated_at": coin.listing.updated_at,
        "synced_at": coin.synced_at,
    }


def encoded(content: Any) -> bytes:
    """JSON, with decimals as numbers."""
    return _ENCODE(content)
