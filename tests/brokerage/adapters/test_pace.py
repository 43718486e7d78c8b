"""Callers keep to a rate in the order in which they came, and are refused when the wait is long."""

import asyncio
import time

import pytest

from app.brokerage.adapters import pace as module
from app.brokerage.adapters.pace import AccountPace
from app.brokerage.errors import BrokerRateLimitedError
from app.core.clock import SystemClock
from tests.support.clocks import StandingClock


def _pace(*rates: tuple[int, float], longest: float = 5.0) -> AccountPace:
    return AccountPace("Test Broker", SystemClock(), {"read": rates}, longest=longest)


async def test_the_rate_is_kept_however_many_come_at_once():
    pace, began = _pace((2, 0.2)), time.monotonic()

    async def one() -> float:
        await pace.turn("a", "read")
        return time.monotonic()

    # From the beginning: one that is woken late, or after the next, says nothing of when it might have gone.
    for number, moment in enumerate(await asyncio.gather(*(one() for _ in range(6)))):
        assert moment - began >= number // 2 * 0.2 - 0.01


async def test_accounts_and_kinds_do_not_slow_each_other():
    pace = _pace((1, 60.0))
    async with asyncio.timeout(30):
        for account in "abc":
            await pace.turn(account, "read")
        for _ in range(5):
            await pace.turn("a", "free")


async def test_who_would_wait_too_long_is_told_how_long():
    pace = AccountPace("Test Broker", StandingClock(), {"read": ((1, 30.0),)}, longest=5.0)
    await pace.turn("a", "read")
    with pytest.raises(BrokerRateLimitedError, match="Try again in 30 s") as caught:
        await pace.turn("a", "read")
    assert caught.value.retry_after == pytest.approx(30)
    assert caught.value.headers["Retry-After"] == "30"


async def test_every_rate_counts():
    pace, began = _pace((10, 0.05), (3, 0.3)), time.monotonic()
    for _ in range(4):
        await pace.turn("a", "read")
    assert time.monotonic() - began >= 0.29


async def test_accounts_that_are_gone_are_forgotten():
    pace = _pace((1, 0.0))
    for number in range(module._ACCOUNTS + 50):
        await pace.turn(str(number), "read")
    assert len(pace._taken) == module._ACCOUNTS
