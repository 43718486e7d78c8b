"""Coins that users follow, in lists of theirs."""

from datetime import datetime
from typing import Any, Final

from beanie import PydanticObjectId
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import DuplicateKeyError

from app.core.clock import Clock, Sequence
from app.core.errors import ConflictError, NotFoundError
from app.core.pagination import Page, PageRequest, newest_first, read_page
from app.crypto.naming import CoinNames, LiveListing
from app.crypto.portfolio_models import WatchlistDocument
from app.crypto.schemas.portfolio import WatchedCoin, Watchlist, WatchlistInput
from app.crypto.valuation import live_price

Row = dict[str, Any]

MAX_LISTS: Final = 20
"""Of one user."""
_NO_LIST: Final = "You have no watchlist with this id."


class Watchlists:
    """Watchlists of one user at a time; nobody sees anybody else's."""

    def __init__(self, *, listing: LiveListing, names: CoinNames, clock: Clock, sequence: Sequence) -> None:
        self._listing, self._names = listing, names
        self._clock, self._sequence = clock, sequence

    async def create(self, user_id: PydanticObjectId, given: WatchlistInput) -> Watchlist:
        """A new list. Raises `InvalidInputError` for an unknown coin, `ConflictError` for a name that is taken."""
        values = await self._values(given)
        if await _rows().count_documents({"user_id": user_id}) >= MAX_LISTS:
            raise ConflictError(f"An account can have {MAX_LISTS} watchlists at most.")
        now = self._clock.now()
        row = {
            "_id": PydanticObjectId(),
            "schema_version": 1,
            "user_id": user_id,
            **values,
            "seq": self._sequence.next(),
            "created_at": now,
            "updated_at": now,
        }
        try:
            await _rows().insert_one(row)
        except DuplicateKeyError:
            raise _taken(given) from None
        return self._told(row, now)

    async def page(self, user_id: PydanticObjectId, page: PageRequest) -> Page[Watchlist]:
        """The user's lists, newest first."""
        rows = newest_first(_rows(), {"user_id": user_id}, page=page, account=user_id, clock=self._clock)
        found = await read_page(rows, page)
        await self._listing.refresh()
        now = self._clock.now()
        return Page([self._told(row, now) for row in found.rows], found.next)

    async def get(self, user_id: PydanticObjectId, list_id: PydanticObjectId) -> Watchlist:
        """One list; raises `NotFoundError`."""
        row: Row | None = await _rows().find_one({"_id": list_id, "user_id": user_id})
        if row is None:
            raise NotFoundError(_NO_LIST)
        await self._listing.refresh()
        return self._told(row, self._clock.now())

    async def replace(self, user_id: PydanticObjectId, list_id: PydanticObjectId, given: WatchlistInput) -> Watchlist:
        """Replace name and coins. Raises `NotFoundError`, and what `create` raises.

        A coin that has left the listing can stay, by its slug.
        """
        row: Row | None = await _rows().find_one({"_id": list_id, "user_id": user_id})
        if row is None:
            raise NotFoundError(_NO_LIST)
        values = await self._values(given, {coin["slug"]: coin for coin in row["coins"]})
        try:
            change = {"$set": {**values, "updated_at": self._clock.now()}}
            result = await _rows().update_one({"_id": list_id, "user_id": user_id}, change)
        except DuplicateKeyError:
            raise _taken(given) from None
        if not result.matched_count:
            raise NotFoundError(_NO_LIST)
        return await self.get(user_id, list_id)

    async def delete(self, user_id: PydanticObjectId, list_id: PydanticObjectId) -> None:
        """Raises `NotFoundError`."""
        if not (await _rows().delete_one({"_id": list_id, "user_id": user_id})).deleted_count:
            raise NotFoundError(_NO_LIST)

    async def _values(self, given: WatchlistInput, known: dict[str, dict[str, str]] | None = None) -> Row:
        coins: dict[str, dict[str, str]] = {}
        for place, choice in enumerate(given.coins):
            if known and choice.slug in known:
                coins.setdefault(choice.slug, known[choice.slug])
                continue
            coin = await self._names.chosen(choice.symbol, choice.slug, ("body", "coins", place, choice.kind))
            coins.setdefault(coin.slug, coin.stored)
        return {"name": given.name, "key": given.name.casefold(), "coins": list(coins.values())}

    def _told(self, row: Row, now: datetime) -> Watchlist:
        coins = []
        for coin in row["coins"]:
            price = self._listing.price(coin["slug"])
            named = {**coin, "symbol": price.symbol, "name": price.name} if price else coin
            coins.append(WatchedCoin(**named, **live_price(price, now)))
        return Watchlist(
            id=str(row["_id"]),
            name=row["name"],
            coins=coins,
            created_at=row["created_at"],
            updated_at=row["updated_at"],
        )


def _rows() -> AsyncCollection[Row]:
    return WatchlistDocument.get_pymongo_collection()


def _taken(given: WatchlistInput) -> ConflictError:
    return ConflictError(f"You have a watchlist called {given.name} already.")
