"""The auth services in this process, on a real database, with a clock that tests can move."""

import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from beanie import init_beanie
from pymongo import AsyncMongoClient
from pymongo.asynchronous.database import AsyncDatabase

from app.auth.accounts import Accounts, NewAccount
from app.auth.authenticator import SessionAuthenticator
from app.auth.models import DOCUMENTS, UserDocument
from app.auth.passwords import Passwords
from app.auth.schemas import TokenPair
from app.auth.sessions import Client, Sessions
from app.auth.tokens import AccessTokens
from app.core.bus import Bus, NullTransport
from app.core.embedded import EmbeddedDatabase

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


@dataclass
class Parts:
    """The feature put together as the lifespan does it."""

    db: AsyncDatabase[dict[str, Any]]
    clock: MovableClock
    bus: Bus
    accounts: Accounts
    sessions: Sessions
    authenticator: SessionAuthenticator

    async def user(self) -> UserDocument:
        """A new account; its password is `PASSWORD`."""
        return await self.accounts.create(NewAccount(f"{secrets.token_hex(8)}@example.com", PASSWORD))

    async def session(self) -> tuple[UserDocument, TokenPair]:
        """A new account, signed in."""
        user = await self.user()
        return user, await self.sessions.open(user, HERE)


@pytest.fixture(scope="session")
async def mongodb_url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """A database server: the real one that `TEST_MONGODB_URL` names, else an embedded one."""
    if url := os.environ.get("TEST_MONGODB_URL"):
        yield url
        return
    embedded = EmbeddedDatabase(tmp_path_factory.mktemp("auth"), role="tool")
    yield await embedded.start()
    await embedded.stop()


@pytest.fixture(scope="module")
async def auth_db(mongodb_url: str) -> AsyncIterator[AsyncDatabase[dict[str, Any]]]:
    """An empty database of this module's own."""
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(
        mongodb_url, tz_aware=True, w="majority", journal=True, maxPoolSize=4
    )
    name = f"test_auth_{secrets.token_hex(4)}"
    await init_beanie(client[name], document_models=DOCUMENTS)
    yield client[name]
    await client.drop_database(name)
    await client.close()


@pytest.fixture(scope="module")
async def passwords() -> AsyncIterator[Passwords]:
    hasher = Passwords()
    yield hasher
    hasher.close()


@pytest.fixture
async def parts(auth_db: AsyncDatabase[dict[str, Any]], passwords: Passwords) -> AsyncIterator[Parts]:
    clock, bus = MovableClock(), Bus(NullTransport())
    tokens = AccessTokens(secret_key=secrets.token_hex(32), lifetime=timedelta(minutes=30), clock=clock)
    accounts = Accounts(clock=clock, passwords=passwords)
    sessions = Sessions(clock=clock, bus=bus, tokens=tokens, lifetime=timedelta(days=7))
    authenticator = SessionAuthenticator(tokens=tokens, clock=clock, bus=bus)
    await bus.start()
    yield Parts(auth_db, clock, bus, accounts, sessions, authenticator)
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
