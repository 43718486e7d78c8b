"""The simulators of listing providers: as a person starts them, with calls counted and faults over HTTP."""

import asyncio
import os
import sys
from pathlib import Path

import httpx
import pytest

from tests.simulators.coingecko import CoinGeckoSimulator
from tests.simulators.coinmarketcap import CoinMarketCapSimulator
from tests.simulators.coins import Coins
from tests.support.http import NO_TLS

REPOSITORY = Path(__file__).parents[2]
LISTINGS = "/v1/cryptocurrency/listings/latest"


@pytest.mark.parametrize("vendor", ["coingecko", "coinmarketcap"])
async def test_a_person_starts_it_and_breaks_it(vendor: str):
    program = [sys.executable, "-m", f"tests.simulators.{vendor}", "--coins", "12"]
    process = await asyncio.create_subprocess_exec(
        *program, cwd=REPOSITORY, stdout=asyncio.subprocess.PIPE, env={"PATH": os.environ["PATH"]}
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(50):
            settings = {}
            for _ in range({"coingecko": 1, "coinmarketcap": 2}[vendor]):
                name, _, value = (await process.stdout.readline()).decode().strip().partition("=")
                settings[name] = value
        base = settings[f"{vendor.upper()}_BASE_URL"]
        root = f"http://{httpx.URL(base).netloc.decode()}"
        path = {"coingecko": f"{base}/coins/markets?vs_currency=usd&per_page=5", "coinmarketcap": base + LISTINGS}[
            vendor
        ]
        headers = {"X-CMC_PRO_API_KEY": settings.get("COINMARKETCAP_API_KEY", "")}
        async with httpx.AsyncClient(headers=headers, timeout=30, verify=NO_TLS) as client:
            assert (await client.get(path)).status_code == 200
            order = {"fault": "too_many", "times": 2, "retry_after": 5}
            ordered = await client.post(f"{root}/_simulator/faults", json=order)
            assert ordered.json()["waiting"] == 2
            limited = await client.get(path)
            assert (limited.status_code, limited.headers["Retry-After"]) == (429, "5")
            await client.delete(f"{root}/_simulator/faults")
            assert (await client.get(path)).status_code == 200
            calls = (await client.get(f"{root}/_simulator/calls")).json()
            assert (calls["total"], list(calls["by_path"].values())) == (3, [3])
            unknown = await client.post(f"{root}/_simulator/faults", json={"fault": "gremlins"})
            assert (unknown.status_code, "half_open" in unknown.json()["faults"]) == (422, True)
            wrong = await client.post(f"{root}/_simulator/faults", json={"fault": "slow", "hours": 2})
            assert wrong.status_code == 422
    finally:
        process.terminate()
        await process.wait()


async def test_coingecko_limits_and_refuses_as_the_vendor():
    async with (
        CoinGeckoSimulator(Coins(300), key="k", per_minute=3, per_month=4) as simulator,
        httpx.AsyncClient(headers={"x-cg-demo-api-key": "k"}, timeout=30, verify=NO_TLS) as client,
    ):
        url = f"{simulator.base_url}/coins/markets"
        whole = (await client.get(url, params={"vs_currency": "usd", "per_page": 1000})).json()
        assert (len(whole), whole[0]["id"], "price_change_percentage_1h_in_currency" in whole[0]) == (
            250,
            "bitcoin",
            False,
        )
        assert (await client.get(url)).status_code == 422
        assert (await client.get(url, headers={"x-cg-demo-api-key": "other"})).status_code == 401
        over = await client.get(url, params={"vs_currency": "usd"})
        assert (over.status_code, over.json()["status"]["error_code"], over.headers["Retry-After"]) == (429, 429, "60")
        assert simulator.limits.by_month.total() == 4  # what was refused counts, too
        assert simulator.limits.refused == {"minute": 1}
        assert simulator.total == 4


async def test_coinmarketcap_charges_credits():
    async with (
        CoinMarketCapSimulator(Coins(300), per_month=3) as simulator,
        httpx.AsyncClient(headers={"X-CMC_PRO_API_KEY": str(simulator.key)}, timeout=30, verify=NO_TLS) as client,
    ):
        url = simulator.base_url + LISTINGS
        two = (await client.get(url, params={"limit": 201})).json()
        assert (two["status"]["credit_count"], len(two["data"]), two["status"]["error_code"]) == (2, 201, 0)
        assert (await client.get(url, params={"limit": 5})).json()["data"][0]["quote"]["USD"]["price"] > 1000
        over = await client.get(url, params={"limit": 5})
        assert (over.status_code, over.json()["status"]["error_code"]) == (429, 1010)
        assert (await client.get(url, headers={"X-CMC_PRO_API_KEY": "x"})).json()["status"]["error_code"] == 1001
