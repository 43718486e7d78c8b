"""Compares an account's books at its broker with what is known here, and says where they differ.

It changes nothing but what the books tell of our own orders anyway, and what the broker moved from one product to
another (see `conversions`): everything else is for a person to look at. Deliveries are not compared as positions: what
was held before, and what has been settled, is not the order book's.

Accounts at the paper broker can only be traded from here. As long as nothing is open there and nobody gives an order,
nothing can change, and they are compared once a day.
"""

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, time, timedelta
from typing import Any, Final

import msgspec
import structlog
from beanie import PydanticObjectId
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import PyMongoError

from app.brokerage.orders.conversions import Conversion, PositionBooks, conversions, plain
from app.brokerage.orders.ledger import WATCHED, Ledger
from app.brokerage.orders.merging import Row
from app.brokerage.orders.models import ReconciliationDocument
from app.brokerage.orders.news import Book, OrdersHeard
from app.brokerage.orders.ports import Holding, OwnPositions
from app.brokerage.ports import Sessions
from app.brokerage.words import (
    AT_BROKER,
    FINAL_STATES,
    UNSURE,
    BookedOrder,
    BookedTrade,
    BrokerName,
    BrokerPosition,
    OrderState,
    Product,
)
from app.core.cancelling import raise_if_cancelled
from app.core.clock import to_micros
from app.core.errors import DomainError, NotFoundError
from app.core.market_calendar import IST

log = structlog.get_logger(__name__)

AT_ONCE: Final = 8
"""Accounts that are compared at one time."""
MOST_REPORTS: Final = 10_000
MAX_DIFFERENCES: Final = 200
"""Differences of one account that are listed; the others are counted."""
IDLE: Final = timedelta(hours=24)
"""How long an account that is idle is left alone."""
_MARGIN: Final = timedelta(minutes=1)
"""Before a comparison: an order of that time may have been on its way."""
_COMPARED: Final = frozenset({Product.MIS, Product.NRML})
_encode: Final = msgspec.json.Encoder(decimal_format="number", enc_hook=str).encode

Difference = dict[str, Any]


