"""Every way to meddle with the trail is named; what crashes, retention and a service at work leave behind is not."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio
from bson import ObjectId
from hypothesis import given, settings
from hypothesis import strategies as st
from pymongo import AsyncMongoClient, MongoClient

from app.audit.chain import GENESIS, chained, digest, is_whole
from app.audit.draft import draft
from app.audit.models import DOCUMENTS
from app.audit.retention import AuditRetention
from app.audit.store import EXPIRED, Base
from app.audit.trail import ChainedAuditTrail
from app.audit.verification import Fault, Report, judge, verify
from tests.audit.conftest import MakeTrail, Row, Watch, act, entries, head, lose_insert
from tests.support.clocks import StandingClock
from tests.support.mongodb import OPTIONS, Db, empty_database

N = 20
Meddle = Callable[[Db], Awaitable[Any]]


async def fill(db: Db, trail: ChainedAuditTrail, clock: StandingClock) -> Db:
    """`N` entries in order, of which the head carries the last."""
    for _ in range(4):
        await asyncio.gather(*(trail.record(act()) for _ in range(N // 4 - 1)))
        await trail.record(act())
        clock.move(minutes=1)
    return db


@pytest_asyncio.fixture
async def filled(db: Db, trail: ChainedAuditTrail, clock: StandingClock) -> Db:
    """A database that is filled."""
    return await fill(db, trail, clock)


async def change(db: Db, at: int, /, **values: Any) -> None:
    await db["audit_entries"].update_one({"number": at}, {"$set": values})


async def rehash(db: Db, number: int, **values: Any) -> Row:
    """Change an entry like somebody who knows how its hash is made."""
    [row] = [row for row in await entries(db) if row["number"] == number]
    row |= values
    row["hash"] = digest(row)
    await db["audit_entries"].replace_one({"_id": row["_id"]}, row)
    return row


async def remove(db: Db, *numbers: int) -> None:
    for number in numbers:
        await db["audit_entries"].delete_one({"number": number})


async def swap(db: Db, one: int, other: int) -> None:
    await change(db, one, number=-1)
    await change(db, other, number=one)
    await change(db, -1, number=other)


async def put_in(db: Db, **values: Any) -> None:
    row = (await entries(db))[9] | {"_id": ObjectId()} | values
    if not isinstance(row["number"], float):  # which has no hash
        row["hash"] = digest(row)
    await db["audit_entries"].insert_one(row)


async def set_head(db: Db, **values: Any) -> None:
    await db["audit_chain"].update_one({"_id": "head"}, {"$set": values})


async def remove_end(db: Db) -> None:
    """As far as the head carries nothing of it any more."""
    await remove(db, 19, 20)
    await set_head(db, carried=[])


async def cut_end_with_head(db: Db) -> None:
    rows = await entries(db)
    await remove(db, 19, 20)
    await set_head(db, carried=[], number=18, hash=rows[18]["hash"], seq=rows[17]["seq"])


async def cut_beginning_with_head(db: Db) -> None:
    """As retention does it, but without an entry about it."""
    rows = await entries(db)
    await remove(db, 1, 2, 3)
    await set_head(db, base_number=3, base_hash=rows[2]["hash"])


async def append_behind_the_head(db: Db) -> None:
    rows = await entries(db)
    made = {**rows[0], "_id": ObjectId(), "details": {"made": "up"}}
    await db["audit_entries"].insert_many(chained([made], N, rows[-1]["hash"], rows[-1]["seq"]))


MEDDLING: dict[str, tuple[Meddle, str]] = {
    "content": (lambda db: change(db, 7, **{"details.n": -5}), "entry 7: its content is not what was written"),
    "outcome": (lambda db: change(db, 7, outcome="refused"), "entry 7: its content"),
    "kind of value": (lambda db: change(db, 7, account_id="6b0288f1002b26997921d6aa"), "entry 7: its content"),
    "further field": (lambda db: change(db, 7, remark="x"), "entry 7: its content"),
    "fraction": (lambda db: change(db, 7, **{"details.n": 1.5}), "entry 7: its content"),
    "hash": (lambda db: change(db, 7, hash="0" * 64), "entry 7: its content"),
    "content and hash": (lambda db: rehash(db, 7, action="x"), "entry 8: it does not follow entry 7"),
    "content and hash of the last": (lambda db: rehash(db, N, action="x"), "entry 20: the head has another hash"),
    "removed": (lambda db: remove(db, 7), "entry 7: removed"),
    "many removed": (lambda db: remove(db, *range(7, 16)), "entries 7 to 15: removed"),
    "beginning removed": (lambda db: remove(db, 1, 2), "entries 1 to 2: removed"),
    "beginning removed, head told": (cut_beginning_with_head, "entries 1 to 3: the head says that they expired, but"),
    "end removed": (remove_end, "entries 19 to 20: removed"),
    "end removed, head told wrongly": (cut_end_with_head, "entry 18: the head has another hash for it"),
    "all removed": (lambda db: db["audit_entries"].delete_many({}), "entries 1 to 19: removed"),
    "swapped": (lambda db: swap(db, 7, 9), "entry 7: its content"),
    "put in twice": (put_in, "entry 10: another document with this number was put in"),
    "put in between": (lambda db: put_in(db, number=10.5), "entry 10: a document with the number 10.5 was put in"),
    "put in after the head": (append_behind_the_head, "entry 21: the head is behind them"),
    "put in after the head, wrongly": (lambda db: put_in(db, number=N + 3), "entry 23: documents were put in after"),
    "put in without a number": (lambda db: put_in(db, number="x"), "1 documents are among the entries that are none"),
    "put in long before": (lambda db: put_in(db, number=-5, seq=1), "1 documents are among the entries that are none"),
    "put in far ahead": (lambda db: put_in(db, number=10**6, seq=2**62), "1 documents are among the entries that are"),
    "put in before the beginning": (lambda db: put_in(db, number=0), "1 documents are among the entries that are none"),
    "head removed": (lambda db: db["audit_chain"].delete_many({}), "entry 20: the head was removed"),
    "head damaged": (lambda db: set_head(db, number="x"), "entry 20: the head was changed and cannot be read"),
    "head with another hash": (lambda db: set_head(db, hash="0" * 64), "entry 20: the head has another hash for it"),
    "head too far": (lambda db: set_head(db, number=N + 2), "entries 21 to 22: removed"),
    "head carries something else": (
        lambda db: set_head(db, **{"carried.0.details": {}}),
        "entry 20: what the head carries is not the end",
    ),
}


@pytest_asyncio.fixture(scope="module")
async def kept(mongodb_url: str) -> AsyncIterator[tuple[Db, Row, list[Row]]]:
    """A database for all who meddle, and what was in it before."""
    async with empty_database(mongodb_url, DOCUMENTS) as db:
        clock = StandingClock()
        await fill(db, ChainedAuditTrail(db, clock), clock)
        assert not (await verify(db)).defects
        yield db, await head(db), await entries(db)


@pytest_asyncio.fixture
async def meddled(kept: tuple[Db, Row, list[Row]]) -> AsyncIterator[Db]:
    """As `filled`, and put right afterwards: a database for each would take longer than the tests."""
    db, first, rows = kept
    yield db
    await db["audit_entries"].delete_many({})
    await db["audit_entries"].insert_many(rows)
    await db["audit_chain"].replace_one({"_id": "head"}, first, upsert=True)


@pytest.mark.parametrize("name", MEDDLING)
async def test_meddling_is_named(meddled: Db, name: str) -> None:
    meddle, complaint = MEDDLING[name]
    await meddle(meddled)
    report = await verify(meddled)
    assert complaint in "; ".join(map(str, report.defects))
    assert len(report.defects) <= 4


def chain_of(count: int) -> list[Row]:
    return chained((draft(act(), None, StandingClock().now()) for _ in range(count)), 0, GENESIS, 0)


PATHS = [("action",), ("outcome",), ("at",), ("seq",), ("number",), ("actor", "kind"), ("actor", "user_id")]
PATHS += [("details", "n"), ("target", "id"), ("account_id",), ("previous_hash",), ("hash",), ("_id",), ("details",)]


@settings(max_examples=60, deadline=None)
@given(
    place=st.integers(0, 9),
    path=st.sampled_from(PATHS),
    value=st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), st.just({})),
    gone=st.booleans(),
)
def test_no_field_of_any_entry_can_be_changed(place: int, path: tuple[str, ...], value: Any, gone: bool) -> None:
    rows = chain_of(10)
    assert not judge(rows, {}, 1, 10, GENESIS).faults
    owner = rows[place]
    for step in path[:-1]:
        owner = owner[step]
    if gone:
        del owner[path[-1]]
    else:
        owner[path[-1]] = value
    assert not is_whole(rows[place])
    if path != ("number",):  # such a one is under another number, or under none
        assert judge(rows, {}, 1, 10, GENESIS).faults


@settings(max_examples=60, deadline=None)
@given(st.permutations(range(8)), st.sets(st.integers(0, 7)))
def test_no_order_and_no_selection_but_the_whole_fits(order: list[int], without: set[int]) -> None:
    rows = chain_of(8)
    kept = [rows[place] for place in order if place not in without]
    renumbered = [{**row, "number": number} for number, row in enumerate(kept, 1)]
    found = judge(renumbered, {}, 1, 8, GENESIS)
    assert bool(found.faults) == (order != list(range(8)) or bool(without))


# ── what is in order ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_empty_trail_is_in_order(db: Db) -> None:
    assert await verify(db) == Report(None)


async def test_a_crash_is_told_apart_from_tampering(db: Db, make_trail: MakeTrail) -> None:
    writer = make_trail()
    await asyncio.gather(*(writer.record(act()) for _ in range(9)))
    await lose_insert(db, 4)
    report = await verify(db)
    assert (report.defects, report.count, report.only_in_head) == ([], 9, 4)
    # One of the same kind that the head does not carry is no crash.
    await remove(db, 2)
    await set_head(db, carried=(await head(db))["carried"][4:])
    assert [str(defect) for defect in (await verify(db)).defects] == ["entry 2: removed"]


async def test_a_service_at_work_gives_no_false_alarm(db: Db, make_trail: MakeTrail) -> None:
    over = asyncio.Event()

    async def work(trail: ChainedAuditTrail) -> None:
        while not over.is_set():
            await trail.record(act())

    writers = [asyncio.create_task(work(make_trail())) for _ in range(3)]
    counts: list[int] = []
    while len(counts) < 8 or counts[-1] == counts[0]:
        report = await verify(db)
        assert report.defects == []
        counts.append(report.count)
    over.set()
    await asyncio.gather(*writers)
    assert counts == sorted(counts)


# ── anchors ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def rewrite(db: Db) -> None:
    """Replace the whole chain by one that fits, with one entry different."""
    rows = await entries(db)
    rows[4]["details"] = {"n": -1}
    bare = [{name: value for name, value in row.items() if name not in {"hash", "previous_hash"}} for row in rows]
    made = chained(bare, 0, GENESIS, 0)
    await db["audit_entries"].delete_many({})
    await db["audit_entries"].insert_many(made)
    await set_head(db, hash=made[-1]["hash"], carried=made[-1:])


async def test_only_an_anchor_finds_a_chain_that_was_replaced_as_a_whole(filled: Db) -> None:
    rows = await entries(filled)
    anchors = [(row["number"], row["hash"]) for row in (rows[2], rows[4], rows[-1])]
    assert not (await verify(filled, anchors)).defects
    await rewrite(filled)
    assert not (await verify(filled)).defects
    found = (await verify(filled, anchors)).defects
    assert [(defect.fault, defect.first) for defect in found] == [(Fault.ANCHOR, 5), (Fault.ANCHOR, 20)]


async def test_an_anchor_finds_a_chain_that_was_cut(filled: Db) -> None:
    rows = await entries(filled)
    await remove(filled, 19, 20)
    await set_head(filled, carried=[], number=18, hash=rows[17]["hash"], seq=rows[17]["seq"])
    assert not (await verify(filled)).defects
    [defect] = (await verify(filled, [(20, rows[-1]["hash"])])).defects
    assert "the chain ends with entry 18" in str(defect)


async def test_an_anchor_on_an_empty_trail(db: Db) -> None:
    [defect] = (await verify(db, [(1, "0" * 64)])).defects
    assert "the chain ends with entry 0" in str(defect)


# ── retention ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def days(trail: ChainedAuditTrail, clock: StandingClock, count: int, each: int = 3) -> None:
    for _ in range(count):
        await asyncio.gather(*(trail.record(act()) for _ in range(each)))
        clock.move(days=1)


async def test_what_expired_is_gone_and_the_rest_verifies(
    db: Db, trail: ChainedAuditTrail, clock: StandingClock
) -> None:
    await days(trail, clock, 10)
    old = await entries(db)
    await AuditRetention(trail, clock, None).expire()
    assert await entries(db) == old

    retention = AuditRetention(trail, clock, 4)
    await retention.expire()
    left = await entries(db)
    limit = clock.now().replace(hour=0, minute=0, second=0, microsecond=0)
    kept = [row for row in old if (limit - row["at"]).total_seconds() <= 4 * 86400]
    assert left[:-1] == kept
    assert 0 < len(kept) < len(old)
    gone = old[-len(kept) - 1]
    assert (left[-1]["action"], left[-1]["details"]["number"], left[-1]["details"]["hash"]) == (
        EXPIRED,
        gone["number"],
        gone["hash"],
    )
    report = await verify(db, [(gone["number"], gone["hash"])])
    assert (report.defects, report.count, report.expired_left) == ([], len(left), 0)
    [defect] = (await verify(db, [(1, old[0]["hash"])])).defects
    assert "it has expired" in str(defect)

    await retention.expire()  # once a day is enough
    assert await entries(db) == left
    clock.move(days=30)
    await retention.expire()
    assert [row["action"] for row in await entries(db)] == [EXPIRED]
    assert not (await verify(db)).defects


async def test_retention_that_was_cut_short_is_no_alarm_and_goes_on(
    db: Db, trail: ChainedAuditTrail, clock: StandingClock
) -> None:
    await days(trail, clock, 6)
    old = await entries(db)
    await AuditRetention(trail, clock, 3).expire()
    gone = [row for row in old if row["number"] <= (await head(db))["base_number"]]
    assert gone
    await db["audit_entries"].insert_many(gone[len(gone) // 2 :])  # the base moved, but only half was deleted
    report = await verify(db)
    assert (report.defects, report.expired_left) == ([], len(gone) - len(gone) // 2)
    await change(db, gone[-1]["number"], action="x")
    assert "is not what was written" in str((await verify(db)).defects[0])
    await AuditRetention(trail, clock, 3).expire()
    assert (await verify(db)).expired_left == 0


async def test_what_does_not_verify_is_not_removed(db: Db, trail: ChainedAuditTrail, clock: StandingClock) -> None:
    await days(trail, clock, 6)
    await change(db, 4, action="x")
    before = await entries(db)
    await AuditRetention(trail, clock, 2).expire()
    assert await entries(db) == before


async def test_two_who_let_entries_expire_at_once(db: Db, trail: ChainedAuditTrail, clock: StandingClock) -> None:
    await days(trail, clock, 6)
    rows = await entries(db)
    later, earlier = (Base(row["number"], row["hash"], row["at"]) for row in (rows[9], rows[4]))
    await trail.expire(later)
    await db["audit_entries"].delete_many({"number": {"$lte": later.number}})
    await trail.expire(earlier)
    assert (await head(db))["base_number"] == later.number
    assert not (await verify(db)).defects


def become(mongodb_url: str, db: Db, state: tuple[Row, list[Row]]) -> None:
    """The head and the entries are these from now on."""
    client: MongoClient[Row] = MongoClient(mongodb_url, tz_aware=True)
    with client:
        client[db.name]["audit_entries"].delete_many({})
        client[db.name]["audit_entries"].insert_many(state[1])
        client[db.name]["audit_chain"].replace_one({"_id": "head"}, state[0], upsert=True)


async def verified_while(mongodb_url: str, db: Db, after: tuple[Row, list[Row]]) -> Report:
    """What a verification finds when they become so after it has read the head, and before it reads the entries."""
    happens = [after]
    watch = Watch(lambda _: become(mongodb_url, db, happens.pop()) if happens else None)
    async with AsyncMongoClient[Row](mongodb_url, **OPTIONS, event_listeners=[watch]) as client:
        return await verify(client[db.name])


async def test_a_chain_that_begins_between_two_looks(db: Db, mongodb_url: str, filled: Db) -> None:
    after = (await head(filled), await entries(filled))
    for name in ("audit_entries", "audit_chain"):
        await db[name].delete_many({})
    report = await verified_while(mongodb_url, db, after)
    assert (report.defects, report.count) == ([], N)


async def test_entries_that_expire_between_two_looks(
    db: Db, mongodb_url: str, trail: ChainedAuditTrail, clock: StandingClock
) -> None:
    """The head is read, then the service writes and lets entries expire, then the entries are read."""
    await days(trail, clock, 8)
    before = (await head(db), await entries(db))
    await AuditRetention(trail, clock, 3).expire()
    await trail.record(act())
    after = (await head(db), await entries(db))

    become(mongodb_url, db, before)
    assert not (await verify(db)).defects
    report = await verified_while(mongodb_url, db, after)
    assert (report.defects, report.count) == ([], len(after[1]))
    assert report.head is not None
    assert report.head.number == after[0]["number"]
