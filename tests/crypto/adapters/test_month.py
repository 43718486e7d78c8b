"""Whole months of the schedule by the test's clock, with the vendor's own count as the judge."""

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from app.crypto.budget import Plan
from app.crypto.errors import BudgetUsedError, CircuitOpenError, ProviderError, RateLimitedError, UnreachableError
from app.crypto.gate import COLLECTION, Gate
from app.crypto.ports import CoinListing, Cost, Provider
from app.crypto.providers import SCHEDULED_PER_DAY
from app.crypto.sources import ListingSources, Source
from tests.crypto.adapters.kit import MemoryRows, both_providers
from tests.simulators.vendor import Limits
from tests.support.clocks import StandingClock
from tests.support.mongodb import Db

JULY, AUGUST = datetime(2026, 7, 1, tzinfo=UTC), datetime(2026, 8, 1, tzinfo=UTC)


class Vendor:
    """Answers as long as the plan lasts, as the vendor counts; fails when it is told to."""

    name = Provider.COINGECKO

    def __init__(self, limits: Limits) -> None:
        self.limits, self.failing = limits, False

    def cost(self, limit: int) -> Cost:
        return Cost(-(-limit // 250), -(-limit // 250))

    async def listings(self, limit: int) -> tuple[list[CoinListing], int]:
        for _ in range(self.cost(limit).calls):
            if self.limits.over():
                raise RateLimitedError(self.name, "429", retry_after=60, told=True)
            if self.failing:
                raise UnreachableError(self.name, "timeout")
        return [CoinListing(provider=self.name, provider_id="x", slug="x", symbol="X", name="X")], 0

    async def close(self) -> None:
        """Nothing to close."""


def runs(start: datetime, end: datetime) -> Iterator[tuple[datetime, int]]:
    """When the schedule syncs how many coins."""
    while start < end:
        yield start, 50 if start.minute else 200
        start += timedelta(minutes=5)


class Months:
    """The schedule with two processes that restart, and people who ask for more."""

    def __init__(self, allowed: int, *, failing: float = 0.0, demand: int = 0) -> None:
        self.clock, self.rows = StandingClock(JULY), MemoryRows()
        self.limits = Limits(self.clock.now, 30, allowed)
        self.vendor, self.plan = Vendor(self.limits), Plan(30, allowed, SCHEDULED_PER_DAY)
        self.chance, self.failing, self.demand = random.Random(5), failing, demand  # noqa: S311
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.refused_scheduled: list[datetime] = []
        self.processes = [self._process(), self._process()]

    def _process(self) -> ListingSources:
        gate = Gate(self.rows.database(), self.clock, Provider.COINGECKO, self.plan)
        return ListingSources([Source(self.vendor, gate)])

    async def _ask(self, who: str, limit: int, **how: Any) -> None:
        self.vendor.failing = self.chance.random() < self.failing
        try:
            await self.chance.choice(self.processes).fetch(limit, **how)
        except ProviderError as error:
            self.outcomes[who, type(error).__name__] += 1
            if who == "schedule" and isinstance(error, BudgetUsedError):
                self.refused_scheduled.append(self.clock.now())
        else:
            self.outcomes[who, "answered"] += 1

    async def live(self, start: datetime, end: datetime) -> None:
        for at, limit in runs(start, end):
            self.clock.moment = at
            if at.hour == at.minute == 0:
                self.processes[at.day % 2] = self._process()
            await self._ask("schedule", limit)
            for _ in range(self.demand):
                self.clock.move(seconds=self.chance.randrange(40))
                await self._ask("people", self.chance.choice([50, 250, 1000]), on_demand=True)


async def test_a_month_of_syncs_fits_and_nothing_is_refused():
    months = Months(10_000)
    await months.live(JULY, AUGUST)
    assert months.limits.by_month == {"2026-07": 31 * SCHEDULED_PER_DAY}
    assert SCHEDULED_PER_DAY == 288
    assert months.outcomes == {("schedule", "answered"): 8928}
    assert not months.limits.refused


async def test_whatever_people_and_failures_do_the_plan_holds_and_the_schedule_goes_on():
    months = Months(10_000, failing=0.1, demand=3)
    await months.live(JULY, AUGUST)
    assert months.limits.by_month["2026-07"] <= 10_000
    assert not months.limits.refused  # the vendor never had to say no
    assert months.refused_scheduled == []
    assert months.outcomes["people", "answered"] > 300  # what is spare is used
    assert months.outcomes["people", "BudgetUsedError"] > 1000
    assert months.outcomes["schedule", "UnreachableError"] > 500  # failed calls counted, too


async def test_a_plan_that_is_too_small_is_used_up_not_exceeded_and_begins_anew():
    months = Months(2000, demand=1)
    await months.live(JULY, AUGUST)
    assert 1990 <= months.limits.by_month["2026-07"] <= 2000
    assert months.outcomes["schedule", "BudgetUsedError"] > 5000
    await months.live(AUGUST, AUGUST + timedelta(days=1))
    assert months.limits.by_month["2026-08"] >= SCHEDULED_PER_DAY
    assert not months.limits.refused
    assert all(at < AUGUST for at in months.refused_scheduled)


async def test_the_turn_of_a_month_over_real_sockets_and_the_real_database(db: Db, tmp_path: Path):
    end_of_july = AUGUST - timedelta(minutes=20)
    async with both_providers(db, tmp_path, moment=end_of_july, coins=8, per_month=10_000) as both:
        sources, other = both.sources(), both.sources()
        await sources.fetch(5)
        # As the month went so far, at the vendor and in the database.
        both.gecko.limits.by_month["2026-07"] = 9998
        await both.db[COLLECTION].update_one(
            {"_id": "coingecko"}, {"$set": {"standing.used.credits": 9998, "version": 50}}
        )
        seen = []
        for at, limit in runs(end_of_july + timedelta(minutes=5), AUGUST + timedelta(minutes=10)):
            both.clock.moment = at
            for process in (sources, other):
                seen.append((f"{at:%H:%M}", (await process.fetch(limit)).provider.value))  # noqa: PERF401
        assert seen == [
            ("23:45", "coingecko"), ("23:45", "coingecko"),
            ("23:50", "coinmarketcap"), ("23:50", "coinmarketcap"),
            ("23:55", "coinmarketcap"), ("23:55", "coinmarketcap"),
            ("00:00", "coingecko"), ("00:00", "coingecko"),
            ("00:05", "coingecko"), ("00:05", "coingecko"),
        ]  # fmt: skip
        assert both.gecko.limits.by_month == {"2026-07": 10_000, "2026-08": 4}
        assert not both.gecko.limits.refused


@pytest.mark.parametrize("seed", range(2))
async def test_no_minute_has_more_calls_than_the_plan(seed: int):
    clock, chance = StandingClock(JULY), random.Random(seed)  # noqa: S311
    limits = Limits(clock.now, 30, None)
    rows, plan = MemoryRows(), Plan(30, 100_000)
    gates = [Gate(rows.database(), clock, Provider.COINGECKO, plan) for _ in range(3)]
    passed = 0
    for _ in range(2000):
        clock.move(milliseconds=chance.randrange(1500))
        with suppress(BudgetUsedError, CircuitOpenError):
            await chance.choice(gates).enter(Cost())
            limits.over()
            passed += 1
    assert not limits.refused
    assert passed > 600  # and it is nearly used: 30 in every 61 seconds
