"""Prices complete signals: exactly once, whoever looks, and after whatever."""

import asyncio
from datetime import timedelta
from decimal import Decimal
from typing import Any

from beanie import init_beanie
from pymongo import AsyncMongoClient, monitoring

from app.core.bus import Bus, NullTransport
from app.core.events import PeersChanged, SignalChanged, TicksArrived
from app.signals.completion import SignalCompletion
from app.signals.price_names import price_name
from app.signals.user_models import DOCUMENTS
from tests.signals.users.kit import MINUTE, NOON, Desk, bar, tick, until
from tests.support.mongodb import OPTIONS, server_port, through
from tests.support.tcp_proxy import TcpProxy


def arrive(desk: Desk, *prices: float, symbol: str = "NIFTY 50", **options: Any) -> None:
    """Live prices, a second apart."""
    for price in prices:
        desk.clock.move(seconds=1)
        desk.bus.announce(TicksArrived([tick(price, desk.clock.now(), symbol, **options)]))


def completions(desk: Desk) -> list[str]:
    return [id_ for change, id_ in desk.told() if change == "completed"]


class Asking(monitoring.CommandListener):
    """How many commands wait for their answers."""

    def __init__(self) -> None:
        self.waiting = 0

    def started(self, event: monitoring.CommandStartedEvent) -> None:  # noqa: ARG002 (the library's)
        self.waiting += 1

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:  # noqa: ARG002
        self.waiting -= 1

    def failed(self, event: monitoring.CommandFailedEvent) -> None:  # noqa: ARG002
        self.waiting -= 1

    async def nothing(self) -> None:
        """None for a while: who asks one thing after the other has done so."""
        quiet = 0
        async with asyncio.timeout(30):
            while quiet < 20:
                quiet = 0 if self.waiting else quiet + 1
                await asyncio.sleep(0.005)


async def settled(made: SignalCompletion) -> None:
    """What was heard so far has been dealt with."""
    for _ in range(3):
        await asyncio.sleep(0.02)
    await until(lambda: made.health()["waiting"] == 0)


async def test_a_tick_at_the_target_completes_it_once(desk: Desk) -> None:
    signal = await desk.enter()
    async with desk.completing() as completion:
        arrive(desk, 101, 109.95, 95.05)
        await settled(completion)
        assert (await desk.read(signal))["status"] == "ACTIVE"
        arrive(desk, 110.4, 112, 94, 110)
        at = NOON + timedelta(seconds=5)
        await until(lambda: completions(desk))
        await settled(completion)
        await until(lambda: (completion.health()["completed"], completion.health()["following"]) == (1, 0))
    after = await desk.read(signal)
    assert after["status"] == "COMPLETED"
    assert after["outcome"] == {
        "kind": "target",
        "price": Decimal("110.4"),
        "at": at.isoformat().replace("+00:00", "Z"),
        "seen_in": "tick",
        "certain": True,
    }
    assert after["closed_at"] == after["updated_at"] > signal["updated_at"]
    assert completions(desk) == [signal["id"]]
    act = desk.trail.acts[-1]
    assert (act.action, act.actor.kind, act.account_id) == ("signal.complete", "system", desk.people.ids["ann"])
    assert act.details == {"symbol": "NIFTY 50", "outcome": "target", "price": "110.4"}
    assert [act.action for act in desk.trail.acts].count("signal.complete") == 1


async def test_each_side_and_symbol_by_itself(desk: Desk) -> None:
    buy = await desk.enter()
    sell = await desk.enter("bob", signal_type="SELL", target_price=90, stop_loss=105)
    other = await desk.enter(symbol="BANKNIFTY")
    async with desk.completing() as completion:
        arrive(desk, 94)
        await until(lambda: completions(desk))
        await settled(completion)
        assert ((await desk.read(buy))["outcome"] or {})["kind"] == "stop"
        assert (await desk.read(sell, "bob"))["status"] == "ACTIVE"
        arrive(desk, 89)
        await until(lambda: len(completions(desk)) == 2)
    assert (await desk.read(sell, "bob"))["outcome"]["kind"] == "target"
    assert (await desk.read(other))["status"] == "ACTIVE"


