"""Outboxes in this process on a real database, and real mail servers for them."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
import pytest_asyncio

from app.core.bus import Bus, NullTransport
from app.core.clock import SystemClock
from app.core.lease_holder import Lease
from app.core.mail import Letter, MailRequest
from app.core.settings import Settings
from app.mail.models import DOCUMENTS
from app.mail.outbox import MailOutbox, Timings
from tests.support.certificates import Certificate, make_certificate
from tests.support.mongodb import Db, empty_database
from tests.support.smtp_server import SmtpServer

PATIENCE = 30.0
T = TypeVar("T")
QUICK = Timings(
    look=0.2, lease=6.0, first_backoff=0.05, last_backoff=0.2, first_retry=0.2, last_retry=0.5, smtp=20.0, compose=20.0
)
"""So that nothing is waited for longer than a test needs; what has to last on a busy machine is as long as there."""


async def until(condition: Callable[[], Awaitable[T]], seconds: float = PATIENCE) -> T:
    """Wait until `condition` gives something true, and give that."""
    deadline = time.monotonic() + seconds
    while not (found := await condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.01)
    return found


async def no_row(db: Db, **wanted: str) -> bool:
    """Whether the outbox has no row with these values."""
    return await db["outbox"].find_one(wanted) is None


async def nothing(_: MailRequest) -> Letter | None:
    """Composes as for an address without an account."""
    return None


def mail_settings(folder: Path, server: SmtpServer | None, **values: Any) -> Settings:
    """Settings for mails through `server`, which offers no TLS unless `values` say so."""
    if server is not None:
        values = {"smtp_host": "127.0.0.1", "smtp_port": server.port, "smtp_tls": "none"} | values
    nobodys: dict[str, Any] = {"app_name": "Arrow", "smtp_host": None, "smtp_username": None, "smtp_password": None}
    values = nobodys | {"environment": "test", "secret_key": "s" * 40, "mail_from": "arrow@mail.test"} | values
    return Settings.load(data_dir=folder, _env_file=None, **values)


@dataclass
class Post:
    """An outbox with one kind of mail, `otp`, whose codes are remembered."""

    outbox: MailOutbox
    db: Db
    codes: list[str] = field(default_factory=list)
    task: asyncio.Task[None] | None = None

    async def compose(self, request: MailRequest) -> Letter:
        """A new code at every call, as the real one makes it."""
        self.codes.append(f"{secrets.randbelow(10**6):06}")
        return Letter(request.to, "otp", {"name": "Asha", "code": self.codes[-1], "minutes": 5})

    async def ask(self, to: str, *, key: str | None = None, kind: str = "otp", **values: str) -> None:
        await self.outbox.request(MailRequest(kind, to, values, key))

    async def rows(self, **wanted: Any) -> list[dict[str, Any]]:
        return [row async for row in self.db["outbox"].find(wanted)]

    async def row(self, to: str) -> dict[str, Any]:
        """The one row for this address."""
        (found,) = await self.rows(to=to)
        return found

    async def settled(self, to: str, state: str) -> dict[str, Any]:
        """The one row for this address, as soon as it is in `state`."""

        async def reached() -> bool:
            rows = await self.rows(to=to)
            return bool(rows) and all(row["state"] == state for row in rows)

        await until(reached)
        return await self.row(to)

    def start(self) -> None:
        self.task = asyncio.create_task(self.outbox.run())

    async def stop(self) -> None:
        if self.task is not None:
            task, self.task = self.task, None
            task.cancel()
            _, late = await asyncio.wait([task], timeout=PATIENCE)
            assert not late, "the outbox does not stop"
            if not task.cancelled():
                task.result()


MakePost = Callable[..., Post]


@pytest_asyncio.fixture
async def db(mongodb_url: str) -> AsyncIterator[Db]:
    async with empty_database(mongodb_url, DOCUMENTS) as made:
        yield made


@pytest.fixture
def server() -> Iterator[SmtpServer]:
    """A mail server without TLS and without users."""
    with SmtpServer() as running:
        yield running


@pytest_asyncio.fixture
async def make_post(db: Db, tmp_path: Path) -> AsyncIterator[MakePost]:
    """Makes outboxes on the test's database; they run unless told otherwise, and are stopped after the test."""
    made: list[Post] = []

    def make(
        server: SmtpServer | None,
        *,
        run: bool = True,
        timings: Timings = QUICK,
        max_waiting: int = 1000,
        bus: Bus | None = None,
        at: Db = db,
        **values: Any,
    ) -> Post:
        clock, holder = SystemClock(), f"holder {len(made)}"
        outbox = MailOutbox(
            settings=mail_settings(tmp_path, server, **values),
            clock=clock,
            bus=bus or Bus(NullTransport()),
            lease=lambda seconds: Lease(at, clock, "mail", holder, seconds),
            timings=timings,
            max_waiting=max_waiting,
        )
        post = Post(outbox, at)
        outbox.add_composer("otp", post.compose)
        made.append(post)
        if run:
            post.start()
        return post

    yield make
    for post in made:
        await post.stop()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"))
