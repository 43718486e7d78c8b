"""Shared durable writes: what is acknowledged is stored once, whatever happens to the database and the way to it."""

import asyncio
import itertools
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import structlog
from bson import ObjectId
from pymongo import AsyncMongoClient
from pymongo.errors import PyMongoError

from app.core.embedded import EmbeddedDatabase
from app.core.errors import UnavailableError
from app.core.group_commit import DuplicateRowError, GroupCommit
from tests.support.mongodb import OPTIONS, Db, empty_database, server_port, through
from tests.support.tcp_proxy import TcpProxy

pytestmark = pytest.mark.timeout(180)

Row = dict[str, Any]
IMPATIENT = {"serverSelectionTimeoutMS": 400, "connectTimeoutMS": 400, "socketTimeoutMS": 2000}


def row(**values: Any) -> Row:
    return {"_id": ObjectId(), **values}


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.02)


@pytest.fixture(scope="module", autouse=True)
def plain_logs() -> Iterator[None]:
    """structlog's own default draws pictures of every frame, for seconds."""
    structlog.configure(processors=[structlog.processors.format_exc_info, structlog.processors.KeyValueRenderer()])
    yield
    structlog.reset_defaults()


class Bench:
    """A collection, its group commit (perhaps over a proxy), and what was announced."""

    def __init__(self, near: Db, far: Db, name: str) -> None:
        self.stored = near[name]
        self._collection = far[name]
        self.announced: list[tuple[ObjectId, Any]] = []
        self.batches: list[int] = []
        self.commits: list[GroupCommit] = []

    def commit(self, *, patience: float = 30, **options: Any) -> GroupCommit:
        """As patient as a busy machine needs it, unless the patience is what is tested."""
        made = GroupCommit(
            self._collection,
            on_stored=lambda row, note: self.announced.append((row["_id"], note)),
            on_batch=self.batches.append,
            patience=patience,
            **options,
        )
        self.commits.append(made)
        return made

    async def ids(self) -> Counter[ObjectId]:
        return Counter([found["_id"] async for found in self.stored.find({}, {"_id": 1})])

    async def check(self, acknowledged: list[Row]) -> None:
        """All that was acknowledged is stored; all that is stored was announced, once; nothing else was."""
        stored = await self.ids()
        assert {row["_id"] for row in acknowledged} <= set(stored)
        assert Counter(id_ for id_, _ in self.announced) == stored

    async def close(self) -> None:
        for commit in self.commits:
            await commit.drain(2)


_names = itertools.count()


@pytest_asyncio.fixture
async def bench(mongodb_url: str) -> AsyncIterator[Bench]:
    """Straight to the server."""
    async with empty_database(mongodb_url) as db:
        made = Bench(db, db, f"rows{next(_names)}")
        yield made
        await made.close()


@pytest_asyncio.fixture
async def proxy(mongodb_url: str) -> AsyncIterator[TcpProxy]:
    async with TcpProxy(server_port(mongodb_url)) as made:
        yield made


@pytest_asyncio.fixture
async def far(mongodb_url: str, proxy: TcpProxy) -> AsyncIterator[Bench]:
    """Over the proxy; `stored` looks at the server itself."""
    async with empty_database(mongodb_url) as near:
        client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(
            through(mongodb_url, proxy.port), **(OPTIONS | IMPATIENT | {"heartbeatFrequencyMS": 500})
        )
        await until(_answers(client))
        made = Bench(near, client[near.name], f"rows{next(_names)}")
        await made.stored.create_index("dedup", unique=True, sparse=True)
        yield made
        await proxy.mend()
        await made.close()
        await client.close()


async def outcomes(inserts: list[Any]) -> list[type[BaseException] | None]:
    """How each ended."""
    done = await asyncio.wait_for(asyncio.gather(*inserts, return_exceptions=True), 30)
    return [type(result) if isinstance(result, BaseException) else None for result in done]


async def test_a_lone_row_does_not_wait_for_company(bench: Bench):
    commit, one = bench.commit(), row(x=1)
    await commit.insert(one, "note")

    assert bench.batches == [1]
    assert bench.announced == [(one["_id"], "note")]
    assert await bench.stored.find_one({"_id": one["_id"]}) == one


