"""The simulator speaks as Angel One does: the vendor's own SDK can use it, and each fault of REST happens."""

import asyncio
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.integrations.angel_one.frames import Mode
from tests.integrations.angel_one.sdk import Sdk, SdkError
from tests.integrations.angel_one.talking import NIFTY, TLS, credentials, headers, post
from tests.simulators.angel_one import EQUITIES, INDICES, AngelOneSimulator, http
from tests.simulators.angel_one.rest import CANDLES, LOGIN, LOGOUT, PROFILE, REFRESH
from tests.support.clocks import StandingClock

REPOSITORY = Path(__file__).parents[3]


# The vendor's SDK


async def test_the_sdk_logs_in_reads_and_logs_out(sdk: Sdk, angel_one: AngelOneSimulator):
    account = angel_one.account

    def use() -> dict[str, Any]:
        sdk.ask("client", angel_one.rest_url, account.api_key)
        login = sdk.ask("call", "generateSession", [*credentials(angel_one).values()])
        asked = {"exchange": "NSE", "symboltoken": NIFTY.token, "interval": "ONE_HOUR"}
        asked |= {"fromdate": "2026-11-19 09:15", "todate": "2026-11-20 15:30"}
        refresh = login["data"]["refreshToken"]
        return {
            "login": login,
            "candles": sdk.ask("call", "getCandleData", [asked]),
            "profile": sdk.ask("call", "getProfile", [refresh]),
            "refreshed": sdk.ask("call", "generateToken", [refresh]),
            "logout": sdk.ask("call", "terminateSession", [account.client_code]),
            "after": sdk.ask("call", "getProfile", [refresh]),
        }

    heard = await asyncio.to_thread(use)
    assert heard["login"]["data"]["clientcode"] == account.client_code
    assert heard["profile"]["status"] is True
    assert heard["refreshed"]["data"].keys() == {"jwtToken", "refreshToken", "feedToken"}
    assert heard["refreshed"]["data"]["jwtToken"] != heard["login"]["data"]["jwtToken"]
    rows = heard["candles"]["data"]
    assert [row[0][11:] for row in rows[:7]] == [f"{hour:02}:15:00+05:30" for hour in range(9, 16)]
    assert len(rows) == 14
    assert all(low <= min(o, c) <= max(o, c) <= high and volume > 0 for _, o, high, low, c, volume in rows)
    assert heard["logout"]["status"] is True
    assert heard["after"] == {"success": False, "message": "Invalid Token", "errorCode": "AG8001", "data": ""}


async def test_the_sdk_hears_of_errors_as_from_the_vendor(sdk: Sdk, angel_one: AngelOneSimulator):
    def use() -> list[Any]:
        sdk.ask("client", angel_one.rest_url, angel_one.account.api_key)
        wrong = sdk.ask("call", "generateSession", [*credentials(angel_one, totp="000000").values()])
        angel_one.rest.fail(LOGIN, http.html(502))
        with pytest.raises(SdkError, match="DataException: Couldn't parse the JSON response"):
            sdk.ask("call", "generateSession", [*credentials(angel_one).values()])
        return [wrong, sdk.ask("call", "generateSession", [*credentials(angel_one, password="0").values()])]

    totp, pin = await asyncio.to_thread(use)
    assert totp == {"status": False, "message": "Invalid totp", "errorcode": "AB1050", "data": None}
    assert (pin["status"], pin["errorcode"]) == (False, "AB1007")