async def test_signals_entered_changed_and_closed_meanwhile(desk: Desk) -> None:
    async with desk.completing() as completion:
        moved, closed, gone = [await desk.enter() for _ in range(3)]
        await until(lambda: completion.health()["following"] == 3)
        await desk.ask("PATCH", moved["id"], json={"target_price": 120})
        await desk.ask("PATCH", closed["id"], json={"status": "CANCELLED"})
        await desk.ask("DELETE", gone["id"], status=204)
        await until(lambda: completion.health()["following"] == 1)
        await settled(completion)
        arrive(desk, 111)
        await settled(completion)
        assert completions(desk) == []
        arrive(desk, 121)
        await until(lambda: completions(desk) == [moved["id"]])
    assert (await desk.read(closed))["status"] == "CANCELLED"


async def test_ticks_of_which_nothing_is_concluded(desk: Desk) -> None:
    signal = await desk.enter()
    option = await desk.enter(option_type="CE")
    async with desk.completing() as completion:
        assert completion.health()["following"] == 1
        arrive(desk, 120, quality="suspect")
        arrive(desk, 120, quality="stale")
        arrive(desk, 120, late=True)
        desk.bus.announce(TicksArrived([tick(120, NOON)]))  # from before the signal
        notice = tick(120, desk.clock.now())
        desk.bus.announce(TicksArrived([notice._replace(body=b"{}"), notice._replace(body=b"garbage")]))
        await settled(completion)
        assert (await desk.read(signal))["status"] == "ACTIVE"
        arrive(desk, 120)
        await until(lambda: completions(desk) == [signal["id"]])
        await settled(completion)
    assert (await desk.read(option))["status"] == "ACTIVE"


async def test_two_processes_complete_it_once(desk: Desk) -> None:
    """A lease whose holder has not noticed its loss yet: both hear the tick, one row, one notice, one audit entry."""
    signals = [await desk.enter() for _ in range(20)]
    other_bus = Bus(NullTransport())
    other_bus.subscribe(SignalChanged, desk.events.append)
    async with desk.completing() as one, desk.completing(other_bus) as two:
        await until(lambda: one.health()["following"] == two.health()["following"] == 20)
        desk.clock.move(seconds=1)
        notice = tick(111, desk.clock.now())
        one.ticks([notice])
        two.ticks([notice])
        await until(lambda: one.health()["waiting"] == two.health()["waiting"] == 0)
        await until(lambda: len(completions(desk)) >= 20)
        await settled(one)
        await settled(two)
        assert one.health()["completed"] + two.health()["completed"] == 20
    assert sorted(completions(desk)) == sorted(signal["id"] for signal in signals)
    assert [act.action for act in desk.trail.acts].count("signal.complete") == 20


async def test_its_owner_may_be_quicker(desk: Desk) -> None:
    """The notice of the change is late: what is stored decides."""
    cancelled, moved, confident = [await desk.enter() for _ in range(3)]
    deaf = Bus(NullTransport())
    deaf.subscribe(SignalChanged, desk.events.append)
    async with desk.completing(deaf) as completion:
        await until(lambda: completion.health()["following"] == 3)
        desk.clock.move(seconds=1)
        await desk.ask("PATCH", cancelled["id"], json={"status": "CANCELLED"})
        await desk.ask("PATCH", moved["id"], json={"target_price": 130})
        await desk.ask("PATCH", confident["id"], json={"confidence": 1})
        desk.clock.move(seconds=1)
        completion.price("NIFTY 50", Decimal(115), desk.clock.now())
        # The levels of this one are as they were: the price that touched them still counts.
        await until(lambda: completions(desk) == [confident["id"]])
        await until(lambda: completion.health()["following"] == 1)
        assert (await desk.read(cancelled))["status"] == "CANCELLED"
        assert (await desk.read(moved))["status"] == "ACTIVE"
        desk.clock.move(seconds=1)
        completion.price("NIFTY 50", Decimal(131), desk.clock.now())
        await until(lambda: len(completions(desk)) == 2)
    assert (await desk.read(moved))["outcome"]["price"] == 131


async def test_lost_notices_are_made_up_for(desk: Desk) -> None:
    deaf = Bus(NullTransport())
    async with desk.completing(deaf) as completion:
        await settled(completion)
        signal = await desk.enter()
        deaf.announce(PeersChanged("reconnected"))
        await until(lambda: completion.health()["following"] == 1)
        desk.clock.move(seconds=1)
        completion.price("NIFTY 50", Decimal(94), desk.clock.now())
        await until(lambda: completion.health()["completed"] == 1)
    assert (await desk.read(signal))["outcome"]["kind"] == "stop"


