"""Crashes, a database that is away, a head that somebody meddled with: the chain goes on, and nothing true is lost."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
import pytest_asyncio
from beanie import PydanticObjectId
from pymongo import AsyncMongoClient
from pymongo.errors import PyMongoError
from structlog.testing import capture_logs

from app.audit.retention import AuditRetention
from app.audit.store import ADVANCED, LOST
from app.audit.trail import ChainedAuditTrail
from app.audit.verification import verify
from app.core.errors import UnavailableError
from tests.audit.conftest import ACCOUNT, MakeTrail, act, check_chain, entries, head, lose_insert
from tests.support.mongodb import OPTIONS, Db, server_port, through
from tests.support.service import ROOT
from tests.support.tcp_proxy import TcpProxy

IMPATIENT = {"serverSelectionTimeoutMS": 300, "connectTimeoutMS": 300, "socketTimeoutMS": 1000}


# ── crashes ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_a_crash_left_in_the_head_is_completed_by_the_next_writer(db: Db, make_trail: MakeTrail) -> None:
    first = make_trail()
    await asyncio.gather(*(first.record(act()) for _ in range(5)))
    await lose_insert(db, 3)
    assert len(await entries(db)) == 2
    await make_trail().record(act())
    await check_chain(db, 6)


async def test_what_a_crash_left_in_the_head_is_completed_at_the_start(db: Db, make_trail: MakeTrail) -> None:
    await make_trail().record(act())
    await lose_insert(db)
    await make_trail().complete()
    await check_chain(db, 1)


async def test_the_start_on_an_empty_database(db: Db, make_trail: MakeTrail) -> None:
    trails = [make_trail() for _ in range(4)]
    await asyncio.gather(*(trail.complete() for trail in trails))
    await AuditRetention(trails[0], trails[0]._clock, 1).expire()
    assert await db["audit_chain"].find_one({}) is None  # an import refuses a database with anything in it
    await asyncio.gather(*(trail.record(act()) for trail in trails))
    await check_chain(db, 4)


WRITER = """
import asyncio, sys
from pymongo import AsyncMongoClient
from app.audit.trail import ChainedAuditTrail
from app.core.audit import Act
from app.core.clock import SystemClock

async def main():
    client = AsyncMongoClient(sys.argv[1], tz_aware=True, w="majority", journal=True, maxPoolSize=4)
    trail = ChainedAuditTrail(client[sys.argv[2]], SystemClock(), patience=30)
    async def one(n):
        while True:
            await trail.record(Act("a.b", None, details={"by": sys.argv[3], "n": n}))
            print(n, flush=True)
            n += 8
    await asyncio.gather(*(one(n) for n in range(8)))