@pytest.mark.parametrize("mode", [Mode.LTP, Mode.QUOTE, Mode.SNAP_QUOTE, Mode.DEPTH])
async def test_the_sdks_socket_hears_ticks(sdk: Sdk, angel_one: AngelOneSimulator, mode: Mode):
    tokens = angel_one.sessions.issue()
    sent = [f"Bearer {tokens.jwt}", angel_one.account.api_key, angel_one.account.client_code, tokens.feed]
    wanted = [{"exchangeType": 1, "tokens": [NIFTY.token]}]

    socket = await asyncio.to_thread(sdk.ask, "listen", angel_one.feed.url, sent, mode, wanted)
    await angel_one.feed.subscribed([(mode, 1, NIFTY.token)])
    assert await angel_one.tick(last_price=2_450_055, received_time=1_790_000_000_001) == 1

    assert (await asyncio.to_thread(sdk.hear, socket))["event"] == "open"
    tick = (await asyncio.to_thread(sdk.hear, socket))["data"]
    assert (tick["subscription_mode"], tick["token"]) == (mode, NIFTY.token)
    if mode is Mode.DEPTH:
        assert tick["packet_received_time"] == 1_790_000_000_001
        assert [level["price"] for level in tick["depth_20_buy_data"][:2]] == [2_450_050, 2_450_045]
    else:
        assert tick["last_traded_price"] == 2_450_055
    if mode is Mode.SNAP_QUOTE:
        assert [level["price"] for level in tick["best_5_sell_data"][:2]] == [2_450_060, 2_450_065]

    await asyncio.to_thread(sdk.ask, "unsubscribe", mode, wanted)
    await angel_one.feed.until(lambda: not angel_one.feed.connections[0].subscriptions)
    assert await angel_one.tick() == 0
    angel_one.feed.connections[0].abort()
    assert (await asyncio.to_thread(sdk.hear, socket))["event"] == "error"


# Sessions


async def test_tokens_expire_and_are_refreshed(angel_one: AngelOneSimulator):
    tokens = (await post(angel_one, LOGIN, credentials(angel_one))).json()["data"]
    angel_one.sessions.expire()
    async with httpx.AsyncClient(verify=TLS, base_url=angel_one.rest_url, timeout=30) as client:
        profile = (await client.get(PROFILE, headers=headers(angel_one, tokens["jwtToken"]))).json()
        assert (profile["success"], profile["errorCode"]) == (False, "AG8002")
        unsigned = (await client.get(PROFILE, headers=headers(angel_one))).json()
        assert unsigned["errorCode"] == "AG8003"
        foreign = (await client.get(PROFILE, headers=headers(angel_one) | {"X-PrivateKey": "other"})).json()
        assert foreign["errorCode"] == "AG8004"

        renewed = (await post(angel_one, REFRESH, {"refreshToken": tokens["refreshToken"]})).json()["data"]
        assert (await client.get(PROFILE, headers=headers(angel_one, renewed["jwtToken"]))).json()["status"] is True
    angel_one.sessions.expire(refresh_too=True)
    late = (await post(angel_one, REFRESH, {"refreshToken": tokens["refreshToken"]})).json()
    assert (late["status"], late["errorcode"]) == (False, "AB8051")
    assert (await post(angel_one, REFRESH, {"refreshToken": "x"})).json()["errorcode"] == "AB8050"


async def test_a_session_ends_by_its_own_clock_and_rates_are_limited():
    clock = StandingClock(datetime(2026, 11, 20, 4, 0, tzinfo=UTC))
    async with AngelOneSimulator(now=clock.now, token_lifetime=timedelta(hours=12)) as simulator:
        jwt = (await post(simulator, LOGIN, credentials(simulator))).json()["data"]["jwtToken"]
        fast = await post(simulator, LOGIN, credentials(simulator))
        assert (fast.status_code, fast.text) == (403, "Access denied because of exceeding access rate")
        clock.move(seconds=1)
        assert (await post(simulator, LOGIN, credentials(simulator))).json()["status"] is True
        asked = {"exchange": "NSE", "symboltoken": "1", "interval": "ONE_DAY", "fromdate": "", "todate": ""}
        statuses = [(await post(simulator, CANDLES, asked, jwt)).status_code for _ in range(4)]
        assert statuses == [200, 200, 200, 403]
        clock.move(hours=12)
        gone = (await post(simulator, LOGOUT, {"clientcode": simulator.account.client_code}, jwt)).json()
        assert gone["errorCode"] == "AG8002"


# Data


