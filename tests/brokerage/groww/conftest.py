import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from pydantic import SecretStr

from app.brokerage.adapters.groww.client import GrowwBroker
from app.brokerage.ports import BrokerAccount, BrokerSession
from app.brokerage.words import BrokerName
from tests.brokerage.patience import TIMEOUTS
from tests.simulators.brokers.groww import GrowwSimulator
from tests.support.clocks import StandingClock


class MarketClock(StandingClock):
    """The time of day is the test's; waiting is real."""

    def monotonic(self) -> float:
        return time.monotonic()


@pytest.fixture
def clock() -> MarketClock:
    return MarketClock(datetime(2026, 11, 23, 4, 30, tzinfo=UTC))  # a Monday, 10:00 in India


@pytest.fixture
async def groww(clock: MarketClock) -> AsyncIterator[GrowwSimulator]:
    async with GrowwSimulator(now=clock.now, limited=False) as simulator:
        yield simulator


@pytest.fixture
async def broker(clock: MarketClock, groww: GrowwSimulator) -> AsyncIterator[GrowwBroker]:
    made = GrowwBroker(clock, instruments_url=groww.instruments_url, timeouts=TIMEOUTS, rates={})
    yield made
    await made.close()


def account_at(simulator: GrowwSimulator, account_id: str = "65f000000000000000000001", **held: str) -> BrokerAccount:
    """With the authenticator's key, unless it is told to hold something else."""
    held = held or simulator.credentials()
    return BrokerAccount(
        account_id=account_id,
        user_id="65f000000000000000000002",
        broker=BrokerName.GROWW,
        base_url=simulator.base_url,
        secrets={name: SecretStr(value) for name, value in held.items()},
    )


@pytest.fixture
def account(groww: GrowwSimulator) -> BrokerAccount:
    return account_at(groww)


@pytest.fixture
async def session(broker: GrowwBroker, account: BrokerAccount) -> BrokerSession:
    return await broker.sign_in(account)