async def test_the_answer_to_the_write_is_lost(desk: Desk, mongodb_url: str) -> None:
    """It is stored, and nobody was told so: the writer knows its own row again, and tells of it once."""
    signal = await desk.enter()

    async def stored(collection: str, query: dict[str, Any]) -> None:
        async with asyncio.timeout(30):
            while not await desk.db[collection].find_one(query):
                await asyncio.sleep(0.01)

    asking = Asking()
    options: dict[str, Any] = {**OPTIONS, "retryWrites": False, "serverSelectionTimeoutMS": 500}
    async with (
        TcpProxy(server_port(mongodb_url)) as proxy,
        AsyncMongoClient(through(mongodb_url, proxy.port), **options, event_listeners=[asking]) as far,
    ):
        await init_beanie(far[desk.db.name], document_models=DOCUMENTS, skip_indexes=True)
        async with desk.completing() as completion:
            # The look back is over, nothing else is asked, and a connection is free.
            await stored("signal_checks", {"_id": "NIFTY 50"})
            await asking.nothing()
            proxy.swallow_answers()
            arrive(desk, 111)
            await stored("signals", {"status": "COMPLETED"})
            assert completions(desk) == []
            await proxy.cut()
            await until(lambda: completion.health()["last_error"])
            assert completion.health()["status"] == "degraded"
            await proxy.mend()
            await until(lambda: completions(desk) == [signal["id"]])
            await settled(completion)
            await until(lambda: completion.health()["status"] == "ok")
    assert completions(desk) == [signal["id"]]
    assert [act.action for act in desk.trail.acts].count("signal.complete") == 1
    row = await desk.db["signals"].find_one({})
    assert row is not None
    assert row["revision"] == 2


# While nobody looked


async def test_prices_that_moved_through_while_nobody_looked(desk: Desk) -> None:
    buy = await desk.enter()
    both = await desk.enter("bob", target_price=104, stop_loss=99)
    quiet = await desk.enter(target_price=500)
    start = NOON + MINUTE
    desk.candles.rows["NIFTY 50"] = [
        # The candle in which they were entered began before that.
        bar(NOON, "100", "130", "50"),
        bar(start, "100", "105", "98"),
        bar(start + MINUTE, "104", "111", "103"),
        bar(start + 2 * MINUTE, "111", "112", "96"),
    ]
    desk.clock.move(days=30)
    async with desk.completing():
        await until(lambda: len(completions(desk)) == 2)
        assert len(desk.candles.asked) == 5
    found = (await desk.read(buy))["outcome"]
    assert (found["kind"], found["price"], found["at"]) == ("target", 110, "2026-11-20T06:32:00Z")
    assert (found["seen_in"], found["certain"]) == ("candle", True)
    unsure = (await desk.read(both, "bob"))["outcome"]
    assert (unsure["kind"], unsure["price"], unsure["certain"]) == ("stop", 99, False)
    assert (await desk.read(quiet))["status"] == "ACTIVE"


async def test_what_happened_before_the_levels_does_not_count(desk: Desk) -> None:
    signal = await desk.enter(target_price=120)
    desk.clock.move(minutes=30)
    await desk.ask("PATCH", signal["id"], json={"target_price": 110})
    desk.candles.rows["NIFTY 50"] = [bar(NOON + 10 * MINUTE, "100", "115", "99")]
    desk.clock.move(minutes=30)
    async with desk.completing() as completion:
        await until(lambda: desk.candles.asked)
        await settled(completion)
    assert (await desk.read(signal))["status"] == "ACTIVE"


async def test_each_signal_counts_from_its_own_beginning(desk: Desk) -> None:
    early = await desk.enter(target_price=500)
    desk.clock.move(minutes=30)
    late = await desk.enter()
    desk.candles.rows["NIFTY 50"] = [bar(NOON + 10 * MINUTE, "100", "115", "99")]
    desk.clock.move(minutes=30)
    async with desk.completing() as completion:
        await until(lambda: desk.candles.asked)
        await settled(completion)
    assert [(await desk.read(signal))["status"] for signal in (early, late)] == ["ACTIVE", "ACTIVE"]


