"""Makes signals for what is followed, as candles close: the work of the job `signals.generate`.

The calendar says which candles close when, so that this needs no live feed, is done once in all processes, shows among
the jobs, and is caught up after an outage. It is for what Indian exchanges trade.

A provider's newest candle counts as over only when it has told of a later trade, or half an hour after its end: of a
session's last candles there is no later trade. So what was not to be had at once is looked for again, up to 35 minutes
after the candle's end, and what is made but once a day also in the evening: the provider, or the service, may be away.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import structlog

from app.core.candles import Timeframe
from app.core.clock import Clock
from app.core.errors import DomainError
from app.core.market_calendar import IST, MarketCalendar
from app.core.scheduler import Job, Run
from app.signals.analyses import Analyses
from app.signals.generate import SignalGenerator
from app.signals.generated_ports import FollowedSymbols

log = structlog.get_logger(__name__)

NAME: Final = "signals.generate"
EVERY: Final = timedelta(minutes=5)
USUAL: Final = (Timeframe.M15, Timeframe.H1, Timeframe.D1)
AT_ONCE: Final = 4
"""Symbols that candles are asked for at one time."""
PAUSE: Final = 20.0
TRIES: Final = 4
"""How often, and how far apart in seconds, a candle is asked for that the provider does not have yet."""
AGAIN: Final = (timedelta(minutes=5), timedelta(minutes=15), timedelta(minutes=35))
"""How long after the first look at a candle it is looked for again, where there is no signal of it yet."""
EVENING: Final = (timedelta(hours=2), timedelta(hours=5))
"""The same for candles of days and weeks only."""
_NAMED: Final = 20


class SignalsAtClose:
    """Which candles are over at a time, and the signals of these."""

    def __init__(
        self,
        *,
        generator: SignalGenerator,
        analyses: Analyses,
        followed: FollowedSymbols,
        calendar: MarketCalendar,
        clock: Clock,
        timeframes: Sequence[Timeframe] = USUAL,
        pause: float = PAUSE,
    ) -> None:
        self._generator, self._analyses, self._followed = generator, analyses, followed
        self._calendar, self._clock = calendar, clock
        self._timeframes, self._pause = tuple(timeframes), pause
        # What has its signal needs no further look; a process that does not know looks, and finds it stored.
        self._done: dict[tuple[str, Timeframe], datetime] = {}

    def job(self) -> Job:
        """What the scheduler is to know."""
        return Job(NAME, self.work, every=EVERY, skip=self._nothing_closes, timeout=timedelta(minutes=10))

    def _nothing_closes(self, slot: datetime) -> bool:
        return not self.closing(slot) and not self.again(slot)

    def closing(self, slot: datetime) -> dict[Timeframe, datetime]:
        """The timeframes of which a candle ends in the `EVERY` up to `slot`, and when that candle begins."""
        found = {timeframe: self._closing(timeframe, slot) for timeframe in self._timeframes}
        return {timeframe: start for timeframe, start in found.items() if start is not None}

    def again(self, slot: datetime) -> dict[Timeframe, datetime]:
        """The same of candles that ended a while before, and are looked for again at `slot`."""
        found: dict[Timeframe, datetime] = {}
        for after in (*AGAIN, *EVENING):
            for timeframe, start in self.closing(slot - after).items():
                if after in AGAIN or not timeframe.intraday:
                    found.setdefault(timeframe, start)
        return found

    def _closing(self, timeframe: Timeframe, slot: datetime) -> datetime | None:
        session = self._calendar.session_of(slot.astimezone(IST).date())
        if session is None:
            return None
        if timeframe is Timeframe.W1:
            following = self._calendar.next_session(session.day)
            if following.day.isocalendar()[:2] == session.day.isocalendar()[:2]:
                return None
            if not slot - EVERY < session.closes <= slot:
                return None
            # A week begins with its first session.
            monday = session.day - timedelta(days=session.day.weekday())
            return next(self._calendar.sessions(monday, session.day)).opens
        ended = [
            bar.opens for bar in self._calendar.bars_of(session, timeframe.length) if slot - EVERY < bar.closes <= slot
        ]
        return ended[-1] if ended else None

    async def work(self, run: Run) -> Mapping[str, Any]:
        """Make the signals of the candles that ended by the run's slot; asked for by hand: those of now."""
        wanted = self._wanted(run.due)
        counts = {"new": 0, "known": 0, "late": 0}
        failed: dict[str, str] = {}
        turns, done = asyncio.Semaphore(AT_ONCE), 0

        async def make(symbol: str, timeframe: Timeframe, start: datetime | None) -> None:
            nonlocal done
            try:
                counts[await self._make(turns, symbol, timeframe, start)] += 1
            except DomainError as error:
                failed[f"{symbol} {timeframe}"] = error.detail
            done += 1
            await run.progress(done, len(wanted), f"{symbol} {timeframe}")

        async with asyncio.TaskGroup() as group:
            for item in wanted:
                group.create_task(make(*item))
        if failed:
            log.warning("signals could not be made", failed=len(failed), of=len(wanted))
        return {**counts, "failed": len(failed), "reasons": dict(list(failed.items())[:_NAMED])}

    def _wanted(self, slot: datetime | None) -> list[tuple[str, Timeframe, datetime | None]]:
        """Of what, and of the candles that begin when; without a slot the newest of all."""
        symbols = self._followed()
        if slot is None:
            return [(symbol, timeframe, None) for symbol in symbols for timeframe in self._timeframes]
        first = self.closing(slot)
        found: list[tuple[str, Timeframe, datetime | None]] = [
            (symbol, timeframe, start) for symbol in symbols for timeframe, start in first.items()
        ]
        for timeframe, start in self.again(slot).items():
            # Where the next candle has ended, too, its signal is the one that is wanted.
            if timeframe not in first:
                found += [(symbol, timeframe, start) for symbol in symbols if self._lacks(symbol, timeframe, start)]
        return found

    def _lacks(self, symbol: str, timeframe: Timeframe, start: datetime) -> bool:
        done = self._done.get((symbol, timeframe))
        return done is None or done < start

    async def _make(self, turns: asyncio.Semaphore, symbol: str, timeframe: Timeframe, start: datetime | None) -> str:
        """`new`, `known`, or `late` where the provider has no candle that begins at `start` yet."""
        for attempt in range(TRIES):
            if attempt:
                await asyncio.sleep(self._pause)
            async with turns:
                series = await self._analyses.series(symbol, timeframe.value)
                if start is None or series.start[-1] >= start:
                    made = await self._generator.of(series)
                    self._done[symbol, timeframe] = series.start[-1]
                    return "new" if made.new else "known"
        return "late"
