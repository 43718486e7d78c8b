"""A database for the tests of history, risk and portfolios, and a desk on it."""

from collections import Counter
from collections.abc import AsyncIterator

import pytest
from beanie import init_beanie
from pymongo import monitoring

from app.crypto.portfolio_models import DOCUMENTS
from tests.crypto.portfolio.kit import Database, Desk, desk_of
from tests.support.mongodb import empty_database


class Answers(monitoring.CommandListener):
    """Counts queries by collection, and the rows that came back."""

    def __init__(self) -> None:
        self.queries: Counter[str] = Counter()
        self.rows: Counter[str] = Counter()
        self._asked: dict[int, str] = {}

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        if collection := event.command.get("find"):
            self._asked[event.request_id] = collection
            self.queries[collection] += 1

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        if collection := self._asked.pop(event.request_id, ""):
            self.rows[collection] += len(event.reply["cursor"]["firstBatch"])

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        self._asked.pop(event.request_id, None)

    def forget(self) -> None:
        """Begin again."""
        self.queries.clear()
        self.rows.clear()


@pytest.fixture(scope="package")
def answers() -> Answers:
    """What the database was asked for."""
    return Answers()


@pytest.fixture(scope="package")
async def portfolio_server(mongodb_url: str, answers: Answers) -> AsyncIterator[Database]:
    """A database with the feature's indexes."""
    async with empty_database(mongodb_url, DOCUMENTS, event_listeners=[answers]) as db:
        yield db


@pytest.fixture
async def desk(portfolio_server: Database) -> AsyncIterator[Desk]:
    """Everything on an empty database; Beanie's documents belong to it."""
    await init_beanie(portfolio_server, document_models=DOCUMENTS, skip_indexes=True)
    for document in DOCUMENTS:
        await document.get_pymongo_collection().delete_many({})
    async with desk_of(portfolio_server) as made:
        yield made
