"""Looks through candles for what has touched signals while nobody saw a tick."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final

import structlog

from app.core.clock import Clock
from app.core.errors import DomainError
from app.signals.followed import Followed, Touch
from app.signals.ports import PriceBar, PriceHistory
from app.signals.touches import touched_by_bar
from app.signals.user_models import SignalCheckDocument

log = structlog.get_logger(__name__)

AT_ONCE: Final = timedelta(days=7)
"""What one question to the history covers."""
AGAIN: Final = timedelta(minutes=45)
"""How far each look reaches back behind the one before: an outage of the feed is filled in when it is over."""
FAR: Final = timedelta(days=3)
"""And some of them: the first one behind what another process, or an earlier run, has looked at, and then one every
`FAR_EVERY`. After a restart candles are filled in only once looking has begun, and long outages late."""
FAR_EVERY: Final = timedelta(minutes=15)
_NEVER: Final = datetime.min.replace(tzinfo=UTC)
KEEP_EVERY: Final = timedelta(hours=1)
"""How often it is written down until when a symbol was looked at."""


class LookBack:
    """Remembers until when it has looked, by symbol; the database does so for its successor."""

    def __init__(self, *, history: PriceHistory, clock: Clock) -> None:
        self._history, self._clock = history, clock
        self._checked: dict[str, datetime] = {}
        self._kept: dict[str, datetime] = {}
        self._far: dict[str, datetime] = {}
        """When the last far look was, by symbol."""

    async def touches(self, symbol: str, signals: Sequence[Followed]) -> list[Touch]:
        """Which of `signals`, all on `symbol`, its candles have touched since the last look, each by the first of them.

        A candle counts if it began when the signal had its levels already. What the history cannot say now is asked
        again the next time.
        """
        now = self._clock.now()
        far = now - self._far.get(symbol, _NEVER) >= FAR_EVERY
        behind = await self._behind(symbol, far=far)
        open_: dict[Followed, datetime] = {
            signal: max(signal.since, behind) if behind else signal.since for signal in signals
        }
        found: list[Touch] = []
        low = min(open_.values(), default=now)
        while low < now and open_:
            high = min(low + AT_ONCE, now)
            try:
                bars = await self._history.bars(symbol, low, high)
            except DomainError as error:
                log.info("prices of the past are not known now", symbol=symbol, error=type(error).__name__)
                return found
            found += _touched(open_, bars)
            low = high
        await self._keep(symbol, now)
        if far:
            self._far[symbol] = now
        return found

    async def _behind(self, symbol: str, *, far: bool) -> datetime | None:
        """What was looked at before, less what is looked at again; None if it never was."""
        if (checked := self._checked.get(symbol)) is not None:
            return checked - (FAR if far else AGAIN)
        row = await SignalCheckDocument.get_pymongo_collection().find_one({"_id": symbol})
        if row is None:
            return None
        self._kept[symbol] = row["checked_at"]
        stored: datetime = row["checked_at"]
        return stored - FAR

    async def _keep(self, symbol: str, now: datetime) -> None:
        self._checked[symbol] = now
        kept = self._kept.get(symbol)
        if kept is None or now - kept >= KEEP_EVERY:
            row = {"_id": symbol, "schema_version": 1, "checked_at": now}
            await SignalCheckDocument.get_pymongo_collection().replace_one({"_id": symbol}, row, upsert=True)
            self._kept[symbol] = now


def _touched(signals: dict[Followed, datetime], bars: Sequence[PriceBar]) -> list[Touch]:
    """What `bars` end of `signals` (with when each counts from); that is taken out of them."""
    found: list[Touch] = []
    # Most candles touch nothing: two comparisons tell, not two for each signal.
    floor = max((signal.levels.lower for signal in signals), default=Decimal(0))
    ceiling = min((signal.levels.upper for signal in signals), default=Decimal("Infinity"))
    for bar in bars:
        if floor < bar.low and bar.high < ceiling:
            continue
        for signal, since in list(signals.items()):
            outcome = touched_by_bar(signal.levels, bar) if bar.start >= since else None
            if outcome is not None:
                found.append(Touch(signal, outcome))
                del signals[signal]
    return found
