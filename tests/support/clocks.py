"""Clocks that tests own, each fills the port `app.core.clock.Clock`; and the minute of the machine's own."""

import time
from datetime import UTC, datetime, timedelta


def wait_for_minute(seconds: float) -> None:
    """Wait until the minute of the clock has so many seconds left, as tests marked `within_a_minute` begin.

    For tests that start a service first, which may take as long on a busy machine.
    """
    left = 60 - time.time() % 60
    if left < seconds:
        time.sleep(left)


class StandingClock:
    """Stands still until it is moved."""

    def __init__(self, moment: datetime | None = None) -> None:
        now = moment or datetime.now(UTC)
        self.moment = now.replace(microsecond=now.microsecond // 1000 * 1000)

    def now(self) -> datetime:
        return self.moment

    def monotonic(self) -> float:
        return self.moment.timestamp()

    def move(self, **amount: float) -> None:
        """By a `timedelta` of these arguments."""
        self.moment += timedelta(**amount)
