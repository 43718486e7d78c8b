"""Generations: the whole listing as each sync left it, in memory with every order ready, and in the database.

A page and the pages after it are of one generation, so a list neither skips nor repeats while syncs go on. Each
generation is one document, and one small document says which is the newest: moving that is what a switch is, so that no
process ever sees half of a sync, and of two syncs at once the later one notices.
"""

import secrets
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cached_property
from typing import Any, Final

from bson import CodecOptions, decode, encode
from cachetools import LRUCache
from pymongo.errors import DuplicateKeyError

from app.core.bson_codec import exact_rows
from app.core.clock import to_micros
from app.crypto.encoding import Coin, coin_of, encoded, row_of, wire_of
from app.crypto.models import GenerationDocument, ListingDocument
from app.crypto.ports import CoinListing, Provider

KEPT_FOR: Final = timedelta(hours=1)
KEPT_AT_LEAST: Final = 3
"""Generations that cursors can still read."""
NEWEST: Final = "newest"
PAGE_BYTES: Final = 16 << 20
"""Of ready pages, for the newest generation."""


class Sort(StrEnum):
    """What a list is in the order of."""

    MARKET_CAP = "market_cap"
    PRICE = "price"
    VOLUME_24H = "volume_24h"
    PRICE_CHANGE_1H = "price_change_1h"
    PRICE_CHANGE_24H = "price_change_24h"
    PRICE_CHANGE_7D = "price_change_7d"
    RANK = "rank"
    NAME = "name"


class Generation:
    """The listing after one sync; nothing of it ever changes."""

    def __init__(self, number: int, made_at: datetime, provider: Provider, coins: Iterable[Coin]) -> None:
        self.number = number
        self.made_at = made_at
        self.provider = provider
        # How ties are told, whatever a list is in the order of: by rank, then by slug.
        self.coins: tuple[Coin, ...] = tuple(sorted(coins, key=_by_rank))
        self.bodies: tuple[bytes, ...] = tuple(encoded(wire_of(coin)) for coin in self.coins)
        self.by_slug: dict[str, int] = {coin.slug: place for place, coin in enumerate(self.coins)}
        self._orders: dict[tuple[Sort, bool], tuple[int, ...]] = {}

    @cached_property
    def by_symbol(self) -> Mapping[str, Sequence[int]]:
        """Places of the coins with a symbol (in upper case), the largest by market capitalisation first."""
        found: dict[str, list[int]] = {}
        for place in self.order(Sort.MARKET_CAP, descending=True):
            found.setdefault(self.coins[place].listing.symbol.upper(), []).append(place)
        return found

    @cached_property
    def categories(self) -> Sequence[str]:
        """The providers' categories that any coin is in, in the order of their names."""
        return sorted({category for coin in self.coins for category in coin.listing.categories})

    @cached_property
    def searched(self) -> Sequence[tuple[str, str]]:
        """Of each coin, symbol and name as searches compare them."""
        return [(coin.listing.symbol.casefold(), coin.listing.name.casefold()) for coin in self.coins]

    def order(self, sort: Sort, *, descending: bool) -> tuple[int, ...]:
        """The places of all coins, by `sort`; what is not known comes last either way."""
        made = self._orders.get((sort, descending))
        if made is None:
            values = [_value(coin.listing, sort) for coin in self.coins]
            known = [place for place, value in enumerate(values) if value is not None]
            # Stable, in reverse too: equal ones stay in the order of ranks.
            known.sort(key=lambda place: values[place], reverse=descending)
            made = (*known, *(place for place, value in enumerate(values) if value is None))
            self._orders[sort, descending] = made
        return made


def _by_rank(coin: Coin) -> tuple[bool, int, str]:
    rank = coin.listing.rank
    return rank is None, rank or 0, coin.slug


def _value(listing: CoinListing, sort: Sort) -> Any:
    return (listing.name.casefold(), listing.name) if sort is Sort.NAME else getattr(listing, sort)


