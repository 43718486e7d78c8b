"""A running service beside simulated vendors of listings, and those who ask it."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
from websockets.asyncio.client import ClientConnection

from tests.simulators.coingecko import CoinGeckoSimulator
from tests.simulators.coingecko.simulator import MARKETS
from tests.simulators.coinmarketcap import CoinMarketCapSimulator
from tests.simulators.coins import Coins
from tests.support.http import NO_TLS
from tests.support.people import Person, sign_up
from tests.support.service import ServiceProcess

Json = Any
BASE = "/api/v1/cryptocurrencies"
JOBS = "/api/v1/jobs"
COINS = 80
"""That there are. Few: the embedded database stores each of them in each sync."""
PATIENCE = 30.0
_addresses = (f"198.51.100.{number}" for number in itertools.count(1))


class Exchange:
    """A service and both vendors; the vendors live in the test's event loop, so the service is waited for in a thread.

    Clients choose their address themselves. Only what a test switches on by `env` syncs by the clock.
    """

    def __init__(
        self, folder: Path, *, workers: int = 1, generous: bool = True, second: bool = True, **env: str | None
    ) -> None:
        """`second`: whether the service has a key for CoinMarketCap."""
        self.gecko, self.cap = CoinGeckoSimulator(Coins(COINS)), CoinMarketCapSimulator(Coins(COINS))
        self._second = second
        self._options: dict[str, Any] = {"workers": workers, "generous": generous, "TRUSTED_PROXIES": "127.0.0.1"} | env
        self._folder = folder
        self._stack = AsyncExitStack()
        self.service: ServiceProcess

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self.gecko)
        await self._stack.enter_async_context(self.cap)
        env = self.gecko.environment() | (self.cap.environment() if self._second else {})
        self.service = ServiceProcess(self._folder, **(env | self._options))
        self._stack.push_async_callback(asyncio.to_thread, self.service.close)
        self._stack.push_async_callback(self.kill)  # in the end nobody waits for how well it stops
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def start(self) -> Self:
        await asyncio.to_thread(self.service.start, wait=60)
        return self

    async def stop(self) -> None:
        await asyncio.to_thread(self.service.stop, wait=60)

    async def kill(self) -> None:
        """`kill -9` of all of it."""
        await asyncio.to_thread(self.service.kill_all)

    @asynccontextmanager
    async def somebody(self) -> AsyncIterator[Person]:
        """A new account at an address that nobody else has."""
        person = await sign_up(self.service.url, address=next(_addresses))
        try:
            yield person
        finally:
            await person.client.aclose()

    @asynccontextmanager
    async def visitor(self, connections: int = 10) -> AsyncIterator[httpx.AsyncClient]:
        """A client without an account at an address that nobody else has."""
        headers, limits = {"X-Forwarded-For": next(_addresses)}, httpx.Limits(max_connections=connections)
        async with httpx.AsyncClient(
            base_url=self.service.url, timeout=PATIENCE, headers=headers, limits=limits, verify=NO_TLS
        ) as client:
            yield client

    async def health(self) -> Json:
        """What `/health` says."""
        return await asyncio.to_thread(self.service.health)

    @property
    def asked(self) -> tuple[int, int]:
        """How often each vendor was asked for its listing."""
        return self.gecko.calls[MARKETS], self.cap.total


async def sync(person: Person, status: int = 200, **query: Any) -> Json:
    """What a sync on request answers."""
    answer = await person.client.post(f"{BASE}/sync", params=query)
    assert answer.status_code == status, answer.text
    return answer.json()


async def listed(client: httpx.AsyncClient, **query: Any) -> Json:
    """Rows of the list."""
    answer = await client.get(f"{BASE}/", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def runs(person: Person, job: str, **query: Any) -> list[Json]:
    """Runs of a job, newest first."""
    answer = await person.client.get(JOBS, params={"job": job, **query})
    assert answer.status_code == 200, answer.text
    found: list[Json] = answer.json()
    return found


async def until(happened: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """What `happened` gives, as soon as that is something."""
    async with asyncio.timeout(seconds):
        while not (found := await happened()):
            await asyncio.sleep(0.02)
        return found


async def subscribed(socket: ClientConnection, person: Person, channel: str = "jobs") -> None:
    """Have the socket hear of every run (or of another channel), as `person`."""
    await socket.send(json.dumps({"action": "auth", "token": person.token}))
    await socket.send(json.dumps({"action": "subscribe", "channel": channel}))
    async with asyncio.timeout(PATIENCE):
        while json.loads(await socket.recv())["type"] != "subscribed":
            pass


async def story(socket: ClientConnection, run_id: str) -> list[Json]:
    """All that is told of a run, to its end."""
    told: list[Json] = []
    async with asyncio.timeout(PATIENCE):
        while not told or told[-1]["finished_at"] is None:
            message = json.loads(await socket.recv())
            if message["type"] == "job" and message["data"]["id"] == run_id:
                assert (message["channel"], message["seq"]) == ("jobs", message["data"]["seq"])
                told.append(message["data"])
    return told
