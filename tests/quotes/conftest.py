"""A database server for all tests here, and for each test a database, a clock and a Yahoo of its own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from app.quotes.adapters.yahoo import Yahoo, YahooProcess
from app.quotes.models import DOCUMENTS
from tests.quotes.kit import NOON, Desk, desk_of, yahoo_of
from tests.simulators.yahoo import YahooMarket, YahooSimulator
from tests.support.clocks import StandingClock
from tests.support.mongodb import Db, empty_database


@pytest_asyncio.fixture
async def db(mongodb_url: str) -> AsyncIterator[Db]:
    async with empty_database(mongodb_url, DOCUMENTS) as made:
        yield made


@pytest.fixture
def clock() -> StandingClock:
    return StandingClock(NOON)


@pytest_asyncio.fixture
async def simulator(clock: StandingClock) -> AsyncIterator[YahooSimulator]:
    async with YahooSimulator(YahooMarket(clock.now, years=2), now=clock.now) as made:
        yield made


@pytest_asyncio.fixture(scope="package")
async def process(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[YahooProcess]:
    """The program that runs the library; each test points it at its own simulator."""
    made = YahooProcess(cache_dir=tmp_path_factory.mktemp("yahoo"))
    yield made
    await made.close()


@pytest_asyncio.fixture
async def yahoo(process: YahooProcess, simulator: YahooSimulator, clock: StandingClock, tmp_path: Path) -> Yahoo:
    return await yahoo_of(process, simulator, clock, tmp_path)


@pytest_asyncio.fixture
async def desk(db: Db, clock: StandingClock, yahoo: Yahoo) -> AsyncIterator[Desk]:
    async with desk_of(db, clock, [yahoo]) as made:
        yield made
