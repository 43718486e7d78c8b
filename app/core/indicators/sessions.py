"""Which bars belong to one session. Pure, and from the bars alone, so that it holds for every exchange."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

NIGHT: Final = timedelta(hours=3)
"""A pause as long as this ends a session."""


def sessions_of(starts: Sequence[datetime]) -> list[int]:
    """The number of each intraday bar's session, from 0; `starts` are aware UTC, the oldest first.

    A session ends with a pause, or, where there is none, at midnight UTC. No exchange of India, Europe or America
    trades then. What is never closed begins a new session there.
    """
    numbers: list[int] = []
    number = 0
    for place, start in enumerate(starts):
        if place:
            before = starts[place - 1]
            number += start - before >= NIGHT or start.date() != before.date()
        numbers.append(number)
    return numbers
