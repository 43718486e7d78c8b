"""A service of these tests' own, since what is generated here stays there, and somebody with a key and an alert."""

import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.support.http import NO_TLS
from tests.support.people import PASSWORD, alert
from tests.support.programs import simulator
from tests.support.service import ServiceProcess


@dataclass(frozen=True)
class Account:
    """Somebody who is signed in, and what they have."""

    email: str
    tokens: dict[str, Any]
    key: str
    key_id: str
    alert_id: str

    @property
    def headers(self) -> dict[str, str]:
        """What signs a request."""
        return {"Authorization": f"Bearer {self.tokens['access_token']}"}


def make_account(url: str) -> Account:
    """Sign up, bind a key, and have one delivery taken and one refused."""
    email = f"{secrets.token_hex(6)}@example.com"
    with httpx.Client(base_url=url, timeout=30, verify=NO_TLS) as client:
        tokens = client.post("/api/v1/auth/signup", json={"email": email, "password": PASSWORD}).json()
        client.headers["Authorization"] = f"Bearer {tokens['access_token']}"
        key = client.post("/alerts/bind_key", json={"name": "My Strategy"}).json()
        stored = client.post(f"/data/{key['secret_key']}", json=alert()).json()
        assert client.post(f"/data/{key['secret_key']}", content="not JSON").status_code == 422
    return Account(email, tokens, key["secret_key"], key["id"], stored["id"])


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """With every provider at hand, so that what the document shows works."""
    with (
        simulator("tests.simulators.coingecko", "--coins", "60") as coins,
        simulator("tests.simulators.coinmarketcap", "--coins", "60") as more_coins,
        simulator("tests.simulators.angel_one") as exchange,
        simulator("tests.simulators.yahoo") as yahoo,
    ):
        environment = {**coins, **more_coins, **exchange, **yahoo, "CRYPTO_SYNC_ENABLED": "true"}
        process = ServiceProcess(tmp_path_factory.mktemp("contract"), **environment)
        try:
            process.start()
            wait_for_providers(process)
            yield process
        finally:
            process.close()


def wait_for_providers(process: ServiceProcess) -> None:
    """Until the list of instruments and the first coins are there."""
    questions = ("/api/v1/market-data/instruments?query=NIFTY", "/api/v1/cryptocurrencies/BTC")
    deadline = time.monotonic() + 50
    with httpx.Client(base_url=process.url, timeout=30, verify=NO_TLS) as client:
        while any(client.get(question).status_code != 200 for question in questions):
            assert time.monotonic() < deadline, "a provider was not heard"
            time.sleep(0.1)


@pytest.fixture(scope="session")
def document(target: ServiceProcess) -> dict[str, Any]:
    """The OpenAPI document, as the service gives it."""
    answer = httpx.get(f"{target.url}/openapi.json", timeout=30, verify=NO_TLS)
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


@pytest.fixture
def account(target: ServiceProcess) -> Account:
    return make_account(target.url)
