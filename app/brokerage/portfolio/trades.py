"""Trades of one user: listed, and entered by hand."""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from beanie import PydanticObjectId
from bson import ObjectId

from app.brokerage.portfolio.book_rows import Row, trade_rows
from app.brokerage.portfolio.ledger import Ledger
from app.brokerage.portfolio.lots import ZERO
from app.brokerage.portfolio.naming import Source, TradeStatus, day_of
from app.brokerage.portfolio.places import Places
from app.brokerage.portfolio.ports import OrdersHere
from app.brokerage.portfolio.schemas import Trade, TradeFilters, TradeInput
from app.brokerage.ports import Sessions
from app.brokerage.words import BrokerName
from app.core.audit import Act, Actor, AuditTrail
from app.core.charges.words import EXACT
from app.core.clock import Clock, to_micros
from app.core.errors import ConflictError, FieldError, InvalidInputError, NotFoundError
from app.core.pagination import Page, PageRequest, newest_first, read_page
from app.core.security import Principal

EARLIEST: Final = datetime(2000, 1, 1, tzinfo=UTC)
"""Nothing is older."""
_CHANGING: Final = "This trade is being changed by somebody else at this moment; try again."
_SINCE: Final = ObjectId.from_datetime(EARLIEST)
"""Trades can be older than the account that they are entered in; lists go back to here."""
_NO_TRADE: Final = "You have no trade with this id."
_AHEAD: Final = timedelta(minutes=1)
"""How far a client's clock may be ahead."""


class Trades:
    """Trades of one user at a time; nobody sees anybody else's."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        sessions: Sessions,
        orders: OrdersHere,
        clock: Clock,
        audit: AuditTrail,
        places: Places | None = None,
    ) -> None:
        self._places = places or Places()
        self._ledger, self._sessions, self._orders = ledger, sessions, orders
        self._clock, self._audit = clock, audit

    async def create(self, caller: Principal, given: TradeInput) -> Trade:
        """Enter a trade in the active account. Raises `NotFoundError` for an order that is not the user's, and
        `InvalidInputError` for a time to come."""
        account_id = await self._sessions.active(str(caller.user_id))
        broker = await self._sessions.broker_of(account_id)
        owner = {"_id": PydanticObjectId(), "user_id": caller.user_id, "account_id": account_id, "broker": broker.value}
        row = await self._draft(owner, given, 1, self._clock.now())

        async def write() -> Sequence[Row]:
            await trade_rows().insert_one(row)
            return [row]

        await self._ledger.change([row], write)
        await self._note(caller, row, "trade.create")
        return await self.get(caller.user_id, row["_id"])

    async def replace(self, caller: Principal, trade_id: PydanticObjectId, given: TradeInput) -> Trade:
        """Correct a trade that was entered by hand. Raises what `create` does, and `ConflictError` for one that a
        broker told."""
        old = await self._manual(caller.user_id, trade_id)
        if given.order_executed_at is None:
            given = given.model_copy(update={"order_executed_at": old["order_executed_at"]})
        row = await self._draft(old, given, old["revision"] + 1, old["created_at"])

        async def write() -> None:
            same = {"_id": trade_id, "user_id": caller.user_id, "revision": old["revision"]}
            if not (await trade_rows().replace_one(same, row)).matched_count:
                raise ConflictError(_CHANGING)

        await self._ledger.change([old, row], write)
        await self._note(caller, row, "trade.replace")
        return await self.get(caller.user_id, trade_id)

    async def delete(self, caller: Principal, trade_id: PydanticObjectId) -> None:
        """Remove a trade that was entered by hand. Raises `NotFoundError`, and `ConflictError` as `replace` does."""
        old = await self._manual(caller.user_id, trade_id)

        async def write() -> None:
            # By its revision: moved meanwhile, it would be missed in a book that nobody marked.
            same = {"_id": trade_id, "user_id": caller.user_id, "revision": old["revision"]}
            if not (await trade_rows().delete_one(same)).deleted_count:
                await self._mine(caller.user_id, trade_id)
                raise ConflictError(_CHANGING)

        await self._ledger.change([old], write)
        await self._note(caller, old, "trade.delete")

    async def get(self, user_id: PydanticObjectId, trade_id: PydanticObjectId) -> Trade:
        """One trade; raises `NotFoundError`."""
        row = await self._mine(user_id, trade_id)
        await self._ledger.settle(row["account_id"])
        return trade_of(await self._mine(user_id, trade_id))

    async def page(self, user_id: PydanticObjectId, filters: TradeFilters, page: PageRequest) -> Page[Trade]:
        """The user's trades that match, newest first."""
        await self._settle(user_id)
        found = await read_page(self._rows(user_id, filters, page), page)
        return Page([trade_of(row) for row in found.rows], found.next)

    async def newest(self, user_id: PydanticObjectId, filters: TradeFilters, piece: int) -> AsyncIterator[Trade]:
        """The same without an end, read about `piece` at a time."""
        await self._settle(user_id)
        async for row in self._rows(user_id, filters, PageRequest(piece)):
            yield trade_of(row)

    async def latest(self, user_id: PydanticObjectId, account_id: str, most: int) -> list[Trade]:
        """The newest of one account."""
        page = PageRequest(most)
        equality = {"user_id": user_id, "account_id": account_id}
        rows = newest_first(trade_rows(), equality, page=page, account=_SINCE, clock=self._clock)
        return [trade_of(row) for row in (await read_page(rows, page)).rows]

    def _rows(self, user_id: PydanticObjectId, filters: TradeFilters, page: PageRequest) -> AsyncIterator[Row]:
        equality: dict[str, Any] = {"user_id": user_id}
        if filters.status is not None:
            equality["status"] = filters.status.value
        if filters.stock_ticker is not None:
            equality["stock_ticker"] = filters.stock_ticker
        if filters.broker is not None:
            equality["broker"] = filters.broker.value
        return newest_first(
            trade_rows(),
            equality,
            page=page,
            account=_SINCE,
            clock=self._clock,
            start=filters.start,
            end=filters.end,
        )

    async def _settle(self, user_id: PydanticObjectId) -> None:
        # What waits in other accounts of the user a job sees to within the minute.
        await self._ledger.settle(await self._sessions.active(str(user_id)))

    async def _draft(self, owner: Mapping[str, Any], given: TradeInput, revision: int, created_at: datetime) -> Row:
        now = self._clock.now()
        moment = given.order_executed_at or now
        if not EARLIEST <= moment <= now + _AHEAD:
            problem = FieldError(("body", "order_executed_at"), "A trade was made in the past", "value_error")
            raise InvalidInputError("body.order_executed_at: A trade was made in the past, after 1999.", [problem])
        if given.order_id is not None and not await self._orders.owns(str(owner["user_id"]), given.order_id):
            raise NotFoundError("You have no order with this id: leave order_id out for a trade made elsewhere.")
        trade_id, exchange, product = owner["_id"], given.where, given.product
        broker = BrokerName(owner["broker"])
        book = await self._places.book(
            broker, owner["account_id"], Source.MANUAL, exchange, given.stock_ticker, product
        )
        optional = {
            "order_id": given.order_id,
            "given_brokerage": given.brokerage_charge,
            "given_mtf": given.mtf_charge,
        }
        return {
            "_id": trade_id,
            "schema_version": 1,
            **{name: owner[name] for name in ("user_id", "account_id", "broker")},
            "source": Source.MANUAL.value,
            "book": book,
            "key": str(trade_id),
            "ref": str(trade_id),
            "exchange": exchange.value,
            "stock_ticker": given.stock_ticker,
            "product": product.value,
            "type": given.type.value,
            "order_type": given.order_type.value,
            "quantity": given.quantity,
            "price": given.price,
            "capital_used": EXACT.multiply(Decimal(given.quantity), given.price),
            "day": day_of(moment).isoformat(),
            "seq": to_micros(moment),
            "order_executed_at": moment,
            "created_at": created_at,
            "updated_at": now,
            "revision": revision,
        } | {name: value for name, value in optional.items() if value is not None}

    async def _mine(self, user_id: PydanticObjectId, trade_id: PydanticObjectId) -> Row:
        row: Row | None = await trade_rows().find_one({"_id": trade_id, "user_id": user_id})
        if row is None:
            raise NotFoundError(_NO_TRADE)
        return row

    async def _manual(self, user_id: PydanticObjectId, trade_id: PydanticObjectId) -> Row:
        row = await self._mine(user_id, trade_id)
        if row.get("settlement"):
            raise ConflictError(
                "This is the settlement of a contract that expired: correct the trades that it settles."
            )
        if row["source"] != Source.MANUAL:
            raise ConflictError("The broker reported this trade: only trades that you entered can be changed.")
        return row

    async def _note(self, caller: Principal, row: Row, action: str) -> None:
        details = {
            "symbol": row["stock_ticker"],
            "side": row["order_type"],
            "quantity": row["quantity"],
            "price": str(row["price"]),
        }
        await self._audit.note(
            Act(action, caller.user_id, Actor.of(caller), target=("trade", str(row["_id"])), details=details)
        )


