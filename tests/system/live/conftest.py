"""One service with a live feed, shared by the tests that leave its feed running."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.system.live.kit import Live


@pytest_asyncio.fixture(scope="module")  # no longer: while tests run that have no loop, its exchange is dumb
async def live(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Live]:
    async with Live(tmp_path_factory.mktemp("live")) as running:
        yield running
