"""Changing and cancelling orders that are at their broker, with the care of placing them: stored, sent once, and the
broker's book is what tells that it happened."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from decimal import Decimal
from typing import Any

import structlog
from beanie import PydanticObjectId
from bson import ObjectId
from pymongo.errors import PyMongoError

from app.brokerage.errors import (
    BrokerError,
    BrokerRateLimitedError,
    BrokerSessionError,
    BrokerUnavailableError,
    NotPossibleError,
    OrderRejectedError,
    OutcomeUnknownError,
)
from app.brokerage.orders import acts
from app.brokerage.orders.budget import OrderBudget
from app.brokerage.orders.checks import Wish, check_possible, check_terms
from app.brokerage.orders.drafts import listing_of, plain
from app.brokerage.orders.guarding import OrderGuard
from app.brokerage.orders.ledger import Ledger
from app.brokerage.orders.merging import Changes, Row, transition
from app.brokerage.orders.news import OrdersHeard
from app.brokerage.orders.schemas import OrderAmendment
from app.brokerage.orders.wire import order_json
from app.brokerage.ports import Broker, BrokerAccount, BrokerSession, Sessions
from app.brokerage.words import (
    AT_BROKER,
    BookedOrder,
    BrokerName,
    Exchange,
    OrderChange,
    OrderState,
    PriceType,
    Product,
    Side,
    Validity,
)
from app.core.audit import Act, Actor, AuditTrail
from app.core.cancelling import raise_if_cancelled
from app.core.errors import ConflictError, FieldError, InvalidInputError, UnavailableError
from app.core.market_calendar import IST
from app.core.security import Principal

log = structlog.get_logger(__name__)

_Call = Callable[[Broker, BrokerAccount, BrokerSession, Row], Awaitable[None]]
_Begin = Callable[[Row, ObjectId], Changes]
"""What begins an act with this id; nothing where there is nothing to do."""


class Changing:
    """Changes and cancels users' orders."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        brokers: Mapping[BrokerName, Broker],
        sessions: Sessions,
        budget: OrderBudget,
        news: OrdersHeard,
        audit: AuditTrail,
        guard: OrderGuard | None = None,
    ) -> None:
        """`guard`: stops what nobody can have meant."""
        self._guard = guard
        self._ledger, self._brokers, self._sessions = ledger, brokers, sessions
        self._budget, self._news, self._audit = budget, news, audit
        self._timing = news.timing
        self._flying: set[asyncio.Task[Row]] = set()

    async def modify(self, caller: Principal, order_id: PydanticObjectId, given: OrderAmendment) -> bytes:
        """Change an open order: its JSON.

        Raises `NotFoundError`; `ConflictError` where it is not open, or another change is under way;
        `InvalidInputError` and `NotPossibleError`; and the errors of brokers. After `OutcomeUnknownError` the order
        shows the change as pending until the broker's book tells.
        """
        row = await self._ledger.mine(caller.user_id, order_id)
        _check_open(row)
        _check_free(row)
        change = amended(row, given)
        wanted = acts.stored(change)
        if acts.is_no_change(wanted, row):
            return order_json(row)
        broker = self._brokers[BrokerName(row["broker"])]
        _check_change(row, change, broker)
        today = self._ledger.clock.now().astimezone(IST).date()
        check_terms(Side(row["order_type"]), change, listing_of(row), today)
        if self._guard is not None:
            await self._guard.check(row["account_id"], _wish(row, change), listing_of(row), row["filled_quantity"])
        opened = await self._news.opened(row["account_id"])
        await self._budget.enter(row["account_id"], broker.capabilities, lambda: _is_exit(row))

        def begin(present: Row, ours: ObjectId) -> Changes:
            _check_open(present)
            _check_free(present)
            if amended(present, given) != change:  # what was left out would be sent as it was before
                raise ConflictError("This order has just changed at the broker; look at it, and send the change again.")
            now = self._ledger.clock.now()
            note = f"Change asked for: {acts.summary(wanted, acts.terms_of(present))}."
            act = acts.new_act(acts.MODIFY, present, now, change, id_=ours)
            return {"act": act, **transition(present, OrderState(present["state"]), now, "client", note)}

        async def call(broker: Broker, account: BrokerAccount, session: BrokerSession, present: Row) -> None:
            await broker.modify(account, session, booked_of(present), listing_of(present), change)

        details = {"change": acts.summary(wanted, acts.terms_of(row))[:300]}
        return await self._shielded(self._act(caller, row, "order.modify", details, opened, begin, call))

    async def cancel(self, caller: Principal, order_id: PydanticObjectId) -> bytes:
        """Cancel an order: its JSON. It is cancelled when the broker says so; until then that is `pending`.

        One that is cancelled, or being cancelled, is given as it is. Raises `NotFoundError`, `ConflictError` for one
        that has ended otherwise, or of which nobody knows whether the broker has it; and the errors of brokers.
        """
        row = await self._ledger.mine(caller.user_id, order_id)
        if _is_cancelled(row):
            return order_json(row)
        _check_open(row)
        opened = await self._news.opened(row["account_id"])
        await self._budget.enter(row["account_id"], opened[0].capabilities)

        def begin(present: Row, ours: ObjectId) -> Changes:
            if _is_cancelled(present):
                return {}
            _check_open(present)
            now = self._ledger.clock.now()
            note = "Cancellation asked for."
            act = acts.new_act(acts.CANCEL, present, now, id_=ours)
            return {"act": act, **transition(present, OrderState(present["state"]), now, "client", note)}

        async def call(broker: Broker, account: BrokerAccount, session: BrokerSession, present: Row) -> None:
            await broker.cancel(account, session, booked_of(present))

        return await self._shielded(self._act(caller, row, "order.cancel", {}, opened, begin, call))

    async def drain(self, deadline: float = 5.0) -> None:
        """Wait for the answers to what has been sent; at the end of the service."""
        if self._flying:
            await asyncio.wait(list(self._flying), timeout=deadline)

    async def _shielded(self, work: Any) -> bytes:
        """Nothing that happens to the request ends it in the middle."""
        task: asyncio.Task[Row] = asyncio.create_task(work)
        self._flying.add(task)
        task.add_done_callback(self._landed)
        return order_json(await asyncio.shield(task))

    def _landed(self, task: asyncio.Task[Row]) -> None:
        self._flying.discard(task)
        if not task.cancelled():
            task.exception()  # whoever asked may be gone

    async def _act(
        self,
        caller: Principal,
        row: Row,
        action: str,
        details: dict[str, Any],
        opened: tuple[Broker, BrokerAccount, BrokerSession],
        begin: _Begin,
        call: _Call,
    ) -> Row:
        clock = self._ledger.clock
        began = clock.monotonic()
        ours = ObjectId()
        # Whoever stored an act sends it, and nobody else: what a request finds in the row is another one's.
        row = await self._ledger.change(row, lambda present: {} if _has(present, ours) else begin(present, ours))
        if not _has(row, ours):
            return row
        details = {"broker": row["broker"], "symbol": row["stock_symbol"], **details}
        act = Act(action, caller.user_id, Actor.of(caller), target=("order", str(row["_id"])), details=details)
        try:
            await self._audit.record(act)
        except UnavailableError:
            await self._drop(row, "It was not sent: the audit trail could not be written.")
            raise
        if clock.monotonic() - began > self._timing.send_within:
            await self._drop(row, "It was not sent: the database was too slow.")
            raise UnavailableError("The database is too slow right now for orders; nothing was sent.")
        return await self._send(row, opened, call)

    async def _send(self, row: Row, opened: tuple[Broker, BrokerAccount, BrokerSession], call: _Call) -> Row:
        broker, account, session = opened
        try:
            async with asyncio.timeout(self._timing.call):
                await call(broker, account, session, row)
        except (OrderRejectedError, BrokerSessionError, BrokerRateLimitedError, BrokerUnavailableError) as error:
            await self._heed(account, session, error)
            await self._drop(row, f"It was not done: {error.detail}")
            self._news.look(row["account_id"])
            raise
        except BaseException as error:
            log.warning("the outcome of an act is unknown", order=str(row["_id"]), error=type(error).__name__)
            await self._mark(row, acts.UNKNOWN)
            self._news.look(row["account_id"])
            if not isinstance(error, Exception):
                raise
            raise self._unknown(row) from None
        row = await self._mark(row, acts.ACCEPTED)
        self._news.look(row["account_id"])
        return row

    async def _heed(self, account: BrokerAccount, session: BrokerSession, error: BrokerError) -> None:
        try:
            if isinstance(error, BrokerSessionError):
                await self._sessions.expired(account.account_id, session)
            elif isinstance(error, BrokerRateLimitedError):
                await self._budget.hold(account.account_id, error.retry_after)
        except PyMongoError as failure:
            raise_if_cancelled()
            log.warning("a broker's refusal could not be noted", error=type(failure).__name__)

    async def _drop(self, row: Row, note: str) -> None:
        """It certainly did not happen."""
        ours = row["act"]["id"]

        def decide(present: Row) -> Changes:
            if present["act"] is None or present["act"]["id"] != ours:
                return {}
            now = self._ledger.clock.now()
            return {"act": None, **transition(present, OrderState(present["state"]), now, "answer", note)}

        await self._ledger.change(row, decide)

    async def _mark(self, row: Row, state: str) -> Row:
        """The broker took it, or did not answer. Its book may have been quicker."""
        ours = row["act"]["id"]

        def decide(present: Row) -> Changes:
            act = present["act"]
            if act is None or act["id"] != ours or act["state"] == state:
                return {}
            taken = act["wanted"] if state == acts.ACCEPTED and act["wanted"] else {}
            return {**taken, "act": {**act, "state": state}}

        try:
            return await self._ledger.change(row, decide)
        except PyMongoError as error:
            raise_if_cancelled()
            log.warning("the outcome of an act is not stored; the broker's book will tell", order=str(row["_id"]))
            raise self._unknown(row) from error

    @staticmethod
    def _unknown(row: Row) -> OutcomeUnknownError:
        error = OutcomeUnknownError(
            "It was sent, and no answer says whether the broker did it. The broker's order book is being read: "
            f"GET /api/v1/dashboard/orders/{row['_id']} shows it as pending until that tells."
        )
        error.extensions = {"order_id": str(row["_id"])}
        return error


