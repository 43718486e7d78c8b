"""Which coin a provider's row is about, and what a listing looks like after a provider was asked.

A row finds its coin by the provider's own id. A provider that has not named the coin before finds it by symbol and
slug, else by symbol and exact name; whoever fits nothing is a new coin. So a coin that is renamed stays itself, and of
two coins with one symbol each keeps its own row.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from app.crypto.encoding import Coin, storable
from app.crypto.ports import CoinListing, Provider

STAYS: Final = timedelta(days=1)
"""How long a coin stays listed that only wider syncs than the present ones list; its age is in its row."""
_NEVER_TOLD: Final[Mapping[Provider, tuple[str, ...]]] = {
    Provider.COINGECKO: ("categories",),
    Provider.COINMARKETCAP: ("ath", "ath_date", "atl", "atl_date", "image"),
}
"""What a provider's listing has no members for: the other one's word for it still holds."""
Names = list[dict[str, Any]]


class Register(Protocol):
    """Every coin that was ever listed."""

    async def by_id(self, provider: Provider, provider_id: str) -> Coin | None:
        """The coin that `provider` calls so."""

    async def by_symbol(self, symbol: str) -> list[Coin]:
        """The coins with this symbol."""

    async def by_slug(self, slug: str) -> Coin | None:
        """The coin with our slug."""


class Found(NamedTuple):
    """A provider's row and the coin that it is about."""

    listing: CoinListing
    slug: str
    known: Coin | None
    """None: it was never listed before."""


class CoinFinder:
    """Finds the coins of one sync's rows; no two rows are about the same coin."""

    def __init__(self, listed: Iterable[Coin], register: Register) -> None:
        """`listed` are asked first, for they are at hand."""
        self._register = register
        self._listed = {coin.slug: coin for coin in listed}
        self._by_id = {pair: coin for coin in self._listed.values() for pair in coin.ids.items()}
        self._taken: set[str] = set()

    async def find(self, rows: Sequence[CoinListing]) -> list[Found]:
        """The coins of `rows`; a row that repeats another's id is dropped."""
        found: list[Found | None] = [None] * len(rows)
        seen: set[str] = set()
        # Ids first, all of them: a name must not claim a coin whose id comes later in the answer.
        for place, row in enumerate(rows):
            if row.provider_id in seen:
                continue
            seen.add(row.provider_id)
            coin = self._by_id.get((row.provider, row.provider_id))
            if coin is None:
                coin = await self._register.by_id(row.provider, row.provider_id)
            if coin is not None and coin.slug not in self._taken:
                self._taken.add(coin.slug)
                found[place] = Found(row, coin.slug, coin)
        named = {each.listing.provider_id for each in found if each}
        for place, row in enumerate(rows):
            if row.provider_id not in named:
                named.add(row.provider_id)
                found[place] = await self._by_name(row)
        return [each for each in found if each]

    async def _by_name(self, row: CoinListing) -> Found:
        alike = {coin.slug: coin for coin in await self._register.by_symbol(row.symbol)}
        alike |= {slug: coin for slug, coin in self._listed.items() if coin.listing.symbol == row.symbol}
        free = [coin for slug, coin in alike.items() if slug not in self._taken and row.provider not in coin.ids]
        for fitting in (
            [coin for coin in free if row.slug in (coin.slug, coin.listing.slug)],
            [coin for coin in free if row.name == coin.listing.name],
        ):
            if len(fitting) == 1:
                self._taken.add(fitting[0].slug)
                return Found(row, fitting[0].slug, fitting[0])
        slug = await self._new_slug(row)
        self._taken.add(slug)
        return Found(row, slug, None)

    async def _new_slug(self, row: CoinListing) -> str:
        wanted = row.provider_id if row.provider is Provider.COINGECKO else row.slug
        for slug in (wanted, f"{wanted}-{row.provider_id}", f"{wanted}-{row.provider}-{row.provider_id}"):
            if slug not in self._taken and slug not in self._listed and await self._register.by_slug(slug) is None:
                return slug
        raise LookupError(f"every slug for {row.provider} {row.provider_id} is another coin's")


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """What a sync changed in the listing."""

    added: Names
    """Coins that were not listed before."""
    renamed: list[dict[str, Any]]
    """Listed coins with another symbol or name, with what they `was` called."""
    left: Names
    """Coins that are not listed any more."""
    changed: int
    """Listed coins of which any figure is another."""
    unchanged: int


