"""One streaming server for all tests that need nothing special of it."""

from collections.abc import Iterator

import pytest

from app.stream.conversation import Limits
from tests.stream.server import Server


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(Limits(messages_per_second=1000, message_burst=1000)) as running:
        yield running
