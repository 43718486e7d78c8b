"""A running service that follows a simulated Angel One, and those who watch it."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import psutil
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.simulators.angel_one import INDICES, Account, AngelOneSimulator, Listing
from tests.simulators.angel_one.calendar import write_calendar
from tests.simulators.angel_one.market import Market
from tests.support.http import NO_TLS
from tests.support.service import ServiceProcess

Json = Any
API = "/api/v1/market-data"
NIFTY, BANKNIFTY, FINNIFTY, MIDCPNIFTY, SENSEX, BANKEX = INDICES
NAMES = {
    listing.token: name
    for listing, name in zip(
        INDICES, ("NIFTY 50", "BANKNIFTY", "FINNIFTY", "MIDCPNIFTY", "SENSEX", "BANKEX"), strict=True
    )
}
"""What the service calls them."""
QUOTE = 2
"""The mode that it asks for."""
PATIENCE = 40.0
"""Seconds."""


class Listener:
    """Hears everything that one WebSocket says."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._came = asyncio.Event()
        self.messages: list[dict[str, Any]] = []
        self._task = asyncio.create_task(self._hear())

    async def _hear(self) -> None:
        with suppress(ConnectionClosed):
            async for text in self._socket:
                self.messages.append(json.loads(text))
                self._came.set()

    async def say(self, **message: object) -> None:
        await self._socket.send(json.dumps(message))

    def of(self, kind: str) -> list[Json]:
        """The `data` of the messages of a type so far."""
        return [message["data"] for message in self.messages if message["type"] == kind]

    @property
    def ticks(self) -> list[Json]:
        return self.of("tick")

    async def until(self, happened: Callable[[], object], seconds: float = PATIENCE) -> None:
        """Wait until `happened`, looking at each message."""
        try:
            async with asyncio.timeout(seconds):
                while not happened():
                    self._came.clear()
                    await self._came.wait()
        except TimeoutError:
            raise AssertionError(f"not heard within {seconds} s; the last: {self.messages[-3:]}") from None

    def heard(self, listing: Listing, sent: Mapping[str, float]) -> Json:
        """The message's `data` about this very tick; None if it has not come."""
        wanted = (NAMES[listing.token], sent["sequence"])
        return next((tick for tick in self.ticks if (tick["symbol"], tick["raw_data"]["sequence"]) == wanted), None)

    async def hear(self, listing: Listing, sent: Mapping[str, float], seconds: float = PATIENCE) -> Json:
        """Wait for this very tick: what was known before is told at the subscription, too."""
        await self.until(lambda: self.heard(listing, sent), seconds)
        return self.heard(listing, sent)

    async def until_heard(self, kind: str, seconds: float = PATIENCE) -> Json:
        """The first message of this type."""
        await self.until(lambda: any(message["type"] == kind for message in self.messages), seconds)
        return next(message for message in self.messages if message["type"] == kind)

    async def close(self) -> None:
        await self._socket.close()
        await self._task


