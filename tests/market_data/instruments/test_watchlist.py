"""What is followed: by default, by the settings, by what somebody says; in every process, at once."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.core.bus import Bus
from app.core.bus_loopback import LoopbackTransport
from app.core.errors import InvalidInputError, NotFoundError, UnavailableError
from app.market_data.checks import Checks
from app.market_data.counters import Counters
from app.market_data.instrument_schemas import WatchlistIn
from app.market_data.ports import DEFAULT_INSTRUMENTS, Instrument, Quality, Tick, WatchMode
from tests.market_data.instruments.kit import Process, caller, until
from tests.simulators.angel_one import AngelOneSimulator
from tests.simulators.angel_one.instruments import index, share
from tests.support.clocks import StandingClock
from tests.support.mongodb import Db

DEFAULT = [instrument.symbol for instrument in DEFAULT_INSTRUMENTS]


async def with_list(process: Process) -> Process:
    await process.master.refresh()
    return await process.load()


def wanted(*entries: object) -> WatchlistIn:
    return WatchlistIn.model_validate({"symbols": entries})


# By default, and by the settings


async def test_the_six_indices_and_what_the_list_says_against_them(
    db: Db, vendor: AngelOneSimulator, clock: StandingClock
):
    process = await Process(db, vendor, clock).load()
    assert process.symbols == DEFAULT
    assert not any(instrument.doubtful for instrument in process.watchlist.followed())
    await process.master.refresh()
    doubtful = [instrument.symbol for instrument in process.watchlist.followed() if instrument.doubtful]
    assert doubtful == ["SENSEX", "BANKEX"]
    assert process.woken == 1, "the feed has to know"
    assert process.watchlist.doubt("NIFTY 50") is None
    assert "INDIA VIX" in (process.watchlist.doubt("SENSEX") or "")
    health = process.watchlist.health()
    assert (health["status"], list(health["doubts"])) == ("ok", ["SENSEX", "BANKEX"])
    info = process.watchlist.info()
    assert (info.source, [item.symbol for item in info.symbols if item.doubt]) == ("default", doubtful)

    checks = Checks(Counters())
    qualities = {}
    for instrument in process.watchlist.followed():
        tick = Tick(instrument, 1_795_000_000_000, 1_795_000_000_005, 100_00, 1)
        assert checks.judge(tick) is None
        qualities[instrument.symbol] = tick.quality
    assert {symbol for symbol, quality in qualities.items() if quality is Quality.SUSPECT} == set(doubtful)


async def test_the_settings_say_what_is_followed(db: Db, vendor: AngelOneSimulator, clock: StandingClock):
    configured = [
        "NIFTY",
        "SENSEX",
        "NSE:99926018",
        "reliance",
        "BSE:500325",
        "RELAINCE",
        "NSE:2885",
        "MCX:GOLD",
        "BSE:17",
        "BFO:18",
    ]
    process = await Process(db, vendor, clock, configured=configured).load()
    # Without a list only the six are known, and nothing is fatal.
    assert process.symbols == DEFAULT
    await process.master.refresh()
    found = [(item.symbol, item.exchange, item.token) for item in process.watchlist.followed()]
    assert found == [
        *((index.symbol, "NSE", index.token) for index in DEFAULT_INSTRUMENTS[:4]),
        ("SENSEX", "BSE", "99919000"),
        ("NIFTY REALTY", "NSE", "99926018"),
        ("RELIANCE-EQ", "NSE", "2885"),
        ("RELIANCE", "BSE", "500325"),
        ("TWIN", "BSE", "17"),
    ]
    assert not any(instrument.doubtful for instrument in process.watchlist.followed()), "the settings correct them"
    info = process.watchlist.info()
    assert info.source == "settings"
    told = {entry.text: entry for entry in info.unresolved}
    assert list(told) == ["RELAINCE", "MCX:GOLD", "BFO:18"]
    assert "RELIANCE" in told["RELAINCE"].near
    assert told["BFO:18"].reason == "BSE:17 has the symbol TWIN already"
    assert process.watchlist.health()["unresolved"]["RELAINCE"].startswith("there is no such instrument")


async def test_settings_beyond_the_limits_are_told(db: Db, vendor: AngelOneSimulator, clock: StandingClock):
    process = Process(db, vendor, clock, configured=[f"SHARE{number}" for number in range(3000, 3013)])
    await with_list(process)
    assert "at most 12 subscriptions" in process.watchlist.health()["problem"]
    assert process.watchlist.health()["status"] == "degraded"


# By the API


async def test_a_list_replaces_the_list(db: Db, vendor: AngelOneSimulator, clock: StandingClock):
    process = await with_list(Process(db, vendor, clock, configured=["NIFTY"]))
    operator, woken = caller(), process.woken
    entries = ["NIFTY 50", {"token": 2885, "exchange": "nse", "mode": "LTP"}, {"symbol": "SENSEX", "mode": "quote"}]
    info = await process.watchlist.replace(operator, wanted(*entries))
    assert [(item.symbol, item.mode) for item in info.symbols] == [
        ("NIFTY 50", "quote"), ("RELIANCE-EQ", "ltp"), ("SENSEX", "quote"),
    ]  # fmt: skip
    assert process.woken == woken + 1
    modes = [process.watchlist.mode_of(instrument) for instrument in process.watchlist.followed()]
    assert modes == [WatchMode.QUOTE, WatchMode.LTP, WatchMode.QUOTE]
    (act,) = process.trail.acts
    assert (act.action, act.account_id, dict(act.details)) == (
        "watchlist.change",
        operator.user_id,
        {
            "source": "api",
            "added": 2,
            "removed": 5,
            "modes_changed": 0,
            "followed": 3,
            "names": "+RELIANCE-EQ, +SENSEX, -BANKEX, -BANKNIFTY, -FINNIFTY, -MIDCPNIFTY, -SENSEX",
        },
    )
    # It holds after a restart, with no list of instruments, and whatever the settings say.
    await db["market_instruments"].delete_many({})
    again = await Process(db, vendor, clock, configured=["INFY"]).load()
    assert again.symbols == ["NIFTY 50", "RELIANCE-EQ", "SENSEX"]
    assert [again.watchlist.mode_of(instrument) for instrument in again.watchlist.followed()] == modes
    with pytest.raises(UnavailableError):
        await again.watchlist.replace(operator, wanted("INFY"))
    assert (await again.watchlist.reset(operator)).source == "settings"
    assert (await again.watchlist.replace(operator, wanted())).symbols == []
    assert again.symbols == []


async def test_one_is_added_changed_and_taken_away(db: Db, vendor: AngelOneSimulator, clock: StandingClock):
    process, operator = await with_list(Process(db, vendor, clock)), caller()
    lists = process.watchlist
    await lists.put(operator, "NSE", "2885", WatchMode.QUOTE)
    await lists.put(operator, "NSE", "2885", WatchMode.DEPTH)
    assert process.symbols == [*DEFAULT, "RELIANCE-EQ"]
    assert lists.mode_of(lists.followed()[-1]) is WatchMode.DEPTH
    await lists.remove(operator, exchange="NSE", token="99926017")
    await lists.remove(operator, symbol="bankex")
    assert process.symbols == [*DEFAULT[:4], "RELIANCE-EQ"]
    assert lists.health()["status"] == "ok", "nothing doubtful is left"
    for again in ({"symbol": "BANKEX"}, {"exchange": "NSE", "token": "99926017"}):
        with pytest.raises(NotFoundError):
            await lists.remove(operator, **again)
    with pytest.raises(NotFoundError):
        await lists.put(operator, "BSE", "2885", WatchMode.QUOTE)
    assert [dict(act.details)["modes_changed"] for act in process.trail.acts] == [0, 1, 0, 0]


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        (["RELIANCE", "RELAINCE", "X"], "RELAINCE: there is no such instrument.*2 entries in all"),
        ([f"SHARE{number}" for number in range(3000, 3013)], "at most 12 subscriptions"),
        ([{"symbol": "RELIANCE", "mode": "depth"}, {"symbol": "INFY", "mode": "depth"}], "depth: 1 each"),
        ([{"symbol": "RELIANCE", "exchange": "BSE", "mode": "depth"}], "only NSE's cash segment"),
        (["BSE:17", "BFO:18"], "have the same symbol, TWIN"),
    ],
)
async def test_what_cannot_be_followed_changes_nothing(
    db: Db, vendor: AngelOneSimulator, clock: StandingClock, entries: list[object], says: str
):
    process = await with_list(Process(db, vendor, clock))
    with pytest.raises(InvalidInputError, match=says):
        await process.watchlist.replace(caller(), wanted(*entries))
    assert process.symbols == DEFAULT
    assert await db["market_watchlist"].find_one({}) is None
    assert process.trail.acts == []


async def test_junk_rows_of_the_list_are_not_followed(db: Db, vendor: AngelOneSimulator, clock: StandingClock):
    twins = [share("31", "BOND-N1"), share("32", "BOND-N2")]
    junk = [index("2", "Nifty 50", "NIFTY"), index("3", "Nifty 50", "NIFTY") | {"lotsize": "many"}]
    vendor.instruments.rows = [*junk, *twins, *vendor.instruments.rows]
    process = await with_list(Process(db, vendor, clock))
    info = await process.watchlist.replace(caller(), wanted("NIFTY 50"))
    assert [(item.symbol, item.token, item.doubt) for item in info.symbols] == [("NIFTY 50", "99926000", None)]
    assert process.master.health()["rejected"] == 1
    with pytest.raises(InvalidInputError, match=r"NSE:31 \(BOND-N1\) and NSE:32 \(BOND-N2\) are equally") as caught:
        await process.watchlist.replace(caller(), wanted("BOND"))
    assert caught.value.extensions["near"] == ["NSE:31", "NSE:32"]
    assert process.symbols == ["NIFTY 50"]


async def test_what_is_unknown_is_told_by_place_and_with_near_names(
    db: Db, vendor: AngelOneSimulator, clock: StandingClock
):
    process = await with_list(Process(db, vendor, clock))
    with pytest.raises(InvalidInputError) as caught:
        await process.watchlist.replace(caller(), wanted("INFY", "RELAINCE"))
    assert [problem.loc for problem in caught.value.errors] == [("body", "symbols", 1)]
    assert "RELIANCE" in caught.value.extensions["near"]


async def test_two_who_change_it_at_once_lose_nothing(db: Db, vendor: AngelOneSimulator, clock: StandingClock):
    await Process(db, vendor, clock).master.refresh()
    processes = [await Process(db, vendor, clock).load() for _ in range(3)]
    shares = [str(number) for number in range(3000, 3003)]
    await asyncio.gather(
        *(
            process.watchlist.put(caller(), "NSE", token, WatchMode.QUOTE)
            for process, token in zip(processes, shares, strict=True)
        )
    )
    other = await Process(db, vendor, clock).load()
    assert sorted(other.symbols[6:]) == [f"SHARE{token}-EQ" for token in shares]


async def test_other_processes_follow_at_once(db: Db, vendor: AngelOneSimulator, clock: StandingClock, tmp_path: Path):
    buses = [Bus(LoopbackTransport(tmp_path)) for _ in range(2)]
    for bus in buses:
        await bus.start()
    here, there = [await Process(db, vendor, clock, bus=bus).load() for bus in buses]
    tasks = [asyncio.create_task(run()) for run in (there.master.run, there.watchlist.run)]
    await until(lambda: all(bus.health()["peers"] == 1 for bus in buses))
    await here.master.refresh()
    await until(lambda: there.master.version == here.master.version)
    woken = there.woken
    await here.watchlist.replace(caller(), wanted("INFY"))
    await until(lambda: there.symbols == ["INFY-EQ"])
    assert there.woken == woken + 1
    for task in tasks:
        task.cancel()
    for bus in buses:
        await bus.stop()


# Time goes on


async def test_contracts_end(db: Db, vendor: AngelOneSimulator, clock: StandingClock):
    process = await with_list(Process(db, vendor, clock))
    await process.watchlist.replace(caller(), wanted("INFY", "NFO:43210"))
    assert process.symbols == ["INFY-EQ", "NIFTY20NOV2624500CE"]
    clock.moment = datetime(2026, 11, 20, 18, 29, 59, tzinfo=UTC)
    await process.watchlist.load()
    assert len(process.symbols) == 2
    clock.move(seconds=1)  # Saturday in India
    await process.watchlist.load()
    assert process.symbols == ["INFY-EQ"]
    assert [item.active for item in process.watchlist.info().symbols] == [True, False]
    assert process.watchlist.health()["ended"] == 1


async def test_a_token_that_becomes_another_instruments_is_doubted(
    db: Db, vendor: AngelOneSimulator, clock: StandingClock
):
    process = await with_list(Process(db, vendor, clock))
    await process.watchlist.replace(caller(), wanted("INFY", "RELIANCE"))
    renamed = share("1594", "OTHER-EQ")
    vendor.instruments.rows = [renamed if row["token"] == "1594" else row for row in vendor.instruments.rows]
    await process.master.refresh()
    assert process.watchlist.doubt("INFY-EQ") == "NSE:1594 is OTHER-EQ by the list of instruments, not INFY-EQ."
    assert [item.doubtful for item in process.watchlist.followed()] == [True, False]
    assert isinstance(process.watchlist.followed()[0], Instrument)
