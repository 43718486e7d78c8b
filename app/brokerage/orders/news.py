"""What is heard of orders at brokers, and the reading of a broker's books. Fills the port `OrderNews`."""

import asyncio
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Final, NamedTuple

import structlog
from beanie import PydanticObjectId
from bson import ObjectId
from pymongo.errors import PyMongoError

from app.brokerage.errors import BrokerSessionError, BrokerUnavailableError
from app.brokerage.orders.ledger import Ledger
from app.brokerage.orders.merging import (
    Changes,
    Row,
    Timing,
    act_settled,
    fills_given_up,
    observed,
    settled_alone,
    settled_by_absence,
    suspects,
    traded,
    transition,
)
from app.brokerage.ports import Broker, BrokerAccount, BrokerSession, Fills, Sessions
from app.brokerage.words import BookedOrder, BookedTrade, BrokerName, OrderState
from app.core.audit import SYSTEM, Act, AuditTrail, Outcome
from app.core.cancelling import raise_if_cancelled
from app.core.errors import DomainError, NotFoundError, UnavailableError

log = structlog.get_logger(__name__)

LOOK_PAUSE: Final = 1.0
"""Seconds between two readings of one account's book on request."""
_REMEMBERED: Final = 20_000
_FORGET_AFTER: Final = 60.0
"""Seconds after which an order of the book that was not ours is looked up again: ours may have been named since."""


class Book(NamedTuple):
    """An account's order book, whole, and what of the trade book was wanted."""

    account_id: str
    user_id: str
    broker: BrokerName
    began: datetime
    """Before it was asked for."""
    orders: list[BookedOrder]
    trades: list[BookedTrade]


class _Seen(NamedTuple):
    booked: BookedOrder
    at: float
    ours: bool


