"""Fixtures: the service as a real process on real sockets, and people who use it."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from hypothesis import settings

from tests.support.http import NO_TLS
from tests.support.mongodb import mongodb_server
from tests.support.people import Person, sign_up
from tests.support.service import ServiceProcess

# The same examples in every run, so that a run says something about the change and not about the day. Whoever wants
# new ones: pytest --hypothesis-profile default --hypothesis-seed random
settings.register_profile("steady", derandomize=True, deadline=None, print_blob=True, max_examples=40)
settings.load_profile("steady")

pytest_plugins = ["tests.browser.guard"]
"""Says in one line that browser tests were left out, where there is no browser."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: with several processes, the short ones fill the gaps in the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def _a_minute_of_the_clock(request: pytest.FixtureRequest) -> None:
    """For tests marked `within_a_minute(seconds)`.

    Limits in memory begin anew with each minute of the clock, when one request more may pass: what counts exactly has
    to begin with so many seconds of its minute left.
    """
    if mark := request.node.get_closest_marker("within_a_minute"):
        left = 60 - time.time() % 60
        if left < mark.args[0]:
            time.sleep(left)


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """One running service, shared by all tests of a process that need nothing special of it."""
    process = ServiceProcess(tmp_path_factory.mktemp("service"))
    try:
        yield process.start()
    finally:
        process.close()


@pytest_asyncio.fixture(scope="session")
async def mongodb_url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The address of a database server for parts that are tested alone: one for all tests of a process.

    Each takes databases of its own; who cuts a connection does so with a proxy in between.
    """
    async with mongodb_server(tmp_path_factory.mktemp("mongodb")) as url:
        yield url


@pytest.fixture
def make_service(tmp_path: Path) -> Iterator[Callable[..., ServiceProcess]]:
    """Makes services with settings of their own; they are not started yet, and ended after the test."""
    made: list[ServiceProcess] = []

    def make(**options: object) -> ServiceProcess:
        folder = tmp_path / f"service{len(made)}"
        made.append(ServiceProcess(folder, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for process in made:
        process.close()


@pytest_asyncio.fixture
async def client(service: ServiceProcess) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the shared service, without a token."""
    async with httpx.AsyncClient(base_url=service.url, timeout=40, verify=NO_TLS) as anonymous:
        yield anonymous


@pytest_asyncio.fixture
async def make_user(service: ServiceProcess) -> AsyncIterator[Callable[..., Awaitable[Person]]]:
    """Signs people up at the shared service, or at another `url`."""
    people: list[Person] = []

    async def make(url: str | None = None, email: str | None = None) -> Person:
        people.append(await sign_up(url or service.url, email))
        return people[-1]

    yield make
    for person in people:
        await person.client.aclose()


@pytest_asyncio.fixture
async def user(make_user: Callable[..., Awaitable[Person]]) -> Person:
    """Somebody who has just signed up at the shared service."""
    return await make_user()
