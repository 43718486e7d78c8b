"""How much of the processor live prices may take when many clients listen.

A message to 500 clients is 500 writes to sockets, about 20 µs each. As long as they fit the budget every message goes
out at once; beyond it each symbol waits for its turn and only its newest message is sent (conflated), so that the
stream's price is bounded while every client still sees every symbol move.
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from app.core.clock import Clock
from app.core.hub import Hub
from app.core.outbox import Channel

WRITE_SECONDS: Final = 20e-6
"""What one message to one client costs: measured with uvicorn's sockets on one core."""
BUDGET: Final = 0.2
"""Of one core, that a process spends on writing live prices."""
CEILING: Final = 0.5
"""And where even one message per symbol and second does not fit into that."""
PATIENCE_SECONDS: Final = 1.0
"""The longest that a symbol waits for its turn, as far as the ceiling allows."""
BURST_SECONDS: Final = 0.05
"""Of unused budget that may be spent at once."""
TELL_SECONDS: Final = 1.0
"""How often clients are told of what was left out."""
_SHORTEST_WAIT: Final = 0.001


class Paced(NamedTuple):
    """One message for the hub."""

    channel: Channel
    key: str
    """Of two messages with the same key only the newer one is worth sending."""
    symbol: str
    seq: int
    body: Any
    """JSON, or what the pacer's `encode` makes JSON of when it is sent."""


class Pacer:
    """Hands messages to the hub at once, or the newest of each key a little later. In the event loop's thread only."""

    def __init__(
        self, hub: Hub, clock: Clock, encode: Callable[[Any], bytes] = bytes, *, budget: float = BUDGET
    ) -> None:
        """`budget`: of one core."""
        self.conflated = 0
        """Messages that a newer one took the place of, since the start."""
        self._hub, self._clock, self._encode = hub, clock, encode
        self._rate = budget / WRITE_SECONDS
        self._ceiling = self._rate * CEILING / BUDGET
        self._most = self._rate * BURST_SECONDS
        # Writes that are paid for; below zero: a message to many clients is sent whole and paid for afterwards.
        self._credit = self._most
        self._counted = clock.monotonic()
        self._waiting: OrderedDict[tuple[Channel, str], tuple[float, Paced]] = OrderedDict()
        self._left_out: Counter[tuple[Channel, str]] = Counter()
        self._told = self._counted
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """Messages that wait for their turn: one per key at most."""
        return len(self._waiting)

    def offer(self, message: Paced, *, now: bool = False) -> None:
        """Send it as soon as the budget allows; `now`: whatever the budget says, and never replaced by a newer one."""
        slot = (message.channel, message.key)
        before = self._waiting.get(slot)
        if before is not None:
            self.conflated += 1
            self._left_out[message.channel, message.symbol] += 1
            if now:
                del self._waiting[slot]
            else:  # it keeps its place in line: a busy symbol can neither overtake nor be starved
                self._waiting[slot] = (before[0], message)
                return
        if not self._hub.listeners(message.channel, message.symbol):
            return
        self._earn()
        if now or (self._credit > 0 and not self._waiting):
            self._send(message)
        else:
            self._waiting[slot] = (self._counted, message)
            self._wake()

    def close(self) -> None:
        """Forget what waits."""
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _earn(self) -> None:
        moment = self._clock.monotonic()
        late = bool(self._waiting) and moment - next(iter(self._waiting.values()))[0] > PATIENCE_SECONDS
        earned = max(moment - self._counted, 0) * (self._ceiling if late else self._rate)
        self._credit = min(self._credit + earned, self._most)
        self._counted = moment

    def _send(self, message: Paced) -> None:
        body = message.body if isinstance(message.body, bytes) else self._encode(message.body)
        if self._left_out and self._counted - self._told >= TELL_SECONDS:
            self._tell()
        self._credit -= self._hub.publish(
            message.channel, body, seq=message.seq, key=message.key, symbol=message.symbol
        )

    def _tell(self) -> None:
        self._told = self._counted
        for (channel, symbol), count in self._left_out.items():
            self._hub.skip(channel, symbol, count)
            self._credit -= self._hub.listeners(channel, symbol) / max(len(self._left_out), 1)
        self._left_out.clear()

    def _wake(self) -> None:
        if self._timer is None:
            # Until the debt is paid, with a little left for the next message.
            delay = max(_SHORTEST_WAIT, (1 - self._credit) / self._rate)
            self._timer = asyncio.get_running_loop().call_later(min(delay, PATIENCE_SECONDS), self._drain)

    def _drain(self) -> None:
        self._timer = None
        self._earn()
        while self._waiting and self._credit > 0:
            _, (_, message) = self._waiting.popitem(last=False)
            self._send(message)
        if self._waiting:
            self._wake()