class Reconciliation:
    """The job, and what it found last."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        news: OrdersHeard,
        sessions: Sessions,
        positions: OwnPositions | None = None,
        books: PositionBooks | None = None,
    ) -> None:
        """`positions`: who reckons them from the fills; without it they are not compared, and the report says so.

        `books`: who follows conversions; without it they are reported only."""
        self._ledger, self._news, self._sessions, self._positions = ledger, news, sessions, positions
        self._books = books
        self._removed: asyncio.Queue[str] = asyncio.Queue()

    async def run(self) -> Mapping[str, Any]:
        """Compare every account whose session is valid, and every one with orders that are open or in doubt; idle
        ones of the paper broker are left out."""
        watched = {row["account_id"] for row in await self._ledger.watched()}
        known = sorted({*await self._sessions.all_open(), *watched})
        idle = await self._idle({*known} - watched)
        accounts = [account_id for account_id in known if account_id not in idle]
        counts: defaultdict[str, int] = defaultdict(int)
        turns = asyncio.Semaphore(AT_ONCE)

        async def one(account_id: str) -> None:
            async with turns:
                try:
                    counts[(await self.compare(account_id))["status"]] += 1
                except DomainError as error:  # an account that was removed meanwhile
                    log.info("an account was not compared", account=account_id, error=type(error).__name__)
                    counts["left_out"] += 1

        # Together, so that one broker that does not answer keeps nobody's from being compared.
        async with asyncio.TaskGroup() as group:
            for account_id in accounts:
                group.create_task(one(account_id))
        await self._forget_removed(known)
        return {"accounts": len(accounts), **({"idle": len(idle)} if idle else {}), **counts}

    async def _idle(self, accounts: Collection[str]) -> set[str]:
        """Those of these in which nothing can have changed since they were compared."""
        now = self._ledger.clock.now()
        fresh = {"broker": BrokerName.PAPER.value, "idle": True, "at": {"$gt": now - IDLE}}
        idle = set()
        for row in await _reports().find(fresh, {"user_id": 1, "at": 1}).to_list():
            if row["_id"] not in accounts:
                continue
            low, high = to_micros(row["at"] - _MARGIN), to_micros(now) + 1_000_000
            if not await self._ledger.between(str(row["user_id"]), row["_id"], low, high, 1):
                idle.add(row["_id"])
        return idle

    async def _forget_removed(self, compared: Sequence[str]) -> None:
        """Reports of accounts that are gone; their removal may not have been heard of."""
        known = set(compared)
        for row in await _reports().find({}, {"_id": 1}).limit(MOST_REPORTS).to_list():
            if row["_id"] in known:
                continue
            try:
                await self._sessions.broker_of(row["_id"])
            except NotFoundError:
                await self.forget(row["_id"])

    async def compare(self, account_id: str) -> dict[str, Any]:
        """Compare one account now, and keep the report."""
        began = self._ledger.clock.now()
        broker = await self._sessions.broker_of(account_id)
        try:
            book = await self._news.refresh(account_id, all_trades=True)
            opened, account, session = await self._news.opened(account_id)
            theirs = await opened.positions(account, session)
        except DomainError as error:
            rows = await self._ledger.watched(account_id)
            report = _report(account_id, broker.value, began, None, [], [], unresolved(rows))
            report |= {"status": "unavailable", "detail": error.detail}
            if rows:
                await self._keep(rows[0]["user_id"], report)
            return report
        rows = await self._rows(book)
        ours, positions = await self._compare_positions(account_id, book, theirs)
        differences = [
            *unresolved(rows),
            *order_differences(rows, book.orders),
            *fill_differences(rows, book.orders, book.trades),
            *positions,
        ]
        compared = ["orders", "trades", *(["positions"] if ours is not None else [])]
        report = _report(account_id, broker.value, began, book, theirs, compared, differences)
        idle = report["status"] == "agrees" and ours is not None and _at_rest(book.orders, theirs)
        await self._keep(PydanticObjectId(book.user_id), report, idle=idle)
        for difference in differences:
            if difference["kind"] in {"twin", "missing", "state", "fills"}:
                log.warning("a broker has an order otherwise", account=account_id, **_words(difference))
        return report

    async def _compare_positions(
        self, account_id: str, book: Book, theirs: Sequence[BrokerPosition]
    ) -> tuple[Mapping[Holding, int] | None, list[Difference]]:
        """Our positions, None where they cannot be said, and how the broker's differ from them."""
        ours = await self._positions.net(account_id) if self._positions else None
        if ours is None:
            return None, []
        ended = await self._books.ended(account_id) if self._books else ()
        theirs = [each for each in theirs if (each.exchange, each.symbol) not in ended]
        found: list[Difference] = []
        after = dict(ours)
        seen = conversions(ours, theirs, book.trades, book.orders)
        sure = await self._still(account_id, theirs) if seen and self._books else set()
        for each in seen:
            done = self._books is not None and each in sure and await self._books.convert(account_id, each)
            found.append(_converted(each, done=done))
            # Done or not, it is no other difference of these two products.
            after.pop(Holding(each.exchange, each.symbol, each.was), None)
            after[Holding(each.exchange, each.symbol, each.became)] = each.quantity
        return ours, [*found, *position_differences(after, theirs)]

    async def _still(self, account_id: str, theirs: Sequence[BrokerPosition]) -> set[Conversion]:
        """Conversions by trades that were read after the positions: none was made in between that explains them."""
        book = await self._news.refresh(account_id, all_trades=True)
        ours = await self._positions.net(account_id) if self._positions else None
        return set(conversions(ours, theirs, book.trades, book.orders)) if ours is not None else set()

    async def reports(self, user_id: PydanticObjectId) -> bytes:
        """The newest report of each of the user's accounts, as a JSON array."""
        rows = await _reports().find({"user_id": user_id}).limit(100).to_list()
        return _encode(sorted((row["report"] for row in rows), key=lambda report: report["account_id"]))

    def removed(self, account_id: str) -> None:
        """The account was removed: its report goes, too. Never waits."""
        self._removed.put_nowait(account_id)

    async def forget_removed(self) -> None:
        """Background task of every process: forget what `removed` was told of."""
        while True:
            account_id = await self._removed.get()
            try:
                await self.forget(account_id)
            except PyMongoError as error:  # `run` finds it
                raise_if_cancelled()
                log.info("the report of a removed account is still there", error=type(error).__name__)

    async def forget(self, account_id: str) -> None:
        """The account was removed."""
        await _reports().delete_one({"_id": account_id})

    async def _rows(self, book: Book) -> list[Row]:
        """Our orders that the day's book may have: today's, those still open, and others that it names."""
        midnight = datetime.combine(book.began.astimezone(IST).date(), time(0), IST)
        low, high = to_micros(midnight), to_micros(self._ledger.clock.now()) + 1_000_000
        found = {row["_id"]: row for row in await self._ledger.watched(book.account_id)}
        found |= {
            row["_id"]: row for row in await self._ledger.between(book.user_id, book.account_id, low, high, WATCHED * 3)
        }
        known = {row["broker_order_id"] for row in found.values()}
        for booked in book.orders:
            if booked.broker_order_id not in known:
                row = await self._ledger.by_broker_id(book.account_id, booked.broker_order_id)
                if row is not None:
                    found[row["_id"]] = row
        return list(found.values())

    async def _keep(self, user_id: PydanticObjectId, report: dict[str, Any], *, idle: bool = False) -> None:
        kept = {"user_id": user_id, "broker": report["broker"], "report": report, "at": report["at"], "idle": idle}
        try:
            await _reports().update_one(
                {"_id": report["account_id"]}, {"$set": {"schema_version": 1, **kept}}, upsert=True
            )
        except PyMongoError as error:
            raise_if_cancelled()
            log.warning("a comparison could not be kept", error=type(error).__name__)


