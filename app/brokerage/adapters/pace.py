"""Keeps what one process asks of a broker within the broker's rates, per account and kind of request.

Only for what reads and signs in: orders have a budget of their own that all processes share. Several processes may
together still be too fast; then the broker's own 429 is what tells.
"""

import asyncio
import math
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

from app.brokerage.errors import BrokerRateLimitedError
from app.core.clock import Clock

Rates: TypeAlias = Sequence[tuple[int, float]]
"""So many requests in so many seconds."""
_ACCOUNTS: Final = 10_000
"""So many accounts and kinds are remembered; those asked for longest ago are forgotten."""


class AccountPace:
    """Makes callers wait for their turn, in the order in which they came."""

    def __init__(self, label: str, clock: Clock, rates: Mapping[str, Rates], *, longest: float = 5.0) -> None:
        """`rates`: by kind of request; kinds without are free. `longest`: seconds; who would wait longer is refused."""
        self._label, self._clock, self._rates, self._longest = label, clock, rates, longest
        self._taken: OrderedDict[tuple[str, str], deque[float]] = OrderedDict()

    async def turn(self, account: str, kind: str) -> None:
        """Wait until one more request of `kind` is within the rates. Raises `BrokerRateLimitedError`."""
        rates = self._rates.get(kind)
        if not rates:
            return
        taken = self._of(account, kind, rates)
        now = self._clock.monotonic()
        # The turn is taken before the wait: who comes next waits for the one after.
        at = max([now, *(taken[-most] + span for most, span in rates if len(taken) >= most)])
        if at - now > self._longest:
            raise BrokerRateLimitedError(
                f"{self._label} takes no more of these requests now. Try again in {math.ceil(at - now)} s.",
                retry_after=at - now,
            )
        taken.append(at)
        if at > now:
            await asyncio.sleep(at - now)

    def _of(self, account: str, kind: str, rates: Rates) -> deque[float]:
        key = (account, kind)
        taken = self._taken.pop(key, None) or deque(maxlen=max(most for most, _ in rates))
        self._taken[key] = taken
        while len(self._taken) > _ACCOUNTS:
            self._taken.popitem(last=False)
        return taken
