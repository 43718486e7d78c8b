"""Both providers on real sockets, and what asks them."""

import copy
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pydantic import SecretStr
from pymongo.errors import DuplicateKeyError

from app.core.clock import Clock, SystemClock
from app.core.settings import Settings
from app.crypto.adapters.coingecko import CoinGecko
from app.crypto.adapters.coinmarketcap import CoinMarketCap
from app.crypto.adapters.wire import Timeouts
from app.crypto.gate import COLLECTION
from app.crypto.providers import listing_sources
from app.crypto.sources import ListingSources
from tests.simulators.coingecko import CoinGeckoSimulator
from tests.simulators.coinmarketcap import CoinMarketCapSimulator
from tests.simulators.coins import Coins
from tests.support.clocks import StandingClock
from tests.support.mongodb import Db

NOON = datetime(2026, 11, 10, 12, 2, tzinfo=UTC)


class Patience(Timeouts):
    """Half a minute, except within `hurried()`: a test that waits for a timeout should not wait that long."""

    short = False

    @contextmanager
    def hurried(self, *, needed: bool = True) -> Iterator[None]:
        """Requests that begin now are given up soon. Around those alone that stay without an answer."""
        self.short = needed
        try:
            yield
        finally:
            self.short = False

    @property
    def whole(self) -> float:  # type: ignore[override]
        return 0.7 if self.short else self[2]


TIMEOUTS = Patience(connect=30.0, read=30.0, whole=30.0)
"""No machine is too slow for them. One for a whole process: its tests run one after the other."""
NOBODY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Trusts nobody, and is made in no time: for connections without encryption."""
Simulator = CoinGeckoSimulator | CoinMarketCapSimulator


def adapter_of(
    simulator: Simulator,
    *,
    clock: Clock | None = None,
    key: str | None = None,
    base_url: str | None = None,
    tls: ssl.SSLContext | None = NOBODY,
    timeouts: Timeouts = TIMEOUTS,
) -> CoinGecko | CoinMarketCap:
    """The adapter that asks `simulator`, with its key or another."""
    clock, sent, where = clock or SystemClock(), key or simulator.key, base_url or simulator.base_url
    if isinstance(simulator, CoinGeckoSimulator):
        return CoinGecko(where, SecretStr(sent) if sent else None, clock, tls=tls, timeouts=timeouts)
    return CoinMarketCap(where, SecretStr(sent or ""), clock, tls=tls, timeouts=timeouts)


@asynccontextmanager
async def asking(simulator: Simulator, **options: Any) -> AsyncIterator[CoinGecko | CoinMarketCap]:
    """The same, closed in the end."""
    adapter = adapter_of(simulator, **options)
    try:
        yield adapter
    finally:
        await adapter.close()


class Both:
    """Both simulators on one market, a clock that stands, and `ListingSources` on a database of their own."""

    def __init__(self, db: Db, folder: Path, moment: datetime = NOON, coins: int = 20, **limits: Any) -> None:
        self.db, self.folder, self.clock = db, folder, StandingClock(moment)
        market = Coins(coins)
        self.gecko = CoinGeckoSimulator(market, now=self.clock.now, **limits)
        self.cap = CoinMarketCapSimulator(market, now=self.clock.now, **limits)
        self.stack = AsyncExitStack()

    def sources(self, *, timeouts: Timeouts = TIMEOUTS, second: bool = True, **settings: Any) -> ListingSources:
        """As one process of the service makes them."""
        values: dict[str, Any] = {
            "data_dir": self.folder,
            "environment": "test",
            "secret_key": "s" * 40,
            "coingecko_base_url": self.gecko.base_url,
            "coinmarketcap_base_url": self.cap.base_url,
            "coinmarketcap_api_key": self.cap.key if second else None,
            **settings,
        }
        made = listing_sources(
            Settings.load(**values, _env_file=None), self.db, self.clock, tls=NOBODY, timeouts=timeouts
        )
        self.stack.push_async_callback(made.close)
        return made

    async def row(self, provider: str = "coingecko") -> dict[str, Any]:
        """What the database holds of a provider."""
        found = await self.db[COLLECTION].find_one({"_id": provider})
        assert found is not None
        standing: dict[str, Any] = found["standing"]
        return standing


@asynccontextmanager
async def both_providers(db: Db, folder: Path, **options: Any) -> AsyncIterator[Both]:
    """Running."""
    both = Both(db, folder, **options)
    async with both.stack:
        await both.stack.enter_async_context(both.gecko)
        await both.stack.enter_async_context(both.cap)
        yield both


class MemoryRows:
    """The three operations of a collection that a gate needs, in memory: months of calls in a second.

    `test_gate` runs on it and on the database.
    """

    def __init__(self) -> None:
        self._rows: dict[str, dict[str, Any]] = {}

    def database(self) -> Any:
        """What a gate takes for the database."""
        return {COLLECTION: self}

    async def find_one(self, wanted: dict[str, Any]) -> dict[str, Any] | None:
        """By its id."""
        return copy.deepcopy(self._rows.get(wanted["_id"]))

    async def insert_one(self, row: dict[str, Any]) -> None:
        """Unless it is there."""
        if row["_id"] in self._rows:
            raise DuplicateKeyError("there is one")
        self._rows[row["_id"]] = copy.deepcopy(row)

    async def update_one(self, wanted: dict[str, Any], change: dict[str, Any]) -> Any:
        """The row that is as wanted."""
        row = self._rows.get(wanted["_id"], {})
        found = all(row.get(name) == value for name, value in wanted.items())
        if found:
            row.update(copy.deepcopy(change["$set"]))
        return SimpleNamespace(matched_count=int(found))

    async def delete_one(self, wanted: dict[str, Any]) -> None:
        """By its id."""
        self._rows.pop(wanted["_id"], None)
