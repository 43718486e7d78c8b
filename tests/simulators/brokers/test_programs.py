"""The simulated brokers as a person starts them, and drives their market over HTTP."""

import asyncio
import os
import sys
from pathlib import Path

import httpx
import pytest

REPOSITORY = Path(__file__).parents[3]
SETTINGS = {
    "kite": {"ZERODHA_BASE_URL", "ZERODHA_LOGIN_URL"},
    "smartapi": {"ANGEL_ONE_BASE_URL", "ANGEL_ONE_INSTRUMENTS_URL"},
}
CREDENTIALS = {
    "kite": {"api_key", "api_secret", "request_token"},
    "smartapi": {"api_key", "client_id", "password", "totp_key"},
}


@pytest.mark.parametrize("vendor", list(SETTINGS))
async def test_a_person_starts_it_and_moves_the_market(vendor: str):
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", f"tests.simulators.brokers.{vendor}", "--unlimited"),
        cwd=REPOSITORY,
        stdout=asyncio.subprocess.PIPE,
        env={"PATH": os.environ["PATH"]},
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(50):
            count = len(SETTINGS[vendor]) + len(CREDENTIALS[vendor])
            lines = [(await process.stdout.readline()).decode().strip() for _ in range(count)]
        settings = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
        people = dict(line[2:].split(": ", 1) for line in lines if line.startswith("#"))
        assert (set(settings), set(people)) == (SETTINGS[vendor], CREDENTIALS[vendor])
        root = next(url for name, url in settings.items() if name.endswith("_BASE_URL")) + "/_simulator"
        async with httpx.AsyncClient(timeout=30) as client:
            moved = {"exchange": "NSE", "symbol": "RELIANCE", "price": "1500.5"}
            assert (await client.post(f"{root}/move", json=moved)).json() == {"done": True}
            for wrong in ({**moved, "symbol": "NOBODY"}, {**moved, "price": "much"}, {}):
                assert (await client.post(f"{root}/move", json=wrong)).status_code == 422
            assert (await client.post(f"{root}/fill", json={"order_id": "1"})).status_code == 422
            assert (await client.get(f"{root}/book")).json() == {"orders": [], "trades": []}
            ordered = await client.post(f"{root}/faults", json={"fault": "lost", "on": "/orders"})
            assert ordered.json()["waiting"] == 1
            assert {"lost", "down_after", "too_many", "expired", "refused"} <= set(ordered.json()["faults"])
    finally:
        process.terminate()
        await process.wait()
