"""Accounts at brokers put together as the lifespan does it: real adapters, simulated brokers, a clock of the test's."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from beanie import PydanticObjectId
from fastapi import FastAPI
from pydantic import SecretStr

from app.brokerage.accounts.keeper import SessionKeeper
from app.brokerage.accounts.news import AccountMails, AccountNews
from app.brokerage.accounts.ports import Owner
from app.brokerage.accounts.refusals import SignInRefusals
from app.brokerage.accounts.router import router
from app.brokerage.accounts.service import BrokerAccounts
from app.brokerage.accounts.sessions import BrokerSessions
from app.brokerage.accounts.sign_ins import SignIns
from app.brokerage.accounts.store import AccountStore
from app.brokerage.adapters.angel_one.client import AngelOneBroker
from app.brokerage.adapters.groww.mapping import tokens_die
from app.brokerage.adapters.zerodha.client import ZerodhaBroker
from app.brokerage.errors import BrokerSessionError
from app.brokerage.ports import Broker, BrokerAccount, BrokerSession
from app.brokerage.push.router import router as push_router
from app.brokerage.push.service import BrokerPushes, ReadOrder
from app.brokerage.words import (
    BookedOrder,
    BookedTrade,
    BrokerName,
    Capabilities,
    Exchange,
    Listing,
    PriceType,
    Product,
    Validity,
)
from app.core.audit import Act, AuditTrail
from app.core.bus import Bus, NullTransport
from app.core.client_address import ClientAddressResolver
from app.core.clock import Sequence as Numbers
from app.core.deps import KnownQuery, Registry
from app.core.encryption import Vault
from app.core.encryption_keys import new_key
from app.core.errors import UnauthorizedError
from app.core.events import BrokerAccountChanged
from app.core.mail import MailRequest
from app.core.problem import add_problem_handlers
from app.core.rate_limit import RateLimiter
from app.core.security import Authenticator, Principal, Role, Scope
from app.core.settings import Settings
from tests.simulators.brokers.kite.simulator import KiteSimulator
from tests.simulators.brokers.smartapi.simulator import SmartApiSimulator
from tests.support.clocks import StandingClock
from tests.support.mongodb import Db

Row = dict[str, Any]
PATH = "/api/v1/dashboard"
NOON = datetime(2026, 11, 23, 6, 30, tzinfo=UTC)
"""12:00 in India, a Monday."""
SIX = datetime(2026, 11, 24, 0, 30, tzinfo=UTC)
"""06:00 in India on the day after: tokens of Kite die."""
# The same in every process: tests are named by them.
WEBHOOK_SECRETS = ["webhook-secret-9d41c07be2a85f36", "former-secret-53e8a1f07bc92d64"]


class Recorder:
    """Fills the ports of the trail, of mails, of owners, of orders and of their news, and keeps what it got."""

    available = True

    def __init__(self) -> None:
        self.acts: list[Act] = []
        self.mails: list[MailRequest] = []
        self.gone: set[PydanticObjectId] = set()
        self.open_orders: dict[str, int] = {}
        self.looked: list[str] = []
        self.observed: list[tuple[str, list[BookedOrder]]] = []
        self.failing: Exception | None = None

    async def record(self, act: Act) -> None:
        self.acts.append(act)

    async def note(self, act: Act) -> None:
        self.acts.append(act)

    async def request(self, request: MailRequest) -> None:
        self.mails.append(request)

    async def owner(self, user_id: PydanticObjectId) -> Owner | None:
        return None if user_id in self.gone else Owner(f"{user_id}@example.com", "Asha")

    async def unsettled(self, account_id: str) -> int:
        return self.open_orders.get(account_id, 0)

    def look(self, account_id: str) -> None:
        self.looked.append(account_id)

    async def observe(self, account_id: str, orders: list[BookedOrder], _trades: list[BookedTrade]) -> None:
        if self.failing is not None:
            raise self.failing
        self.observed.append((account_id, orders))

    @property
    def told(self) -> list[str]:
        return [f"{act.action} {act.outcome}" for act in self.acts]


class TwoPeople:
    """`ann` and `bob` are signed in; `writer` and `reader` are API tokens of Ann's."""

    def __init__(self) -> None:
        self.ids = {name: PydanticObjectId() for name in ("ann", "bob")}

    async def authenticate(self, access_token: str) -> Principal:
        later = NOON + timedelta(days=3650)
        if access_token in self.ids:
            return Principal(self.ids[access_token], PydanticObjectId(), Role.USER, later)
        scopes = {"reader": {Scope.ORDERS_READ}, "writer": {Scope.ORDERS_READ, Scope.ORDERS_WRITE}}.get(access_token)
        if scopes is None:
            raise UnauthorizedError("No.")
        return Principal(self.ids["ann"], PydanticObjectId(), Role.USER, later, frozenset(scopes), api_token=True)