class OvertakenError(Exception):
    """Another sync has made a generation meanwhile: what was merged is out of date."""


class GenerationStore:
    """Generations in the database."""

    def __init__(self) -> None:
        self._held: LRUCache[int, Generation] = LRUCache(16)

    async def newest(self) -> int | None:
        """The number of the newest generation; None before the first sync."""
        row = await ListingDocument.get_pymongo_collection().find_one({"_id": NEWEST}, {"number": 1})
        # Whole numbers beyond 32 bits come out of the database as a class of their own.
        return int(row["number"]) if row else None

    async def load(self, number: int) -> Generation | None:
        """The generation `number`; None if it is not kept any more."""
        held: Generation | None = self._held.get(number)
        if held is not None:
            return held
        row = await GenerationDocument.get_pymongo_collection().find_one({"_id": number}, {"report": 0})
        if row is None:
            return None
        rows = decode(row["rows"], codec_options=_exact())["coins"]
        made = Generation(number, row["made_at"], Provider(row["provider"]), map(coin_of, rows))
        self._held[number] = made
        return made

    async def report(self, number: int) -> dict[str, Any] | None:
        """What the sync that made the generation `number` changed; None if that is not kept any more."""
        row = await GenerationDocument.get_pymongo_collection().find_one({"_id": number}, {"report": 1})
        report: dict[str, Any] | None = row and row.get("report")
        return report

    async def put(
        self, after: int | None, made_at: datetime, provider: Provider, coins: Sequence[Coin], report: Mapping[str, Any]
    ) -> int:
        """Make `coins` the newest generation; its number. Raises `OvertakenError` if `after` is not the newest."""
        # Times are whole milliseconds: the rest tells syncs apart that store at the same time, or that left a number
        # behind when they were killed.
        number = max(to_micros(made_at), (after or 0) + 1) + secrets.randbelow(1000)
        row = {
            "_id": number,
            "schema_version": 1,
            "made_at": made_at,
            "provider": str(provider),
            "report": dict(report),
            "rows": encode({"coins": [row_of(coin) for coin in coins]}, codec_options=_exact()),
        }
        generations = GenerationDocument.get_pymongo_collection()
        try:
            await generations.insert_one(row)
        except DuplicateKeyError:
            raise OvertakenError from None
        if not await self._switch(after, number, made_at):
            await generations.delete_one({"_id": number})
            raise OvertakenError
        return number

    async def _switch(self, after: int | None, number: int, made_at: datetime) -> bool:
        listing = ListingDocument.get_pymongo_collection()
        this = {"number": number, "made_at": made_at}
        if after is None:
            try:
                await listing.insert_one({"_id": NEWEST, "schema_version": 1, **this, "kept": [this]})
            except DuplicateKeyError:
                return False
            return True
        row = await listing.find_one({"_id": NEWEST, "number": after})
        if row is None:
            return False
        kept = _worth_keeping([*row["kept"], this], made_at)
        # Conditional on the number that was read: of two syncs at once one moves it.
        result = await listing.update_one({"_id": NEWEST, "number": after}, {"$set": {**this, "kept": kept}})
        if result.modified_count != 1:
            return False
        await self._forget(kept, made_at)
        return True

    async def _forget(self, kept: Sequence[Mapping[str, Any]], now: datetime) -> None:
        """Delete what no cursor can ask for any more, and what killed syncs left behind."""
        old = {"made_at": {"$lt": now - KEPT_FOR}, "_id": {"$nin": [each["number"] for each in kept]}}
        await GenerationDocument.get_pymongo_collection().delete_many(old)


def _worth_keeping(kept: list[dict[str, Any]], now: datetime) -> list[dict[str, Any]]:
    newest = len(kept) - KEPT_AT_LEAST
    return [each for place, each in enumerate(kept) if place >= newest or now - each["made_at"] < KEPT_FOR]


def _exact() -> CodecOptions[dict[str, Any]]:
    return exact_rows(GenerationDocument.get_pymongo_collection()).codec_options
