"""A database and a simulator for all, an empty database for each."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.market_data.instruments.kit import FILE, FRIDAY
from tests.simulators.angel_one import AngelOneSimulator
from tests.support.clocks import StandingClock
from tests.support.mongodb import Db, empty_database


@pytest_asyncio.fixture
async def db(mongodb_url: str) -> AsyncIterator[Db]:
    async with empty_database(mongodb_url) as made:
        yield made


@pytest_asyncio.fixture
async def vendor() -> AsyncIterator[AngelOneSimulator]:
    """With a small file, whose indices are those of the vendor."""
    async with AngelOneSimulator(rates={}) as simulator:
        simulator.instruments.rows = list(FILE)
        yield simulator


@pytest.fixture
def clock() -> StandingClock:
    return StandingClock(FRIDAY)