async def test_rows_that_come_together_share_writes(bench: Bench):
    commit, rows = bench.commit(), [row(x=n) for n in range(100)]

    assert await outcomes([commit.insert(one, n) for n, one in enumerate(rows)]) == [None] * 100

    assert sum(bench.batches) == 100
    assert len(bench.batches) <= 3
    assert bench.announced == [(one["_id"], n) for n, one in enumerate(rows)]
    await bench.check(rows)


async def test_more_rows_than_one_write_takes(bench: Bench):
    commit, rows = bench.commit(max_batch=10), [row(x=n) for n in range(45)]

    assert await outcomes([commit.insert(one) for one in rows]) == [None] * 45

    assert max(bench.batches) == 10
    assert sum(bench.batches) == 45
    await bench.check(rows)


async def test_a_row_is_announced_before_its_sender_hears(bench: Bench):
    commit = bench.commit()
    heard: list[int] = []

    async def send(one: Row) -> None:
        await commit.insert(one)
        heard.append(sum(id_ == one["_id"] for id_, _ in bench.announced))

    await asyncio.gather(*(send(row(x=n)) for n in range(20)))

    assert heard == [1] * 20


async def test_duplicates_within_one_write_and_across_writes(bench: Bench):
    await bench.stored.create_index("dedup", unique=True, sparse=True)
    commit = bench.commit()
    rows = [row(dedup=f"d{n % 5}") for n in range(40)] + [row(x=n) for n in range(10)]

    ends = await outcomes([commit.insert(one) for one in rows])
    again = await outcomes([commit.insert(row(dedup="d0")), commit.insert(row())])

    assert Counter(ends) == {None: 15, DuplicateRowError: 35}
    assert ends[:5] == [None] * 5
    assert again == [DuplicateRowError, None]
    assert len(await bench.ids()) == len(bench.announced) == 16


@pytest.mark.parametrize("value", [object(), 2**70, "half a pair: \ud800", {"a": {1: 2}}, {"\x00": 1}])
async def test_a_row_that_cannot_be_stored_fails_alone(bench: Bench, value: Any):
    commit, good, bad = bench.commit(), [row(x=n) for n in range(9)], row(x=value)

    ends = await outcomes([commit.insert(one) for one in [*good[:5], bad, *good[5:]]])

    assert ends == [None] * 5 + [UnavailableError] + [None] * 4
    await bench.check(good)
    await commit.insert(later := row(x="the writer lives on"))
    await bench.check([*good, later])


async def test_a_sender_that_goes_away_takes_nobody_with_it(bench: Bench):
    commit, rows = bench.commit(), [row(x=n) for n in range(10)]
    sent = [asyncio.create_task(commit.insert(one)) for one in rows]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    sent[3].cancel()

    ends = await outcomes(list(sent))

    assert ends == [None] * 3 + [asyncio.CancelledError] + [None] * 6
    await commit.drain()
    await bench.check([one for n, one in enumerate(rows) if n != 3])


async def test_drain_waits_for_what_was_given(bench: Bench):
    commit, rows = bench.commit(max_batch=8), [row(x=n) for n in range(60)]
    sent = [asyncio.create_task(commit.insert(one)) for one in rows]
    await asyncio.sleep(0)
    await commit.drain()

    assert len(await bench.ids()) == 60
    assert await outcomes(list(sent)) == [None] * 60
    await commit.drain()


async def test_a_lost_acknowledgement_is_found_again(far: Bench, proxy: TcpProxy):
    commit, one = far.commit(), row(x=1, dedup="a")
    proxy.swallow_answers()
    sent = asyncio.create_task(commit.insert(one, "note"))
    await until(lambda: _has(far, one))
    assert not sent.done()
    await _long_cut(proxy)
    await asyncio.wait_for(sent, 30)

    assert far.announced == [(one["_id"], "note")]
    await far.check([one])


async def _long_cut(proxy: TcpProxy) -> None:
    """Longer than PyMongo tries by itself to find out what became of a write."""
    await proxy.cut()
    await asyncio.sleep(2.5 * IMPATIENT["serverSelectionTimeoutMS"] / 1000)
    await proxy.mend()


async def _has(bench: Bench, one: Row) -> bool:
    return await bench.stored.find_one({"_id": one["_id"]}) is not None


