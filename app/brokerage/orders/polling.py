"""Follows open orders: reads their brokers' books, often while something is about to happen, seldom while nothing is.

One process of the service does it (whoever runs `OrderPolling.run`, under a lease). After a start, and after the
process that did it was killed, what is left open is found in the database.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from functools import partial
from typing import Any, Final

import structlog
from pymongo.errors import PyMongoError

from app.brokerage.errors import BrokerSessionError
from app.brokerage.orders.ledger import Ledger, order_rows
from app.brokerage.orders.merging import Row
from app.brokerage.orders.news import OrdersHeard
from app.brokerage.words import OrderState, PriceType, Validity
from app.core.bus import Bus
from app.core.cancelling import end, raise_if_cancelled
from app.core.errors import DomainError, NotFoundError
from app.core.events import OrderChanged, PeersChanged

log = structlog.get_logger(__name__)

LEAST: Final = 1.0
"""Seconds between two readings of one account's book."""
IDLE: Final = 5.0
"""Seconds between two looks for open orders, while no change is heard of."""
SIGNED_OUT: Final = 30.0
"""Seconds after which an account without a valid session is tried again."""
LONGEST: Final = 60.0
MOST: Final = 50_000
"""Orders that are followed at one time. Those of accounts that nobody signs in to stay among them for a day, and must
not keep others from being followed."""
_PACED: Final = dict.fromkeys(
    ("account_id", "state", "sent_at", "created_at", "updated_at", "act", "price_type", "validity", "watch"), 1
)
"""What `pace` goes by."""
AT_ONCE: Final = 8
"""Accounts that are asked about at one time."""


def pace(row: Row, now: datetime) -> float:
    """Seconds until the broker is asked about this order again. Pure."""
    state = OrderState(row["state"])
    age = (now - (row["sent_at"] or row["created_at"])).total_seconds()
    quiet = (now - row["updated_at"]).total_seconds()
    if state is OrderState.SENDING:
        return 2.0
    if state is OrderState.UNKNOWN:
        return LEAST if age < 90 else 5.0 if age < 900 else 30.0
    if row["act"]:
        return 1.5 if quiet < 90 else 10.0
    if state.final:  # its fills are not in the trade book yet
        return LEAST if quiet < 60 else 10.0 if quiet < 900 else LONGEST
    at_once = PriceType(row["price_type"]) is PriceType.MARKET or row["validity"] == Validity.IOC
    if quiet < 30:
        return LEAST if at_once else 2.0
    return 4.0 if quiet < 1800 else 15.0


