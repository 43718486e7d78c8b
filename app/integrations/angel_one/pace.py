"""Keeps requests within a vendor's rates."""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import TypeAlias

from app.core.clock import Clock

Rates: TypeAlias = Sequence[tuple[int, float]]
"""So many requests in so many seconds."""


class Pace:
    """Makes callers wait so that they keep to a rate, in the order in which they came."""

    def __init__(self, clock: Clock, rates: Rates) -> None:
        self._clock, self._rates = clock, rates
        self._times: deque[float] = deque(maxlen=max((most for most, _ in rates), default=0))
        self._lock = asyncio.Lock()

    async def turn(self) -> None:
        """Wait until one more request is within the rates."""
        async with self._lock:
            await asyncio.sleep(self._wait())
            self._times.append(self._clock.monotonic())

    def _wait(self) -> float:
        now = self._clock.monotonic()
        waits = [self._times[-most] + span - now for most, span in self._rates if len(self._times) >= most]
        return max(waits, default=0.0)