@dataclass
class PlainBroker:
    """Fills the port `Broker` as far as sessions go, for what no simulator can be made to do."""

    clock: StandingClock
    lifetime: timedelta | None = timedelta(hours=12)
    daily: bool = False
    """Whether its sessions die at six in the morning, as Groww's do, instead."""
    refuse: str | None = None
    error: Exception | None = None
    sign_ins: int = 0
    renewals: int = 0
    refreshes: bool = False
    gate: asyncio.Event | None = None
    """Sign-ins wait for it."""
    client: str | None = "G777"
    listed: list[Listing] = field(default_factory=list)
    fetches: int = 0

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            broker=BrokerName.GROWW,
            exchanges=frozenset({Exchange.NSE}),
            products={Exchange.NSE: frozenset({Product.CNC})},
            price_types=frozenset(PriceType),
            validities=frozenset(Validity),
            session_ends="06:00",
            renews_itself=True,
        )

    def login_url(self, account: BrokerAccount) -> str | None:  # noqa: ARG002 (the port's)
        return None

    async def sign_in(self, account: BrokerAccount) -> BrokerSession:
        self.sign_ins += 1
        return await self._made(account)

    async def renew(self, account: BrokerAccount, session: BrokerSession) -> BrokerSession:  # noqa: ARG002 (the port's)
        self.renewals += 1
        return await self._made(account)

    async def _made(self, account: BrokerAccount) -> BrokerSession:
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        if self.refuse is not None and account.secrets["api_key"].get_secret_value() == self.refuse:
            raise BrokerSessionError("Groww refused the sign-in.")
        refresh = SecretStr("refresh-" + secrets.token_hex(8)) if self.refreshes else None
        ends = self.clock.now() + self.lifetime if self.lifetime else None
        return BrokerSession(
            access_token=SecretStr("token-" + secrets.token_hex(12)),
            expires_at=tokens_die(self.clock.now()) if self.daily else ends,
            refresh_token=refresh,
            broker_user_id=self.client,
        )

    async def listings(self) -> list[Listing]:
        self.fetches += 1
        if self.error is not None:
            raise self.error
        return self.listed


@dataclass
class Process:
    """What one process of the service has of this room."""

    bus: Bus
    store: AccountStore
    sign_ins: SignIns
    sessions: BrokerSessions
    news: AccountNews
    keeper: SessionKeeper


@dataclass
class Desk:
    """The room behind its endpoints, in this event loop."""

    db: Db
    clock: StandingClock
    people: TwoPeople
    recorder: Recorder
    settings: Settings
    vault: Vault
    brokers: dict[BrokerName, Broker]
    kite: KiteSimulator
    angel: SmartApiSimulator
    groww: PlainBroker
    here: Process
    client: httpx.AsyncClient
    events: list[Row]

    async def ask(self, method: str, path: str, who: str | None = "ann", status: int = 200, **options: Any) -> Any:
        """The JSON of an answer that has to have `status`."""
        headers = {"Authorization": f"Bearer {who}"} if who else {}
        answer = await self.client.request(method, PATH + path, headers=headers, **options)
        assert answer.status_code == status, answer.text
        return json.loads(answer.content) if answer.content else None

    async def activate(self, who: str = "ann", status: int = 201, **body: Any) -> Row:
        self.clock.move(seconds=2)  # sign-ins are paced
        made: Row = await self.ask("POST", "/activate-brokerage", who, status, json=body)
        return made

    async def zerodha(self, who: str = "ann", status: int = 201, **values: Any) -> Row:
        return await self.activate(who, status, **{"brokerage": "zerodha", **self.kite.credentials(), **values})

    async def angelone(self, who: str = "ann", status: int = 201, **values: Any) -> Row:
        return await self.activate(who, status, **{"brokerage": "angelone", **self.angel.credentials(), **values})

    async def groww_by_code(self, who: str = "ann", status: int = 201, **values: Any) -> Row:
        given = {"brokerage": "groww", "api_key": "groww-api-key", "totp_key": "JBSWY3DPEHPK3PXP"}
        return await self.activate(who, status, **{**given, **values})

    async def row(self, account: Row) -> Row:
        found = await self.db["broker_accounts"].find_one({"_id": PydanticObjectId(account["id"])})
        assert found is not None
        return found

    def changes(self) -> list[str]:
        """What the bus was told."""
        return [event["change"] for event in self.events]

    def process(self, bus: Bus | None = None) -> Process:
        """Another process on the same database."""
        return process_of(self.settings, self.vault, self.clock, self.brokers, self.recorder, bus)


