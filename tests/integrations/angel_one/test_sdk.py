"""The vendor's SDK made harmless: what it must not do, and that it still says to Angel One what the original does."""

import asyncio
import json
import os
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from app.integrations.angel_one import sdk as quiet
from tests.integrations.angel_one.sdk import Sdk
from tests.integrations.angel_one.signing_in import session_of
from tests.integrations.angel_one.talking import NIFTY, NIFTY_KEY, credentials
from tests.simulators.angel_one import Account, AngelOneSimulator
from tests.simulators.angel_one.http import HttpRequest

CHILD = Path(__file__).with_name("harmless_child.py")
REPOSITORY = Path(__file__).parents[3]


async def test_it_leaves_no_trace_and_tells_no_secret(tmp_path: Path):
    account = Account(client_code="CLIENT77", pin="pin9182", api_key="apiKey55")
    async with AngelOneSimulator(account, rates={}) as simulator:
        known = [account.api_key, account.client_code, account.pin, account.totp_secret]
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, str(CHILD), simulator.rest_url, simulator.feed.url, *known),
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        await simulator.feed.subscribed([NIFTY_KEY], 50)
        said = asyncio.create_task(child.communicate())
        async with asyncio.timeout(50):
            while not said.done():
                await simulator.tick()  # again, where it had to connect anew
                await asyncio.wait([said], timeout=0.5)
        out, _ = said.result()
        report = json.loads(out.decode().splitlines()[-1])
        assert child.returncode == 0
        ours = {f"127.0.0.1:{urlsplit(url).port}" for url in (simulator.rest_url, simulator.feed.url)}
        hosts = {name for name in report["connected"] if name not in {"127.0.0.1", "local"}}
        assert ours <= hosts <= ours | {"127.0.0.1:9"}
    assert await asyncio.to_thread(lambda: list(tmp_path.iterdir())) == []
    assert report["written"] == []
    assert report["modules"] == []
    assert report["get"] == "requests.api"
    assert report["filters"] == 0
    assert report["leaks"] == []
    assert report["logged"] > 5  # the handler did hear
    assert not [secret for secret in (*known, "wrongPin", "eyJ") if secret in out.decode()]


async def test_it_says_what_the_original_says(sdk: Sdk, angel_one: AngelOneSimulator):
    def original() -> None:
        sdk.ask("client", angel_one.rest_url, angel_one.account.api_key)
        login = sdk.ask("call", "generateSession", [*credentials(angel_one).values()])
        sdk.ask("call", "generateToken", [login["data"]["refreshToken"]])
        asked = {"exchange": "NSE", "symboltoken": NIFTY.token, "interval": "ONE_DAY"}
        sdk.ask("call", "getCandleData", [asked | {"fromdate": "2026-11-19 00:00", "todate": "2026-11-20 00:00"}])

    await asyncio.to_thread(original)
    theirs, angel_one.rest.requests = angel_one.rest.requests, []
    async with session_of(angel_one, renew_pause=0) as session:
        await session.renew(await session.tokens())
        start = angel_one.now().replace(year=2026, month=11, day=18, hour=18, minute=30)
        await session.candles("NSE", NIFTY.token, "ONE_DAY", start, start.replace(day=19))
    ours = angel_one.rest.requests

    def said(request: HttpRequest) -> object:
        body = {
            name: "" if name in {"totp", "refreshToken"} else value for name, value in (request.json() or {}).items()
        }
        headers = {name: value for name, value in request.headers.items() if name.startswith("x-") or name == "accept"}
        return request.method, request.path, body, headers, "authorization" in request.headers

    # A refresh carries the tokens that it replaces: as the vendor documents, and the SDK's `generateToken` too.
    assert [said(request) for request in ours] == [said(request) for request in theirs]
    assert any("refreshToken" in request.query for request in theirs)
    assert not any(request.query for request in ours)


def test_whatever_goes_around_our_transport_is_refused():
    client = quiet.load()(None, api_key="key")
    assert client.individual_order_details("1") is None  # it would be a GET without a timeout
    with pytest.raises(OSError, match="no network of its own"):
        client.make_authenticated_get_request("http://127.0.0.1:9/", "jwt")
    assert quiet.load() is quiet.load()
