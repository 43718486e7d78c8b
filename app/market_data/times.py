"""Unique times: each tick of a symbol gets a whole millisecond of its own, and a repeat is told from a new tick.

The exchange's clock is coarse (indices come with whole seconds), so different ticks share a time; each takes the next
free millisecond. What is remembered is bounded, and nothing after a restart: the unique index on
`(symbol, received_at)` and the ids of rows, which are made of the digests, say the rest (see `sink`).
"""

from collections import deque
from typing import Final

MOST_EACH: Final = 4_096
MOST: Final = 131_072
"""Ticks remembered of one symbol, and of all together (about 200 bytes each)."""
LEAST_EACH: Final = 16


class _Taken:
    """What is taken of one symbol."""

    __slots__ = ("after", "by_digest", "order")

    def __init__(self) -> None:
        self.by_digest: dict[int, int] = {}
        # From a millisecond that is taken to a later one that may be free; chains are shortened as they are walked.
        self.after: dict[int, int] = {}
        self.order: deque[int] = deque()


class UniqueTimes:
    """Places ticks on milliseconds. Digests tell everything about a tick, its exchange time too."""

    def __init__(self, *, most_each: int = MOST_EACH, most: int = MOST) -> None:
        self._most_each, self._most = most_each, most
        self._each = most_each
        self._symbols: dict[str, _Taken] = {}

    def __len__(self) -> int:
        return sum(len(taken.order) for taken in self._symbols.values())

    def place(self, symbol: str, exchange_ms: int, digest: int) -> int | None:
        """The first millisecond from `exchange_ms` on that no remembered tick of `symbol` has; None for a repeat."""
        taken = self._symbols.get(symbol)
        if taken is None:
            taken = self._learn(symbol)
        if digest in taken.by_digest:
            return None
        after = taken.after
        ms = exchange_ms if exchange_ms not in after else _first_free(after, exchange_ms)
        after[ms] = ms + 1
        taken.by_digest[digest] = ms
        taken.order.append(digest)
        while len(taken.order) > self._each:
            del after[taken.by_digest.pop(taken.order.popleft())]
        return ms

    def _learn(self, symbol: str) -> _Taken:
        taken = self._symbols[symbol] = _Taken()
        # More symbols, fewer ticks of each: those that have more let go of them when their next one comes.
        self._each = max(LEAST_EACH, min(self._most_each, self._most // len(self._symbols)))
        return taken


def _first_free(after: dict[int, int], ms: int) -> int:
    """Follow the chain from `ms`, which is taken, to its end, and let all of it point there."""
    path = []
    while (following := after.get(ms)) is not None:
        path.append(ms)
        ms = following
    for step in path:
        after[step] = ms
    return ms
