"""Signs in at brokers: once for all who ask, in one process at a time, and never so often that it locks the account."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import time, timedelta
from functools import partial
from typing import Final

import structlog
from beanie import PydanticObjectId
from pymongo.errors import PyMongoError

from app.brokerage.accounts.brokers import WANTS
from app.brokerage.accounts.news import AccountNews
from app.brokerage.accounts.refusals import SignInRefusals
from app.brokerage.accounts.store import AccountStore, Row, session_age
from app.brokerage.errors import BrokerSessionError
from app.brokerage.ports import Broker, BrokerAccount, BrokerSession
from app.brokerage.words import BrokerName
from app.core.clock import Clock
from app.core.errors import ConflictError, DomainError, NotFoundError, UnavailableError

log = structlog.get_logger(__name__)

CLAIM: Final = timedelta(seconds=30)
"""How long a process that was killed at a sign-in keeps the others from it."""
_LOOK: Final = 0.1
_PATIENCE: Final = 40.0
_ATTEMPTS: Final = 5
EARLY: Final = 300.0
"""Seconds: a session that dies sooner was not the cause of what the broker says."""
FIRST_PAUSE, LAST_PAUSE = 30.0, 1200.0
NO_ACCOUNT: Final = "You have no brokerage with this id."


class SignIns:
    """Makes sessions and stores them."""

    def __init__(
        self,
        *,
        store: AccountStore,
        refusals: SignInRefusals,
        brokers: Mapping[BrokerName, Broker],
        clock: Clock,
        news: AccountNews,
        holder: str,
    ) -> None:
        """`holder` names this process."""
        self._store, self._refusals, self._brokers = store, refusals, brokers
        self._clock, self._news, self._holder = clock, news, holder
        self._running: dict[PydanticObjectId, asyncio.Task[tuple[Row, BrokerSession]]] = {}

    # One sign-in

    async def sign_in(self, account: BrokerAccount) -> BrokerSession:
        """A session for the credentials of `account`. Raises what the broker's `sign_in` raises, and
        `BrokerSessionError` without asking the broker while it would only count against the account."""
        broker, user_id = account.broker, PydanticObjectId(account.user_id)
        async with self._turn(account):
            digest = await self._admitted(account)
            try:
                session = await self.adapter(broker).sign_in(account)
            except BrokerSessionError:
                await self._refusals.note(user_id, broker, digest)
                raise
            await self._refusals.clear(user_id, broker)
            return session

    @asynccontextmanager
    async def _turn(self, account: BrokerAccount) -> AsyncIterator[None]:
        broker, user_id, digest = account.broker, PydanticObjectId(account.user_id), self._digest(account)
        waited, whose = 0.0, str(PydanticObjectId())
        while not await self._refusals.take_turn(user_id, broker, digest, whose):
            if waited >= _PATIENCE:
                raise UnavailableError(
                    f"Another sign-in of yours at {WANTS[broker].label} is under way; try again soon.", retry_after=30
                )
            await asyncio.sleep(_LOOK)
            waited += _LOOK
        try:
            yield
        finally:
            with suppress(PyMongoError):  # then it ends by itself
                await self._refusals.end_turn(user_id, broker, digest, whose)

    async def _admitted(self, account: BrokerAccount) -> str:
        """The digest of the credentials; raises `BrokerSessionError` while they are not to be repeated."""
        broker = account.broker
        digest = self._digest(account)
        refused = await self._refusals.look(PydanticObjectId(account.user_id), broker, digest)
        if refused.wait > 0:
            until = self._refusals.until(refused)
            raise BrokerSessionError(
                f"{WANTS[broker].label} has refused these credentials, and repeating them could lock your account "
                f"there. Correct them, or wait until {until:%Y-%m-%d %H:%M:%S} UTC.",
                login_url=self.adapter(broker).login_url(account),
            )
        return digest

    def _digest(self, account: BrokerAccount) -> str:
        return self._store.credential_digest({name: one.get_secret_value() for name, one in account.secrets.items()})

    def adapter(self, broker: BrokerName) -> Broker:
        """Who talks to the broker; raises `UnavailableError` where it is not there."""
        found = self._brokers.get(broker)
        if found is None:
            raise UnavailableError(f"{WANTS[broker].label} cannot be used on this server.", retry_after=3600)
        return found

    # Of a stored account

    def daily_end(self, broker: BrokerName) -> time | None:
        """The time of day in India at which all sessions with the broker die, whenever they were made."""
        found = self._brokers.get(broker)
        ends = found.capabilities.session_ends if found is not None else None
        return time.fromisoformat(ends) if ends else None

    async def renewed(self, row: Row) -> tuple[Row, BrokerSession]:
        """The account with a session made anew from what is stored. However many ask, one signs in.

        Raises what `sign_in` raises, and `NotFoundError` when the account was removed meanwhile.
        """
        account_id = row["_id"]
        task = self._running.get(account_id)
        if task is None:
            task = asyncio.create_task(self._renew(row), name="broker sign-in")
            self._running[account_id] = task
            task.add_done_callback(partial(self._forget, account_id))
        # Shielded: whoever stops waiting must not take the session from the others.
        return await asyncio.shield(task)

    def _forget(self, account_id: PydanticObjectId, task: "asyncio.Task[tuple[Row, BrokerSession]]") -> None:
        self._running.pop(account_id, None)
        if not task.cancelled():
            task.exception()  # whoever waited has seen it; nobody may have

    async def close(self) -> None:
        """Wait for sign-ins that are under way: what a broker has given is to be stored."""
        if self._running:
            await asyncio.wait(list(self._running.values()), timeout=2)

    async def _renew(self, asked: Row) -> tuple[Row, BrokerSession]:
        await self._admitted(self._store.account(asked))  # before anything is written, however often somebody asks
        row, session = await self._claimed(asked)
        if session is not None:
            return row, session
        try:
            fresh = await self._made(row)
        except DomainError as error:
            await self._failed(row, error)
            raise
        return await self.keep(row, fresh), fresh

    async def _claimed(self, asked: Row) -> tuple[Row, BrokerSession | None]:
        """The account, ours to sign in; or with the session that another process has just made."""
        waited, account_id = 0.0, asked["_id"]
        while waited < _PATIENCE:
            row = await self._store.get(account_id)
            if row is None:
                raise NotFoundError(NO_ACCOUNT)
            now = self._clock.now()
            other = row.get("session") != asked.get("session")
            if other and row.get("session_live") and (session := self._store.session(row)) is not None:
                return row, session
            if (not_before := row.get("not_before")) is not None and now < not_before:
                raise BrokerSessionError(
                    f"{WANTS[BrokerName(row['broker'])].label} ends sessions as soon as they are made; the next is made"
                    f" at {not_before:%H:%M:%S} UTC. Look whether something else signs in with the same credentials."
                )
            busy = row.get("claimed_by") != self._holder and (until := row.get("claimed_until")) and now < until
            if not busy:
                mine = await self._store.change(row, claimed_by=self._holder, claimed_until=now + CLAIM)
                if mine is not None:
                    return mine, None
                continue
            await asyncio.sleep(_LOOK)
            waited += _LOOK
        raise UnavailableError("Another process is signing in at this broker; try again soon.")

    async def _made(self, row: Row) -> BrokerSession:
        account, broker = self._store.account(row), self.adapter(BrokerName(row["broker"]))
        held = self._store.session(row) if row.get("session_live") else None
        # Without a token for it renewing is a sign-in by another name, and those are counted.
        if held is not None and held.refresh_token is not None and broker.capabilities.renews_itself:
            try:
                return await broker.renew(account, held)
            except BrokerSessionError:
                log.info("a broker did not renew a session, signing in", broker=row["broker"], account=str(row["_id"]))
        return await self.sign_in(account)

    async def _failed(self, row: Row, error: DomainError) -> None:
        told = {"claimed_by": None, "claimed_until": None, "last_error": error.detail[:300]}
        changed = await self._store.change(row, **told)
        refused = isinstance(error, BrokerSessionError)
        log.warning(
            "no session with a broker", broker=row["broker"], account=str(row["_id"]), error=type(error).__name__
        )
        if changed is not None and refused and row.get("last_error") != told["last_error"]:
            self._news.tell(changed, "session")

    async def keep(self, row: Row, session: BrokerSession) -> Row:
        """Store a session of the account that was read as `row`.

        Raises `ConflictError` for a session of another client of the broker than the account's, and when the account
        was changed meanwhile; `NotFoundError` when it was removed.
        """
        values = self.session_values(row, session)
        for _ in range(_ATTEMPTS):
            changed = await self._store.change(row, **values)
            if changed is not None:
                log.info("session with a broker", broker=row["broker"], account=str(row["_id"]))
                self._news.tell(changed, "session")
                return changed
            present = await self._store.get(row["_id"])
            if present is None:
                raise NotFoundError(NO_ACCOUNT)
            if present.get("secrets") != row.get("secrets"):
                break
            row = present
        raise ConflictError("This brokerage is being changed by somebody else at this moment; try again.")

    def session_values(self, row: Row, session: BrokerSession) -> Row:
        """What is stored of a session; raises `ConflictError` for one of another client than the account's."""
        broker = BrokerName(row["broker"])
        known, identity = row.get("identity"), row.get("identity")
        if session.broker_user_id:
            identities = self._store.identities(broker, session.broker_user_id)
            if known is not None and known not in identities:
                raise ConflictError(
                    f"This is another client of {WANTS[broker].label} than the one whose orders are here. Remove that "
                    "brokerage first (DELETE /api/v1/dashboard/brokerages/{id}), or sign in as the same client."
                )
            identity = identities[0]
        return {
            "session": self._store.sealed_session(row["_id"], session),
            "session_live": True,
            "session_made_at": self._clock.now(),
            "session_expires_at": session.expires_at,
            "session_ended": None,
            "warned_for": None,
            "identity": identity,
            "claimed_by": None,
            "claimed_until": None,
            "not_before": None,
            "last_error": None,
        }

    # The end

    async def ended(self, row: Row, because: str) -> Row | None:
        """Write down that the session of `row` is over; the account as it is then, or None if another one is there."""
        sealed, now = row.get("session"), self._clock.now()
        early = because == "refused" and 0 <= session_age(row, now) < EARLY
        deaths = min(row.get("early_deaths", 0) + 1, 10) if early else 0
        pause = min(FIRST_PAUSE * 2 ** (deaths - 1), LAST_PAUSE)
        told = {
            "session": None,
            "session_live": False,
            "session_ended": because,
            "early_deaths": deaths,
            "not_before": now + timedelta(seconds=pause) if deaths else None,
        }
        for _ in range(_ATTEMPTS):
            if not row.get("session_live") or row.get("session") != sealed:
                return None
            changed = await self._store.change(row, **told)
            if changed is not None:
                log.info("session with a broker ended", broker=row["broker"], account=str(row["_id"]), why=because)
                self._news.tell(changed, "ended")
                return changed
            present = await self._store.get(row["_id"])
            if present is None:
                return None
            row = present
        return None
