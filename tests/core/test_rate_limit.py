"""Rate limits: exactly as many as allowed, in memory and in Redis, and never a reason to refuse by mistake."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.errors import RateLimitedError
from app.core.rate_limit import RateLimiter
from app.core.redis_link import RedisLink
from tests.support.redis_servers import RedisServer

pytestmark = pytest.mark.within_a_minute(8)

PATIENCE = 30.0
ANSWER_SECONDS = 20.0
"""What a healthy Redis may take, however busy the machine is."""
AT_ONCE = 15.0


async def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.01)


async def taken(limiter: RateLimiter, times: int, *, scope: str = "public", key: str = "k", limit: int = 5) -> int:
    """How many of so many requests at once are let through."""
    asked = [limiter.hit(scope, key, limit) for _ in range(times)]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert {type(answer) for answer in answers} <= {type(None), RateLimitedError}
    return sum(answer is None for answer in answers)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


MakeLimiter = Callable[..., Awaitable[tuple[RateLimiter, RedisLink]]]


@pytest_asyncio.fixture
async def connected() -> AsyncIterator[MakeLimiter]:
    """Makes limiters, each with a link of its own, as the service's processes have them."""
    links: list[RedisLink] = []

    async def make(
        server: RedisServer, namespace: str = "arrow", answer_seconds: float = ANSWER_SECONDS
    ) -> tuple[RateLimiter, RedisLink]:
        links.append(RedisLink(server.url, probe_seconds=0.1, answer_seconds=answer_seconds))
        while not await links[-1].probe():  # half a second may be too short for a busy machine
            pass
        return RateLimiter(links[-1], namespace), links[-1]

    yield make
    for link in links:
        await link.close()


@pytest.mark.parametrize("limit", [1, 2, 5, 60])
async def test_exactly_as_many_as_allowed(limit: int):
    limiter = RateLimiter()

    assert await taken(limiter, limit + 30, limit=limit) == limit
    assert await taken(limiter, 3, limit=limit) == 0


@settings(max_examples=30)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"), st.integers(1, 4)), max_size=25))
async def test_who_is_counted_and_for_what(requests: list[tuple[str, str, int]]):
    """Beside a model: each scope and key has an allowance of its own, and what is refused does not use it up."""
    limiter, used = RateLimiter(), dict[tuple[str, str], int]()
    for scope, key, cost in requests:
        before = used.get((scope, key), 0)
        try:
            await limiter.hit(scope, key, 7, cost=cost)
        except RateLimitedError:
            assert before + cost > 7
        else:
            used[scope, key] = before + cost
            assert used[scope, key] <= 7


async def test_a_refusal_says_when_to_come_again(server: RedisServer, connected: MakeLimiter):
    shared, _ = await connected(server)
    # The full counter ends with the minute of the clock in memory, a minute after its first request in Redis.
    for limiter, ends in ((RateLimiter(), lambda: 60 - time.time() % 60), (shared, lambda: 60.0)):
        latest, began = ends(), time.monotonic()
        await limiter.hit("public", "refused", 1)
        await asyncio.sleep(0.01)
        with pytest.raises(RateLimitedError) as refused:
            await limiter.hit("public", "refused", 1)
        error = refused.value
        seconds = int(error.headers["Retry-After"])

        assert latest - (time.monotonic() - began) - 2 < seconds < latest + 2
        assert f"{seconds} s" in error.detail
        assert error.headers["RateLimit-Limit"] == "1"
        assert error.headers["RateLimit-Remaining"] == "0"
        assert error.headers["RateLimit-Reset"] == str(seconds)


async def test_a_rush_is_not_taken_for_an_outage(server: RedisServer, connected: MakeLimiter):
    limiter, link = await connected(server)

    assert await taken(limiter, 400, key="rush", limit=350) == 350
    assert link.usable


async def test_processes_share_one_allowance(server: RedisServer, connected: MakeLimiter):
    limiters = [(await connected(server))[0] for _ in range(3)]
    counts = await asyncio.gather(*(taken(limiter, 20, key="shared", limit=10) for limiter in limiters))

    assert sum(counts) == 10


async def test_services_that_share_a_redis_do_not_share_limits(server: RedisServer, connected: MakeLimiter):
    (one, _), (two, _) = await connected(server, "arrow:a"), await connected(server, "arrow:b")

    assert await taken(one, 9, key="same") == 5
    assert await taken(two, 9, key="same") == 5


async def test_odd_keys_are_keys(server: RedisServer, connected: MakeLimiter):
    shared, _ = await connected(server)
    for limiter in (shared, RateLimiter()):
        for key in ("::1", "a/b", "a b", "é😀", "{x}", "*", "a\x00b", "k" * 500, ""):
            assert await taken(limiter, 7, scope="odd", key=key) == 5


@pytest.mark.within_a_minute(15)  # it starts a server of its own, and counts in memory after that
async def test_redis_is_killed_and_comes_back(connected: MakeLimiter):
    with RedisServer() as server:
        (limiter, link), (other, _) = await connected(server), await connected(server)
        probing = asyncio.create_task(link.run())
        assert await taken(limiter, 9, key="a") == 5
        assert await taken(limiter, 4, key="b") == 4
        server.kill()
        began = time.monotonic()
        # Counted in memory from now on: generous by what memory does not know, but not without a limit.
        assert await taken(limiter, 9, key="b") == 5
        assert await taken(limiter, 9, key="b") == 0
        assert time.monotonic() - began < AT_ONCE
        assert not link.usable

        server.start()
        await until(lambda: link.usable)
        assert await taken(limiter, 9, key="c") == 5
        assert await taken(other, 9, key="c") == 0
        probing.cancel()


async def test_redis_that_does_not_answer_costs_one_wait(server: RedisServer, connected: MakeLimiter):
    limiter, link = await connected(server, answer_seconds=0.5)
    server.suspend()
    took = []
    try:
        # More often than once only because a busy machine may stand still for one of those that do not wait.
        while len(took) < 2 or (min(took) >= 0.3 and len(took) < 6):
            began = time.monotonic()
            assert await taken(limiter, 9, key=f"stalled {len(took)}") == 5
            took.append(time.monotonic() - began)
    finally:
        server.resume()

    assert took[0] > 0.4
    assert min(took) < 0.3
    assert not link.usable