async def _is_exit(row: Row) -> bool:
    """Changing a stop, or the sale of what is held."""
    return PriceType(row["price_type"]).has_trigger or row["order_type"] == Side.SELL


def _has(row: Row, act_id: ObjectId) -> bool:
    return bool(row["act"] and row["act"]["id"] == act_id)


def _is_cancelled(row: Row) -> bool:
    """Whether it is, or is being cancelled."""
    if row["state"] in {OrderState.CANCELLED, OrderState.NOT_SENT}:
        return True
    act = row["act"]
    # One without an answer may be sent again: a cancellation that arrives twice cancels once.
    return bool(act and act["kind"] == acts.CANCEL and act["state"] != acts.UNKNOWN)


def _check_open(row: Row) -> None:
    state = OrderState(row["state"])
    if state in AT_BROKER:
        return
    if state.final:
        raise ConflictError(f"This order is {state}, which is final.")
    if not row["watch"]:
        raise ConflictError(
            "Nobody knows whether the broker ever had this order, and its order book of that day is gone: look at your "
            "contract notes. It cannot be open any more."
        )
    raise ConflictError(
        "It is not known yet whether the broker has this order; its order book is being read. Try again shortly."
    )


def _check_free(row: Row) -> None:
    if row["act"]:
        kind = "cancelled" if row["act"]["kind"] == acts.CANCEL else "changed"
        raise ConflictError(f"This order is being {kind} at this moment; try again when that is done.")


