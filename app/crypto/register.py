"""Every coin that was ever listed, in the database: one row a coin, found by a provider's id, by symbol or by slug."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from pymongo import ReplaceOne
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import BulkWriteError

from app.core.bson_codec import exact_rows
from app.core.group_commit import DUPLICATE_KEY
from app.crypto.encoding import Coin, Row, coin_of, row_of
from app.crypto.generations import OvertakenError
from app.crypto.models import CoinDocument
from app.crypto.ports import Provider

_AT_ONCE: Final = 25
"""Rows that one write takes: others' requests to the embedded database get in between."""
_NAMESAKES: Final = 50
"""Coins with one symbol that are looked at."""


class CoinRegister:
    """See `coins.Register`; written by syncs."""

    async def by_id(self, provider: Provider, provider_id: str) -> Coin | None:
        """The coin that `provider` calls so."""
        return _coin(await _coins().find_one({f"ids.{provider}": provider_id}))

    async def by_symbol(self, symbol: str) -> list[Coin]:
        """The coins with this symbol, listed or not."""
        rows = await _coins().find({"symbol": symbol}).limit(_NAMESAKES).to_list()
        return [coin for coin in map(_coin, rows) if coin]

    async def by_slug(self, slug: str) -> Coin | None:
        """The coin with our slug."""
        return _coin(await _coins().find_one({"_id": slug}))

    async def write(self, coins: Sequence[Coin], fresh: Iterable[str]) -> None:
        """Store the rows of `coins`; those named in `fresh` are new. `OvertakenError` if one is another's by now."""
        new = set(fresh)
        await self._insert([_row(coin) for coin in coins if coin.slug in new])
        rows = [_row(coin) for coin in coins if coin.slug not in new]
        for begin in range(0, len(rows), _AT_ONCE):
            await self._replace(rows[begin : begin + _AT_ONCE])

    async def _replace(self, rows: list[Row]) -> None:
        """Replace rows; not as upserts at once, which take the embedded database five times as long."""
        try:
            written = await _coins().bulk_write([ReplaceOne({"_id": row["_id"]}, row) for row in rows], ordered=False)
            if written.matched_count < len(rows):  # somebody has deleted rows of coins that are listed
                changes = [ReplaceOne({"_id": row["_id"]}, row, upsert=True) for row in rows]
                await _coins().bulk_write(changes, ordered=False)
        except BulkWriteError as error:
            raise _overtaken(error) from error

    async def _insert(self, rows: list[Row]) -> None:
        for begin in range(0, len(rows), _AT_ONCE):
            try:
                await _coins().insert_many(rows[begin : begin + _AT_ONCE], ordered=False)
            except BulkWriteError as error:
                raise _overtaken(error) from error


def _overtaken(error: BulkWriteError) -> Exception:
    """A coin that somebody else has entered meanwhile is found at the next try; anything else is a failure."""
    codes = {each.get("code") for each in (error.details or {}).get("writeErrors", ())}
    return OvertakenError() if codes == {DUPLICATE_KEY} else error


def _coins() -> AsyncCollection[Row]:
    return exact_rows(CoinDocument.get_pymongo_collection())


def _row(coin: Coin) -> Row:
    row = row_of(coin)
    return {"_id": row.pop("slug"), "schema_version": 1, **row}


def _coin(row: dict[str, Any] | None) -> Coin | None:
    return coin_of({**row, "slug": row["_id"]}) if row else None
