"""Clocks that tests own; each fills the port `app.core.clock.Clock`."""

from datetime import UTC, datetime, timedelta


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
