"""Placing an order: checked, stored as about to be sent, sent once, and what came of it stored.

1. The intent is stored as `SENDING`, durably, and its placing is in the audit trail: both at once. Under the client's
   id it is the one order of that name, whoever else tries; only who stored it sends it, once, when both are done.
2. The broker's answer is stored: the one write between that and ours. Where there is no answer, or the process ends
   before that (or before anything was sent), `news` finds out from the broker's book, by the tag. Nothing is ever sent
   again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import structlog
from bson import ObjectId
from pymongo.errors import PyMongoError

from app.brokerage.errors import (
    BrokerError,
    BrokerRateLimitedError,
    BrokerSessionError,
    BrokerUnavailableError,
    OrderRejectedError,
    OutcomeUnknownError,
)
from app.brokerage.orders.budget import OrderBudget
from app.brokerage.orders.checks import Wish, check_possible, check_terms, unlisted
from app.brokerage.orders.drafts import about_to_be_sent, draft, fingerprint, ticket_of, wish_of
from app.brokerage.orders.guarding import OrderGuard
from app.brokerage.orders.ledger import Ledger
from app.brokerage.orders.merging import Changes, Row, acknowledged, moved
from app.brokerage.orders.news import OrdersHeard
from app.brokerage.orders.schemas import OrderInput
from app.brokerage.orders.wire import order_json
from app.brokerage.ports import Broker, BrokerAccount, BrokerSession, Listings, Sessions
from app.brokerage.words import (
    BrokerName,
    Capabilities,
    Listing,
    OrderState,
    OrderTicket,
    Product,
    Side,
)
from app.core.audit import Act, Actor, AuditTrail, Outcome
from app.core.cancelling import raise_if_cancelled
from app.core.errors import ConflictError, FieldError, InvalidInputError, UnavailableError
from app.core.market_calendar import IST
from app.core.security import Principal

log = structlog.get_logger(__name__)


Reduces = Callable[[str, Wish], Awaitable[bool]]
"""Whether an order of an account ends or reduces a position of it."""


_Name = tuple[ObjectId, str]
"""A user and the key that names an order of theirs."""


class Placed(NamedTuple):
    """An order as JSON, and whether this request made it."""

    body: bytes
    new: bool


class _Ready(NamedTuple):
    """Everything that sending needs."""

    broker: Broker
    account: BrokerAccount
    session: BrokerSession
    ticket: OrderTicket


class Placing:
    """Places orders through users' active accounts."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        brokers: Mapping[BrokerName, Broker],
        sessions: Sessions,
        listings: Listings,
        budget: OrderBudget,
        news: OrdersHeard,
        audit: AuditTrail,
        reduces: Reduces | None = None,
        guard: OrderGuard | None = None,
    ) -> None:
        """`reduces`: asked only while the account's limits are nearly used; without it deliveries sold are exits.

        `guard`: stops what nobody can have meant.
        """
        self._guard = guard
        self._ledger, self._brokers, self._sessions, self._listings = ledger, brokers, sessions, listings
        self._budget, self._news, self._audit = budget, news, audit
        self._reduces = reduces or _sells_delivery
        self._timing = news.timing
        self._flying: dict[ObjectId, asyncio.Task[Row]] = {}
        self._named: dict[_Name, asyncio.Task[Row]] = {}

    async def place(self, caller: Principal, side: Side, given: OrderInput) -> Placed:
        """Place an order, or give the one that was placed under this client's id.

        Raises `InvalidInputError` and `NotPossibleError` for what does not fit, `ConflictError` for another order under
        a known id, `BrokerSessionError` and `BrokerRateLimitedError` before anything is stored; and, with the order
        stored and its id in `order_id`, `OrderRejectedError`, `BrokerUnavailableError` and `OutcomeUnknownError`.
        """
        _check_side(side, given)
        digest = fingerprint(side, given)
        if given.client_order_id is not None and (known := await self._known(caller, given.client_order_id)):
            return self._repeat(known, digest)
        account_id = await self._sessions.active(str(caller.user_id))
        name = await self._sessions.broker_of(account_id)
        wish = wish_of(side, given)
        takes = self._brokers[name].capabilities
        check_possible(wish, takes)
        listing = await self._listed(name, wish, takes)
        check_terms(side, wish.terms, listing, self._ledger.clock.now().astimezone(IST).date())
        if self._guard is not None:
            await self._guard.check(account_id, wish._replace(symbol=listing.symbol), listing)
        broker, account, session = await self._news.opened(account_id)
        await self._budget.enter(account_id, takes, lambda: self._reduces(account_id, wish))
        drafted = draft(self._ledger.clock.now(), caller.user_id, account, given, wish, listing, digest)
        named = drafted["user_id"], drafted["client_key"]
        while named in self._named:  # twice at one time: one of them is audited, stored and sent
            if known := await self._known(caller, given.client_order_id or ""):
                return self._repeat(known, digest)
        ready = _Ready(broker, account, session, ticket_of(drafted, wish, listing))
        # From here on nothing that happens to the request ends it in the middle.
        self._news.sending.add(drafted["_id"])
        task = asyncio.create_task(self._carry_out(caller, drafted, ready))
        self._flying[drafted["_id"]] = self._named[named] = task
        task.add_done_callback(partial(self._landed, drafted["_id"], named))
        row = await asyncio.shield(task)
        if row["_id"] != drafted["_id"]:
            return self._repeat(row, digest)
        return Placed(order_json(row), new=True)

    def _landed(self, order_id: ObjectId, named: _Name, task: asyncio.Task[Row]) -> None:
        if not task.cancelled():
            task.exception()  # whoever asked may be gone
        self._flying.pop(order_id, None)
        self._named.pop(named, None)
        self._news.sending.discard(order_id)

    async def _known(self, caller: Principal, client_order_id: str) -> Row | None:
        """The order that was placed under this client's id; with what comes of it, where it is under way here."""
        key = f"given:{client_order_id}"
        if task := self._named.get((caller.user_id, key)):
            await asyncio.wait([task])
        row = await self._ledger.by_client_key(caller.user_id, key)
        if row is not None and (task := self._flying.get(row["_id"])):
            await asyncio.wait([task])
            return await self._ledger.find(row["_id"])
        return row

    async def drain(self, deadline: float = 5.0) -> None:
        """Wait for the answers to what has been sent; at the end of the service."""
        if self._flying:
            await asyncio.wait(list(self._flying.values()), timeout=deadline)

    def _repeat(self, known: Row, digest: str) -> Placed:
        """What became of it, as an error where that was one: a repeat must not look as if the order were there."""
        if known["fingerprint"] != digest:
            raise ConflictError(
                "Another order was placed with this client_order_id, which names one order for good: use a new one."
            )
        if known["state"] == OrderState.NOT_SENT:
            told = f"The order with this client_order_id was not placed. {known['reason'] or ''}".rstrip()
            raise self._about(known, ConflictError(told))
        if known["state"] == OrderState.REJECTED:
            raise self._about(known, OrderRejectedError(known["reason"] or "no reason was given"))
        return Placed(order_json(known), new=False)

    async def _listed(self, name: BrokerName, wish: Wish, takes: Capabilities) -> Listing:
        listing = await self._listings.find(name, wish.exchange, wish.symbol)
        if listing is not None:
            return listing
        elsewhere = [
            exchange
            for exchange in sorted(takes.exchanges)
            if exchange is not wish.exchange and await self._listings.find(name, exchange, wish.symbol)
        ]
        raise unlisted(wish, name.value, await self._listings.like(name, wish.exchange, wish.symbol), elsewhere)

    # Nothing below is cancelled by the request's end

    async def _carry_out(self, caller: Principal, drafted: Row, ready: _Ready) -> Row:
        """Store it as about to be sent, write down who placed it, and send it; or give the one of that name."""
        clock, within = self._ledger.clock, self._timing.send_within
        began = clock.monotonic()
        drafted = about_to_be_sent(drafted, clock.now())
        act = self._act(caller, drafted)
        row, written = await asyncio.gather(
            self._ledger.insert(drafted), self._audit.record(act, hurried=True), return_exceptions=True
        )
        if isinstance(row, BaseException):
            await self._audit.note(replace(act, action="order.not_stored", outcome=Outcome.FAILURE))
            raise row
        if row["_id"] != drafted["_id"]:  # another process was quicker
            await self._audit.note(_repeated(act, row))
            return row
        refusal: UnavailableError | None = None
        if written is not None:
            refusal = UnavailableError("The audit trail cannot be written right now, and without it no order is sent.")
            log.error("an order was not sent, as the audit trail cannot be written", error=type(written).__name__)
        elif clock.monotonic() - began > within:
            refusal = UnavailableError("The database is too slow right now for orders; nothing was sent.")
        if refusal is not None:
            await self._end(row, OrderState.NOT_SENT, "clock", refusal.detail)
            raise self._about(row, refusal)
        return await self._send(row, ready)

    async def _send(self, row: Row, ready: _Ready) -> Row:
        """Send it; the row with what came of it, or the error that says it."""
        broker, account, session, ticket = ready
        try:
            async with asyncio.timeout(self._timing.call):
                broker_order_id = await broker.place(account, session, ticket)
        except OrderRejectedError as error:
            code = error.extensions.get("broker_code")
            await self._end(row, OrderState.REJECTED, "answer", error.reason, broker_code=code)
            raise self._about(row, error) from None
        except (BrokerSessionError, BrokerRateLimitedError, BrokerUnavailableError) as error:
            await self._end(row, OrderState.NOT_SENT, "answer", error.detail)
            await self._heed(account, session, error)
            raise self._about(row, error) from None
        # Whatever else it is, nobody knows whether the broker has the order.
        except BaseException as error:
            log.warning("the outcome of an order is unknown", order=str(row["_id"]), error=type(error).__name__)
            told = error.detail if isinstance(error, BrokerError) else "The broker did not answer."
            row = await self._end(row, OrderState.UNKNOWN, "answer", told)
            self._news.look(row["account_id"])
            if not isinstance(error, Exception):
                raise
            if row["broker_order_id"] is None:
                raise self._about(row, _unknown(row)) from None
            return row  # the broker's book told of it before its answer was given up
        row = await self._store(row, lambda present: acknowledged(present, broker_order_id, self._ledger.clock.now()))
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

    async def _end(self, row: Row, state: OrderState, cause: str, reason: str, **more: Any) -> Row:
        def decide(present: Row) -> Changes:
            # The book may have told already what became of it.
            if present["state"] not in {OrderState.SENDING, OrderState.UNKNOWN} or present["state"] == state:
                return {}
            told = {} if state is OrderState.UNKNOWN else {"reason": reason[:500]}
            return moved(present, state, self._ledger.clock.now(), cause, reason, **told, **more)

        row = await self._store(row, decide)
        if row["state"] == state:
            outcome = Outcome.REFUSED if state is OrderState.NOT_SENT else Outcome.FAILURE
            await self._news.tell(row, f"order.{state.lower()}", outcome)
        return row

    async def _store(self, row: Row, decide: Callable[[Row], Changes]) -> Row:
        """Store what came of it, and try again while the database is away: until then it stands as `SENDING`."""
        failure: PyMongoError | None = None
        for pause in self._timing.stored:
            await asyncio.sleep(pause)
            try:
                return await self._ledger.change(row, decide)
            except PyMongoError as error:
                raise_if_cancelled()
                failure = error
        log.error("an order's outcome cannot be stored; the broker's book will tell", order=str(row["_id"]))
        raise self._about(row, _unknown(row)) from failure

    def _act(self, caller: Principal, row: Row) -> Act:
        details = {name: row[name] for name in ("broker", "quantity", "price_type", "product", "tag")}
        details |= {"side": row["order_type"], "symbol": f"{row['exchange']}:{row['stock_symbol']}"}
        details |= {name: f"{row[name]:f}" for name in ("price", "trigger_price") if row[name] is not None}
        target = ("order", str(row["_id"]))
        return Act("order.place", caller.user_id, Actor.of(caller), target=target, details=details)

    @staticmethod
    def _about(row: Row, error: Any) -> Any:
        error.extensions = {
            **error.extensions,
            "order_id": str(row["_id"]),
            "client_order_id": row["client_order_id"],
        }
        if row["client_order_id"] is not None and not isinstance(error, OutcomeUnknownError):
            end = "" if error.detail.endswith(".") else "."
            error.detail += f"{end} Nothing was placed; to try again use a new client_order_id."
        return error


def _repeated(act: Act, row: Row) -> Act:
    """That what was written down is the placing of an order that was placed already."""
    details = {"same_as": str(row["_id"])}
    return Act("order.repeated", act.account_id, act.actor, Outcome.REFUSED, act.target, details)


def _unknown(row: Row) -> OutcomeUnknownError:
    return OutcomeUnknownError(
        "The order was sent, and no answer says whether the broker has it. Do not send it again: it is being looked "
        f"for in the broker's order book, and GET /api/v1/dashboard/orders/{row['_id']} says what was found."
    )


def _check_side(side: Side, given: OrderInput) -> None:
    if given.order_type is not None and given.order_type is not side:
        told = f"This path is for {side} orders; a {given.order_type} order goes to …/order/{given.order_type}"
        raise InvalidInputError(f"body.order_type: {told}.", [FieldError(("body", "order_type"), told, "wrong_side")])


async def _sells_delivery(_: str, wish: Wish) -> bool:
    """Shares that are delivered can be sold only where they are held."""
    return wish.side is Side.SELL and wish.product in {Product.CNC, Product.MTF}