class _Known:
    """Orders of ours, by what a broker's book names them by."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.named: dict[str, Row] = {}
        self._tagged: dict[str, Row] = {}
        self.add(rows)

    def add(self, rows: Iterable[Row]) -> None:
        """Further ones, or newer states of them."""
        for row in rows:
            self._tagged[row["tag"]] = row
            if row["broker_order_id"]:
                self.named[row["broker_order_id"]] = row

    def all(self) -> list[Row]:
        """All of them."""
        return list(self._tagged.values())

    def of(self, booked: BookedOrder) -> Row | None:
        """The order that this is."""
        return self.named.get(booked.broker_order_id) or self._tagged.get(booked.tag or "")


class OrdersHeard:
    """Takes what brokers tell, and asks them."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        brokers: Mapping[BrokerName, Broker],
        sessions: Sessions,
        fills: Fills,
        audit: AuditTrail,
        timing: Timing | None = None,
    ) -> None:
        self._ledger, self._brokers, self._sessions, self._fills = ledger, brokers, sessions, fills
        self._audit, self.timing = audit, timing or Timing()
        self.sending: set[ObjectId] = set()
        """Orders that this process is about to send, or waits for the answer of: nobody here concludes about them."""
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._others: OrderedDict[tuple[str, str], _Seen] = OrderedDict()
        self._taken: OrderedDict[tuple[str, str, str, str], None] = OrderedDict()
        self._covered: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._owners: dict[str, tuple[str, BrokerName]] = {}
        self._looks: set[str] = set()
        self._wake = asyncio.Event()

    # The port

    async def observe(self, account_id: str, orders: Sequence[BookedOrder], trades: Sequence[BookedTrade]) -> None:
        """See `OrderNews.observe`."""
        try:
            await self._observe(account_id, orders, trades, None)
        except PyMongoError as error:
            raise_if_cancelled()
            log.warning("news of orders cannot be stored now", error=type(error).__name__)
            raise UnavailableError("News of orders cannot be stored right now; send them again shortly.") from None

    def look(self, account_id: str) -> None:
        """See `OrderNews.look`."""
        self._looks.add(account_id)
        self._wake.set()

    async def run(self) -> None:
        """Background task of every process: read the books that `look` asked for."""
        tasks: dict[str, asyncio.Task[None]] = {}
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                wanted, self._looks = self._looks, set()
                for account_id in wanted:
                    if account_id in tasks:
                        self._looks.add(account_id)  # what was asked for before may have been read before
                    else:
                        task = tasks[account_id] = asyncio.create_task(self._look(account_id))
                        task.add_done_callback(partial(self._looked, tasks, account_id))
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)

    def _looked(self, tasks: dict[str, asyncio.Task[None]], account_id: str, _: asyncio.Task[None]) -> None:
        del tasks[account_id]
        if self._looks:
            self._wake.set()

    async def _look(self, account_id: str) -> None:
        try:
            await self.refresh(account_id)
        except (DomainError, PyMongoError) as error:
            raise_if_cancelled()
            log.info("a broker's book could not be read", account=account_id, error=type(error).__name__)
        await asyncio.sleep(LOOK_PAUSE)

    # Reading books

    async def refresh(self, account_id: str, *, all_trades: bool = False) -> Book:
        """Read the account's books and take what they say. Raises the errors of brokers, and what the database raises.

        `all_trades`: read the trade book even where nothing in it can be new.
        """
        async with self._locks[account_id]:
            book = await self._read(account_id, all_trades=all_trades)
            known = await self._observe(account_id, book.orders, book.trades, book.began)
            await self._conclude(book, known)
            return book

    async def _read(self, account_id: str, *, all_trades: bool) -> Book:
        account, session = await self._sessions.open(account_id)
        broker = self._brokers[account.broker]
        began = self._ledger.clock.now()
        try:
            async with asyncio.timeout(self.timing.call):
                orders = await broker.orders(account, session)
            trades: list[BookedTrade] = []
            if all_trades or any(self._uncovered(account_id, booked) for booked in orders):
                async with asyncio.timeout(self.timing.call):
                    trades = await broker.trades(account, session)
        except BrokerSessionError:
            await self._sessions.expired(account_id, session)
            raise
        except TimeoutError:
            raise BrokerUnavailableError(f"{account.broker} does not answer; try again shortly.") from None
        return Book(account_id, account.user_id, account.broker, began, orders, trades)

    async def opened(self, account_id: str) -> tuple[Broker, BrokerAccount, BrokerSession]:
        """The account's broker and a valid session with it. Raises `BrokerSessionError`."""
        account, session = await self._sessions.open(account_id)
        return self._brokers[account.broker], account, session

    def _uncovered(self, account_id: str, booked: BookedOrder) -> bool:
        covered = self._covered.get((account_id, booked.broker_order_id), 0)
        return booked.filled_quantity > covered

    # Taking what is told

    async def _observe(
        self, account_id: str, orders: Sequence[BookedOrder], trades: Sequence[BookedTrade], began: datetime | None
    ) -> _Known:
        """Gives the orders that were open before, and those that were told of, as they are now."""
        rows = _Known(await self._ledger.watched(account_id))
        others = [booked for booked in orders if rows.of(booked) is None and self._may_be_news(account_id, booked)]
        if others:
            rows.add(await self._closed(account_id, others))
        for booked in orders:
            row = rows.of(booked)
            if row is not None:
                rows.add([await self._apply(row, booked, began)])
        if trades:
            await self._take(account_id, trades, rows.named)
        return rows

    def _may_be_news(self, account_id: str, booked: BookedOrder) -> bool:
        """Whether this may say something new of an order that is not watched: it is closed, or not known as ours."""
        seen = self._others.get((account_id, booked.broker_order_id))
        if seen is None or seen.booked != booked:
            return True
        return not seen.ours and self._ledger.clock.monotonic() - seen.at >= _FORGET_AFTER

    async def _closed(self, account_id: str, others: list[BookedOrder]) -> list[Row]:
        """Those of our orders that these are; the others are remembered as not ours.

        They are looked up by what they are called: today's book can have orders from before a weekend and holidays.
        """
        known = _Known(await self._ledger.tagged(account_id, [booked.tag for booked in others if booked.tag]))
        left = [booked.broker_order_id for booked in others if known.of(booked) is None]
        known.add(await self._ledger.named(account_id, left))
        at = self._ledger.clock.monotonic()
        for booked in others:
            if known.of(booked) is None:
                self._remember((account_id, booked.broker_order_id), _Seen(booked, at, ours=False))
        return known.all()

    def _remember(self, key: tuple[str, str], seen: _Seen) -> None:
        self._others[key] = seen
        _shorten(self._others)

    async def _apply(self, row: Row, booked: BookedOrder, began: datetime | None) -> Row:
        before = row

        def decide(present: Row) -> Changes:
            nonlocal before
            before, now = present, self._ledger.clock.now()
            changes = observed(present, booked, now)
            merged = {**present, **changes}
            return changes | act_settled(merged, booked, began, now, self.timing)

        after = await self._ledger.change(row, decide)
        self._remember((row["account_id"], booked.broker_order_id), _Seen(booked, self._ledger.clock.monotonic(), True))
        await self._note(before, after)
        return after

    async def _note(self, before: Row, after: Row) -> None:
        """Write down what ended a doubt, and what must never be."""
        if len(after["twins"]) > len(before["twins"]):
            log.error("a broker has two orders with one tag", order=str(after["_id"]), broker=after["broker"])
            await self.tell(after, "order.twin", Outcome.FAILURE, twin=after["twins"][-1])
        doubtful = {OrderState.UNKNOWN, OrderState.SENDING, OrderState.NOT_SENT}
        if before["state"] in doubtful and after["state"] != before["state"] and after["_id"] not in self.sending:
            await self.tell(after, "order.found", was=before["state"])

    async def tell(self, row: Row, action: str, outcome: Outcome = Outcome.SUCCESS, **details: Any) -> None:
        """Write down what this service found out by itself about an order."""
        told = {"symbol": row["stock_symbol"], "broker": row["broker"], "status": row["state"], **details}
        owner = PydanticObjectId(row["user_id"])
        await self._audit.note(Act(action, owner, SYSTEM, outcome, ("order", str(row["_id"])), told))

    async def _take(self, account_id: str, trades: Sequence[BookedTrade], rows: Mapping[str, Row]) -> None:
        new = [trade for trade in trades if self._trade_key(account_id, trade) not in self._taken]
        if new:
            user_id, broker = await self._owner(account_id, rows.values())
            await self._fills.take(account_id, user_id, broker, new)
            for trade in new:
                self._taken[self._trade_key(account_id, trade)] = None
            _shorten(self._taken)
        sums: defaultdict[str, int] = defaultdict(int)
        for trade in trades:
            sums[trade.broker_order_id] += trade.quantity
        for broker_order_id, quantity in sums.items():
            if row := rows.get(broker_order_id):
                await self._ledger.change(row, partial(traded, quantity=quantity))
            key = (account_id, broker_order_id)
            self._covered[key] = max(quantity, self._covered.get(key, 0))
        _shorten(self._covered)

    @staticmethod
    def _trade_key(account_id: str, trade: BookedTrade) -> tuple[str, str, str, str]:
        return account_id, trade.exchange.value, trade.trade_id, f"{trade.at:%Y%m%d}"

    async def _owner(self, account_id: str, rows: Iterable[Row]) -> tuple[str, BrokerName]:
        for row in rows:
            self._owners[account_id] = str(row["user_id"]), BrokerName(row["broker"])
            break
        if account_id not in self._owners:
            try:
                account, _ = await self._sessions.open(account_id)
                self._owners[account_id] = account.user_id, account.broker
            except BrokerSessionError:  # a push can come while nobody is signed in
                known = await self._ledger.any_of(account_id)
                if known is None:
                    raise
                self._owners[account_id] = str(known["user_id"]), BrokerName(known["broker"])
        return self._owners[account_id]

    # Concluding

    async def conclude_alone(self, row: Row) -> Row:
        """Take an order on that was left in the middle, as far as that needs no broker."""

        def decide(present: Row) -> Changes:
            sending = present["_id"] in self.sending
            return settled_alone(present, self._ledger.clock.now(), self.timing, sending=sending)

        after = await self._ledger.change(row, decide)
        if after["state"] != row["state"]:
            await self.tell(after, "order.left", Outcome.FAILURE, was=row["state"])
        return after

    async def abandon(self, account_id: str) -> None:
        """Where the account is gone, nobody can be asked about its orders any more: leave them as they were known."""
        try:
            await self._sessions.broker_of(account_id)
        except NotFoundError:
            for row in await self._ledger.watched(account_id):
                await self._abandon(row)

    async def _abandon(self, row: Row) -> None:
        def decide(present: Row) -> Changes:
            if not present["watch"]:
                return {}
            state, now = OrderState(present["state"]), self._ledger.clock.now()
            note = "The account was removed: nobody can be asked about this order any more."
            return {"watch": False, "certain": False, "act": None, **transition(present, state, now, "clock", note)}

        after = await self._ledger.change(row, decide)
        if after["watch"] != row["watch"]:
            await self.tell(after, "order.abandoned", Outcome.FAILURE)

    async def _conclude(self, book: Book, known: _Known) -> None:
        """What follows from what the book does not have."""
        named = {booked.broker_order_id for booked in book.orders}
        tags = {booked.tag for booked in book.orders if booked.tag}
        untagged = [booked for booked in book.orders if not booked.tag]
        for row in known.all():
            if row["broker_order_id"] in named or row["tag"] in tags:
                await self._ledger.change(row, partial(fills_given_up, began=book.began))
            else:
                await self._absent(row, untagged, book.began)

    async def _absent(self, row: Row, untagged: list[BookedOrder], began: datetime) -> None:
        row = await self.conclude_alone(row)
        owned = [booked for booked in untagged if not await self._is_anothers(row, booked)] if untagged else []

        def decide(present: Row) -> Changes:
            now, sending = self._ledger.clock.now(), present["_id"] in self.sending
            return settled_by_absence(
                present, suspects(present, owned), began, now, self.timing, sending=sending
            ) or fills_given_up(present, began)

        after = await self._ledger.change(row, decide)
        if after["state"] != row["state"]:
            await self.tell(after, "order.missing", Outcome.FAILURE, was=row["state"])

    async def _is_anothers(self, row: Row, booked: BookedOrder) -> bool:
        """Whether an order without a tag is known to be another of ours. Only where it could be taken for this one."""
        if not suspects(row, [booked]):
            return True
        known = await self._ledger.by_broker_id(row["account_id"], booked.broker_order_id)
        return known is not None and known["_id"] != row["_id"]


def _shorten(cache: "OrderedDict[Any, Any]") -> None:
    while len(cache) > _REMEMBERED:
        cache.popitem(last=False)
