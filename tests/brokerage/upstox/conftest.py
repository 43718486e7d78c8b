import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from pydantic import SecretStr

from app.brokerage.adapters.upstox.client import UpstoxBroker
from app.brokerage.ports import BrokerAccount, BrokerSession
from app.brokerage.words import BrokerName
from tests.brokerage.patience import TIMEOUTS
from tests.simulators.brokers.upstox import UpstoxSimulator
from tests.support.clocks import StandingClock


class MarketClock(StandingClock):
    """The time of day is the test's; waiting is real."""

    def monotonic(self) -> float:
        return time.monotonic()


@pytest.fixture
def clock() -> MarketClock:
    return MarketClock(datetime(2026, 11, 23, 4, 30, tzinfo=UTC))  # a Monday, 10:00 in India


@pytest.fixture
async def upstox(clock: MarketClock) -> AsyncIterator[UpstoxSimulator]:
    async with UpstoxSimulator(now=clock.now, limited=False) as simulator:
        yield simulator


@pytest.fixture
async def broker(clock: MarketClock, upstox: UpstoxSimulator) -> AsyncIterator[UpstoxBroker]:
    made = UpstoxBroker(clock, instruments_url=upstox.instruments_url, timeouts=TIMEOUTS, rates={})
    yield made
    await made.close()


def account_at(simulator: UpstoxSimulator, **changes: str) -> BrokerAccount:
    held = simulator.credentials() | changes
    return BrokerAccount(
        account_id="65f000000000000000000001",
        user_id="65f000000000000000000002",
        broker=BrokerName.UPSTOX,
        base_url=simulator.base_url,
        secrets={name: SecretStr(value) for name, value in held.items()},
    )


@pytest.fixture
def account(upstox: UpstoxSimulator) -> BrokerAccount:
    return account_at(upstox)


@pytest.fixture
async def session(broker: UpstoxBroker, account: BrokerAccount) -> BrokerSession:
    return await broker.sign_in(account)
