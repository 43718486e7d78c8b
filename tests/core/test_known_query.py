"""Parameters that nobody asked for: refused in few words, and counted, whoever sends how many of them."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from fastapi import APIRouter, FastAPI

from app.core.client_address import ClientAddressResolver
from app.core.deps import KnownQuery, PublicLimit, Registry
from app.core.problem import MAX_ERRORS, add_problem_handlers
from app.core.rate_limit import RateLimiter
from app.core.settings import Settings

PER_MINUTE = 20


def application(folder: Path) -> FastAPI:
    """One public endpoint with one parameter, put together as the routes are."""
    app, router, registry = FastAPI(), APIRouter(), Registry()
    settings = Settings.load(
        data_dir=folder, secret_key="s" * 40, rate_limit_per_minute=PER_MINUTE, environment="test", _env_file=None
    )
    registry.provide(Settings, settings)
    registry.provide(RateLimiter, RateLimiter())
    registry.provide(ClientAddressResolver, ClientAddressResolver(settings.trusted_proxies))
    app.state.registry = registry

    @router.get("/things", dependencies=[PublicLimit])
    async def things(limit: int = 1) -> int:
        return limit

    app.include_router(router, dependencies=[KnownQuery])
    add_problem_handlers(app)
    return app


@pytest_asyncio.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(application(tmp_path))
    async with httpx.AsyncClient(transport=transport, base_url="http://arrow.test") as made:
        yield made


async def test_however_many_there_are_the_answer_is_short(client: httpx.AsyncClient) -> None:
    names = [f"n{number}" for number in range(5000)]

    answer = await client.get("/things?limit=3&" + "&".join(f"{name}=1" for name in names))

    assert answer.status_code == 422
    assert [error["loc"] for error in answer.json()["errors"]] == [["query", name] for name in names[:MAX_ERRORS]]
    assert answer.json()["detail"] == "query.n0: This parameter is not known here; known are limit."
    assert len(answer.content) < 6000


async def test_names_are_cut_and_made_printable(client: httpx.AsyncClient) -> None:
    answer = await client.get("/things", params={"\n\x1b[31mevil\u202e": "1", "x" * 5000: "1"})

    first, second = (error["loc"][1] for error in answer.json()["errors"])
    assert first == "��[31mevil�"
    assert second == "x" * 100
    told = json.loads(answer.content)["detail"]
    assert told.startswith("query.��[31mevil�: ")
    assert told.isprintable()
    assert len(answer.content) < 1000


@pytest.mark.within_a_minute(6)
async def test_what_is_refused_counts_like_any_public_request(client: httpx.AsyncClient) -> None:
    codes = [(await client.get("/things?what=1")).status_code for _ in range(PER_MINUTE + 5)]
    assert codes[:PER_MINUTE] == [422] * PER_MINUTE
    # The minute may turn meanwhile.
    assert codes[-1] == 429 or codes.count(429) >= 3
    assert (await client.get("/things?limit=2")).status_code == 429, "one limit for both"


async def test_what_is_known_costs_one_request(client: httpx.AsyncClient) -> None:
    codes = [(await client.get("/things?limit=2")).status_code for _ in range(PER_MINUTE)]
    assert codes == [200] * PER_MINUTE
