"""How many requests about orders an account may send: pure counting.

Of each limit a share is left to what ends or reduces a position, and to cancellations: entries may not use it. A
process can be given a part of an account's limits for a while, to count in its own memory: that much is counted as used
for all others until it is given back, or has ended.
"""

import math
from datetime import datetime
from typing import Final

import msgspec

from app.brokerage.words import Capabilities
from app.core.market_calendar import IST

PER_SECOND, PER_MINUTE, PER_DAY = 10, 400, 5000
"""What exchanges and regulators allow an account, whatever its broker would."""
KEPT: Final = {"second": 0.2, "minute": 0.1, "day": 0.02}
"""Shares that entries leave to exits; one request at least."""
SLACK_MS: Final = 100
"""Requests bunch up on their way: windows are counted this much longer."""
PART_LASTS: Final = 900_000
"""Milliseconds for which a process is given a part of an account's limits."""
MARGIN_MS: Final = 2000
"""A part is not used this shortly before its end: clocks differ."""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """What one process may send without counting it here."""

    holder: str
    second: int
    """In any second."""
    requests: int
    """In all; they count as of the last minute while it lasts, and are counted in the day's already."""
    day: str
    until: int


class Used(msgspec.Struct, frozen=True, kw_only=True):
    """What an account has used. Times are milliseconds and seconds since the epoch."""

    recent: tuple[int, ...] = ()
    """When requests of the last second were sent."""
    seconds: tuple[tuple[int, int], ...] = ()
    """Requests of the last minute: each second and how many."""
    day: str = ""
    today: int = 0
    held_until: int = 0
    """The broker wants nothing before this."""
    parts: tuple[Part, ...] = ()
    """What processes were given."""

    def in_second(self, ms: int) -> int:
        """Requests of the last second, and those that others may be sending."""
        return len(self.recent) + sum(part.second for part in self.parts if part.until + 1000 + SLACK_MS > ms)

    @property
    def in_minute(self) -> int:
        """The same of the last minute."""
        return sum(count for _, count in self.seconds) + sum(part.requests for part in self.parts)


