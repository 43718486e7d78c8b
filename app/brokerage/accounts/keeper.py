"""Looks after sessions with brokers, in one process of all: warns before they end, renews them where that needs no
person, and says when they have ended."""

import asyncio
import random
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, Final

import structlog
from beanie import PydanticObjectId
from pymongo.errors import PyMongoError

from app.brokerage.accounts.news import AccountMails, AccountNews
from app.brokerage.accounts.ports import Owners
from app.brokerage.accounts.session_state import SessionState, state_of
from app.brokerage.accounts.sign_ins import SignIns
from app.brokerage.accounts.store import AccountStore, Row
from app.brokerage.errors import BrokerSessionError
from app.brokerage.words import BrokerName
from app.core.bus import Bus
from app.core.cancelling import raise_if_cancelled
from app.core.clock import Clock
from app.core.errors import DomainError
from app.core.events import BrokerAccountChanged
from app.core.market_calendar import IST

log = structlog.get_logger(__name__)

LEASE, LEASE_SECONDS = "broker sessions", 30.0
LOOK_EVERY: Final = 30.0
RENEW_BEFORE: Final = timedelta(minutes=10)
SAME_END: Final = timedelta(minutes=1)
"""By how much what a broker says of a session's end differs from when all its sessions die."""
FIRST_WAIT, LAST_WAIT = 20.0, 600.0
"""Seconds between tries to renew a session at a broker that is away; each twice as long."""
AFTER_REFUSAL: Final = 60.0
"""Seconds before the next look at credentials that were refused; how often the broker is asked, `refusals` says."""


class SessionKeeper:
    """The supervised work of whoever holds the lease `broker sessions`."""

    def __init__(
        self,
        *,
        store: AccountStore,
        sign_ins: SignIns,
        news: AccountNews,
        mails: AccountMails,
        owners: Owners,
        clock: Clock,
        bus: Bus,
    ) -> None:
        self._store, self._sign_ins, self._news = store, sign_ins, news
        self._mails, self._owners, self._clock = mails, owners, clock
        self._waits: dict[PydanticObjectId, tuple[float, float]] = {}
        self._counts: dict[str, int] = {}
        self._wake = asyncio.Event()
        bus.subscribe(BrokerAccountChanged, lambda _: self._wake.set())

    async def run(self) -> None:
        """Look, and look again; ends by being cancelled."""
        while True:
            self._wake.clear()
            try:
                await self.sweep()
            except PyMongoError as error:
                raise_if_cancelled()
                log.warning("the sessions with brokers cannot be looked at now", error=type(error).__name__)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), LOOK_EVERY)
            raise_if_cancelled()
            await asyncio.sleep(0.2)  # a change seldom comes alone

    async def sweep(self) -> None:
        """Look at every account once. Raises `PyMongoError`."""
        counts = dict.fromkeys([*(state.value for state in SessionState), "refused"], 0)
        for broker in BrokerName:
            if broker is BrokerName.PAPER:
                continue
            for row in await self._store.of_broker(broker, live=True):
                counts[state_of(row, self._clock.now(), self._news.warn_before).value] += 1
                await self._look_at_live(row)
            for row in await self._store.of_broker(broker, live=False):
                counts[state_of(row, self._clock.now(), self._news.warn_before).value] += 1
                counts["refused"] += row.get("last_error") is not None
                # One that was never open waits for its owner.
                if row.get("renews") and row.get("session_made_at"):
                    await self._renew(row)
        self._counts = counts

    async def _look_at_live(self, row: Row) -> None:
        now, ends = self._clock.now(), row.get("session_expires_at")
        if ends is None:
            return
        if row.get("renews"):
            if now >= ends - self._renewed_before(row, ends) and not await self._renew(row) and now >= ends:
                await self._end(row)
            return
        state = state_of(row, now, self._news.warn_before)
        if state is SessionState.EXPIRED:
            await self._end(row)
        elif state is SessionState.EXPIRING and row.get("warned_for") != ends:
            # The mail first: after a crash between the two it may come twice, and never not at all.
            await self._mails.expiring(row)
            warned = await self._store.change(row, warned_for=ends)
            if warned is not None:
                self._news.tell(warned, "expiring")

    def _renewed_before(self, row: Row, ends: datetime) -> timedelta:
        """How long before its end a session is made anew."""
        daily = self._sign_ins.daily_end(BrokerName(row["broker"]))
        if daily is not None:
            local = ends.astimezone(IST)
            if abs(local - datetime.combine(local.date(), daily, IST)) <= SAME_END:
                return timedelta(0)  # one of before would die at the same time
        life = ends - (row.get("session_made_at") or self._clock.now())
        return min(RENEW_BEFORE, life / 4)

    async def _end(self, row: Row) -> None:
        over = await self._sign_ins.ended(row, "expired")
        if over is not None and row.get("renews"):
            await self._tell_once(over)
        elif over is not None and row.get("warned_for") != row.get("session_expires_at"):
            await self._mails.ended(over)

    async def _renew(self, row: Row) -> bool:
        """Whether there is a new session."""
        account_id, now = row["_id"], self._clock.monotonic()
        wait, due = self._waits.get(account_id, (FIRST_WAIT, 0.0))
        if now < due or await self._owners.owner(row["user_id"]) is None:
            return False
        try:
            await self._sign_ins.renewed(row)
        except BrokerSessionError:
            self._waits[account_id] = (FIRST_WAIT, now + AFTER_REFUSAL)
            await self._tell_once(row)
            return False
        except DomainError as error:
            self._waits[account_id] = (min(wait * 2, LAST_WAIT), now + wait * random.uniform(0.8, 1.0))  # noqa: S311
            log.info("a session with a broker was not renewed", account=str(account_id), error=type(error).__name__)
            return False
        self._waits.pop(account_id, None)
        return True

    async def _tell_once(self, row: Row) -> None:
        """The broker refuses what is stored: once for each session that was."""
        present = await self._store.get(row["_id"])
        if present is None or present.get("session_live") or present.get("warned_for") == row.get("session_made_at"):
            return
        await self._mails.ended(present)
        await self._store.change(present, warned_for=row.get("session_made_at"))

    def health(self) -> dict[str, Any]:
        """How many accounts are in which state, as of the last look; empty in processes that do not look."""
        return dict(self._counts)
