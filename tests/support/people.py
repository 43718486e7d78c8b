"""Users of the service, as tests need them."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.support.http import NO_TLS

PASSWORD = "correct horse battery 9"


@dataclass
class Person:
    """Somebody who signed up, with a client that sends their token."""

    client: httpx.AsyncClient
    email: str
    tokens: dict[str, Any]
    password: str = PASSWORD
    keys: dict[str, str] = field(default_factory=dict)

    @property
    def token(self) -> str:
        """The access token."""
        token: str = self.tokens["access_token"]
        return token

    async def bind(self, name: str = "My Strategy") -> str:
        """A new key for a strategy of theirs."""
        answer = await self.client.post("/alerts/bind_key", json={"name": name})
        assert answer.status_code == 201, answer.text
        key: str = answer.json()["secret_key"]
        self.keys[name] = key
        return key


async def sign_up(url: str, email: str | None = None, *, address: str | None = None) -> Person:
    """A new account on the service at `url`, for somebody who comes from `address` through a trusted proxy."""
    email = email or f"{secrets.token_hex(6)}@example.com"
    headers = {"X-Forwarded-For": address} if address else {}
    client = httpx.AsyncClient(base_url=url, timeout=30, headers=headers, verify=NO_TLS)
    answer = await client.post("/api/v1/auth/signup", json={"email": email, "password": PASSWORD})
    assert answer.status_code == 201, answer.text
    tokens = answer.json()
    client.headers["Authorization"] = f"Bearer {tokens['access_token']}"
    return Person(client, email, tokens)


@asynccontextmanager
async def somebody(url: str) -> AsyncIterator[Person]:
    """A new account on the service at `url`, whose client is closed in the end."""
    person = await sign_up(url)
    try:
        yield person
    finally:
        await person.client.aclose()


def alert(**values: Any) -> dict[str, Any]:
    """A valid webhook body."""
    return {"contract": "NIFTY", "trade_type": "buy", "quantity": 75, "price": 24350.5} | values