async def test_gaps_that_are_filled_in_later(desk: Desk) -> None:
    """The feed was away; its candles come some minutes after it is back, behind what was looked at already."""
    signal = await desk.enter()
    async with desk.completing(check_seconds=0.05) as completion:
        desk.clock.move(minutes=20)
        asked = len(desk.candles.asked)
        await until(lambda: len(desk.candles.asked) > asked + 1)
        assert completion.health()["completed"] == 0
        desk.candles.rows["NIFTY 50"] = [bar(NOON + 5 * MINUTE, "100", "111", "99")]
        await until(lambda: completions(desk) == [signal["id"]])
    # A successor does not begin at the beginning.
    await desk.enter()
    desk.clock.move(days=60)
    row = await desk.db["signal_checks"].find_one({"_id": "NIFTY 50"})
    assert row is not None
    await desk.db["signals"].update_many({}, {"$set": {"levels_at": NOON - timedelta(days=900)}})
    desk.candles.asked.clear()
    async with desk.completing() as completion:
        await until(lambda: desk.candles.asked)
        await settled(completion)
    assert desk.candles.asked[0][1] == row["checked_at"] - timedelta(days=3)


async def test_what_is_filled_in_long_after_it_happened(desk: Desk) -> None:
    """The service was down for hours: it looks before the candles of this time are fetched, and some looks later."""
    signal = await desk.enter()
    desk.clock.move(minutes=180)
    async with desk.completing(check_seconds=0.02) as completion:
        await until(lambda: len(desk.candles.asked) > 1)
        desk.candles.rows["NIFTY 50"] = [bar(NOON + 5 * MINUTE, "100", "111", "99")]
        desk.clock.move(minutes=16)
        await until(lambda: completions(desk) == [signal["id"]])
        assert completion.health()["completed"] == 1
    # Most looks reach back less far.
    spans = [end - start for _, start, end in desk.candles.asked]
    assert min(spans) == timedelta(minutes=45)


async def test_prices_have_names_of_their_own(desk: Desk) -> None:
    known = {"NIFTY 50", "RELIANCE-EQ"}
    spellings = ["NIFTY50", "^NSEI", "NSE:NIFTY", "Nifty 50", "RELIANCE", "reliance.ns", "NSE:RELIANCE", "RELIANCE-EQ"]
    made = [await desk.enter(symbol=each) for each in spellings]
    other = await desk.enter(symbol="TCS")
    assert [each["symbol"] for each in made[:2]] == ["NIFTY50", "^NSEI"]
    async with desk.completing(names=lambda symbol: price_name(symbol, known)) as completion:
        arrive(desk, 110, symbol="NIFTY 50")
        await until(lambda: len(completions(desk)) == 4)
        desk.candles.rows["RELIANCE-EQ"] = [bar(desk.clock.now() + MINUTE, "100", "111", "99")]
        arrive(desk, 110, symbol="TCS-EQ")
        await settled(completion)
        arrive(desk, 110, symbol="RELIANCE-EQ")
        await until(lambda: len(completions(desk)) == 8)
    assert sorted(completions(desk)) == sorted(each["id"] for each in made)
    assert (await desk.read(other))["status"] == "ACTIVE"


async def test_a_symbol_that_comes_to_be_followed_has_another_name(desk: Desk) -> None:
    signal = await desk.enter(symbol="RELIANCE")
    known: set[str] = set()
    async with desk.completing(names=lambda symbol: price_name(symbol, known), check_seconds=0.02) as completion:
        assert completion.follows("RELIANCE")
        known.add("RELIANCE-EQ")
        await desk.ask("PATCH", signal["id"], json={"notes": "x"})
        await until(lambda: completion.follows("RELIANCE-EQ"))
        assert not completion.follows("RELIANCE")
        arrive(desk, 110, symbol="RELIANCE-EQ")
        await until(lambda: completions(desk))


async def test_a_history_that_is_away_is_asked_again(desk: Desk) -> None:
    signal = await desk.enter()
    desk.candles.rows["NIFTY 50"] = [bar(NOON + MINUTE, "100", "111", "99")]
    desk.candles.away = True
    desk.clock.move(minutes=10)
    async with desk.completing(check_seconds=0.05):
        await until(lambda: len(desk.candles.asked) > 2)
        desk.candles.away = False
        await until(lambda: completions(desk) == [signal["id"]])


async def test_without_running_it_follows_nothing(desk: Desk) -> None:
    completion = desk.completion()
    await desk.enter()
    arrive(desk, 111)
    await settled(completion)
    assert completion.health() == {
        "status": "ok",
        "here": False,
        "following": 0,
        "waiting": 0,
        "completed": 0,
        "last_error": None,
    }
    assert not completion.follows("NIFTY 50")