def _reports() -> AsyncCollection[dict[str, Any]]:
    return ReconciliationDocument.get_pymongo_collection()


def unresolved(rows: Iterable[Row]) -> list[Difference]:
    """Orders of which nobody knows whether, or how, the broker has them."""
    return [
        _of(row, "unresolved", detail=row["reason"] or "It is not known whether the broker has this order.")
        for row in rows
        if OrderState(row["state"]) in UNSURE or not row["certain"]
    ]


def order_differences(rows: Sequence[Row], orders: Sequence[BookedOrder]) -> list[Difference]:
    """What the order book has otherwise than we do, after it was taken."""
    booked = {order.broker_order_id: order for order in orders}
    found: list[Difference] = []
    ours: set[str] = set()
    for row in rows:
        ours |= {row["broker_order_id"], *row["twins"]}
        for twin in row["twins"]:
            detail = "The broker has a second order with this order's tag."
            found.append(_of(row, "twin", detail=detail) | {"broker_order_id": twin})
        theirs = booked.get(row["broker_order_id"])
        state = OrderState(row["state"])
        if theirs is None:
            if state in AT_BROKER:
                found.append(_of(row, "missing", state, None, "Open here, and not in the broker's order book."))
        elif (state in FINAL_STATES) != (theirs.state in FINAL_STATES):
            found.append(_of(row, "state", state, theirs.state, "The broker tells another state of this order."))
        elif theirs.filled_quantity < row["filled_quantity"]:
            told = "The broker's order book has fewer fills of it than the broker told before."
            found.append(_of(row, "quantity", row["filled_quantity"], theirs.filled_quantity, told))
    found.extend(_foreign(order) for order in orders if order.broker_order_id not in ours)
    return found


def fill_differences(
    rows: Iterable[Row], orders: Iterable[BookedOrder], trades: Iterable[BookedTrade]
) -> list[Difference]:
    """Orders whose fills in the order book are not those of the trade book."""
    known = {row["broker_order_id"]: row for row in rows if row["broker_order_id"]}
    sums: defaultdict[str, int] = defaultdict(int)
    for trade in trades:
        sums[trade.broker_order_id] += trade.quantity
    found: list[Difference] = []
    for order in orders:
        quantity = sums.pop(order.broker_order_id, 0)
        if quantity == order.filled_quantity:
            continue
        row = known.get(order.broker_order_id)
        detail = "The order book and the trade book of the broker have other fills."
        base = _of(row, "fills", detail=detail) if row else {**_foreign(order), "kind": "fills", "detail": detail}
        found.append(base | {"ours": f"{order.filled_quantity} in orders", "theirs": f"{quantity} in trades"})
    return found