class OrderPolling:
    """Reads the books of all accounts with open orders while `run` runs."""

    def __init__(self, *, ledger: Ledger, news: OrdersHeard, bus: Bus, idle: float = IDLE) -> None:
        """`idle`: seconds between two looks for open orders."""
        self._ledger, self._news, self._idle = ledger, news, idle
        self._running = False
        self._heard: set[str] = set()
        self._work = asyncio.Event()
        self._due: dict[str, float] = {}
        self._failures: defaultdict[str, int] = defaultdict(int)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._open = self._unknown = 0
        self._last_error: str | None = None
        bus.subscribe(OrderChanged, self._on_changed)
        bus.subscribe(PeersChanged, lambda _: self._work.set())

    def _on_changed(self, event: OrderChanged) -> None:
        if self._running and event.open and event.account_id not in self._heard:
            self._heard.add(event.account_id)
            self._work.set()

    def retry(self, account_id: str) -> None:
        """Its session may hold again: where orders are open there, read its book now. In any process."""
        if self._running:
            self._failures.pop(account_id, None)
            self._due.pop(account_id, None)
            self._work.set()

    async def run(self) -> None:
        """Follow open orders until cancelled; in one process at a time."""
        self._running = True
        pause = 0.5
        try:
            while True:
                raise_if_cancelled()  # a driver may have answered and swallowed it
                try:
                    wait = await self._round()
                    pause, self._last_error = 0.5, None
                except PyMongoError as error:
                    raise_if_cancelled()
                    self._last_error = type(error).__name__
                    log.warning("open orders cannot be looked for now", error=self._last_error)
                    wait = pause = min(pause * 2, 10.0)
                await self._rest(wait)
        finally:
            self._running = False
            await end(self._tasks.values())
            self._tasks.clear()
            self._due.clear()

    async def _rest(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._work.wait()
        except TimeoutError:
            return
        # Changes come in groups.
        await asyncio.sleep(0.1)

    async def _round(self) -> float:
        """Take on what was left in the middle, and ask where it is time; seconds until the next round."""
        self._work.clear()
        heard, self._heard = self._heard, set()
        now, clock = asyncio.get_running_loop().time(), self._ledger.clock
        accounts: defaultdict[str, list[Row]] = defaultdict(list)
        for row in await order_rows().find({"watch": True}, _PACED).limit(MOST).to_list():
            if row["state"] == OrderState.SENDING:
                row = await self._news.conclude_alone(await self._ledger.find(row["_id"]))
            if row["watch"]:
                accounts[row["account_id"]].append(row)
        self._count(accounts.values())
        for account_id in self._due.keys() - accounts.keys():
            del self._due[account_id]
            self._failures.pop(account_id, None)
        for account_id, rows in accounts.items():
            wait = min(pace(row, clock.now()) for row in rows)
            due = self._due.setdefault(account_id, now)
            if account_id in heard and not self._failures.get(account_id):
                due = self._due[account_id] = min(due, now + 0.2)
            if due <= now and account_id not in self._tasks and len(self._tasks) < AT_ONCE:
                self._due[account_id] = now + max(wait, LEAST)
                task = self._tasks[account_id] = asyncio.create_task(self._poll(account_id))
                task.add_done_callback(partial(self._polled, account_id))
        # Where all turns are taken, the end of one is what is waited for.
        ahead = [due - now for each, due in self._due.items() if each not in self._tasks]
        return max(min([self._idle, *ahead]), 0.05 if len(self._tasks) < AT_ONCE else LEAST)

    def _polled(self, account_id: str, _: asyncio.Task[None]) -> None:
        self._tasks.pop(account_id, None)
        self._work.set()

    async def _poll(self, account_id: str) -> None:
        loop = asyncio.get_running_loop()
        try:
            await self._news.refresh(account_id)
        except (DomainError, PyMongoError) as error:
            raise_if_cancelled()
            if isinstance(error, NotFoundError):
                await self._give_up(account_id)
                return
            self._failures[account_id] += 1
            failures = self._failures[account_id]
            wait = min(2.0**failures, LONGEST)
            if isinstance(error, BrokerSessionError):
                wait = SIGNED_OUT
            wait = max(wait, getattr(error, "retry_after", 0.0))
            self._due[account_id] = loop.time() + wait
            if failures in {1, 10}:
                log.warning("a broker's book cannot be read", account=account_id, error=type(error).__name__)
        else:
            self._failures.pop(account_id, None)

    async def _give_up(self, account_id: str) -> None:
        """The account was removed: nobody can be asked about its orders any more."""
        try:
            await self._news.abandon(account_id)
        except (DomainError, PyMongoError) as error:
            raise_if_cancelled()
            log.warning(
                "orders of a removed account are still followed", account=account_id, error=type(error).__name__
            )

    def _count(self, accounts: Iterable[list[Row]]) -> None:
        states = [row["state"] for rows in accounts for row in rows]
        self._open = len(states)
        self._unknown = sum(state in {OrderState.UNKNOWN, OrderState.SENDING} for state in states)

    def health(self) -> dict[str, Any]:
        """`open`: orders that brokers are asked about; `unknown`: of which it is not known whether they arrived."""
        failing = len(self._failures)
        return {
            "status": "degraded" if self._last_error or (failing and self._unknown) else "ok",
            "here": self._running,
            "open": self._open,
            "unknown": self._unknown,
            "accounts_failing": failing,
            "last_error": self._last_error,
        }