def _elsewhere(row: Mapping[str, Any]) -> str | None:
    count = row.get("elsewhere")
    if not count:
        return None
    return f"{count:,} of these shares were bought elsewhere: their cost is not known here, and no profit is counted."


def trade_of(row: Mapping[str, Any]) -> Trade:
    """A trade as clients get it."""
    realised, interest = row.get("realised", ZERO), row.get("mtf_charge", ZERO)
    charges = row.get("charges", ZERO)
    opened = row.get("opened", row["quantity"])
    return Trade(
        id=str(row["_id"]),
        user_id=str(row["user_id"]),
        account_id=row["account_id"],
        broker=row["broker"],
        source=row["source"],
        order_id=row.get("order_id"),
        broker_order_id=row.get("broker_order_id"),
        stock_ticker=row["stock_ticker"],
        exchange=row["exchange"],
        product=row["product"],
        type=row["type"],
        order_type=row["order_type"],
        quantity=row["quantity"],
        price=row["price"],
        buy_price=row.get("buy_price"),
        sell_price=row.get("sell_price"),
        capital_used=row["capital_used"],
        status=row.get("status", TradeStatus.OPEN),
        open_quantity=opened - row.get("exit_quantity", 0),
        closed_quantity=row.get("closed", 0),
        realised_pnl=realised,
        brokerage_charge=row.get("brokerage_charge", ZERO),
        mtf_charge=interest,
        charges=charges,
        net_pnl=EXACT.subtract(EXACT.subtract(realised, charges), interest),
        note=row.get("note") or _elsewhere(row),
        order_executed_at=row["order_executed_at"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )
