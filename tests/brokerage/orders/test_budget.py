"""No more requests leave than an account may send, from however many processes; what ends positions goes first."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.brokerage.adapters.zerodha.words import CAPABILITIES
from app.brokerage.errors import BrokerRateLimitedError
from app.brokerage.orders.budget import OrderBudget
from app.brokerage.orders.counting import PART_LASTS, Allowance, Own, Used, at, give, given_back, take
from app.core.bus import Bus, NullTransport
from app.core.market_calendar import IST
from tests.brokerage.orders.kit import until
from tests.support.clocks import StandingClock
from tests.support.mongodb import Db

NOON = datetime(2026, 11, 20, 6, 30, tzinfo=UTC)


async def entry() -> bool:
    return False


async def exit_() -> bool:
    return True


@given(
    st.lists(st.tuples(st.integers(0, 900), st.booleans()), max_size=120),
    st.integers(1, 10),
    st.integers(5, 40),
    st.integers(20, 60),
)
def test_no_window_has_more_than_it_may(steps: list[tuple[int, bool]], second: int, minute: int, day: int):
    allowance, used, now = Allowance(second=second, minute=minute, day=day), Used(), NOON
    sent: list[tuple[datetime, bool]] = []
    for pause, leaves in steps:
        now += timedelta(milliseconds=pause)
        refused = allowance.wait(used, now, leaves=leaves)
        if refused is None:
            used = take(used, now)
            sent.append((now, leaves))
            continue
        assert refused[1] > 0
        # After the wait that was named it may go, where nothing else comes between.
        if refused[0] != "day":
            assert allowance.wait(used, now + timedelta(milliseconds=refused[1]), leaves=leaves) is None or (
                refused[0] == "second" or sum(count for _, count in used.seconds) >= minute - 1
            )
    for moment, _ in sent:
        for span, limit in ((1, second), (60, minute), (86_400, day)):
            within = [each for each, _ in sent if moment <= each < moment + timedelta(seconds=span)]
            assert len(within) <= limit
    assert at(used, now + timedelta(days=1)).today == 0


@given(
    st.lists(
        st.tuples(
            st.one_of(st.integers(0, 400), st.integers(0, 120_000), st.just(PART_LASTS)),
            st.integers(0, 3),
            st.booleans(),
            st.sampled_from(("send", "send", "send", "send", "close", "kill")),
        ),
        max_size=150,
    ),
    st.integers(1, 10),
    st.integers(5, 40),
    st.integers(20, 60),
)
def test_no_window_has_more_than_it_may_from_processes_with_parts(
    steps: list[tuple[int, int, bool, str]], second: int, minute: int, day: int
):
    allowance, used, now = Allowance(second=second, minute=minute, day=day), Used(), NOON - timedelta(hours=5)
    own: dict[int, Own] = {}
    sent: list[tuple[datetime, bool]] = []
    for pause, process, leaves, act in steps:
        now += timedelta(milliseconds=pause)
        mine = own.get(process)
        if act == "kill":
            own.pop(process, None)
        elif act == "close":
            used = given_back(used, mine.part, mine.sent, now) if mine else used
            own.pop(process, None)
        elif mine and mine.spend(now):
            sent.append((now, leaves))
        else:
            settled = given_back(used, mine.part, mine.sent, now) if mine else used
            if allowance.wait(settled, now, leaves=leaves) is None:
                used = take(settled, now)
                sent.append((now, leaves))
                own.pop(process, None)
                if part := allowance.part(used, now, f"{process} {len(sent)}"):
                    used, own[process] = give(used, part), Own(part, 0)
    for moment, _ in sent:
        for span, limit in ((1, second), (60, minute)):
            within = [each for each, _ in sent if moment <= each < moment + timedelta(seconds=span)]
            assert len(within) <= limit
            entries = [
                each for each, leaves in sent if not leaves and moment <= each < moment + timedelta(seconds=span)
            ]
            assert len(entries) <= limit - (limit > 1)
    for date in {moment.astimezone(IST).date() for moment, _ in sent}:
        assert sum(moment.astimezone(IST).date() == date for moment, _ in sent) <= day


def test_entries_leave_room_for_exits():
    allowance, used = Allowance(), Used()
    entries = 0
    while allowance.wait(used, NOON, leaves=False) is None:
        used, entries = take(used, NOON), entries + 1
    exits = 0
    while allowance.wait(used, NOON, leaves=True) is None:
        used, exits = take(used, NOON), exits + 1

    assert (entries, exits) == (8, 2)
    assert Allowance(second=1).wait(Used(), NOON, leaves=False) is None


async def test_several_processes_share_it(db: Db):
    clock = StandingClock(NOON)
    processes = [OrderBudget(clock, patience=0) for _ in range(3)]

    async def tries(budget: OrderBudget) -> int:
        sent = 0
        for _ in range(6):
            try:
                await budget.enter("a", CAPABILITIES)
                sent += 1
            except BrokerRateLimitedError as error:
                assert error.retry_after > 0
        return sent

    assert sum(await asyncio.gather(*map(tries, processes))) == 10
    await processes[0].enter("b", CAPABILITIES, entry)
    clock.move(seconds=2)
    assert sum(await asyncio.gather(*map(tries, processes))) == 10
    assert await db["order_budgets"].count_documents({}) == 2


async def joined() -> Bus:
    bus = Bus(NullTransport())
    await bus.start()
    return bus


async def sends(budget: OrderBudget, times: int) -> int:
    sent = 0
    for _ in range(times):
        try:
            await budget.enter("a", CAPABILITIES, entry)
            sent += 1
        except BrokerRateLimitedError:
            pass
    return sent


async def test_most_are_counted_in_memory_and_none_twice(db: Db):
    clock, bus, rows = StandingClock(NOON), await joined(), db["order_budgets"]
    processes = [OrderBudget(clock, bus, patience=0) for _ in range(3)]

    assert sum(await asyncio.gather(*(sends(each, 6) for each in processes))) == 8
    clock.move(seconds=2)
    assert [await sends(each, 1) for each in processes] == [1, 1, 1]
    written = (await rows.find_one({}))["version"]  # type: ignore[index]
    clock.move(seconds=2)
    assert [await sends(each, 1) for each in processes] == [1, 1, 1]
    assert (await rows.find_one({}))["version"] == written  # type: ignore[index]
    clock.move(minutes=2)
    assert sum(await asyncio.gather(*(sends(each, 6) for each in processes))) == 8
    for each in processes:
        await each.close()
    used = (await rows.find_one({}))["used"]  # type: ignore[index]
    assert (used["today"], used["parts"]) == (22, [])


async def test_what_a_killed_process_had_ends_by_itself(db: Db):
    clock, bus = StandingClock(NOON), await joined()
    assert await sends(OrderBudget(clock, bus, patience=0), 1) == 1
    other = OrderBudget(clock, bus, patience=0)
    clock.move(seconds=2)
    assert await sends(other, 10) == 6  # the other two may be on their way
    clock.move(minutes=17)
    assert await sends(other, 10) == 8
    assert db.name


async def test_pauses_are_heard_of_by_those_who_count_in_memory(db: Db):
    clock, bus = StandingClock(NOON), await joined()
    one, other = OrderBudget(clock, bus, patience=0), OrderBudget(clock, bus, patience=0)
    assert await sends(other, 1) == 1
    await one.hold("a", 30)
    assert await sends(other, 1) == 0
    clock.move(seconds=31)
    assert await sends(other, 1) == 1
    # News that may have been missed are looked for; and while nobody can be heard of, everything is counted there.
    await OrderBudget(clock).hold("a", 30)
    bus.peers_changed("lost")
    assert await sends(other, 1) == 0
    clock.move(seconds=31)
    assert await sends(other, 1) == 1
    await bus.stop()
    await OrderBudget(clock).hold("a", 30)
    assert await sends(other, 1) == 0
    assert db.name


async def test_a_pause_holds_for_all_of_them(db: Db):
    clock = StandingClock(NOON)
    one, other = OrderBudget(clock, patience=0), OrderBudget(clock, patience=0)
    await other.enter("a", CAPABILITIES)
    await one.hold("a", 30)
    with pytest.raises(BrokerRateLimitedError, match="asked for a pause"):
        await other.enter("a", CAPABILITIES)
    clock.move(seconds=31)
    await other.enter("a", CAPABILITIES)
    assert db.name


async def test_exits_go_before_entries_that_came_first(db: Db):
    """Full for a moment: four entries wait, then an exit and a cancellation come."""
    clock = StandingClock(NOON)
    budget = OrderBudget(clock, patience=60)
    for _ in range(10):
        await budget.enter("a", CAPABILITIES)
    went: list[str] = []

    async def go(name: str, *leaves: object) -> None:
        await budget.enter("a", CAPABILITIES, *leaves)  # type: ignore[arg-type]
        went.append(name)

    def in_line(count: int) -> bool:
        return "a" in budget._lines and len(budget._lines["a"]._waiting) == count

    entries = [asyncio.create_task(go(f"entry {n}", entry)) for n in range(4)]
    await until(lambda: in_line(4))
    assert not went
    exits = [asyncio.create_task(go("exit", exit_)), asyncio.create_task(go("cancellation"))]
    await until(lambda: in_line(6))
    clock.move(seconds=2)
    await asyncio.gather(*entries, *exits)

    assert set(went[:2]) == {"exit", "cancellation"}
    assert sorted(went[2:]) == [f"entry {n}" for n in range(4)]
    assert db.name


async def test_whoever_cannot_wait_is_told_how_long(db: Db):
    clock = StandingClock(NOON)
    budget = OrderBudget(clock, patience=0.05)
    for _ in range(8):
        await budget.enter("a", CAPABILITIES, entry)
    with pytest.raises(BrokerRateLimitedError, match="as many orders as it may in a second") as caught:
        await budget.enter("a", CAPABILITIES, entry)
    assert 0.9 < caught.value.retry_after <= 1.2
    await budget.enter("a", CAPABILITIES, exit_)
    await budget.enter("a", CAPABILITIES)
    with pytest.raises(BrokerRateLimitedError):
        await budget.enter("a", CAPABILITIES)
    assert db.name
