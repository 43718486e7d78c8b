"""Scores predictions whose horizon has passed, by the close of the candle at the horizon. The work of a job."""

import math
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

import structlog

from app.core.candles import CandleHistory, CandleSeries, Timeframe
from app.core.clock import Clock
from app.core.errors import InvalidInputError, NotFoundError, UnavailableError
from app.core.scheduler import Job, JobResult, Run
from app.predictions.hours import TradingHours
from app.predictions.models import PredictionDocument
from app.predictions.rows import Row, adjusted_of
from app.predictions.service_ports import SCORE, Symbols

log = structlog.get_logger(__name__)

EVERY: Final = timedelta(minutes=15)
"""Exchanges close at whole quarters of an hour, so their close is among these."""
AT_ONCE: Final = 500
"""Predictions of one run; of more the next one goes on."""
GIVE_UP: Final = timedelta(days=14)
"""How long after its expected end a candle is waited for: holidays outside India are not known, and providers fail."""
AGAIN: Final = timedelta(hours=1)
"""Between two looks for a candle that did not come when it was expected; the first ones are closer."""
_LAG: Final = timedelta(minutes=10)
"""How late providers know that a candle is over."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MOST_BARS: Final = 5_000


class _Verdict(NamedTuple):
    """What is to be changed in the row of a prediction."""

    kind: str
    """`scored`, `waiting` or `unscored`."""
    fields: Row
    """Without `look_at` nobody looks again."""


class Scoring:
    """Compares what was said with what happened. Whatever happens twice, or in two processes, changes nothing."""

    def __init__(self, *, candles: CandleHistory, hours: TradingHours, symbols: Symbols, clock: Clock) -> None:
        self._candles, self._hours, self._symbols, self._clock = candles, hours, symbols, clock

    def job(self) -> Job:
        """The job by the clock."""
        return Job(SCORE, self.work, every=EVERY, timeout=timedelta(minutes=10))

    async def work(self, run: Run) -> JobResult:
        """Score what is due; gives how many were, wait on, or never will be."""
        rows = PredictionDocument.get_pymongo_collection()
        due = {"look_at": {"$gt": _EPOCH, "$lte": self._clock.now()}}
        found = await rows.find(due).sort("look_at", 1).limit(AT_ONCE).to_list()
        groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
        for row in found:
            groups[row["symbol"], row["timeframe"]].append(row)
        counts = {"scored": 0, "waiting": 0, "unscored": 0}
        for done, ((symbol, timeframe), group) in enumerate(groups.items()):
            await run.progress(done, len(groups), f"{symbol} {timeframe}")
            for row, verdict in zip(group, await self._judged(symbol, Timeframe(timeframe), group), strict=True):
                if await _change(row, verdict):
                    counts[verdict.kind] += 1
        return counts

    async def _judged(self, symbol: str, timeframe: Timeframe, group: Sequence[Row]) -> list[_Verdict]:
        now = self._clock.now()
        oldest = min(row["last_bar"] for row in group)
        bars = min(math.ceil((now - oldest) / timeframe.length) + 10, _MOST_BARS)
        try:
            series = await self._candles.candles(symbol, timeframe.value, bars)
        except UnavailableError as error:
            log.warning("predictions are not scored yet", symbol=symbol, reason=error.detail)
            return [self._later(row, None) for row in group]
        except (NotFoundError, InvalidInputError) as error:
            # Providers say so of what exists, too, on bad days: it has to be gone for a while.
            return [self._later(row, error.detail) for row in group]
        return [self._verdict(row, series) for row in group]

    def _verdict(self, row: Row, series: CandleSeries) -> _Verdict:
        if adjusted_of(row) and not series.adjusted:
            # A split since would look like a fall: the provider that says what it adjusts for answers again.
            return self._later(row, "Only candles that are not adjusted for splits could be had.")
        places = {start: place for place, start in enumerate(series.start)}
        place = places.get(row["last_bar"])
        if place is None:
            reason = "The provider does not have the candle any more that this was made from."
            # Stale candles may end before it.
            return self._later(row, reason if series.start and series.start[0] <= row["last_bar"] else None)
        target = place + row["horizon_bars"]
        if target >= len(series.start):
            return self._later(row, None)
        return _Verdict("scored", {"outcome": self._outcome(row, series, place, target)})

    def _outcome(self, row: Row, series: CandleSeries, place: int, target: int) -> dict[str, Any]:
        # Prices of then may have been adjusted since; what they changed by between the two candles was not.
        moved = math.log(series.close[target] / series.close[place])
        price = float(f"{row['last_close'] * math.exp(moved):.8g}")
        indian = self._symbols.indian(series.symbol)
        ended = self._hours.end_of(series, target, indian=indian)
        still = series.close[target] == series.close[place] or not row["predicted_return"]
        return {
            "price": price,
            "at": min(ended, self._clock.now()),
            "return": moved,
            "error": round(row["predicted_price"] - price, 8),
            "naive_error": round(row["last_close"] - price, 8),
            "hit": None if still else (moved > 0) == (row["predicted_return"] > 0),
            "inside_interval": row["interval"]["low"] <= price <= row["interval"]["high"],
        }

    def _later(self, row: Row, gone: str | None) -> _Verdict:
        """Look again soon, or never: then with the reason, `gone` where something is known to be."""
        now, ends = self._clock.now(), row["horizon_ends_at"]
        if now - ends > GIVE_UP:
            why = gone or "Its candle did not come within two weeks of the expected time."
            return _Verdict("unscored", {"unscored": why})
        wait = _LAG if now - ends < AGAIN else AGAIN
        return _Verdict("waiting", {"look_at": now + wait})


async def _change(row: Row, verdict: _Verdict) -> bool:
    """Write it down, unless somebody else has meanwhile."""
    change: Row = {"$set": verdict.fields}
    if "look_at" not in verdict.fields:
        change["$unset"] = {"look_at": ""}
    seen = {"_id": row["_id"], "look_at": row["look_at"]}
    result = await PredictionDocument.get_pymongo_collection().update_one(seen, change)
    return bool(result.modified_count)