async def test_what_did_not_arrive_is_sent_again(far: Bench, proxy: TcpProxy):
    commit, rows = far.commit(), [row(x=n) for n in range(20)]
    await proxy.cut()
    sent = [asyncio.create_task(commit.insert(one)) for one in rows]
    await asyncio.sleep(0.5)
    assert not any(task.done() for task in sent)
    await proxy.mend()

    assert await outcomes(list(sent)) == [None] * 20
    await far.check(rows)


async def test_a_duplicate_is_told_over_an_interruption_too(far: Bench, proxy: TcpProxy):
    await far.stored.insert_one(row(dedup="a"))
    commit = far.commit()
    await proxy.cut()
    sent = [asyncio.create_task(commit.insert(row(dedup=name))) for name in ("a", "b", "b")]
    await asyncio.sleep(0.2)
    await proxy.mend()

    assert await outcomes(list(sent)) == [DuplicateRowError, None, DuplicateRowError]


async def test_who_waits_too_long_is_told_in_time(far: Bench, proxy: TcpProxy):
    commit = far.commit(patience=0.5)
    for break_ in (proxy.cut, _stalled(proxy)):
        await break_()
        began = time.monotonic()
        ends = await outcomes([commit.insert(row(x=n)) for n in range(5)])  # while the interruption lasts
        assert ends == [UnavailableError] * 5
        assert time.monotonic() - began > 0.4
        await proxy.cut()
        await proxy.mend()


def _stalled(proxy: TcpProxy) -> Callable[[], Awaitable[None]]:
    async def stall() -> None:
        proxy.stall()

    return stall


async def test_an_abandoned_row_that_turns_out_stored_is_announced(far: Bench, proxy: TcpProxy):
    commit = far.commit(patience=0.4)
    while True:
        one = row(x=1)
        proxy.swallow_answers()
        with pytest.raises(UnavailableError):
            await commit.insert(one)
        try:
            await until(lambda: _has(far, one), 5)  # noqa: B023 (called before the next one is made)
        except AssertionError:  # the patience was over before it was sent, and so it never will be
            await proxy.cut()
            await proxy.mend()
            await commit.drain(30)
        else:
            break
    assert one["_id"] not in dict(far.announced)
    await _long_cut(proxy)
    await commit.drain(30)

    await far.check([one])


async def test_an_abandoned_row_that_did_not_arrive_stays_away(far: Bench, proxy: TcpProxy):
    """Its sender was told that it was not taken; an alert that comes to life minutes later would be a false one."""
    commit, rows = far.commit(patience=0.3, max_batch=4), [row(x=n) for n in range(12)]
    await proxy.cut()
    assert await outcomes([commit.insert(one) for one in rows]) == [UnavailableError] * 12
    await asyncio.sleep(0.5)
    await proxy.mend()
    await commit.drain(30)
    later = await _taken(commit)

    await far.check([later])
    assert not {one["_id"] for one in rows} & set(await far.ids())


async def _taken(commit: GroupCommit) -> Row:
    """A row that was taken: perhaps not the first, where the machine is slower than the patience."""
    for number in itertools.count():
        try:
            await commit.insert(later := row(x=f"later {number}"))
        except UnavailableError:
            await commit.drain(30)
        else:
            return later
    raise AssertionError


async def test_half_a_write_over_an_interruption(far: Bench, proxy: TcpProxy):
    """Of one batch some senders wait on and some have gone; all rows had arrived."""
    patient, rows = far.commit(), [row(x=n) for n in range(10)]
    proxy.swallow_answers()
    sent = [asyncio.create_task(patient.insert(one)) for one in rows]
    await until(lambda: _has(far, rows[-1]))
    for task in sent[::2]:
        task.cancel()
    await _long_cut(proxy)

    ends = await outcomes(list(sent))
    assert ends == [asyncio.CancelledError, None] * 5
    await patient.drain(30)
    await far.check(rows)


