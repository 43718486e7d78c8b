"""A database for all, emptied for each test, and a desk."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio

from app.job_runs.models import DOCUMENTS as JOB_DOCUMENTS
from app.predictions.models import DOCUMENTS
from tests.predictions.service.kit import NOON, Desk, desk_of, indian_days, sessions
from tests.support.clocks import StandingClock
from tests.support.mongodb import Db, empty_database, mongodb_server


@pytest_asyncio.fixture(scope="package")
async def predictions_db(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Db]:
    async with (
        mongodb_server(tmp_path_factory.mktemp("predictions")) as url,
        empty_database(url, [*DOCUMENTS, *JOB_DOCUMENTS]) as made,
    ):
        yield made


@pytest_asyncio.fixture
async def db(predictions_db: Db) -> Db:
    """Emptied, which is quicker than to make all the indexes for each test."""
    for name in ("predictions", "prediction_models", "job_runs", "leases"):
        await predictions_db[name].delete_many({})
    return predictions_db


@pytest.fixture
def clock() -> StandingClock:
    return StandingClock(NOON)


@pytest_asyncio.fixture
async def desk(db: Db, clock: StandingClock, tmp_path: Path) -> AsyncIterator[Desk]:
    """With a share of which there are candles of 700 days before now, and of the year after."""
    async with desk_of(db, clock, tmp_path) as made:
        past, future = indian_days(700), sessions(NOON, NOON + timedelta(days=365))
        made.prices.list_days("RELIANCE.NS", [*past, *future])
        yield made