def process_of(
    settings: Settings,
    vault: Vault,
    clock: StandingClock,
    brokers: Mapping[BrokerName, Broker],
    recorder: Recorder,
    bus: Bus | None = None,
) -> Process:
    bus = bus or Bus(NullTransport())
    store = AccountStore(settings, vault, clock)
    news = AccountNews(bus=bus, clock=clock, sequence=Numbers(clock), warn_before=timedelta(hours=1))
    sign_ins = SignIns(
        store=store,
        refusals=SignInRefusals(clock),
        brokers=brokers,
        clock=clock,
        news=news,
        holder=secrets.token_hex(4),
    )
    mails = AccountMails(recorder, recorder)
    sessions = BrokerSessions(store=store, sign_ins=sign_ins, mails=mails, clock=clock, bus=bus)
    keeper = SessionKeeper(
        store=store, sign_ins=sign_ins, news=news, mails=mails, owners=recorder, clock=clock, bus=bus
    )
    return Process(bus, store, sign_ins, sessions, news, keeper)


def settings_of(**values: Any) -> Settings:
    known: Row = {"rate_limit_per_minute": 1_000_000, "user_rate_limit_per_minute": 1_000_000}
    return Settings(secret_key=secrets.token_hex(32), environment="test", _env_file=None, **{**known, **values})


@asynccontextmanager
async def desk_of(db: Db, readers: Mapping[BrokerName, ReadOrder] | None = None) -> AsyncIterator[Desk]:
    """Put everything together; Beanie has to know the documents already."""
    clock, people, recorder, bus = StandingClock(NOON), TwoPeople(), Recorder(), Bus(NullTransport())
    async with (
        KiteSimulator(now=clock.now, limited=False) as kite,
        SmartApiSimulator(now=clock.now, limited=False) as angel,
    ):
        key = new_key()
        settings = settings_of(
            zerodha_base_url=kite.base_url,
            zerodha_login_url=f"{kite.base_url}/connect/login",
            angel_one_base_url=angel.base_url,
            broker_api_url_allowlist="allowed.example.com",
            encryption_keys=[key],
            broker_webhook_secret=WEBHOOK_SECRETS[0],
            broker_webhook_additional_secrets=WEBHOOK_SECRETS[1:],
        )
        vault, groww = Vault([key]), PlainBroker(clock)
        brokers: dict[BrokerName, Any] = {
            BrokerName.ZERODHA: ZerodhaBroker(clock, login_url=settings.zerodha_login_url),
            BrokerName.ANGEL_ONE: AngelOneBroker(clock),
            BrokerName.GROWW: groww,
        }
        here = process_of(settings, vault, clock, brokers, recorder, bus)
        events: list[Row] = []
        bus.subscribe(BrokerAccountChanged, lambda event: events.append(json.loads(event.body)))
        app = _app(settings, people, recorder, here, clock, readers or {})
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://arrow.test") as client:
            yield Desk(db, clock, people, recorder, settings, vault, brokers, kite, angel, groww, here, client, events)
        await brokers[BrokerName.ZERODHA].close()
        await brokers[BrokerName.ANGEL_ONE].close()


def _app(
    settings: Settings,
    people: TwoPeople,
    recorder: Recorder,
    here: Process,
    clock: StandingClock,
    readers: Mapping[BrokerName, ReadOrder],
) -> FastAPI:
    app = FastAPI()
    registry = app.state.registry = Registry()
    registry.provide(Settings, settings)
    limiter = registry.provide(RateLimiter, RateLimiter())
    registry.provide(ClientAddressResolver, ClientAddressResolver([]))
    registry.provide(Authenticator, people)  # type: ignore[type-abstract]
    registry.provide(AuditTrail, recorder)  # type: ignore[type-abstract]
    accounts = BrokerAccounts(
        settings=settings,
        store=here.store,
        sign_ins=here.sign_ins,
        sessions=here.sessions,
        news=here.news,
        clock=clock,
        audit=recorder,
        limiter=limiter,
        orders=recorder,
    )
    registry.provide(BrokerAccounts, accounts)
    pushes = BrokerPushes(
        secrets=settings.webhook_secrets,
        per_minute=settings.broker_webhook_rate_limit_per_minute,
        store=here.store,
        news=recorder,
        readers=readers,
        clock=clock,
        limiter=limiter,
        audit=recorder,
    )
    registry.provide(BrokerPushes, pushes)
    add_problem_handlers(app)
    app.include_router(push_router)
    app.include_router(router, dependencies=[KnownQuery])
    return app
