"""One streaming server for all tests that need nothing special of it."""

from collections.abc import Iterator

import pytest
import pytest_asyncio

from app.stream.conversation import Limits
from tests.stream.server import Server


@pytest.fixture(scope="module")
def shared_server() -> Iterator[Server]:
    with Server(Limits(messages_per_second=1000, message_burst=1000)) as running:
        yield running


@pytest_asyncio.fixture
async def server(shared_server: Server) -> Server:
    """The shared server, which the clients of the test before have left."""
    await shared_server.until(lambda: shared_server.hub.health()["clients"] == 0)
    return shared_server
