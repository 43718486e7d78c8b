"""Services that the tests share: one as it is by default, with all limits, and a pair of workers."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.system.crypto.kit import Exchange


@pytest_asyncio.fixture(scope="package")
async def single(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Exchange]:
    """One process with the limits that it has by default; nobody syncs but the tests."""
    async with Exchange(tmp_path_factory.mktemp("single"), generous=False) as running:
        yield await running.start()


@pytest_asyncio.fixture(scope="package")
async def pair(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Exchange]:
    """Two workers; nobody syncs but the tests."""
    async with Exchange(tmp_path_factory.mktemp("pair"), workers=2) as running:
        yield await running.start()