class Allowance(msgspec.Struct, frozen=True, kw_only=True):
    """What an account may use."""

    second: int = PER_SECOND
    minute: int = PER_MINUTE
    day: int = PER_DAY

    @classmethod
    def of(cls, capabilities: Capabilities) -> "Allowance":
        """The stricter of ours and the broker's."""
        return cls(
            second=min(PER_SECOND, capabilities.orders_per_second),
            minute=min(PER_MINUTE, capabilities.orders_per_minute),
            day=min(PER_DAY, capabilities.orders_per_day),
        )

    def wait(self, used: Used, now: datetime, *, leaves: bool) -> tuple[str, int] | None:
        """Why a request has to wait (`second`, `minute`, `day`, `held`) and how many ms; None if it may go now.

        `leaves`: it ends or reduces something, and may use all of the limits.
        """
        ms = ms_of(now)
        used = at(used, now)
        if used.held_until > ms:
            return "held", used.held_until - ms
        if used.today >= self._limit("day", leaves=leaves):
            return "day", _ms_to_midnight(now)
        minute, limit = used.in_minute, self._limit("minute", leaves=leaves)
        if minute >= limit:
            return "minute", _freed(used.seconds, minute - limit + 1, ms) - ms
        second, limit = used.in_second(ms), self._limit("second", leaves=leaves)
        if second >= limit:
            first = second - limit  # of the recent ones: when it does not count any more, there is room
            wait = used.recent[first] + 1000 + SLACK_MS - ms if first < len(used.recent) else 1000
            return "second", max(wait, 1)
        return None

    def part(self, used: Used, now: datetime, holder: str) -> Part | None:
        """What another process can be given. All parts together are half of what entries may send in a second."""
        ms = ms_of(now)
        second = self._spare("second", used.in_second(ms), sum(part.second for part in used.parts), 2)
        requests = self._spare("minute", used.in_minute, sum(part.requests for part in used.parts), 8)
        requests = min(requests, (self._limit("day", leaves=False) - used.today) // 8)
        if second < 1 or requests < 1:
            return None
        return Part(holder=holder, second=second, requests=requests, day=used.day, until=ms + PART_LASTS)

    def _spare(self, name: str, used: int, given: int, share: int) -> int:
        """Half of what is left of the share that is for parts, as far as it is free."""
        limit = self._limit(name, leaves=False)
        return min((limit // share - given + 1) // 2, limit - used)

    def _limit(self, name: str, *, leaves: bool) -> int:
        whole: int = getattr(self, name)
        # Of a single one nothing can be kept.
        return whole if leaves or whole < 2 else whole - max(1, round(whole * KEPT[name]))


def at(used: Used, now: datetime) -> Used:
    """As it stands `now`: what is older than its window does not count."""
    ms = ms_of(now)
    day = day_of(now)
    # Never back: another process's clock may be a little ahead.
    turned = day > used.day
    return msgspec.structs.replace(
        used,
        recent=tuple(each for each in used.recent if each > ms - 1000 - SLACK_MS),
        seconds=tuple(each for each in used.seconds if each[0] > ms // 1000 - 61),
        parts=tuple(part for part in used.parts if part.until > ms - 61_000),
        day=day if turned else used.day,
        today=0 if turned else used.today,
    )


def take(used: Used, now: datetime) -> Used:
    """With a request counted."""
    used, ms = at(used, now), ms_of(now)
    seconds = dict(used.seconds)
    seconds[ms // 1000] = seconds.get(ms // 1000, 0) + 1
    return msgspec.structs.replace(
        used,
        recent=tuple(sorted((*used.recent, ms))),
        seconds=tuple(sorted(seconds.items())),
        today=used.today + 1,
    )


def give(used: Used, part: Part) -> Used:
    """With a part that somebody was given."""
    return msgspec.structs.replace(used, today=used.today + part.requests, parts=(*used.parts, part))


def given_back(used: Used, part: Part, sent: list[int], now: datetime) -> Used:
    """Without that part: what was `sent` (ms) counts, and nothing else."""
    used = at(used, now)
    if part not in used.parts:
        return used
    seconds = dict(used.seconds)
    for each in sent:
        seconds[each // 1000] = seconds.get(each // 1000, 0) + 1
    unsent = part.requests - len(sent) if part.day == used.day else 0
    back = msgspec.structs.replace(
        used,
        recent=tuple(sorted((*used.recent, *sent))),
        seconds=tuple(sorted(seconds.items())),
        today=used.today - unsent,
        parts=tuple(each for each in used.parts if each != part),
    )
    return at(back, now)


def day_of(now: datetime) -> str:
    """The day in India."""
    return f"{now.astimezone(IST).date()}"


def ms_of(moment: datetime) -> int:
    """Milliseconds since the epoch."""
    return math.floor(moment.timestamp() * 1000)


def _freed(seconds: tuple[tuple[int, int], ...], needed: int, now: int) -> int:
    """When (ms) `needed` requests of the minute no longer count."""
    for second, count in seconds:
        needed -= count
        if needed <= 0:
            return (second + 61) * 1000
    return (seconds[-1][0] + 61) * 1000 if seconds else now + 1000


def _ms_to_midnight(now: datetime) -> int:
    local = now.astimezone(IST)
    return 86_400_000 - ((local.hour * 60 + local.minute) * 60 + local.second) * 1000


class Own:
    """The part of an account's limits that this process has, and what it sent of it."""

    __slots__ = ("part", "sent", "trust")

    def __init__(self, part: Part, trust: int) -> None:
        self.part, self.trust = part, trust
        self.sent: list[int] = []

    def spend(self, now: datetime) -> bool:
        """Count a request, if it may go now."""
        part, ms = self.part, ms_of(now)
        if part.day != day_of(now) or ms >= part.until - MARGIN_MS or len(self.sent) >= part.requests:
            return False
        if sum(each > ms - 1000 - SLACK_MS for each in self.sent[-part.second :]) >= part.second:
            return False
        self.sent.append(ms)
        return True