class Live:
    """Service and simulator; `async with` starts both, and the feed runs when it has begun."""

    def __init__(
        self,
        folder: Path,
        *,
        workers: int = 1,
        always_open: bool = True,
        subscribed: bool = True,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """`always_open=False`: on holiday. `subscribed`: wait for the feed's subscriptions at the start. `env`: of the
        service, beside what the simulator needs."""
        # Recognisable, so that a search for them finds nothing by chance.
        self.account = Account(client_code="CLNT83105", pin="pin-70924418", api_key="apiKey-5527118")
        self.simulator = AngelOneSimulator(self.account, market=Market(always=True), rates={}, instrument_rows=200)
        self._folder, self._always_open, self._subscribed = folder, always_open, subscribed
        self._options: dict[str, Any] = {"workers": workers, **(env or {})}
        self._stack = AsyncExitStack()
        self._service: ServiceProcess | None = None
        self.answers: list[httpx.Response] = []

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self.simulator)
        self._folder.mkdir(parents=True, exist_ok=True)
        calendar = self._folder / "market_calendar.json"
        write_calendar(calendar, always=self._always_open)
        settings = {**self.simulator.environment(), "MARKET_CALENDAR_FILE": str(calendar), **self._options}
        self._service = ServiceProcess(self._folder, **settings)
        self._stack.push_async_callback(asyncio.to_thread, self._service.close)
        self.client = await self._stack.enter_async_context(
            httpx.AsyncClient(
                base_url=self._service.url, timeout=30, event_hooks={"response": [self._keep]}, verify=NO_TLS
            )
        )
        try:
            await self.start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _keep(self, answer: httpx.Response) -> None:
        self.answers.append(answer)

    @property
    def service(self) -> ServiceProcess:
        assert self._service is not None
        return self._service

    async def start(self) -> None:
        """Start the service (again)."""
        await asyncio.to_thread(self.service.start, wait=90)
        if self._subscribed:
            await self.following()

    async def stop(self) -> None:
        """SIGTERM, and wait for the end."""
        assert await asyncio.to_thread(self.service.stop, wait=60) in {0, -15}

    # The simulated exchange

    async def following(self, seconds: float = 2 * PATIENCE) -> None:
        """Wait until the service has subscribed to all six indices."""
        await self.simulator.feed.subscribed([(QUOTE, x.exchange, x.token) for x in INDICES], seconds)

    async def send(self, listing: Listing = NIFTY, **values: float) -> dict[str, float]:
        """A tick, with the fields that `values` sets; gives all of them."""
        tick = {**self.simulator.market.walk(listing, self.simulator.now()), **values}
        await self.simulator.feed.publish(listing.exchange, listing.token, tick)
        return tick

    async def send_many(self, count: int, listings: Sequence[Listing] = INDICES) -> list[dict[str, float]]:
        """So many ticks, of one index after the other."""
        return [await self.send(listings[number % len(listings)]) for number in range(count)]

    # Those who watch

    async def get(self, path: str, **query: object) -> Json:
        """What a path of market data, or another one, answers."""
        whole = path if path.startswith("/health") else f"{API}/{path}"
        answer = await self.client.get(whole, params={name: str(value) for name, value in query.items()})
        expected = {200, 503} if path == "/health" else {200}  # 503: the database is away
        assert answer.status_code in expected, f"{answer.url}: {answer.status_code} {answer.text}"
        return answer.json()

    async def feed(self) -> Json:
        """The feed's line in `/health`."""
        async with asyncio.timeout(PATIENCE):
            while "feed" not in (health := await self.get("/health")):
                await asyncio.sleep(0.1)  # a busy machine's service may not know of its database for a moment
        return health["feed"]

    async def ticking(self) -> Json:
        """The feed's line in `/health` while it is live: without a tick for some seconds it is called silent."""

        async def after_a_tick() -> Json:
            await self.send()
            return await self.feed()

        return await until(after_a_tick, lambda feed: feed["state"] == "live")

    async def counters(self) -> Json:
        """The feed's counters in the statistics, as they were saved last."""
        return (await self.get("statistics"))["feed"]

    @asynccontextmanager
    async def listening(self, *symbols: str, channel: str = "ticks", token: str = "") -> AsyncIterator[Listener]:
        """A WebSocket client with a subscription."""
        async with connect(self.service.ws_url, open_timeout=PATIENCE, ping_timeout=PATIENCE) as socket:
            listener = await subscribed(socket, *symbols, channel=channel, token=token)
            yield listener
            await listener.close()

    async def stored(self, symbol: str, **query: object) -> list[Json]:
        """All its stored ticks, newest first, page by page."""
        rows: list[Json] = []
        params = {"limit": "1000"} | {name: str(value) for name, value in query.items()}
        while True:
            answer = await self.client.get(f"{API}/symbol/{symbol}", params=params)
            assert answer.status_code == 200, answer.text
            rows += answer.json()
            following = answer.headers.get("X-Next-Cursor")
            if not following:
                return rows
            params["cursor"] = following

    async def stored_counts(self) -> dict[str, int]:
        """How many ticks of each symbol are stored: counted, not told."""
        rows = {name: await self.stored(name) for name in NAMES.values()}
        for name, some in rows.items():
            assert len({row["id"] for row in some}) == len({row["received_at"] for row in some}) == len(some), name
        return {name: len(some) for name, some in rows.items() if some}


async def subscribed(socket: ClientConnection, *symbols: str, channel: str = "ticks", token: str = "") -> Listener:
    """A listener on a socket, once its subscription stands."""
    listener = Listener(socket)
    if token:
        await listener.say(action="auth", token=token)
    await listener.say(action="subscribe", channel=channel, **({"symbols": list(symbols)} if symbols else {}))
    await listener.until_heard("subscribed")
    return listener


async def until(ask: Callable[[], Any], true: Callable[[Json], object], seconds: float = PATIENCE) -> Json:
    """What `ask` gives, once it is so. To be asked for what stays so: between two looks a machine may stand still."""
    last: Json = None
    try:
        async with asyncio.timeout(seconds):
            while True:
                try:
                    last = await ask()
                except (httpx.HTTPError, AssertionError) as error:
                    last = error
                else:
                    if true(last):
                        return last
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"it did not come to be within {seconds} s; the last: {last}") from None


async def agreed(live: Live) -> Any:
    """The statistics if they say what is stored; None while they do not yet."""
    counts, statistics = await live.stored_counts(), await live.get("statistics")
    return statistics if statistics["by_symbol"] == counts else None


async def seen_again(live: Live) -> int:
    """Ticks that are sent now arrive; how many were sent. One that meets a connection's end is lost as in life."""
    sent: list[dict[str, float]] = []
    async with live.listening("NIFTY 50") as listener:
        while not any(listener.heard(NIFTY, tick) for tick in sent):
            assert len(sent) < 6, "the feed's ticks do not come"
            sent.append(await live.send(NIFTY))
            with suppress(AssertionError):
                await listener.hear(NIFTY, sent[-1], 10)
    return len(sent)


def follower(live: Live) -> int:
    """The worker that is connected to the exchange's feed."""
    [pid] = [
        pid
        for pid in live.service.worker_pids()
        for connection in psutil.Process(pid).net_connections("tcp")
        if getattr(connection.raddr, "port", None) == live.simulator.feed.port
        and connection.status == psutil.CONN_ESTABLISHED
    ]
    return pid


def leaks(text: bytes, secrets: Sequence[str]) -> list[str]:
    """Which of the secrets stand in a text, whole or in a part that gives them away."""
    return [secret for secret in secrets if any(trace.encode() in text for trace in _traces(secret))]


def _traces(secret: str) -> list[str]:
    if secret.startswith("eyJ"):  # the header and the name of the algorithm are in every token
        _, payload, signature = secret.split(".")
        return [payload[-40:], signature[:40], signature[-40:]]
    return [secret, secret[:24], secret[-24:]] if len(secret) > 30 else [secret]
