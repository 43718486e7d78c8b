"""Timeouts that no machine is too slow for, and short ones for the answers that never come."""

from collections.abc import Iterator
from contextlib import contextmanager

from app.brokerage.adapters.http import Timeouts

SHORT = 0.5


class Patience(Timeouts):
    """Half a minute, except within `hurried()`: a test that waits for a timeout should not wait that long."""

    short = False

    @contextmanager
    def hurried(self, *, needed: bool = True) -> Iterator[None]:
        """Requests that begin now are given up soon. Around those alone that stay without an answer."""
        self.short = needed
        try:
            yield
        finally:
            self.short = False

    @property
    def whole(self) -> float:  # type: ignore[override]
        return SHORT if self.short else self[2]

    @property
    def file(self) -> float:  # type: ignore[override]
        return SHORT if self.short else self[3]


TIMEOUTS = Patience(connect=30.0, read=30.0, whole=30.0, file=50.0)
"""Of the adapters under test here, one for a whole process: its tests run one after the other."""
