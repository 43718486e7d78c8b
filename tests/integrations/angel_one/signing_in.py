"""Sessions of the service with the simulator."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import SecretStr

from app.core.clock import SystemClock
from app.integrations.angel_one.candles import IST
from app.integrations.angel_one.credentials import Credentials
from app.integrations.angel_one.session import AngelOneSession
from tests.simulators.angel_one import AngelOneSimulator
from tests.simulators.angel_one.rest import LOGIN, REFRESH
from tests.support.clocks import StandingClock

MORNING = datetime(2026, 11, 20, 9, 0, tzinfo=IST)
"""A Friday."""


@asynccontextmanager
async def at(
    moment: datetime = MORNING, **options: timedelta
) -> AsyncIterator[tuple[AngelOneSimulator, StandingClock]]:
    """A simulator by the same clock as ours."""
    clock = StandingClock(moment.astimezone(UTC))
    async with AngelOneSimulator(now=clock.now, rates={}, **options) as simulator:
        yield simulator, clock


def credentials(simulator: AngelOneSimulator, **changes: str) -> Credentials:
    account = simulator.account
    right = {
        "api_key": account.api_key,
        "client_id": account.client_code,
        "password": account.pin,
        "totp_key": account.totp_secret,
    }
    return Credentials(**{name: SecretStr(value) for name, value in (right | changes).items()})


@asynccontextmanager
async def session_of(
    simulator: AngelOneSimulator, *, account: Credentials | None = None, **options: Any
) -> AsyncIterator[AngelOneSession]:
    options = {"clock": SystemClock(), "base_url": simulator.rest_url, "timeout": (30.0, 30.0), **options}
    session = AngelOneSession(account or credentials(simulator), **options)
    try:
        yield session
    finally:
        await session.close()


def asked(simulator: AngelOneSimulator, path: str) -> int:
    """How many requests the simulator got for a path."""
    return sum(request.path == path for request in simulator.rest.requests)


def sign_ins(simulator: AngelOneSimulator) -> tuple[int, int]:
    """Sign-ins and refreshes that were tried."""
    return asked(simulator, LOGIN), asked(simulator, REFRESH)
