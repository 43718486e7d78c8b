"""Answers kept for a while: one computation at a time, gone at a change, and never in the way when Redis is."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from app.core.cache import MAX_BYTES, MAX_ENTRIES, Cache
from app.core.clock import Clock
from app.core.redis_link import RedisLink
from tests.support.clocks import StandingClock
from tests.support.redis_servers import RedisServer

PATIENCE = 30.0
ANSWER_SECONDS = 20.0
"""What a healthy Redis may take, however busy the machine is."""
AT_ONCE = 15.0
"""Seconds that are not a time-out yet."""


class Maker:
    """Counts how often it is asked; gives the number, or raises."""

    def __init__(self, takes: float = 0, error: Exception | None = None) -> None:
        self.takes, self.error = takes, error
        self.calls = 0

    async def __call__(self) -> bytes:
        self.calls += 1
        number = self.calls
        await asyncio.sleep(self.takes)
        if self.error:
            raise self.error
        return b"%d" % number


async def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.01)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


MakeCache = Callable[..., Awaitable[tuple[Cache, RedisLink]]]


@pytest_asyncio.fixture
async def connected() -> AsyncIterator[MakeCache]:
    """Makes caches, each with a link of its own, as the service's processes have them."""
    links: list[RedisLink] = []

    async def make(
        server: RedisServer,
        prefix: str = "arrow:test",
        clock: Clock | None = None,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> tuple[Cache, RedisLink]:
        links.append(RedisLink(server.url, probe_seconds=0.1, answer_seconds=answer_seconds))
        while not await links[-1].probe():  # half a second may be too short for a busy machine
            pass
        return Cache(links[-1], prefix, clock), links[-1]

    yield make
    for link in links:
        await link.close()


async def test_it_is_made_once():
    cache, make = Cache(), Maker()

    assert [await cache.get_or_make("g", "k", 30, make) for _ in range(3)] == [b"1"] * 3
    assert await cache.get_or_make("g", "other", 30, make) == b"2"
    assert await cache.get_or_make("h", "k", 30, make) == b"3"


async def test_callers_at_once_share_one_computation():
    cache, make = Cache(), Maker(takes=0.05)

    assert await asyncio.gather(*(cache.get_or_make("g", "k", 30, make) for _ in range(50))) == [b"1"] * 50


async def test_an_error_reaches_all_who_wait_and_is_not_kept():
    cache, make = Cache(), Maker(takes=0.02, error=ValueError("no"))
    asked = [cache.get_or_make("g", "k", 30, make) for _ in range(5)]
    failed = await asyncio.gather(*asked, return_exceptions=True)
    make.error = None

    assert [type(error) for error in failed] == [ValueError] * 5
    assert make.calls == 1
    assert await cache.get_or_make("g", "k", 30, make) == b"2"


async def test_who_goes_away_takes_nobody_with_it():
    cache, make = Cache(), Maker(takes=0.1)
    first = asyncio.create_task(cache.get_or_make("g", "k", 30, make))
    await asyncio.sleep(0.02)
    second = asyncio.create_task(cache.get_or_make("g", "k", 30, make))
    await asyncio.sleep(0.02)
    first.cancel()

    assert await second == b"1"
    assert await cache.get_or_make("g", "k", 30, make) == b"1"


async def test_it_lives_for_its_time():
    clock = StandingClock()
    cache, make = Cache(clock=clock), Maker()
    await cache.get_or_make("g", "k", 30, make)
    clock.move(seconds=29)
    assert await cache.get_or_make("g", "k", 30, make) == b"1"
    clock.move(seconds=2)
    assert await cache.get_or_make("g", "k", 30, make) == b"2"


async def test_a_change_ends_what_was_made_before_it_of_its_group_alone():
    cache, make = Cache(), Maker()
    for group in ("g", "h"):
        await cache.get_or_make(group, "k", 30, make)
    cache.invalidate("g", "change 1")

    assert await cache.get_or_make("g", "k", 30, make) == b"3"
    assert await cache.get_or_make("h", "k", 30, make) == b"2"
    cache.clear()
    assert await cache.get_or_make("h", "k", 30, make) == b"4"


async def test_what_was_begun_before_a_change_is_not_taken_for_new():
    cache, slow, quick = Cache(), Maker(takes=0.1), Maker()
    before = asyncio.create_task(cache.get_or_make("g", "k", 30, slow))
    await asyncio.sleep(0.02)
    cache.invalidate("g", "change 1")

    assert await cache.get_or_make("g", "k", 30, quick) == b"1"
    assert await before == b"1"
    quick.calls = 10
    assert await cache.get_or_make("g", "k", 30, quick) == b"1"  # still the one made after the change
    assert quick.calls == 10


async def test_what_was_begun_before_everything_was_forgotten_is_not_kept():
    cache, slow, quick = Cache(), Maker(takes=0.1), Maker()
    before = asyncio.create_task(cache.get_or_make("g", "k", 30, slow))
    await asyncio.sleep(0.02)
    cache.clear()
    await before
    quick.calls = 10

    assert await cache.get_or_make("g", "k", 30, quick) == b"11"


STEPS = st.lists(
    st.tuples(st.sampled_from(["get", "change", "forget"]), st.sampled_from("gh"), st.sampled_from("kl")), max_size=30
)


@given(STEPS)
async def test_never_older_than_the_last_change(steps: list[tuple[str, str, str]]):
    """Beside a model: the value is the group's number of changes when it was made."""
    cache, changes = Cache(), {"g": 0, "h": 0}
    for number, (action, group, key) in enumerate(steps):
        if action == "get":

            async def make(value: int = changes[group]) -> bytes:
                return b"%d" % value

            assert await cache.get_or_make(group, key, 30, make) == b"%d" % changes[group]
        elif action == "change":
            changes[group] += 1
            cache.invalidate(group, f"change {number}")
        else:
            changes = {name: count + 1 for name, count in changes.items()}
            cache.clear()


async def test_memory_is_bounded():
    cache, make = Cache(), Maker()
    for number in range(MAX_ENTRIES + 20):
        await cache.get_or_make("g", str(number), 30, make)
    assert await cache.get_or_make("g", str(MAX_ENTRIES + 19), 30, make) == b"%d" % (MAX_ENTRIES + 20)
    await cache.get_or_make("g", "0", 30, make)
    assert make.calls == MAX_ENTRIES + 21  # the first had to make room


async def test_a_giant_is_answered_and_not_kept():
    cache, make = Cache(), Maker()
    await cache.get_or_make("g", "small", 30, make)

    async def giant() -> bytes:
        return bytes(MAX_BYTES // 2)

    assert len(await cache.get_or_make("g", "giant", 30, giant)) == MAX_BYTES // 2
    assert await cache.get_or_make("g", "small", 30, make) == b"1"
    assert await cache.get_or_make("g", "giant", 30, make) == b"2"


async def test_processes_that_heard_of_the_same_change_share(server: RedisServer, connected: MakeCache):
    (one, _), (two, _), make = await connected(server), await connected(server), Maker()
    for cache in (one, two):
        cache.invalidate("shared", "change 1")
    value = await one.get_or_make("shared", "k", 30, make)

    assert await two.get_or_make("shared", "k", 30, make) == value
    assert make.calls == 1
    two.invalidate("shared", "change 2")
    assert await two.get_or_make("shared", "k", 30, make) == b"2"


async def test_a_process_that_may_have_missed_changes_shares_nothing(server: RedisServer, connected: MakeCache):
    (one, _), (two, _), make = await connected(server), await connected(server), Maker()

    assert await one.get_or_make("unheard", "k", 30, make) == b"1"
    assert await two.get_or_make("unheard", "k", 30, make) == b"2"
    one.invalidate("unheard", "change 1")
    two.invalidate("unheard", "change 1")
    two.clear()
    assert await one.get_or_make("unheard", "k", 30, make) == b"3"
    assert await two.get_or_make("unheard", "k", 30, make) == b"4"


async def test_services_that_share_a_redis_share_no_answers(server: RedisServer, connected: MakeCache):
    (one, _), (two, _), make = await connected(server, "arrow:a"), await connected(server, "arrow:b"), Maker()
    for cache in (one, two):
        cache.invalidate("same", "change 1")

    assert await one.get_or_make("same", "k", 30, make) == b"1"
    assert await two.get_or_make("same", "k", 30, make) == b"2"


async def test_it_has_one_life_not_one_in_each_process(server: RedisServer, connected: MakeCache):
    clock, make = StandingClock(), Maker()
    (one, link), (two, _) = await connected(server), await connected(server, clock=clock)
    for cache in (one, two):
        cache.invalidate("short", "change 1")
    await one.get_or_make("short", "k", 600, make)
    [key] = await link.client.keys("*:short:*")
    assert 500 < await link.client.ttl(key) <= 600
    await link.client.expire(key, 90)  # most of its life has passed
    assert await two.get_or_make("short", "k", 600, make) == b"1"
    await link.client.delete(key)
    clock.move(seconds=50)
    assert await two.get_or_make("short", "k", 600, make) == b"1"
    clock.move(seconds=41)
    assert await two.get_or_make("short", "k", 600, make) == b"2"


async def test_redis_is_killed_and_comes_back(connected: MakeCache):
    with RedisServer() as server:
        (cache, link), (other, _), make = await connected(server), await connected(server), Maker()
        for each in (cache, other):
            each.invalidate("g", "change 1")
        probing = asyncio.create_task(link.run())
        assert await cache.get_or_make("g", "before", 30, make) == b"1"
        server.kill()
        began = time.monotonic()
        assert await cache.get_or_make("g", "away", 30, make) == b"2"
        assert await cache.get_or_make("g", "away", 30, make) == b"2"  # from memory
        assert await cache.get_or_make("g", "before", 30, make) == b"1"
        assert time.monotonic() - began < AT_ONCE
        assert link.health()["backend"] == "memory"
        assert link.health()["status"] == "degraded"

        server.start()
        await until(lambda: link.usable)
        assert link.health() == {"status": "ok", "backend": "redis"}
        assert await cache.get_or_make("g", "after", 30, make) == b"3"
        assert await other.get_or_make("g", "after", 30, make) == b"3"
        probing.cancel()


async def test_redis_dies_while_it_is_being_made(connected: MakeCache):
    with RedisServer() as server:
        (cache, link), make, killed = await connected(server), Maker(), asyncio.Event()

        async def make_over_the_end() -> bytes:
            made = await make()
            await killed.wait()
            return made

        asked = asyncio.create_task(cache.get_or_make("g", "k", 30, make_over_the_end))
        await until(lambda: make.calls)
        server.kill()
        killed.set()

        assert await asked == b"1"
        assert not link.usable
        assert await cache.get_or_make("g", "k", 30, make) == b"1"


async def test_redis_that_does_not_answer_costs_one_wait(server: RedisServer, connected: MakeCache):
    (cache, link), make = await connected(server, answer_seconds=0.5), Maker()
    server.suspend()
    took = []
    try:
        # More often than once only because a busy machine may stand still for one of those that do not wait.
        while len(took) < 2 or (min(took) >= 0.3 and len(took) < 6):
            began = time.monotonic()
            assert await cache.get_or_make("g", f"k{len(took)}", 30, make) == b"%d" % (len(took) + 1)
            took.append(time.monotonic() - began)
    finally:
        server.resume()

    assert took[0] > 0.4
    assert min(took) < 0.3
    assert not link.usable
    while not await link.probe():
        pass


async def test_a_redis_that_was_never_there():
    link, make = RedisLink("redis://:Pa55-w0rd@127.0.0.1:1"), Maker()
    cache = Cache(link)

    assert not link.usable
    assert await cache.get_or_make("g", "k", 30, make) == b"1"
    assert not await link.probe()
    health = str(link.health())
    assert "degraded" in health
    assert "Pa55" not in health
    await link.close()
