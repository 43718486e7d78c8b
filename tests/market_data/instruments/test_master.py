"""The list in force: fetched, checked, stored, shared, and kept when the next one cannot be right."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from bson import ObjectId

from app.core.bus import Bus, NullTransport
from app.core.staged_lists import BELIEVED_AFTER, DoubtfulListError
from app.market_data.adapters.instrument_process import InstrumentProcess
from app.market_data.instrument_task import InstrumentTask
from app.market_data.instruments import InstrumentMaster
from app.market_data.listings import ListingsUnavailableError
from tests.market_data.instruments.kit import CONTRACT, FILE, Process, caller, until
from tests.simulators.angel_one import AngelOneSimulator, http
from tests.simulators.angel_one.instruments import share
from tests.simulators.angel_one.rest import INSTRUMENTS
from tests.support.clocks import StandingClock
from tests.support.mongodb import Db


async def test_a_list_is_fetched_once_and_in_force_everywhere(db: Db, vendor: AngelOneSimulator, clock: StandingClock):
    here, there = Process(db, vendor, clock), Process(db, vendor, clock)
    assert here.master.health()["status"] == "degraded"
    assert await here.master.refresh() is True
    await there.load()
    for process in (here, there):
        found = await process.master.find(symbol="RELIANCE")
        assert found is not None
        assert (found.place, str(found.tick_size), found.lot_size) == ("NSE:2885", "0.1", 1)
        assert (await process.master.find(exchange="BSE", token="500325")) is not None
        health = process.master.health()
        assert (health["status"], health["rows"], health["age_seconds"]) == ("ok", len(FILE), 0)
        assert health["version"] == here.master.version
    clock.move(hours=37)
    assert here.master.health()["status"] == "degraded", "it is old"
    assert await here.master.refresh() is False, "the vendor says that it is the same"
    assert vendor.rest.requests[-1].headers["if-none-match"]
    assert here.master.health()["status"] == "ok"


async def test_without_entity_tags_the_same_list_is_not_stored_twice(
    db: Db, vendor: AngelOneSimulator, clock: StandingClock
):
    vendor.instruments.tagged = False
    process = Process(db, vendor, clock)
    await process.master.refresh()
    before = await process.state()
    clock.move(days=1)
    assert await process.master.refresh() is False
    after = await process.state()
    assert (after["version"], after["checked_at"]) == (before["version"], clock.now())


async def test_a_new_list_takes_the_place_of_the_old_one(db: Db, vendor: AngelOneSimulator, clock: StandingClock):
    here, there = Process(db, vendor, clock), Process(db, vendor, clock)
    await here.master.refresh()
    await there.load()
    running = asyncio.create_task(there.master.run())
    clock.move(days=1)
    vendor.instruments.rows = [*FILE, share("3333", "NEW-EQ")]
    assert await here.master.refresh() is True
    there.master._changed.set()  # as the bus does
    await until(lambda: there.master.version == here.master.version)
    running.cancel()
    found = await there.master.find(symbol="NEW-EQ")
    assert found is not None
    assert len(await db["market_instrument_parts"].find({}).to_list()) == (await here.state())["parts"]


# What cannot be right


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (FILE[:27], "27 instruments, where 34 were expected"),
        ([row for row in FILE if row["token"] != "99926037"], r"lacks what is followed: NSE:99926037 \(FINNIFTY\)"),
        ([*FILE, *({"token": ""} for _ in range(20))], "20 of its rows are unreadable"),
        ([], "0 are left"),
    ],
)
async def test_the_last_good_list_stays(
    db: Db, vendor: AngelOneSimulator, clock: StandingClock, rows: list[dict[str, Any]], reason: str
):
    process = await Process(db, vendor, clock).load()
    await process.master.refresh()
    version = process.master.version
    clock.move(days=1)
    vendor.rest.fail(INSTRUMENTS, vendor.instruments.with_rows(rows))
    with pytest.raises(DoubtfulListError, match=reason):
        await process.master.refresh()
    other = await Process(db, vendor, clock).load()
    for each in (process, other):
        assert each.master.version == version
        health = each.master.health()
        assert (health["status"], health["age_seconds"]) == ("degraded", 86_400)
        assert health["doubted"]["rows"] == sum("symbol" in row for row in rows)
    assert await process.master.refresh() is False
    assert process.master.health()["status"] == "ok", "the vendor's list is right again"


async def test_contracts_that_have_ended_are_not_missed(db: Db, vendor: AngelOneSimulator, clock: StandingClock):
    options = [{**CONTRACT, "token": str(50_000 + number), "symbol": f"OPTION{number}"} for number in range(30)]
    vendor.instruments.rows = [*FILE, *options]
    process = await Process(db, vendor, clock).load()
    await process.master.refresh()
    await process.watchlist.put(caller(), "NFO", "50000", process.watchlist.mode_of(process.watchlist.followed()[0]))
    clock.move(hours=20)
    vendor.instruments.rows = [row for row in FILE if not row["expiry"]]
    assert await process.master.refresh() is True
    assert "OPTION0" not in process.symbols


async def test_what_two_days_agree_on_is_believed(db: Db, vendor: AngelOneSimulator, clock: StandingClock):
    process = Process(db, vendor, clock)
    await process.master.refresh()
    vendor.instruments.rows = FILE[:20]
    for hours in (24, 19):
        clock.move(hours=hours)
        with pytest.raises(DoubtfulListError):
            await process.master.refresh()
    clock.move(seconds=BELIEVED_AFTER.total_seconds() - timedelta(hours=19).total_seconds())
    assert await process.master.refresh() is True
    assert process.master.health()["status"] == "ok"
    assert process.master.health()["rows"] == 20


async def test_nothing_comes(db: Db, vendor: AngelOneSimulator, clock: StandingClock):
    process = Process(db, vendor, clock)
    await process.master.refresh()
    vendor.rest.fail(INSTRUMENTS, http.html(503), vendor.instruments.cut(500))
    for word in ("unreachable (503)", "unreadable answer (cut off)"):
        with pytest.raises(ListingsUnavailableError):
            await process.master.refresh()
        assert process.master.health()["last_error"] == word
    assert await process.master.find(symbol="RELIANCE") is not None


async def test_a_program_beside_the_service_fetches_it(db: Db, vendor: AngelOneSimulator, clock: StandingClock):
    def master(**options: Any) -> InstrumentMaster:
        program = InstrumentProcess(vendor.instruments_url, **options)
        return InstrumentMaster(db=db, clock=clock, bus=Bus(NullTransport()), source=None, program=program)

    here = master()
    assert await here.refresh() is True
    found = await here.find(symbol="RELIANCE")
    assert found is not None
    assert (found.place, here.health()["rows"]) == ("NSE:2885", len(FILE))
    assert await here.refresh() is False
    assert vendor.rest.requests[-1].headers["if-none-match"]
    vendor.rest.fail(INSTRUMENTS, http.html(503))
    lost = master(program="tests.core.list_stub")
    for each, word in ((here, "unreachable (503)"), (lost, "program ended")):
        with pytest.raises(ListingsUnavailableError):
            await each.refresh()
        assert each.health()["last_error"] == word
        assert each.version == here.version


@pytest.mark.parametrize("harm", ["spoilt", "lost"])
async def test_a_stored_list_that_is_damaged_is_fetched_again(
    db: Db, vendor: AngelOneSimulator, clock: StandingClock, harm: str
):
    await Process(db, vendor, clock).master.refresh()
    if harm == "lost":
        await db["market_instrument_parts"].delete_many({})
    else:
        await db["market_instrument_parts"].update_one({"number": 0}, {"$set": {"data": b"nonsense"}})
    process = await Process(db, vendor, clock).load()
    assert process.master.table is None
    assert process.master.health()["damaged"]
    clock.move(seconds=1)
    assert await process.master.refresh() is True
    assert (await Process(db, vendor, clock).load()).master.health()["rows"] == len(FILE)


async def test_what_somebody_left_who_was_killed_is_cleared(db: Db, vendor: AngelOneSimulator, clock: StandingClock):
    left = {"_id": "x|0", "schema_version": 1, "version": "x", "number": 0, "at": clock.now(), "data": b"half"}
    await db["market_instrument_parts"].insert_one(left)
    process = await Process(db, vendor, clock).load()
    assert process.master.table is None
    await process.master.refresh()
    assert await db["market_instrument_parts"].find_one({"_id": "x|0"}), "somebody may be writing it"
    clock.move(hours=25)
    vendor.instruments.rows = [*FILE, share("3333", "NEW-EQ")]
    await process.master.refresh()
    assert await db["market_instrument_parts"].find_one({"_id": "x|0"}) is None


# When


async def test_it_is_got_at_the_start_and_every_morning(db: Db, vendor: AngelOneSimulator, clock: StandingClock):
    process = Process(db, vendor, clock)
    task = InstrumentTask(
        master=process.master, db=db, clock=clock, holder=str(ObjectId()), waits=(0.02,), look_every=0.02
    )
    vendor.rest.fail(INSTRUMENTS, http.html(502), http.too_many(0), http.garbage())
    running = asyncio.create_task(task.run())
    await until(lambda: process.master.table is not None)
    assert len(vendor.rest.requests) == 4
    clock.move(hours=23, minutes=54)  # 08:29
    await asyncio.sleep(0.1)
    assert len(vendor.rest.requests) == 4
    clock.move(minutes=1)
    await until(lambda: len(vendor.rest.requests) == 5)
    await until(lambda: process.master.checked_at == clock.now())
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

    # What is stored is good until the next morning, and used at once.
    again = await Process(db, vendor, clock).load()
    assert again.master.table is not None
    task = InstrumentTask(master=again.master, db=db, clock=clock, holder="again", look_every=0.02)
    running = asyncio.create_task(task.run())
    await asyncio.sleep(0.1)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert len(vendor.rest.requests) == 5


async def test_without_credentials_nobody_is_asked(db: Db, clock: StandingClock):
    process = await Process(db, None, clock).load()
    assert await process.master.refresh() is False
    assert process.master.health()["status"] == "off"