async def test_too_many_waiting_are_refused_at_once(far: Bench, proxy: TcpProxy):
    commit = far.commit(max_batch=2, max_waiting=5)
    await proxy.cut()
    sent = [asyncio.create_task(commit.insert(row(x=0)))]
    await asyncio.sleep(0.1)
    sent += [asyncio.create_task(commit.insert(row(x=n))) for n in range(1, 6)]
    await asyncio.sleep(0.1)
    began = time.monotonic()
    with pytest.raises(UnavailableError, match="Too much"):
        await commit.insert(row(x="one too many"))
    assert time.monotonic() - began < 15  # half of the patience
    await proxy.mend()

    assert await outcomes(list(sent)) == [None] * 6
    await commit.insert(row(x="there is room again"))


async def test_the_database_away_for_good_holds_nobody_up(far: Bench, proxy: TcpProxy):
    commit = far.commit(patience=0.3)
    await proxy.cut()
    await outcomes([commit.insert(row(x=n)) for n in range(3)])
    async with asyncio.timeout(30):  # the database stays away
        await commit.drain(1)


async def test_interruptions_of_every_kind_under_load(far: Bench, proxy: TcpProxy):
    """Sixteen senders while the connection is cut, stalled, and deaf in turn."""
    commit = far.commit(patience=1.5)
    acknowledged, refused = await _under_load(commit, _break_often(proxy))

    assert refused
    await commit.drain(30)
    await far.check(acknowledged)


async def _break_often(proxy: TcpProxy) -> None:
    pauses = {proxy.cut: (0.05, 0.3), _stalled(proxy): (0.05, 1.8), _deaf(proxy): (0.05, 0.05, 0.3)}
    for break_, seconds in pauses.items():
        for pause in seconds:
            await asyncio.sleep(0.15)
            await break_()
            await asyncio.sleep(pause)
            await proxy.cut()
            await proxy.mend()


def _deaf(proxy: TcpProxy) -> Callable[[], Awaitable[None]]:
    async def swallow() -> None:
        proxy.swallow_answers()

    return swallow


async def _under_load(commit: GroupCommit, trouble: Any) -> tuple[list[Row], list[Row]]:
    """What sixteen senders were told while `trouble` went on, and until they had a hundred rows more."""

    async def a_hundred_more() -> bool:
        return len(acknowledged) > before + 100

    acknowledged: list[Row] = []
    refused: list[Row] = []
    over = asyncio.Event()
    before = 0

    async def send() -> None:
        while not over.is_set():
            one = row(x=len(acknowledged))
            try:
                await commit.insert(one)
            except UnavailableError:
                refused.append(one)
                await asyncio.sleep(0.02)
            else:
                acknowledged.append(one)

    senders = [asyncio.create_task(send()) for _ in range(16)]
    try:
        await trouble
        before = len(acknowledged)
        await until(a_hundred_more)
    finally:
        over.set()
        await asyncio.wait_for(asyncio.gather(*senders), 30)
    return acknowledged, refused


async def test_the_database_is_killed_under_load(tmp_path: Path):
    """kill -9 twice; it comes back by itself, and no acknowledged row is lost or there twice."""
    embedded = EmbeddedDatabase(tmp_path / "data", role="tool")
    url = await embedded.start()
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(url, **(OPTIONS | {"serverSelectionTimeoutMS": 3000}))
    try:
        db = client["killed"]
        bench = Bench(db, db, "rows")
        commit = bench.commit(patience=6)
        killed: list[int] = []

        async def kill() -> None:
            for _ in range(2):
                await until(_running(embedded, killed))
                await asyncio.sleep(0.4)
                killed.append(embedded.health()["pid"])
                os.kill(killed[-1], signal.SIGKILL)
            await until(_running(embedded, killed))
            await until(_answers(client))

        acknowledged, _ = await _under_load(commit, kill())
        await commit.drain(30)

        assert len(set(killed)) == 2
        await bench.check(acknowledged)
    finally:
        await client.close()
        await embedded.stop()


def _running(embedded: EmbeddedDatabase, killed: list[int]) -> Callable[[], Awaitable[bool]]:
    async def running() -> bool:
        health = embedded.health()
        return health["state"] == "running" and health["pid"] not in killed

    return running


def _answers(client: AsyncMongoClient[dict[str, Any]]) -> Callable[[], Awaitable[bool]]:
    async def answers() -> bool:
        try:
            await client.admin.command("ping")
        except PyMongoError:
            return False
        return True

    return answers
