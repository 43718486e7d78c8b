"""What users hold: one row a coin, of one user at a time."""

from typing import Any, Final

from beanie import PydanticObjectId
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import DuplicateKeyError

from app.core.bson_codec import exact_rows
from app.core.clock import Clock, Sequence
from app.core.errors import ConflictError, NotFoundError
from app.core.pagination import Page, PageRequest, newest_first, read_page
from app.crypto.backfill import Backfill
from app.crypto.naming import CoinNames, LiveListing
from app.crypto.portfolio_models import HoldingDocument
from app.crypto.schemas.portfolio import Holding, HoldingChange, HoldingInput, Portfolio
from app.crypto.valuation import valued

Row = dict[str, Any]

MAX_HOLDINGS: Final = 100
"""Of one user; a portfolio is valued whole, in one answer."""
_NO_HOLDING: Final = "You have no holding with this id."


class Holdings:
    """Holdings of one user at a time; nobody sees anybody else's."""

    def __init__(
        self, *, listing: LiveListing, names: CoinNames, backfill: Backfill, clock: Clock, sequence: Sequence
    ) -> None:
        self._listing, self._names, self._backfill = listing, names, backfill
        self._clock, self._sequence = clock, sequence

    async def create(self, user_id: PydanticObjectId, given: HoldingInput) -> Holding:
        """A new holding. Raises `InvalidInputError` for an unknown coin, `ConflictError` for one that is held."""
        coin = await self._names.chosen(given.symbol, given.slug, ("body", given.kind))
        if await _rows().count_documents({"user_id": user_id}) >= MAX_HOLDINGS:
            raise ConflictError(f"An account can have {MAX_HOLDINGS} holdings at most.")
        now = self._clock.now()
        row = {
            "_id": PydanticObjectId(),
            "schema_version": 1,
            "user_id": user_id,
            **coin.stored,
            **_given(given),
            "seq": self._sequence.next(),
            "created_at": now,
            "updated_at": now,
        }
        try:
            await _rows().insert_one(row)
        except DuplicateKeyError:
            raise ConflictError(f"You hold {coin.symbol} ({coin.slug}) already: change that holding.") from None
        await self._backfill.want(coin.slug)
        return _holding(row)

    async def page(self, user_id: PydanticObjectId, page: PageRequest) -> Page[Holding]:
        """The user's holdings, newest first."""
        rows = newest_first(_rows(), {"user_id": user_id}, page=page, account=user_id, clock=self._clock)
        found = await read_page(rows, page)
        return Page([_holding(row) for row in found.rows], found.next)

    async def get(self, user_id: PydanticObjectId, holding_id: PydanticObjectId) -> Holding:
        """One holding; raises `NotFoundError`."""
        return _holding(await self._mine(user_id, holding_id))

    async def replace(self, user_id: PydanticObjectId, holding_id: PydanticObjectId, given: HoldingChange) -> Holding:
        """Replace quantity, cost basis and note; the coin stays. Raises `NotFoundError`."""
        values = _given(given)
        gone = {name: "" for name in ("cost_basis", "note") if name not in values}
        change: Row = {"$set": {**values, "updated_at": self._clock.now()}} | ({"$unset": gone} if gone else {})
        result = await _rows().update_one({"_id": holding_id, "user_id": user_id}, change)
        if not result.matched_count:
            raise NotFoundError(_NO_HOLDING)
        return _holding(await self._mine(user_id, holding_id))

    async def delete(self, user_id: PydanticObjectId, holding_id: PydanticObjectId) -> None:
        """Raises `NotFoundError`."""
        if not (await _rows().delete_one({"_id": holding_id, "user_id": user_id})).deleted_count:
            raise NotFoundError(_NO_HOLDING)

    async def portfolio(self, user_id: PydanticObjectId) -> Portfolio:
        """What the user holds, valued now."""
        rows = await _rows().find({"user_id": user_id}).to_list()
        await self._listing.refresh()
        return valued(rows, self._listing, self._clock.now())

    async def _mine(self, user_id: PydanticObjectId, holding_id: PydanticObjectId) -> Row:
        row: Row | None = await _rows().find_one({"_id": holding_id, "user_id": user_id})
        if row is None:
            raise NotFoundError(_NO_HOLDING)
        return row


def _rows() -> AsyncCollection[Row]:
    return exact_rows(HoldingDocument.get_pymongo_collection())


def _given(given: HoldingInput | HoldingChange) -> Row:
    values = {"quantity": given.quantity, "cost_basis": given.cost_basis, "note": given.note}
    return {name: value for name, value in values.items() if value is not None}


def _holding(row: Row) -> Holding:
    return Holding(
        id=str(row["_id"]),
        slug=row["slug"],
        symbol=row["symbol"],
        name=row["name"],
        quantity=row["quantity"],
        cost_basis=row.get("cost_basis"),
        note=row.get("note"),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )
