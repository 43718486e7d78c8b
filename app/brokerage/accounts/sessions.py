"""Fills the port `Sessions`: the account that orders go through, opened, from memory where that is fresh enough."""

from datetime import timedelta
from typing import Any, Final, NamedTuple

from beanie import PydanticObjectId
from pydantic import SecretStr

from app.brokerage.accounts.brokers import WANTS
from app.brokerage.accounts.news import AccountMails
from app.brokerage.accounts.session_state import SessionState, state_of
from app.brokerage.accounts.sign_ins import NO_ACCOUNT, SignIns
from app.brokerage.accounts.store import AccountStore, Row
from app.brokerage.errors import BrokerSessionError
from app.brokerage.ports import BrokerAccount, BrokerSession
from app.brokerage.words import BrokerName
from app.core.bus import Bus
from app.core.clock import Clock
from app.core.errors import NotFoundError
from app.core.events import BrokerAccountChanged, PeersChanged
from app.core.schemas import parse_id

BELIEVED: Final = 5.0
"""Seconds for which what was read is believed, changes that are heard of apart."""
MOST_HELD: Final = 2000
PAPER_SESSION: Final = BrokerSession(access_token=SecretStr("paper"), expires_at=None)
"""Paper needs none."""


class _Held(NamedTuple):
    account: BrokerAccount
    session: BrokerSession
    until: float


class BrokerSessions:
    """Accounts with their sessions, for orders and whoever looks after them."""

    def __init__(self, *, store: AccountStore, sign_ins: SignIns, mails: AccountMails, clock: Clock, bus: Bus) -> None:
        self._store, self._sign_ins, self._mails, self._clock = store, sign_ins, mails, clock
        self._held: dict[str, _Held] = {}
        self._active: dict[str, tuple[str, float]] = {}
        self._brokers: dict[str, BrokerName] = {}
        self._generation = 0
        bus.subscribe(BrokerAccountChanged, self._changed)
        bus.subscribe(PeersChanged, lambda _: self._drop_all())

    async def active(self, user_id: str) -> str:
        """See the port."""
        now = self._clock.monotonic()
        found = self._active.get(user_id)
        if found is not None and now < found[1]:
            return found[0]
        generation = self._generation
        row = await self.chosen(parse_id(user_id, "account"))
        account_id = str(row["_id"])
        if generation == self._generation:
            _bounded(self._active)[user_id] = (account_id, now + BELIEVED)
        return account_id

    async def chosen(self, user_id: PydanticObjectId) -> Row:
        """The account that the user's orders go through: the one that was chosen last, else paper."""
        rows = [row for row in await self._store.of_user(user_id) if row.get("chosen_at")]
        return max(rows, key=lambda row: (row["chosen_at"], row["_id"])) if rows else await self.paper(user_id)

    async def paper(self, user_id: PydanticObjectId) -> Row:
        """The user's account with the paper broker, made when it is first asked for."""
        rows = await self._store.of_user(user_id)
        found = next((row for row in rows if row["broker"] == BrokerName.PAPER), None)
        if found is not None:
            return found
        now = self._clock.now()
        row: Row = {
            "_id": PydanticObjectId(),
            "schema_version": 1,
            "user_id": user_id,
            "broker": BrokerName.PAPER.value,
            "secrets": {},
            "renews": False,
            "revision": 1,
            "session_live": True,
            "session_made_at": now,
            "early_deaths": 0,
            "created_at": now,
            "updated_at": now,
        }
        if await self._store.insert(row):
            return row
        return await self.paper(user_id)

    async def broker_of(self, account_id: str) -> BrokerName:
        """See the port."""
        if account_id not in self._brokers:
            row = await self._row(account_id)
            _bounded(self._brokers)[account_id] = BrokerName(row["broker"])
        return self._brokers[account_id]

    async def owns(self, user_id: str, account_id: str) -> bool:
        """Whether the user has an account with this id, whatever was written for one."""
        return account_id in {str(row["_id"]) for row in await self._store.of_user(PydanticObjectId(user_id))}

    async def open(self, account_id: str) -> tuple[BrokerAccount, BrokerSession]:
        """See the port."""
        held = self._held.get(account_id)
        if held is not None and self._clock.monotonic() < held.until and self._lasts(held.session):
            return held.account, held.session
        generation = self._generation
        row = await self._row(account_id)
        session = self._good(row)
        if session is None:
            if not row.get("renews"):
                raise self.over(row)
            generation = self._generation
            row, session = await self._sign_ins.renewed(row)
        account = self._store.account(row)
        if generation == self._generation:
            until = self._clock.monotonic() + BELIEVED
            _bounded(self._held)[account_id] = _Held(account, session, until)
        return account, session

    def _good(self, row: Row) -> BrokerSession | None:
        if row["broker"] == BrokerName.PAPER:
            return PAPER_SESSION
        session = self._store.session(row) if row.get("session_live") else None
        return session if session is not None and self._lasts(session) else None

    def _lasts(self, session: BrokerSession) -> bool:
        return session.expires_at is None or self._clock.now() < session.expires_at

    async def expired(self, account_id: str, session: BrokerSession) -> None:
        """See the port."""
        self._held.pop(account_id, None)
        row = await self._store.get(parse_id(account_id, "brokerage"))
        if row is None or not row.get("session_live") or row["broker"] == BrokerName.PAPER:
            return
        held = self._store.session(row)
        if held is None or held.access_token != session.access_token:
            return  # another one is there already
        over = await self._sign_ins.ended(row, "refused")
        if over is not None and not over.get("renews"):
            await self._mails.ended(over)

    async def all_open(self) -> list[str]:
        """See the port."""
        now, found = self._clock.now(), list[str]()
        for broker in BrokerName:
            for row in await self._store.of_broker(broker, live=True):
                ends = row.get("session_expires_at")
                if ends is None or now < ends:
                    found.append(str(row["_id"]))
        return found

    def over(self, row: Row) -> BrokerSessionError:
        """What to say of an account without a session that holds, and how to get one."""
        broker = BrokerName(row["broker"])
        wants, where = WANTS[broker], f"/api/v1/dashboard/brokerages/{row['_id']}/session"
        login_url = self._sign_ins.adapter(broker).login_url(self._store.account(row))
        never = state_of(row, self._clock.now(), timedelta(0)) is SessionState.NONE
        begin = f"You are not signed in at {wants.label} yet" if never else f"Your session with {wants.label} is over"
        if wants.by_page:
            how = f"open login_url, and send the request_token that it hands over to POST {where}"
        else:
            how = f"POST {where} makes a new one"
        return BrokerSessionError(f"{begin}: {how}.", login_url=login_url)

    async def _row(self, account_id: str) -> Row:
        row = await self._store.get(parse_id(account_id, "brokerage"))
        if row is None:
            raise NotFoundError(NO_ACCOUNT)
        return row

    def _changed(self, event: BrokerAccountChanged) -> None:
        self._generation += 1
        self._held.pop(event.account_id, None)
        self._brokers.pop(event.account_id, None)
        self._active.pop(event.user_id, None)

    def _drop_all(self) -> None:
        self._generation += 1
        self._held.clear()
        self._active.clear()
        self._brokers.clear()


def _bounded(cache: dict[str, Any]) -> dict[str, Any]:
    if len(cache) >= MOST_HELD:
        cache.clear()
    return cache
