"""Several processes as one: each room here has all that a process has, its own socket to the others included."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from app.core.bus import Bus
from app.core.bus_loopback import LoopbackTransport
from app.core.clock import SystemClock
from app.core.errors import UnavailableError
from app.core.events import PeersChanged
from app.core.scheduler import Job, Scheduler
from app.crypto.generations import GenerationStore
from app.crypto.listing import HOLD_BACK_SECONDS, Listings
from app.crypto.register import CoinRegister
from app.crypto.runs import GROUP, SYNC
from app.crypto.sync import CryptoSync
from app.job_runs.store import MongoRunStore
from tests.core.bus_processes import until
from tests.crypto.listing.conftest import Database
from tests.crypto.listing.kit import BASE, COINS, SIGNED_IN, PointsKept, Room, RowSource, SetClock, gecko, room_of

MakeRoom = Callable[..., Any]


def heard_by_all(folder: Path) -> LoopbackTransport:
    """Its heartbeats are rare: a process that stands still for a while is not taken for one that hangs."""
    return LoopbackTransport(folder, beat_seconds=20)


@pytest.fixture
async def make_room(listing_db: Database, tmp_path: Path) -> AsyncIterator[MakeRoom]:
    """Makes rooms that hear of one another; they share a database, and a source."""
    assert listing_db.name
    async with AsyncExitStack() as stack:
        source, clock = RowSource(rows=list(COINS)), SetClock()

        async def make(**options: Any) -> Room:
            options = {"clock": clock, "source": source, "transport": heard_by_all(tmp_path)} | options
            return await stack.enter_async_context(room_of(**options))

        yield make


async def connected(*rooms: Room) -> None:
    for room in rooms:
        await until(lambda room=room: room.bus.health()["peers"] == len(rooms) - 1)  # type: ignore[misc]


async def test_every_process_switches_before_the_sync_answers(make_room: MakeRoom):
    here, there = await make_room(), await make_room()
    await connected(here, there)
    await here.synced([gecko("a", "A", price="1")])
    assert [await room.slugs() for room in (here, there)] == [["a"], ["a"]]

    for price in range(2, 12):
        here.source.rows = [gecko("a", "A", price=str(price))]
        answer = await here.client.post(BASE + "/sync", headers=SIGNED_IN)
        assert answer.status_code == 200
        seen = [(await room.get("/"))[0]["price"] for room in (there, here)]
        assert seen == [price, price]
    await until(lambda: there.listings.price("a").price == 11)


async def test_prices_switch_without_anybody_asking(make_room: MakeRoom):
    here, there = await make_room(), await make_room()
    await connected(here, there)
    await here.synced([gecko("a", "A", price="1")])
    await until(lambda: there.listings.price("a") is not None)
    await here.synced([gecko("a", "A", price="2")])
    await until(lambda: there.listings.price("a").price == Decimal(2))


async def test_a_process_that_missed_the_news_looks_again_in_time(make_room: MakeRoom, tmp_path: Path):
    here, apart = await make_room(), await make_room(transport=heard_by_all(tmp_path / "apart"))
    await here.synced([gecko("a", "A")])
    assert await apart.slugs() == ["a"]
    await here.synced([gecko("b", "B")])
    assert await apart.slugs() == ["a"], "nobody told it, and it has just looked"
    here.clock.forward(timedelta(seconds=299))
    assert await apart.slugs() == ["a"]
    here.clock.forward(timedelta(seconds=1))
    assert await apart.slugs() == ["b"]
    await here.synced([gecko("c", "C")])
    apart.bus.announce(PeersChanged("events may have been missed"))
    assert await apart.slugs() == ["c"]


async def test_without_the_bus_every_request_looks(make_room: MakeRoom, tmp_path: Path):
    here, cut_off = await make_room(), await make_room(transport=heard_by_all(tmp_path / "apart"))
    await cut_off.bus.stop()
    for slug in "abc":
        await here.synced([gecko(slug)])
        assert await cut_off.slugs() == [slug]


# ── the first listing of all ─────────────────────────────────────────────────────────────────────────────────────────


class Process:
    """What a process of the service has of it, its jobs run by the scheduler."""

    def __init__(self, db: Database, folder: Path, number: int, source: RowSource) -> None:
        clock = SystemClock()
        self.bus = Bus(heard_by_all(folder))
        self.scheduler = Scheduler(
            db=db, store=MongoRunStore(clock), bus=self.bus, clock=clock, holder=f"process {number}"
        )
        store, register = GenerationStore(), CoinRegister()
        sync = CryptoSync(
            source=source, store=store, register=register, history=PointsKept(), bus=self.bus, clock=clock
        )
        self.scheduler.add(Job(SYNC, sync.sync, group=GROUP))
        self.listings = Listings(
            store=store, register=register, bus=self.bus, clock=clock, cache_seconds=300, runs=self.scheduler,
            cold_seconds=30,
        )  # fmt: skip

    async def close(self) -> None:
        await self.listings.close()
        await self.scheduler.close()
        await self.bus.stop()


async def test_cold_requests_to_all_processes_are_one_call(listing_db: Database, tmp_path: Path):
    source = RowSource(rows=list(COINS), seconds=0.2)
    processes = [Process(listing_db, tmp_path, number, source) for number in range(3)]
    try:
        for process in processes:
            await process.bus.start()
        listings = [process.listings for process in processes]
        first = asyncio.gather(*[listings[number % 3].newest() for number in range(50)])
        await asyncio.sleep(0.25)  # about when the call answers: the moment in which a second one could start
        late = asyncio.gather(*[listings[number % 3].newest() for number in range(50)])
        generations = await first + await late
    finally:
        for process in processes:
            await process.close()

    assert source.asked == [(200, None)]
    assert len({generation.number for generation in generations}) == 1
    assert {coin.slug for coin in generations[0].coins} == {coin.slug for coin in COINS}


async def test_a_first_sync_that_fails_is_told_and_not_repeated_by_every_request(make_room: MakeRoom):
    room = await make_room()
    room.source.failure = UnavailableError("CoinGecko: unreachable (timeout).")
    answers = await asyncio.gather(
        *[room.client.get(BASE + path) for path in ["/", "/btc", "/top/gainers", "/?q=b"] * 5]
    )

    assert Counter(answer.status_code for answer in answers) == {503: 20}
    assert "CoinGecko: unreachable (timeout)." in answers[0].json()["detail"]
    assert int(answers[0].headers["Retry-After"]) == HOLD_BACK_SECONDS
    assert (await room.client.get(BASE + "/")).status_code == 503
    assert len(room.source.asked) == 1
    room.source.failure = None
    room.clock.forward(timedelta(seconds=HOLD_BACK_SECONDS))
    assert (await room.slugs())[0] == "bitcoin"
    assert len(room.source.asked) == 2


async def test_where_syncs_are_off_nothing_is_asked_of_anybody(make_room: MakeRoom):
    room = await make_room(cold=False)
    answer = await room.client.get(BASE + "/")

    assert answer.status_code == 503
    assert "POST /api/v1/cryptocurrencies/sync" in answer.json()["detail"]
    assert not room.source.asked
    assert (await room.client.post(BASE + "/sync", headers=SIGNED_IN)).status_code == 200
    assert (await room.slugs())[0] == "bitcoin"


async def test_a_slow_first_sync_is_waited_for_a_while_only(make_room: MakeRoom):
    room = await make_room(cold_seconds=0.05)
    room.source.seconds = 0.2
    answer = await room.client.get(BASE + "/")

    assert answer.status_code == 503
    assert "try again" in answer.json()["detail"]
    assert answer.headers["Retry-After"] == "5"
    await until(lambda: room.listings.current() is not None)
    assert (await room.slugs())[0] == "bitcoin"
    assert len(room.source.asked) == 1


async def test_the_same_sync_asked_for_twice_is_one(make_room: MakeRoom):
    room = await make_room()
    room.source.seconds = 0.3
    answers = await asyncio.gather(*[room.client.post(BASE + "/sync", headers=SIGNED_IN) for _ in range(5)])

    assert sorted(answer.json()["joined"] for answer in answers) == [False, True, True, True, True]
    assert len({answer.json()["run_id"] for answer in answers}) == 1
    assert all(len(answer.json()["added"]) == len(COINS) for answer in answers)
    assert len(room.source.asked) == 1


async def test_a_sync_that_takes_long_is_answered_with_where_to_follow_it(make_room: MakeRoom):
    room = await make_room(patience=0.02)
    room.source.seconds = 0.2
    answer = await room.client.post(BASE + "/sync", headers=SIGNED_IN)

    assert answer.status_code == 202
    report = answer.json()
    assert (report["state"], report["duration_ms"]) == ("running", None)
    assert answer.headers["Location"] == f"/api/v1/jobs/{report['run_id']}"
    failing = await make_room()
    failing.source.seconds, failing.source.failure = 0.0, UnavailableError("CoinGecko: key refused (10001).")
    refused = await failing.client.post(BASE + "/sync", headers=SIGNED_IN)
    assert refused.status_code == 503
    assert "key refused (10001)" in refused.json()["detail"]
