"""The gate before a provider: on the database, and on what stands in for it in tests of whole months."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.crypto.budget import Plan
from app.crypto.errors import (
    BudgetUsedError,
    CircuitOpenError,
    KeyRefusedError,
    NonsenseError,
    ProviderError,
    QuotaUsedError,
    RateLimitedError,
    RequestRefusedError,
    UnreachableError,
)
from app.crypto.gate import COLLECTION, Gate
from app.crypto.ports import Cost, Provider
from tests.crypto.adapters.kit import NOON, MemoryRows
from tests.support.clocks import StandingClock
from tests.support.mongodb import Db

GECKO = Provider.COINGECKO
DOWN = UnreachableError(GECKO, "timeout")


class Gates:
    """Gates of several processes."""

    def __init__(self, db: Any, moment: datetime = NOON) -> None:
        self.db, self.clock = db, StandingClock(moment)

    def gate(self, per_minute: int = 30, per_month: int = 1000, scheduled: int = 0) -> Gate:
        return Gate(self.db, self.clock, GECKO, Plan(per_minute, per_month, scheduled))

    async def call(self, gate: Gate, error: ProviderError | None = None, **how: Any) -> None:
        await gate.enter(Cost(), **how)
        await gate.leave(error)

    async def refused(self, gate: Gate, cost: Cost = Cost(), **how: Any) -> ProviderError:  # noqa: B008
        with pytest.raises((BudgetUsedError, CircuitOpenError)) as raised:
            await gate.enter(cost, **how)
        return raised.value


@pytest.fixture(params=["database", "memory"])
def gates(request: pytest.FixtureRequest) -> Gates:
    if request.param == "memory":
        return Gates(MemoryRows().database())
    db: Db = request.getfixturevalue("db")
    return Gates(db)


async def test_many_at_once_in_several_processes_take_exactly_what_there_is(gates: Gates):
    processes = [gates.gate(per_month=20) for _ in range(4)]
    outcomes = await asyncio.gather(
        *(processes[n % 4].enter(Cost()) for n in range(60)), return_exceptions=True
    )  # the minute's limit of 30 is not reached
    assert sum(outcome is None for outcome in outcomes) == 20
    refusals = [outcome for outcome in outcomes if outcome is not None]
    assert {type(refusal) for refusal in refusals} == {BudgetUsedError}
    state = await gates.gate(per_month=20).state()
    assert state["month"] == {
        "name": "2026-11", "used": 20, "limit": 20, "left": 0, "ends": datetime(2026, 12, 1, tzinfo=UTC)
    }  # fmt: skip
    assert state["minute"] == {"used": 20, "limit": 30}


async def test_a_call_counts_although_it_fails_and_after_a_restart(gates: Gates):
    gate = gates.gate(per_month=3)
    await gates.call(gate, DOWN)
    await gates.call(gate, RequestRefusedError(GECKO, "400"))
    await gate.enter(Cost())  # whose process dies before there is an answer
    error = await gates.refused(gates.gate(per_month=3))
    assert (error.code, error.fails_over) == ("month", True)
    assert error.retry_after == (datetime(2026, 12, 1, tzinfo=UTC) - NOON).total_seconds()
    assert error.detail.startswith("CoinGecko: call budget used up (month). The plan's calls of this month are made")


async def test_the_minute_frees_calls_one_by_one(gates: Gates):
    gate = gates.gate(per_minute=2)
    await gates.call(gate)
    gates.clock.move(seconds=30)
    await gates.call(gate)
    error = await gates.refused(gate)
    assert (error.code, error.retry_after) == ("minute", 31)
    gates.clock.move(seconds=31)
    await gates.call(gate)
    assert (await gates.refused(gate)).retry_after == 30


async def test_a_question_of_several_calls_is_let_pass_whole_or_not_at_all(gates: Gates):
    gate = gates.gate(per_minute=5, per_month=9)
    await gate.enter(Cost(4, 4))
    assert (await gates.refused(gate, Cost(2, 2))).code == "minute"
    await gate.enter(Cost(1, 5))  # one call of five credits
    assert (await gates.refused(gate, Cost(1, 1))).code == "month"
    assert (await gate.state())["month"]["used"] == 9


async def test_calls_on_demand_leave_the_schedule_what_it_needs(gates: Gates):
    # 20 days and 12 hours of November are left: 5,898 calls of the schedule.
    gate = gates.gate(per_minute=10_000, per_month=10_000, scheduled=288)
    await gate.enter(Cost(1, 4000), spare=True)
    error = await gates.refused(gate, Cost(1, 110), spare=True)
    assert (error.code, error.retry_after) == ("kept for the schedule", 3600)
    await gate.enter(Cost(1, 110))  # the schedule itself
    gates.clock.move(days=5)
    await gate.enter(Cost(1, 110), spare=True)


async def test_calls_on_demand_leave_two_of_each_minute_to_the_schedule(gates: Gates):
    gate = gates.gate(per_minute=5, per_month=100_000, scheduled=288)
    for _ in range(3):
        await gates.call(gate, spare=True)
        gates.clock.move(seconds=1)
    error = await gates.refused(gate, spare=True)
    assert (error.code, error.retry_after) == ("minute", 58)
    await gates.call(gate)
    await gates.call(gate)
    assert (await gates.refused(gate)).code == "minute"
    # Of a plan that has fewer, what it takes to ask at all is left; without a schedule everything.
    gates.clock.move(minutes=2)
    await gates.call(gates.gate(per_minute=1, per_month=100_000, scheduled=288), spare=True)
    gates.clock.move(minutes=2)
    for _ in range(5):
        await gates.call(gates.gate(per_minute=5, per_month=100_000), spare=True)


async def test_a_clock_that_goes_back_over_midnight_does_not_give_the_days_categories_again(gates: Gates):
    gates.clock.moment = datetime(2026, 11, 11, 0, 0, 1, tzinfo=UTC)
    gate = Gate(gates.db, gates.clock, GECKO, Plan(30, 1000, category_calls_per_day=1))
    await gate.enter(Cost(category=True))
    gates.clock.move(seconds=-2)
    assert (await gates.refused(gate, Cost(category=True))).code == "categories of the day"
    await gate.enter(Cost())
    gates.clock.move(days=1)
    assert (await gates.refused(gate, Cost(category=True))).retry_after == 1
    gates.clock.move(seconds=1)
    await gate.enter(Cost(category=True))


async def test_a_small_plan_is_shared_by_the_schedule_and_people(gates: Gates):
    gate = gates.gate(per_month=300, scheduled=288)
    await gate.enter(Cost(1, 100), spare=True)
    assert (await gates.refused(gate, Cost(1, 30), spare=True)).code == "kept for the schedule"


async def test_three_failures_in_a_row_open_it_for_every_process(gates: Gates):
    gate, other = gates.gate(), gates.gate()
    await gates.call(gate, DOWN)
    await gates.call(other, DOWN)
    await gates.call(gate)  # an answer in between
    for failing in (gate, other, gate):
        await gates.call(failing, DOWN)
    for process in (gate, other, gates.gate()):
        error = await gates.refused(process)
        assert (error.code, error.retry_after) == ("unreachable (timeout)", 60)
    state = await other.state()
    assert (state["circuit"], state["last_error"]) == ("open", "unreachable (timeout)")
    assert state["tried_again"] == NOON + timedelta(seconds=60)
    assert state["month"]["used"] == 6  # refused calls are not counted


async def test_one_probe_decides(gates: Gates):
    processes = [gates.gate() for _ in range(3)]
    for _ in range(3):
        await gates.call(processes[0], DOWN)
    gates.clock.move(seconds=60)
    assert (await processes[0].state())["circuit"] == "half-open"
    outcomes = await asyncio.gather(*(processes[n % 3].enter(Cost()) for n in range(9)), return_exceptions=True)
    assert sum(outcome is None for outcome in outcomes) == 1
    await processes[outcomes.index(None) % 3].leave(DOWN)
    assert (await gates.refused(processes[1])).retry_after == 120  # twice as long
    gates.clock.move(seconds=120)
    await gates.call(processes[2])
    for process in processes:
        await gates.call(process)
    assert "last_error" not in await processes[0].state()


async def test_a_probe_whose_process_died_does_not_block_for_ever(gates: Gates):
    gate = gates.gate()
    for _ in range(3):
        await gates.call(gate, DOWN)
    gates.clock.move(seconds=60)
    await gate.enter(Cost())
    assert (await gates.refused(gates.gate())).retry_after == 60
    gates.clock.move(seconds=60)
    await gates.call(gates.gate())


async def test_rests_double_up_to_a_quarter_of_an_hour(gates: Gates):
    gate = gates.gate()
    for _ in range(3):
        await gates.call(gate, DOWN)
    rests = []
    for _ in range(6):
        rests.append((await gates.refused(gate)).retry_after)
        gates.clock.move(seconds=rests[-1])
        await gates.call(gate, DOWN)
    assert rests == [60, 120, 240, 480, 900, 900]


async def test_what_the_provider_asks_for_is_honoured_by_all_at_once(gates: Gates):
    gate = gates.gate()
    await gates.call(gate, RateLimitedError(GECKO, "429", retry_after=37, told=True))
    assert (await gates.refused(gates.gate())).retry_after == 37
    gates.clock.move(seconds=37)
    await gates.call(gates.gate())


async def test_a_wait_beyond_reason_is_not_believed(gates: Gates):
    gate = gates.gate()
    await gates.call(gate, RateLimitedError(GECKO, "429", retry_after=10**9, told=True))
    assert (await gates.refused(gate)).retry_after == 3600


@pytest.mark.parametrize("outcome", [None, DOWN, RateLimitedError(GECKO, "429", retry_after=5, told=True)])
@pytest.mark.parametrize("processes", [1, 2])
async def test_an_answer_that_was_on_its_way_does_not_change_the_wait_that_was_asked_for(
    gates: Gates, outcome: ProviderError | None, processes: int
):
    slow = gates.gate()
    gate = slow if processes == 1 else gates.gate()
    await slow.enter(Cost())
    await gates.call(gate, RateLimitedError(GECKO, "429", retry_after=1000, told=True))
    await slow.leave(outcome)
    assert (await gates.refused(gate)).retry_after == 1000
    assert (await gates.refused(slow)).retry_after == 1000


@pytest.mark.parametrize("error", [KeyRefusedError(GECKO, "401"), RequestRefusedError(GECKO, "400")])
async def test_our_own_mistakes_open_nothing(gates: Gates, error: ProviderError):
    gate = gates.gate()
    for _ in range(5):
        await gates.call(gate, error)
    standing = await gate.standing()
    assert standing.last_error == error.word
    assert standing.key_refused == isinstance(error, KeyRefusedError)
    await gates.call(gate)
    assert not (await gate.standing()).key_refused


async def test_a_month_that_the_provider_calls_used_up_is_over(gates: Gates):
    gate = gates.gate()
    await gates.call(gate, QuotaUsedError(GECKO, "1010"))
    assert (await gates.refused(gates.gate())).code == "month"
    assert (await gate.state())["month"]["left"] == 0
    gates.clock.moment = datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC)
    assert (await gates.refused(gate)).retry_after == 1
    gates.clock.move(seconds=1)
    await gates.call(gate)
    assert (await gate.state())["month"]["used"] == 1


async def test_a_clock_that_goes_back_over_midnight_does_not_give_the_month_again(gates: Gates):
    gates.clock.moment = datetime(2026, 12, 1, 0, 0, 0, 500_000, tzinfo=UTC)
    gate = gates.gate(per_month=1)
    await gates.call(gate)
    gates.clock.move(seconds=-1)
    assert (await gates.refused(gates.gate(per_month=1))).code == "month"
    gates.clock.move(seconds=1)
    assert (await gates.refused(gates.gate(per_month=1))).code == "month"


async def test_unreadable_answers_open_it_too(gates: Gates):
    gate = gates.gate()
    for _ in range(3):
        await gates.call(gate, NonsenseError(GECKO, "not JSON"))
    assert isinstance(await gates.refused(gate), CircuitOpenError)


async def test_what_an_operator_resets_holds_at_once(gates: Gates):
    gate = gates.gate(per_month=1)
    await gates.call(gate)
    assert (await gates.refused(gate)).code == "month"
    await gates.db[COLLECTION].delete_one({"_id": "coingecko"})
    await gates.call(gate)


async def test_many_that_fail_together_are_one_rest(gates: Gates):
    processes = [gates.gate() for _ in range(6)]
    for process in processes:
        await process.enter(Cost())
    for process in processes:
        await process.leave(DOWN)
    assert (await gates.refused(processes[0])).retry_after == 60
