"""Listed shares in the running service: from Yahoo to quotes, candles, indicators, signals, and what is streamed."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio
from websockets.asyncio.client import connect

from tests.simulators.yahoo import YahooSimulator
from tests.simulators.yahoo.simulator import too_many
from tests.support.people import Person, somebody
from tests.support.service import ServiceProcess, wait_for_end
from tests.system.crypto.kit import subscribed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

HEAVY = ("jaxlib", "sklearn", "scipy", "pandas", "yfinance", "curl_cffi")
"""What the process that serves requests has no business with."""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def yahoo() -> AsyncIterator[YahooSimulator]:
    async with YahooSimulator() as simulator:
        yield simulator


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def desk(yahoo: YahooSimulator, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServiceProcess]:
    """The service beside the simulator; caches are short, so that what is stored can be seen to stand in."""
    brief = {"MARKET_CACHE_SECONDS": "1", "QUOTE_CACHE_SECONDS": "1"}
    service = ServiceProcess(tmp_path_factory.mktemp("desk"), **yahoo.environment(), **brief)
    try:
        await asyncio.to_thread(service.start)
        yield service
    finally:
        await asyncio.to_thread(service.close)


@pytest_asyncio.fixture
async def trader(desk: ServiceProcess) -> AsyncIterator[Person]:
    async with somebody(desk.url) as person:
        yield person


async def get(person: Person, path: str, **query: Any) -> Any:
    answer = await person.client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_from_a_price_to_a_streamed_signal(desk: ServiceProcess, trader: Person):
    quote = await get(trader, "/api/market/quote/RELIANCE")
    candles = (await get(trader, "/api/market/historical/reliance.ns", days=400, timeframe="1d"))["candles"]
    indicators = await get(trader, "/api/market/indicators/RELIANCE")
    async with connect(desk.ws_url) as socket:
        await subscribed(socket, trader, channel="signals")
        made = await trader.client.post("/api/signals/generate/RELIANCE", json={"timeframe": "1D"})
        assert made.status_code == 200, made.text
        streamed = json.loads(await asyncio.wait_for(socket.recv(), 30))
    signal = made.json()

    assert quote["symbol"] == signal["symbol"] == indicators["symbol"] == "RELIANCE.NS"
    closed = [candle for candle in candles if candle["closed"]]
    assert signal["price"] == pytest.approx(closed[0]["close"])
    assert signal["indicators"]["rsi_14"] == indicators["latest"]["rsi_14"]
    assert f"{signal['price']:,.2f}" in signal["reasoning"]
    assert (streamed["type"], streamed["channel"]) == ("signal", "signals")
    assert streamed["data"] == {"kind": "generated", **signal}
    [stored] = await get(trader, "/api/signals/RELIANCE")
    assert stored == signal
    # One signal for each candle, whoever asks.
    again = await trader.client.post("/api/signals/generate/reliance", params={"timeframe": "1D"})
    assert again.json()["id"] == signal["id"]


async def test_what_is_stored_stands_in_when_yahoo_refuses_and_says_so(yahoo: YahooSimulator, trader: Person):
    fresh = await get(trader, "/api/market/historical/TCS", days=30)
    yahoo.fail(too_many(60), times=1000)
    await asyncio.sleep(1.1)

    stale = await get(trader, "/api/market/historical/TCS", days=30)
    unknown = await trader.client.get("/api/market/quote/INFY")
    health = (await get(trader, "/health"))["quotes"]
    yahoo.heal()

    assert not fresh["stale"]
    assert stale["stale"]
    assert stale["age_seconds"] >= 1
    assert stale["candles"] == fresh["candles"]
    assert unknown.status_code == 503
    assert int(unknown.headers["Retry-After"]) > 0
    assert health["status"] == "degraded"


async def test_the_process_that_serves_stays_small(desk: ServiceProcess, trader: Person):
    """After indicators, signals and their charts."""
    for path in ("/api/signals/RELIANCE/chart", "/api/signals/RELIANCE/equity"):
        page = await trader.client.get(path, params={"format": "html"})
        assert page.status_code == 200, page.text
    assert desk.process
    serving = psutil.Process(desk.process.pid)

    mapped = " ".join(part.path for part in serving.memory_maps())

    assert [name for name in HEAVY if f"/{name}" in mapped] == []
    assert "talib" in mapped  # so that the question above means something
    assert serving.memory_info().rss < 200 << 20


async def test_yahoos_process_ends_with_the_service(tmp_path: Path, yahoo: YahooSimulator):
    service = ServiceProcess(tmp_path, **yahoo.environment())
    await asyncio.to_thread(service.start)
    async with somebody(service.url) as person:
        await get(person, "/api/market/quote/AAPL")
    assert service.process
    children = psutil.Process(service.process.pid).children(recursive=True)
    assert any("yahoo" in " ".join(child.cmdline()) for child in children)

    await asyncio.to_thread(service.close)

    alive = await asyncio.to_thread(wait_for_end, children, 30)
    assert alive == []
