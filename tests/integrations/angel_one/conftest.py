"""Fixtures of the tests with Angel One: the simulator, and the vendor's SDK."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.integrations.angel_one.sdk import Sdk
from tests.simulators.angel_one import AngelOneSimulator


@pytest.fixture(scope="session")
def sdk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sdk]:
    """One process with the SDK."""
    child = Sdk(tmp_path_factory.mktemp("sdk"))
    yield child
    child.close()


@pytest_asyncio.fixture
async def angel_one() -> AsyncIterator[AngelOneSimulator]:
    """A simulator without limits on the rate of requests."""
    async with AngelOneSimulator(rates={}) as simulator:
        yield simulator
