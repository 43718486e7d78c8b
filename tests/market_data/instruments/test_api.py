"""Instruments and the watchlist over HTTP."""

import secrets
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from app.core.audit import AuditTrail
from app.core.client_address import ClientAddressResolver
from app.core.deps import KnownQuery, Registry
from app.core.errors import UnauthorizedError
from app.core.problem import add_problem_handlers
from app.core.rate_limit import RateLimiter
from app.core.security import Authenticator, Principal, Role
from app.core.settings import Settings
from app.market_data.feed_health import feed_line
from app.market_data.instrument_search import InstrumentSearch
from app.market_data.router.watchlist import router
from app.market_data.watchlist import Watchlist
from tests.market_data.instruments.kit import Process, caller
from tests.simulators.angel_one import AngelOneSimulator
from tests.support.clocks import StandingClock
from tests.support.mongodb import Db

BASE = "/api/v1/market-data"
LIST, FIND = f"{BASE}/watchlist", f"{BASE}/instruments"


class Roles:
    """Fills the port `Authenticator`: the token is the role."""

    async def authenticate(self, access_token: str) -> Principal:
        if access_token not in set(Role):
            raise UnauthorizedError("no")
        return caller(Role(access_token))


@pytest.fixture
async def process(db: Db, vendor: AngelOneSimulator, clock: StandingClock) -> Process:
    made = Process(db, vendor, clock)
    await made.master.refresh()
    return await made.load()


@pytest.fixture
async def client(process: Process) -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    registry = app.state.registry = Registry()
    registry.provide(
        Settings,
        Settings(secret_key=secrets.token_hex(32), rate_limit_per_minute=1_000_000, _env_file=None),  # type: ignore[call-arg]
    )
    registry.provide(RateLimiter, RateLimiter())
    registry.provide(ClientAddressResolver, ClientAddressResolver([]))
    registry.provide(Authenticator, Roles())  # type: ignore[type-abstract]
    registry.provide(AuditTrail, process.trail)  # type: ignore[type-abstract]
    registry.provide(Watchlist, process.watchlist)
    registry.provide(InstrumentSearch, process.search)
    add_problem_handlers(app)
    app.include_router(router, dependencies=[KnownQuery])
    headers = {"Authorization": f"Bearer {Role.OPERATOR}"}
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://arrow.test", headers=headers) as made:
        yield made


async def ok(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_frontend_finds_instruments(client: httpx.AsyncClient):
    del client.headers["Authorization"]
    answer = await client.get(FIND, params={"query": "reliance"})
    assert answer.headers["cache-control"] == "no-store"
    found = await ok(answer)
    assert [(row["symbol"], row["exchange"]) for row in found] == [("RELIANCE-EQ", "NSE"), ("RELIANCE", "BSE")]
    assert found[0] == {
        "symbol": "RELIANCE-EQ", "name": "RELIANCE", "exchange": "NSE", "exchange_type": 1, "token": "2885",
        "instrument_type": "EQ", "expiry": None, "strike_price": None, "lot_size": 1, "tick_size": 0.1,
        "followed": False,
    }  # fmt: skip
    option = (await ok(await client.get(FIND, params={"query": "NIFTY 24500", "exchange": "nfo"})))[0]
    assert (option["expiry"], option["strike_price"], option["lot_size"]) == ("2026-11-20", 24500.0, 65)
    nifty = (await ok(await client.get(FIND, params={"query": "NIFTY 50"})))[0]
    assert nifty["followed"] is True
    assert len(await ok(await client.get(FIND, params={"query": "SHARE", "limit": 5}))) == 5
    assert await ok(await client.get(FIND, params={"query": "no such thing"})) == []


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"query": "x"},
        {"query": "  x  "},
        {"query": "x" * 65},
        {"query": "a\x00b"},
        {"query": "ab", "exchange": "MCX"},
        {"query": "ab", "limit": 101},
        {"query": "ab", "limit": 0},
        {"query": "ab", "other": "1"},
    ],
)
async def test_a_search_that_is_none(client: httpx.AsyncClient, query: dict[str, str]):
    assert (await client.get(FIND, params=query)).status_code == 422