asyncio.run(main())
"""


@pytest.mark.timeout(240)
async def test_killed_processes_lose_nothing_that_was_acknowledged(
    db: Db, mongodb_url: str, make_trail: MakeTrail
) -> None:
    writers = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", WRITER, mongodb_url, db.name, str(n), cwd=ROOT, stdout=asyncio.subprocess.PIPE
        )
        for n in range(2)
    ]
    acknowledged: set[tuple[str, int]] = set()

    async def listen(by: str, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            acknowledged.add((by, int(line)))
            if len(acknowledged) > 150 and process.returncode is None:
                os.kill(process.pid, signal.SIGKILL)
                break

    await asyncio.wait_for(asyncio.gather(*(listen(str(n), one) for n, one in enumerate(writers))), 150)
    for process in writers:
        await process.wait()
    assert not (await verify(db)).defects
    await make_trail().complete()
    rows = await check_chain(db, (await head(db))["number"])
    assert acknowledged <= {(row["details"]["by"], row["details"]["n"]) for row in rows}
    assert {by for by, _ in acknowledged} == {"0", "1"}


# ── the database away ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest_asyncio.fixture
async def proxy(mongodb_url: str) -> AsyncIterator[TcpProxy]:
    async with TcpProxy(server_port(mongodb_url)) as made:
        yield made


@pytest_asyncio.fixture
async def far(db: Db, mongodb_url: str, proxy: TcpProxy) -> AsyncIterator[Db]:
    """The same database over the proxy."""
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(
        through(mongodb_url, proxy.port), **(OPTIONS | IMPATIENT | {"heartbeatFrequencyMS": 500})
    )
    await reached(client)
    yield client[db.name]
    await proxy.mend()
    await client.close()


async def reached(client: AsyncMongoClient[dict[str, Any]]) -> None:
    """Wait until an impatient client has found the database on a busy machine."""
    async with asyncio.timeout(30):
        while True:
            with suppress(PyMongoError):
                await client.admin.command("ping")
                return


async def test_without_the_database_it_says_so_and_goes_on_later(
    db: Db, far: Db, proxy: TcpProxy, make_trail: MakeTrail
) -> None:
    await make_trail().record(act())
    trail = make_trail(far, patience=0.5)
    await proxy.cut()
    lost = act()
    with pytest.raises(UnavailableError, match="could not be written in time"):
        async with asyncio.timeout(30):  # it stays away
            await trail.record(lost)
    await proxy.mend()
    await trail.drain(30)  # it did happen, so it is written all the same
    rows = await check_chain(db, 2)
    assert rows[1]["details"] == lost.details
    await trail.note(act())
    await trail.drain(30)
    await check_chain(db, 3)


async def test_what_is_done_already_gets_no_error_and_is_written_later(
    db: Db, far: Db, proxy: TcpProxy, make_trail: MakeTrail
) -> None:
    await make_trail(far).note(act())
    assert len(await entries(db)) == 1  # as durable as what is recorded, when it returns
    trail = make_trail(far, patience=0.3)
    await proxy.cut()
    done = act(action="strategy_key.revoke")
    with capture_logs() as logs:
        await trail.note(done)
    told = [line for line in logs if line["event"] == "an act is done, and not in the audit trail yet"]
    assert [line["action"] for line in told] == ["strategy_key.revoke"]
    assert await trail.health() == {"status": "degraded", "kind": "behind"}
    await proxy.mend()
    await trail.drain(30)
    assert (await check_chain(db, 2))[1]["details"] == done.details
    assert await trail.health() == {"status": "ok"}


async def test_an_answer_that_was_lost_writes_nothing_twice(
    db: Db, mongodb_url: str, proxy: TcpProxy, make_trail: MakeTrail
) -> None:
    # The driver must not find out by itself: it repeats a write only once, and only where the server knows repeats.
    options = OPTIONS | IMPATIENT | {"retryWrites": False}
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(through(mongodb_url, proxy.port), **options)
    trail, other = make_trail(client[db.name]), make_trail()
    given = [act() for _ in range(7)]
    await trail.record(given.pop())
    for moved_on in (False, True, False):
        number = (await head(db))["number"]
        proxy.swallow_answers()
        waiting = asyncio.create_task(trail.record(given.pop()))
        async with asyncio.timeout(30):
            while (await head(db))["number"] != number + 1:
                await asyncio.sleep(0.005)
        if moved_on:  # and the head does not carry it any more
            await other.record(given.pop())
        await proxy.cut()
        await proxy.mend()
        await waiting
    await check_chain(db, 5)
    await client.close()


async def test_more_than_can_wait_is_refused_and_logged(far: Db, proxy: TcpProxy, make_trail: MakeTrail) -> None:
    await make_trail(far).record(act())
    trail = make_trail(far, patience=0.3, max_waiting=2)
    await proxy.cut()
    with capture_logs() as logs:
        outcomes = await asyncio.gather(*(trail.record(act()) for _ in range(3)), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [UnavailableError] * 3
        assert [line["action"] for line in logs if line["event"] == "an act is missing in the audit trail"] == [
            "strategy_key.bind"
        ]
        await trail.drain(0.1)
    missing = [line for line in logs if line["event"] == "an act is missing in the audit trail"]
    assert len(missing) == 3
    assert await trail.health() == {"status": "degraded", "kind": "acts_lost"}
    assert {line["account_id"] for line in missing} == {str(ACCOUNT)}


# ── a head that was meddled with ─────────────────────────────────────────────────────────────────────────────────────


async def test_a_removed_head_does_not_start_the_chain_anew(db: Db, make_trail: MakeTrail) -> None:
    first = make_trail()
    for _ in range(3):
        await first.record(act())
    await db["audit_chain"].delete_one({"_id": "head"})
    second = make_trail()
    await second.complete()
    await second.drain()
    await first.record(act())
    rows = await check_chain(db, 5)
    assert [row["action"] for row in rows[3:]] == ["audit.head_lost", "strategy_key.bind"]
    # It goes on, but that something may be gone is seen for ever.
    assert any("head had been removed" in str(defect) for defect in (await verify(db)).defects)


async def test_with_head_and_entries_removed_the_writer_remembers(db: Db, trail: ChainedAuditTrail) -> None:
    for _ in range(3):
        await trail.record(act())
    await db["audit_chain"].delete_many({})
    await db["audit_entries"].delete_many({})
    await trail.record(act())
    await trail.drain()
    assert [row["number"] for row in await entries(db)] == [3, 4, 5]
    assert any("entries 1 to 2: removed" in str(defect) for defect in (await verify(db)).defects)


async def test_an_older_head_is_moved_on_and_that_is_written_down(db: Db, make_trail: MakeTrail) -> None:
    first = make_trail()
    await first.record(act())
    old = await head(db)
    await asyncio.gather(*(first.record(act()) for _ in range(600)))  # more than one window
    await db["audit_chain"].replace_one({"_id": "head"}, old)
    assert (await verify(db)).defects
    second = make_trail()
    await second.complete()
    await second.drain()
    rows = await check_chain(db, 602)
    assert (rows[-1]["action"], rows[-1]["details"]) == (ADVANCED, {"head": 1, "number": 601})
    assert not (await verify(db)).defects


async def test_a_running_writer_notices_an_older_head(db: Db, trail: ChainedAuditTrail) -> None:
    await trail.record(act())
    old = await head(db)
    await trail.record(act())
    await db["audit_chain"].replace_one({"_id": "head"}, old)
    await trail.record(act())
    await trail.drain()
    rows = await check_chain(db, 4)
    assert ADVANCED in {row["action"] for row in rows}


async def test_a_row_under_the_next_number_does_not_keep_the_true_entry_out(db: Db, trail: ChainedAuditTrail) -> None:
    await trail.record(act())
    [row] = await entries(db)
    await db["audit_entries"].insert_one({**row, "_id": PydanticObjectId(), "number": 2})
    true = act()
    await trail.record(true)
    assert true.details in [row["details"] for row in await entries(db)]
    defects = [str(defect) for defect in (await verify(db)).defects]
    assert defects == ["entry 2: another document with this number was put in"]


DAMAGE: dict[str, dict[str, Any]] = {
    "field gone": {"$unset": {"carried": ""}},
    "all gone": {
        "$unset": dict.fromkeys(("number", "hash", "seq", "base_number", "base_hash", "since", "carried"), "")
    },
    "no number": {"$set": {"number": "x", "carried": []}},
    "true for a number": {"$set": {"seq": True}},
    "no text": {"$set": {"hash": 5}},
    "no row carried": {"$set": {"carried": [1]}},
    "no list carried": {"$set": {"carried": "x", "number": [1], "hash": {"$x": 1}}},
}


@pytest.mark.parametrize("name", DAMAGE)
async def test_a_damaged_head_does_not_stop_the_start(db: Db, make_trail: MakeTrail, name: str) -> None:
    first = make_trail()
    for _ in range(2):
        await first.record(act())
    await db["audit_chain"].update_one({"_id": "head"}, DAMAGE[name])
    assert any("changed and cannot be read" in str(defect) for defect in (await verify(db)).defects)
    trails = [make_trail() for _ in range(3)]
    with capture_logs() as logs:
        await asyncio.gather(*(trail.complete() for trail in trails))
        await asyncio.gather(*(trail.drain() for trail in trails))
    assert "the audit head was lost: run scripts/verify_audit.py" in {line["event"] for line in logs}
    await first.record(act())
    rows = await check_chain(db, len(await entries(db)))
    assert rows[2]["action"] == LOST
    assert (rows[2]["details"]["number"], rows[2]["details"]["head"]) == (2, "damaged")
    assert {"status": "degraded", "kind": "head_lost"} in [await trail.health() for trail in trails]
    assert await first.health() == {"status": "ok"}
    assert any("head had been changed so that" in str(defect) for defect in (await verify(db)).defects)


async def test_what_only_a_damaged_head_carries_is_not_lost(db: Db, make_trail: MakeTrail) -> None:
    first = make_trail()
    await asyncio.gather(*(first.record(act()) for _ in range(3)))
    await lose_insert(db, 2)
    await db["audit_chain"].update_one({"_id": "head"}, {"$unset": {"since": ""}, "$push": {"carried": {"_id": 1}}})
    trail = make_trail()
    await trail.complete()
    await trail.drain()
    assert (await check_chain(db, 4))[-1]["action"] == LOST


async def test_a_removed_head_over_entries_that_nothing_can_follow(db: Db, make_trail: MakeTrail) -> None:
    """Whoever meddles with both does not stop the start either."""
    first = make_trail()
    for _ in range(3):
        await first.record(act())
    await db["audit_chain"].delete_many({})
    await db["audit_entries"].update_one({"number": 1}, {"$unset": {"previous_hash": ""}})
    await db["audit_entries"].update_one({"number": 3}, {"$set": {"hash": None}})
    trail = make_trail()
    await trail.complete()
    await trail.record(act())
    await trail.drain()
    assert (await head(db))["number"] == 4
    assert (await trail.health())["kind"] == "head_lost"
    assert (await verify(db)).defects


async def test_without_any_entry_a_damaged_head_begins_anew(db: Db, trail: ChainedAuditTrail) -> None:
    await db["audit_chain"].insert_one({"_id": "head"})
    await trail.complete()
    await trail.drain()
    assert [row["action"] for row in await check_chain(db, 1)] == [LOST]