def position_differences(ours: Mapping[Holding, int], theirs: Iterable[BrokerPosition]) -> list[Difference]:
    """Intraday and carried positions that the broker has otherwise."""
    net: defaultdict[Holding, int] = defaultdict(int)
    for position in theirs:
        if position.product in _COMPARED:
            net[Holding(position.exchange, plain(position.symbol), position.product)] += position.net_quantity
    mine = {
        Holding(each.exchange, plain(each.symbol), each.product): quantity
        for each, quantity in ours.items()
        if each.product in _COMPARED
    }
    return [
        {
            "kind": "position",
            "order_id": None,
            "broker_order_id": None,
            "exchange": key.exchange.value,
            "symbol": key.symbol,
            "ours": f"{mine.get(key, 0)}",
            "theirs": f"{net.get(key, 0)}",
            "detail": f"The {key.product} position is not what the fills that are known here add up to.",
        }
        for key in sorted({*net, *mine})
        if net.get(key, 0) != mine.get(key, 0)
    ]


def _at_rest(orders: Iterable[BookedOrder], positions: Iterable[BrokerPosition]) -> bool:
    """Whether neither prices nor the time can change anything."""
    # What was bought for delivery is a holding: no more can become of it.
    open_ = any(position.net_quantity and position.product in _COMPARED for position in positions)
    return not open_ and all(order.state in FINAL_STATES for order in orders)


def _converted(conversion: Conversion, *, done: bool) -> Difference:
    did = "the same was done here" if done else "here it is still the old one"
    return {
        "kind": "converted" if done else "conversion",
        "order_id": None,
        "broker_order_id": None,
        "exchange": conversion.exchange.value,
        "symbol": conversion.symbol,
        "ours": f"{conversion.quantity} {conversion.was}",
        "theirs": f"{conversion.quantity} {conversion.became}",
        "detail": f"The position was converted from {conversion.was} to {conversion.became} at the broker; {did}.",
    }


def _report(
    account_id: str,
    broker: str,
    at: datetime,
    book: Book | None,
    positions: Sequence[BrokerPosition],
    compared: list[str],
    differences: list[Difference],
) -> dict[str, Any]:
    # Orders that were given elsewhere are no fault of anybody's, and what was followed is the same again.
    differs = any(difference["kind"] not in {"foreign", "converted"} for difference in differences)
    return {
        "account_id": account_id,
        "broker": broker,
        "at": at,
        "status": "differs" if differs else "agrees",
        "orders": len(book.orders) if book else 0,
        "trades": len(book.trades) if book else 0,
        "positions": len(positions),
        "compared": compared,
        "differences": differences[:MAX_DIFFERENCES],
        "more": max(len(differences) - MAX_DIFFERENCES, 0),
        "detail": None,
    }


def _of(row: Row, kind: str, ours: object = None, theirs: object = None, detail: str = "") -> Difference:
    return {
        "kind": kind,
        "order_id": str(row["_id"]),
        "broker_order_id": row["broker_order_id"],
        "exchange": row["exchange"],
        "symbol": row["stock_symbol"],
        "ours": None if ours is None else str(ours),
        "theirs": None if theirs is None else str(theirs),
        "detail": detail,
    }


def _foreign(order: BookedOrder) -> Difference:
    return {
        "kind": "foreign",
        "order_id": None,
        "broker_order_id": order.broker_order_id,
        "exchange": order.exchange.value,
        "symbol": order.symbol,
        "ours": None,
        "theirs": f"{order.side} {order.quantity} {order.state}",
        "detail": "In the broker's order book, and not placed from here.",
    }


def _words(difference: Difference) -> dict[str, Any]:
    return {name: difference[name] for name in ("kind", "order_id", "broker_order_id", "ours", "theirs")}
