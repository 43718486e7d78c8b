"""Candlestick pages in a real browser that cannot reach the internet."""

import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
import pytest_asyncio
from pymongo import AsyncMongoClient

from app.market_data.ports import Timeframe
from tests.browser.conftest import Visit
from tests.market_data.reads.kit import candle_row, latest_row, tick_row
from tests.support.service import ServiceProcess

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

FRIDAY = datetime(2026, 11, 20, 3, 45, tzinfo=UTC)
MONDAY = FRIDAY + timedelta(days=3)
BARS = 13
"""Of half an hour in a session."""
CENTRES = """() => [...document.querySelectorAll(".boxlayer path.box")].map((box) => {
  const { left, right } = box.getBoundingClientRect();
  return (left + right) / 2;
}).sort((one, other) => one - other)"""


@pytest_asyncio.fixture
async def symbol(service: ServiceProcess) -> AsyncIterator[str]:
    """A symbol with candles of a Friday and the Monday after it."""
    name = f"SHARE {secrets.token_hex(3).upper()} <b>&"
    candles = [
        candle_row(name, Timeframe.M30, start, start + timedelta(minutes=30), 100 + number)
        for day in (FRIDAY, MONDAY)
        for number in range(BARS)
        for start in [day + number * timedelta(minutes=30)]
    ]
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(service.mongodb_url)
    db = client[service.database_name]
    await db["candles"].insert_many(candles)
    await db["market_latest"].insert_one(latest_row([tick_row(name, MONDAY + timedelta(hours=6))]))
    yield name
    await client.close()


async def test_candles_and_volume_without_the_weekend(service: ServiceProcess, symbol: str, visit: Visit) -> None:
    """In the light; that a page draws in either theme is seen in test_chart_pages.py."""
    url = f"{service.url}/api/v1/market-data/chart/{symbol.replace('&', '%26')}?timeframe=30m&format=html&theme=light"
    async with visit() as watched:
        answer = await watched.page.goto(f"{url}&start=2026-11-20T00:00:00Z&end=2026-11-24T00:00:00Z")
        assert answer is not None
        assert answer.status == 200
        await watched.page.wait_for_selector(".boxlayer path.box")

        centres = await watched.page.evaluate(CENTRES)
        steps = [later - earlier for earlier, later in pairwise(centres)]
        assert len(centres) == 2 * BARS
        # The half of the last bar that lies after the close, and nothing of the weekend, stands between two days.
        assert max(steps) < 1.6 * min(steps)
        assert await watched.page.locator(".barlayer .point path").count() == 2 * BARS
        assert symbol.split()[1] in (await watched.page.text_content(".gtitle") or "")