async def test_without_a_list_a_search_says_when_to_ask_again(
    client: httpx.AsyncClient, process: Process, db: Db, clock: StandingClock
):
    process.search._master = Process(db, None, clock).master
    answer = await client.get(FIND, params={"query": "INFY"})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "60")


async def test_an_operator_changes_what_is_followed(client: httpx.AsyncClient, process: Process):
    before = await ok(await client.get(LIST))
    assert (before["source"], len(before["symbols"]), before["revision"]) == ("default", 6, 0)
    body = {"symbols": ["NIFTY 50", {"symbol": "RELIANCE", "mode": "snap_quote"}]}
    after = await ok(await client.put(LIST, json=body))
    assert [(row["symbol"], row["mode"], row["active"], row["doubt"]) for row in after["symbols"]] == [
        ("NIFTY 50", "quote", True, None), ("RELIANCE-EQ", "snap_quote", True, None),
    ]  # fmt: skip
    assert await ok(await client.get(LIST)) == after
    assert len((await ok(await client.put(f"{LIST}/NSE/1594")))["symbols"]) == 3
    changed = await ok(await client.put(f"{LIST}/nse/1594", json={"mode": "LTP"}))
    assert changed["symbols"][2]["mode"] == "ltp"
    assert len((await ok(await client.delete(f"{LIST}/NSE/1594")))["symbols"]) == 2
    assert len((await ok(await client.delete(LIST, params={"symbol": "reliance-eq"})))["symbols"]) == 1
    assert (await ok(await client.delete(LIST)))["source"] == "default"
    assert len(process.trail.acts) == 6


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("PUT", LIST, {}, 422),
        ("PUT", LIST, {"symbols": "NIFTY"}, 422),
        ("PUT", LIST, {"symbols": [""]}, 422),
        ("PUT", LIST, {"symbols": [5]}, 422),
        ("PUT", LIST, {"symbols": [{}]}, 422),
        ("PUT", LIST, {"symbols": [{"symbol": "INFY", "token": "1594"}]}, 422),
        ("PUT", LIST, {"symbols": [{"symbol": "INFY", "mode": "all"}]}, 422),
        ("PUT", LIST, {"symbols": [{"symbol": "INFY", "exchange": "MCX"}]}, 422),
        ("PUT", LIST, {"symbols": [{"symbol": {"$gt": ""}}]}, 422),
        ("PUT", LIST, {"symbols": ["INFY"], "more": 1}, 422),
        ("PUT", LIST, {"symbols": ["INFY\x00"]}, 422),
        ("PUT", LIST, {"symbols": ["NO SUCH SHARE"]}, 422),
        ("PUT", f"{LIST}/MCX/1", None, 422),
        ("PUT", f"{LIST}/NSE/-", None, 422),
        ("PUT", f"{LIST}/NSE/77777", None, 404),
        ("PUT", f"{LIST}/NSE/1594", {"mode": "x"}, 422),
        ("DELETE", f"{LIST}/NSE/1594", None, 404),
        ("DELETE", f"{LIST}?symbol=INFY", None, 404),
        ("DELETE", f"{LIST}?symbols=INFY", None, 422),
    ],
)
async def test_what_is_refused(
    client: httpx.AsyncClient, process: Process, method: str, path: str, body: Any, status: int
):
    answer = await client.request(method, path, json=body)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert process.watchlist.info().source == "default"


@pytest.mark.parametrize(("token", "status"), [("", 401), (str(Role.USER), 403), (str(Role.ADMIN), 200)])
async def test_who_may(client: httpx.AsyncClient, token: str, status: int):
    client.headers["Authorization"] = f"Bearer {token or 'nobody'}"
    calls = [("GET", LIST), ("PUT", f"{LIST}/NSE/1594"), ("DELETE", f"{LIST}/NSE/1594"), ("DELETE", LIST)]
    assert [(await client.request(*call)).status_code for call in calls] == [status] * 4


async def test_health_tells_of_list_and_watchlist(process: Process):
    line = feed_line({"status": "ok", "state": "live"}, process.master.health(), process.watchlist.health())
    assert line["status"] == "ok"
    assert line["watchlist"]["doubts"].keys() == {"SENSEX", "BANKEX"}
    assert line["instruments"]["version"] == process.master.version
    assert feed_line({"status": "off"}, process.master.health(), process.watchlist.health())["status"] == "off"