class Merged(NamedTuple):
    """A listing after a sync."""

    coins: list[Coin]
    written: list[Coin]
    """Those whose row the provider sent, for the register."""
    fresh: set[str]
    """Slugs that the register does not have yet."""
    changes: Changes


def merge(listed: Mapping[str, Coin], found: Sequence[Found], limit: int, at: datetime) -> Merged:
    """The listing after a sync for `limit` coins at `at` brought `found`, and what that changed."""
    # An answer that is far too short did not look as far as was asked.
    reach = limit if 2 * len(found) >= min(limit, len(listed)) else len(found)
    coins = {each.slug: _renewed(each, reach, at) for each in found}
    written = list(coins.values())
    left: list[Coin] = []
    for slug, coin in listed.items():
        if slug in coins:
            continue
        if reach >= coin.reach or at - coin.synced_at >= STAYS:
            left.append(coin)
        else:
            coins[slug] = _fallen(coin, reach)
    before = [(listed[coin.slug], coin) for coin in written if coin.slug in listed]
    changed = sum(_figures(old) != _figures(new) for old, new in before)
    changes = Changes(
        added=[coin.name for coin in written if coin.slug not in listed],
        renamed=[new.name | {"was": old.name} for old, new in before if old.name != new.name],
        left=[coin.name for coin in left],
        changed=changed,
        unchanged=len(before) - changed,
    )
    return Merged(list(coins.values()), written, {each.slug for each in found if each.known is None}, changes)


def _renewed(found: Found, reach: int, at: datetime) -> Coin:
    listing, known = storable(found.listing), found.known
    ids = {str(listing.provider): listing.provider_id}
    if known is None:
        return Coin(slug=found.slug, ids=ids, listing=listing, first_seen=at, synced_at=at, reach=reach, reached_at=at)
    listing = msgspec.structs.replace(listing, **_still_known(known.listing, listing))
    wider = reach >= known.reach or at - known.reached_at >= STAYS
    return msgspec.structs.replace(
        known,
        ids=known.ids | ids,
        listing=listing,
        synced_at=at,
        reach=reach if wider else known.reach,
        reached_at=at if wider else known.reached_at,
    )


def _still_known(old: CoinListing, new: CoinListing) -> dict[str, Any]:
    """What the other provider said and this one has no word for, as far as the price does not contradict it."""
    kept = {name: getattr(old, name) for name in _NEVER_TOLD[new.provider] if not getattr(new, name)}
    if new.price is not None:
        if (highest := kept.get("ath")) is not None and new.price > highest:
            kept |= {"ath": None, "ath_date": None}
        if (lowest := kept.get("atl")) is not None and new.price < lowest:
            kept |= {"atl": None, "atl_date": None}
    return kept


def _fallen(coin: Coin, reach: int) -> Coin:
    """A coin that is not among the first `reach` any more: its rank is known to be beyond."""
    if coin.listing.rank is None or coin.listing.rank > reach:
        return coin
    return msgspec.structs.replace(coin, listing=msgspec.structs.replace(coin.listing, rank=reach + 1))


def _figures(coin: Coin) -> CoinListing:
    """The figures of a coin, whoever gave them and whenever."""
    return msgspec.structs.replace(
        coin.listing, provider=Provider.COINGECKO, provider_id="", slug="", symbol="", name="", updated_at=None
    )
