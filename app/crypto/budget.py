"""How many calls a provider's plan allows, and how many were made. Pure: the count is a value, the time is given.

Calls are counted before they are made, and stay counted when they fail: that is how the providers count. A month is a
calendar month of UTC. CoinMarketCap's months are credits, of which a large call takes several.
"""

from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from app.crypto.ports import Cost

MINUTE: Final = timedelta(seconds=60)
# One process's clock may be a little behind another's: a window of a minute has to hold on either.
_SLACK: Final = timedelta(seconds=1)
MINUTE_KEPT: Final = 2
"""Calls of each minute that are kept for the schedule, as far as the plan has so many: a sync, and one beside it."""
SHARE_KEPT: Final = 0.9
"""Of what is left of a small plan, at most this share (by the time that is left) is kept for the schedule."""


class Used(msgspec.Struct, frozen=True, kw_only=True):
    """What was used of a plan."""

    month: str = ""
    """`2026-11`."""
    credits: int = 0
    """In that month."""
    recent: tuple[datetime, ...] = ()
    """When calls of the last minute were made."""
    day: str = ""
    """`2026-11-22`: of the newest call about categories."""
    category_calls: int = 0
    """On that day."""
    all_used: bool = False
    """The provider says that the month is used up, whatever we counted."""

    def at(self, now: datetime) -> "Used":
        """As it stands `now`: another month begins at nothing, and calls older than a minute do not count."""
        recent = tuple(moment for moment in self.recent if moment > now - MINUTE - _SLACK)
        month = _month(now)
        # Never back: a clock that is a little behind at midnight must not find last month's count, or none.
        if month <= self.month:
            return msgspec.structs.replace(self, recent=recent)
        return Used(month=month, recent=recent, day=self.day, category_calls=self.category_calls)


class Plan(msgspec.Struct, frozen=True):
    """What a plan allows."""

    calls_per_minute: int
    credits_per_month: int
    scheduled_per_day: int = 0
    """What the periodic syncs need a day: calls on demand leave them that much."""
    category_calls_per_day: int | None = None
    """Calls about categories; None: as many as the rest allows."""

    def wait(self, used: Used, now: datetime, cost: Cost, *, spare: bool) -> tuple[str, timedelta] | None:
        """Why a call has to wait, and how long; None if it may go now.

        The words: `month`, `kept for the schedule`, `categories of the day` and `minute`.
        `spare`: the call is on demand, and leaves alone what the schedule needs, of this minute and for the rest of the
        month.
        """
        left = self.credits_per_month - used.credits
        month_ends = next_month(now)
        if used.all_used or cost.credits > left:
            return "month", month_ends - now
        if spare and cost.credits > left - self._kept(now, month_ends):
            return "kept for the schedule", timedelta(hours=1)
        if cost.category and self.category_calls_per_day is not None:
            # Never back, as with months: a clock that is a little behind at midnight has the later day's count.
            made = used.category_calls if _day(now) <= used.day else 0
            if made + cost.calls > self.category_calls_per_day:
                return "categories of the day", next_day(now) - now
        allowed = self.calls_per_minute
        if spare and self.scheduled_per_day:
            allowed -= min(MINUTE_KEPT, max(allowed - cost.calls, 0))
        if len(used.recent) + cost.calls > allowed:
            freed = len(used.recent) + cost.calls - allowed
            last = sorted(used.recent)[min(freed, len(used.recent)) - 1] if used.recent else now
            return "minute", max(last + MINUTE + _SLACK - now, timedelta(seconds=1))
        return None

    def take(self, used: Used, now: datetime, cost: Cost) -> Used:
        """With the call counted."""
        counted = msgspec.structs.replace(
            used, credits=used.credits + cost.credits, recent=(*used.recent, *(now,) * cost.calls)
        )
        if not cost.category:
            return counted
        day = max(used.day, _day(now))
        made = used.category_calls if day == used.day else 0
        return msgspec.structs.replace(counted, day=day, category_calls=made + cost.calls)

    def _kept(self, now: datetime, month_ends: datetime) -> float:
        begin = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        ahead = month_ends - now
        fair = self.credits_per_month * (ahead / (month_ends - begin)) * SHARE_KEPT
        return min(self.scheduled_per_day * (ahead / timedelta(days=1)), fair)


def next_day(now: datetime) -> datetime:
    """When the next day of UTC begins."""
    return now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)


def next_month(now: datetime) -> datetime:
    """When the next month begins."""
    return datetime(now.year + now.month // 12, now.month % 12 + 1, 1, tzinfo=UTC)


def _month(now: datetime) -> str:
    return f"{now.astimezone(UTC):%Y-%m}"


def _day(now: datetime) -> str:
    return f"{now.astimezone(UTC):%Y-%m-%d}"
