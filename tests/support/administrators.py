"""Accounts with a role, made as an operator of the service makes them: by a script beside it."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from tests.support.http import NO_TLS
from tests.support.people import PASSWORD, Person
from tests.support.scripts import run_script
from tests.support.service import ServiceProcess


@asynccontextmanager
async def signed_in(url: str, email: str, password: str = PASSWORD) -> AsyncIterator[Person]:
    """The owner of an existing account, whose client is closed in the end."""
    async with httpx.AsyncClient(base_url=url, timeout=30, verify=NO_TLS) as client:
        answer = await client.post("/api/v1/auth/login", json={"email": email, "password": password})
        assert answer.status_code == 200, answer.text
        tokens = answer.json()
        client.headers["Authorization"] = f"Bearer {tokens['access_token']}"
        yield Person(client, email, tokens, password)


@asynccontextmanager
async def administrator(service: ServiceProcess, role: str = "admin") -> AsyncIterator[Person]:
    """A new administrator (or who else has `role`) of a running service."""
    email = f"{role}-{secrets.token_hex(6)}@example.com"
    made = await asyncio.to_thread(
        run_script, "create_user.py", service.env, email, "--role", role, typed=f"{PASSWORD}\n"
    )
    assert made.returncode == 0, made.stderr
    async with signed_in(service.url, email) as person:
        yield person