def amended(row: Row, given: OrderAmendment) -> OrderChange:
    """The whole of the order as it is to be."""
    kind = given.price_type or PriceType(row["price_type"])
    price: Decimal | None = plain(given.price) or (row["price"] if kind.has_limit else None)
    trigger: Decimal | None = plain(given.trigger_price) or (row["trigger_price"] if kind.has_trigger else None)
    return OrderChange(
        quantity=given.quantity or row["quantity"],
        price_type=kind,
        price=price,
        trigger_price=trigger,
        validity=given.validity or Validity(row["validity"]),
    )


def _check_change(row: Row, change: OrderChange, broker: Broker) -> None:
    takes = broker.capabilities
    if not takes.can_modify:
        raise NotPossibleError(f"{takes.broker} cannot change orders: cancel this one and place another.")
    check_possible(_wish(row, change), takes)
    if change.quantity <= row["filled_quantity"]:
        told = f"{row['filled_quantity']} units are filled already: the new quantity is more than that, or cancel it"
        raise InvalidInputError(f"body.quantity: {told}.", [FieldError(("body", "quantity"), told, "filled")])


def booked_of(row: Row) -> BookedOrder:
    """The order as its broker is asked to change or cancel it."""
    was = row["act"]["was"] if row["act"] else acts.terms_of(row)
    return BookedOrder(
        broker_order_id=row["broker_order_id"],
        tag=row["tag"],
        exchange=Exchange(row["exchange"]),
        symbol=row["stock_symbol"],
        side=Side(row["order_type"]),
        product=Product(row["product"]),
        price_type=PriceType(was["price_type"]),
        quantity=was["quantity"],
        filled_quantity=row["filled_quantity"],
        state=OrderState(row["state"]),
        price=was["price"],
        trigger_price=was["trigger_price"],
        average_price=row["average_price"],
        validity=Validity(was["validity"]),
        exchange_order_id=row["exchange_order_id"],
        placed_at=row["sent_at"],
        updated_at=row["told_at"],
    )


def _wish(row: Row, change: OrderChange) -> Wish:
    """The order as it is to be."""
    return Wish(
        side=Side(row["order_type"]),
        exchange=Exchange(row["exchange"]),
        symbol=row["stock_symbol"],
        quantity=change.quantity,
        product=Product(row["product"]),
        price_type=change.price_type,
        price=change.price,
        trigger_price=change.trigger_price,
        validity=change.validity,
    )