async def test_candles_of_all_intervals_agree(angel_one: AngelOneSimulator):
    jwt = angel_one.sessions.issue().jwt

    async def candles(interval: str, first: str, last: str, token: str = NIFTY.token) -> Any:
        asked = {"exchange": "NSE", "symboltoken": token, "interval": interval, "fromdate": first, "todate": last}
        return (await post(angel_one, CANDLES, asked, jwt)).json()

    minutes = (await candles("ONE_MINUTE", "2026-11-20 09:15", "2026-11-20 15:30"))["data"]
    assert len(minutes) == 375
    halves = (await candles("THIRTY_MINUTE", "2026-11-20 09:15", "2026-11-20 15:30"))["data"]
    assert [row[0][11:16] for row in halves[:2]] == ["09:15", "09:45"]
    for number, (_, opens, high, low, closes, volume) in enumerate(halves):
        inside = minutes[30 * number : 30 * number + 30]
        assert (opens, closes) == (inside[0][1], inside[-1][4])
        assert (high, low) == (max(row[2] for row in inside), min(row[3] for row in inside))
        assert volume == sum(row[5] for row in inside)
    assert (await candles("ONE_MINUTE", "2026-11-21 09:15", "2026-11-22 15:30"))["data"] == []
    days = (await candles("ONE_DAY", "2026-11-16 00:00", "2026-11-20 00:00"))["data"]
    assert [row[0] for row in days] == [f"2026-11-{day}T00:00:00+05:30" for day in range(16, 21)]
    assert (await candles("ONE_DAY", "2026-11-16", "x"))["status"] is False
    assert (await candles("ONE_MINUTE", "2026-01-01 09:15", "2026-11-20 15:30"))["status"] is False
    assert (await candles("ONE_DAY", "2026-11-16 00:00", "2026-11-20 00:00", "0"))["errorcode"] == "AB1018"


async def test_the_instrument_file_has_the_indices_and_junk():
    async with AngelOneSimulator(instrument_rows=100) as simulator, httpx.AsyncClient(verify=TLS, timeout=30) as client:
        rows = (await client.get(simulator.instruments_url)).json()

    assert {index.token for index in INDICES} <= {row["token"] for row in rows}
    assert len(rows) == len(INDICES) + len(EQUITIES) + 7 + 100
    assert any(not row.get("token") for row in rows)


# Faults of REST


@pytest.mark.parametrize(
    ("fault", "status", "says"),
    [
        (http.too_many(7), 429, "AB1021"),
        (http.rate_limited(), 403, "exceeding access rate"),
        (http.html(503), 503, "<html>"),
        (http.garbage(), 200, "status"),
        (http.api_error(), 200, "AB1004"),
        (http.empty(), 200, ""),
        (http.without_data(), 200, "null"),
    ],
)
async def test_answers_that_are_none(angel_one: AngelOneSimulator, fault: http.HttpFault, status: int, says: str):
    angel_one.rest.fail(LOGIN, fault)

    answer = await post(angel_one, LOGIN, credentials(angel_one))
    assert answer.status_code == status
    assert says in answer.text
    assert (answer.headers.get("Retry-After") == "7") is (status == 429)
    assert (await post(angel_one, LOGIN, credentials(angel_one))).json()["status"] is True


async def test_answers_that_come_late_broken_or_not_at_all(angel_one: AngelOneSimulator):
    angel_one.rest.fail(LOGIN, http.slow(30), http.not_http(), http.lost())

    patience = httpx.Timeout(30, read=0.3)
    async with httpx.AsyncClient(verify=TLS, base_url=angel_one.rest_url, timeout=patience) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.post(LOGIN, json=credentials(angel_one), headers=headers(angel_one))
    with pytest.raises(httpx.RemoteProtocolError):
        await post(angel_one, LOGIN, credentials(angel_one))
    with pytest.raises(httpx.RemoteProtocolError):
        await post(angel_one, LOGIN, credentials(angel_one))
    assert len(angel_one.sessions._jwts) == 2  # slow and lost were carried out, the other was not
    angel_one.rest.fail(LOGIN, http.garbage(), times=100)
    angel_one.rest.heal()
    assert (await post(angel_one, LOGIN, credentials(angel_one))).json()["status"] is True


async def test_a_person_can_start_it():
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.simulators.angel_one", stdout=asyncio.subprocess.PIPE, cwd=REPOSITORY
    )
    assert program.stdout is not None
    try:
        lines = [(await asyncio.wait_for(program.stdout.readline(), 50)).decode().strip() for _ in range(7)]
        printed = dict(line.split("=", 1) for line in lines)
        async with httpx.AsyncClient(verify=TLS, timeout=30) as client:
            rows = (await client.get(printed["ANGEL_ONE_INSTRUMENTS_URL"])).json()
        assert rows[0]["token"] == NIFTY.token
        assert printed["ANGEL_ONE_WS_URL"].startswith("ws://127.0.0.1:")
        assert printed.keys() >= {"ANGEL_ONE_BASE_URL", "ANGEL_ONE_PASSWORD", "ANGEL_ONE_TOTP_KEY"}
    finally:
        program.kill()
        await program.wait()
