"""The auth services in this process, on a real database, with a clock that tests can move."""

import secrets
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pymongo import monitoring
from pymongo.asynchronous.database import AsyncDatabase

from app.auth.accounts import Accounts, NewAccount
from app.auth.api_tokens import ApiTokens
from app.auth.authenticator import SessionAuthenticator
from app.auth.models import DOCUMENTS, UserDocument
from app.auth.notices import Notices
from app.auth.passwords import Passwords
from app.auth.schemas.accounts import TokenPair
from app.auth.sessions import Client, Sessions
from app.auth.tokens import AccessTokens
from app.auth.uses import CredentialUses
from app.core import audit
from app.core.audit import Act
from app.core.bus import Bus, NullTransport
from app.core.errors import UnavailableError
from app.core.mail import MailRequest
from app.core.rate_limit import RateLimiter
from app.core.security import Principal
from tests.support.mongodb import empty_database

PASSWORD = "correct horse battery staple"
HERE = Client("192.0.2.7", "pytest")


class MovableClock:
    """The system's time, moved ahead by what a test says."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def now(self) -> datetime:
        now = datetime.now(UTC) + self.ahead
        return now.replace(microsecond=now.microsecond // 1000 * 1000)

    def monotonic(self) -> float:
        return self.now().timestamp()


class Trail:
    """Fills the port `AuditTrail`: remembers what was written down.

    Successful sign-ins apart, of which the fixtures themselves make many.
    """

    def __init__(self) -> None:
        self.acts: list[Act] = []
        self.sign_ins: list[Act] = []
        self.broken = False

    async def record(self, act: Act) -> None:
        if self.broken:
            raise UnavailableError("The trail cannot be written to.")
        await self.note(act)

    async def note(self, act: Act) -> None:
        """Never an error, even when broken: the real trail keeps the act and stores it later."""
        signed_in = act.action == "auth.sign_in" and act.outcome is audit.Outcome.SUCCESS
        (self.sign_ins if signed_in else self.acts).append(act)


class Post:
    """Fills the port `Mails`: remembers what was asked for."""

    def __init__(self) -> None:
        self.available = True
        self.requests: list[MailRequest] = []
        self.broken = False

    async def request(self, request: MailRequest) -> None:
        if self.broken or not self.available:
            raise UnavailableError("Mails cannot be sent.")
        self.requests.append(request)


@dataclass
class Parts:
    """The feature put together as the lifespan does it."""

    db: AsyncDatabase[dict[str, Any]]
    clock: MovableClock
    bus: Bus
    accounts: Accounts
    sessions: Sessions
    authenticator: SessionAuthenticator
    api_tokens: ApiTokens
    uses: CredentialUses
    trail: Trail
    post: Post

    async def user(self) -> UserDocument:
        """A new account; its password is `PASSWORD`."""
        return await self.accounts.create(NewAccount(f"{secrets.token_hex(8)}@example.com", PASSWORD))

    async def session(self) -> tuple[UserDocument, TokenPair]:
        """A new account, signed in."""
        user = await self.user()
        return user, await self.sessions.open(user, HERE)

    async def person(self) -> Principal:
        """A new account, signed in, as endpoints know it."""
        _, pair = await self.session()
        return await self.authenticator.authenticate(pair.access_token)


class Queries(monitoring.CommandListener):
    """Counts what the database is asked for, by collection, and how much of it at one time.

    `then[collection]` is called once, between the next answer from there and whoever waits for it. `writes` are the
    collections that were written to, in that order.
    """

    def __init__(self) -> None:
        self.then: dict[str, Callable[[], None]] = {}
        self.count: Counter[str] = Counter()
        self.most_at_once: Counter[str] = Counter()
        self.writes: list[str] = []
        self._running: dict[int, str] = {}

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        if event.command_name in {"insert", "update", "delete"}:
            self.writes.append(event.command[event.command_name])
        collection = event.command.get("find")
        if collection:
            self._running[event.request_id] = collection
            self.count[collection] += 1
            now = list(self._running.values()).count(collection)
            self.most_at_once[collection] = max(self.most_at_once[collection], now)

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        collection = self._running.pop(event.request_id, "")
        if then := self.then.pop(collection, None):
            then()

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        self._running.pop(event.request_id, None)


@pytest.fixture(scope="module")
def queries() -> Queries:
    """What `auth_db` was asked for."""
    return Queries()


@pytest.fixture(scope="module")
async def auth_db(mongodb_url: str, queries: Queries) -> AsyncIterator[AsyncDatabase[dict[str, Any]]]:
    """An empty database of this module's own."""
    async with empty_database(mongodb_url, DOCUMENTS, event_listeners=[queries]) as db:
        yield db


@pytest.fixture(scope="module")
async def passwords() -> AsyncIterator[Passwords]:
    hasher = Passwords(passes=1, kib=64)  # cheap: these tests are about other things
    yield hasher
    hasher.close()


@pytest.fixture
async def parts(auth_db: AsyncDatabase[dict[str, Any]], passwords: Passwords) -> AsyncIterator[Parts]:
    clock, bus = MovableClock(), Bus(NullTransport())
    tokens = AccessTokens(secret_key=secrets.token_hex(32), lifetime=timedelta(minutes=30), clock=clock)
    accounts = Accounts(clock=clock, passwords=passwords)
    trail, post, uses = Trail(), Post(), CredentialUses(clock)
    life = timedelta(days=7)
    sessions = Sessions(
        clock=clock, bus=bus, tokens=tokens, lifetime=life, audit=trail, mails=post, limiter=RateLimiter()
    )
    api_tokens = ApiTokens(clock=clock, bus=bus, audit=trail, accounts=accounts, notices=Notices(post))
    authenticator = SessionAuthenticator(tokens=tokens, api_tokens=api_tokens, uses=uses, clock=clock, bus=bus)
    await bus.start()
    yield Parts(auth_db, clock, bus, accounts, sessions, authenticator, api_tokens, uses, trail, post)
    await bus.stop()


Outcome = Callable[[Awaitable[Any]], Awaitable[type[BaseException] | None]]


@pytest.fixture
def outcome() -> Outcome:
    """The type of the exception that something ends with, None if it succeeds."""

    async def of(something: Awaitable[Any]) -> type[BaseException] | None:
        try:
            await something
        except Exception as error:  # noqa: BLE001 (its type is the answer)
            return type(error)
        return None

    return of
