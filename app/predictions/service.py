"""Predictions on request: what is stored already, at once; what has to be made, soon, or as a job to follow."""

from collections import Counter, OrderedDict
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlencode

import msgspec

from app.core.bus import Bus
from app.core.cache import Cache
from app.core.candles import CandleHistory, CandleSeries, Timeframe
from app.core.clock import Clock
from app.core.errors import NotFoundError, UnavailableError
from app.core.events import JobChanged
from app.core.rate_limit import RateLimiter
from app.core.scheduler import RunState, RunView
from app.predictions.asked import BARS, Asked, check_usable
from app.predictions.horizons import Horizon, candles_of, horizon_text
from app.predictions.hours import TradingHours
from app.predictions.ml.values import Family
from app.predictions.rows import PredictionRows
from app.predictions.service_ports import TRAIN, Runs, Symbols
from app.predictions.wire import encode, prediction_json

PATIENCE: Final = 2.0
"""Seconds until somebody is told to follow the job instead."""
CACHE: Final = "predictions"
"""The group of what is cached."""
MOST_WAITING: Final = 12
"""Trainings under way or waiting in the whole service: a couple of minutes. More are refused."""
_USUAL_SECONDS: Final = 10
"""What a training takes, about."""
_FORGOTTEN: Final = timedelta(hours=1)


class Wanted(NamedTuple):
    """What a client asks for."""

    symbol: str
    timeframe: Timeframe
    model: Family
    horizon: Horizon


class Answer(NamedTuple):
    """A prediction as JSON, or, while it is being made, what to follow."""

    body: bytes
    job: str | None = None
    """The job's path; None if the prediction is there."""


class _UnderWay(NamedTuple):
    """A training that somebody waits for."""

    key: str
    heard: datetime


class _Arguments(msgspec.Struct):
    """Of a run, what it was asked for with."""

    arguments: dict[str, Any]


_decode: Final = msgspec.json.Decoder(_Arguments).decode


class _NotMadeError(Exception):
    """There is no such prediction yet."""


class Predictions:
    """Answers from the cache or the database where the question was answered before, in whichever process; else starts
    the job that answers it, which all who ask the same meanwhile share."""

    def __init__(
        self,
        *,
        candles: CandleHistory,
        rows: PredictionRows,
        hours: TradingHours,
        symbols: Symbols,
        runs: Runs,
        cache: Cache,
        limiter: RateLimiter,
        bus: Bus,
        clock: Clock,
        cache_seconds: int = 900,
        per_minute: int = 10,
        patience: float = PATIENCE,
    ) -> None:
        """`per_minute`: what one account may ask for; `patience`: how many seconds anybody waits for a job."""
        self._candles, self._rows, self._hours, self._symbols = candles, rows, hours, symbols
        self._runs, self._cache, self._limiter, self._clock = runs, cache, limiter, clock
        self._cache_seconds, self._per_minute, self._patience = cache_seconds, per_minute, patience
        self._under_way: OrderedDict[str, _UnderWay] = OrderedDict()
        self._starting: Counter[str] = Counter()
        bus.subscribe(JobChanged, self._on_job)

    def _on_job(self, event: JobChanged) -> None:
        if event.job != TRAIN:
            return
        known = self._under_way.pop(event.run_id, None)
        if not event.finished:
            key = known.key if known else Asked.from_arguments(_decode(event.body).arguments).key
            self._under_way[event.run_id] = _UnderWay(key, self._clock.now())

    def _waiting(self) -> dict[str, _UnderWay]:
        """Trainings under way or waiting, in all processes of the service, as far as this one has heard."""
        while self._under_way:
            run, first = next(iter(self._under_way.items()))
            if self._clock.now() - first.heard <= _FORGOTTEN:
                break
            del self._under_way[run]  # its end was not heard
        return self._under_way

    def health(self) -> dict[str, Any]:
        """How many trainings there are to do."""
        return {"waiting": len(self._waiting())}

    async def generate(self, wanted: Wanted, account: str) -> Answer:
        """A forecast from the newest closed candle, for `account` (its id).

        Raises `RateLimitedError`, `NotFoundError` for an unknown symbol, `InvalidInputError` for a horizon that is not
        possible and for too few candles, and `UnavailableError` where there are no candles to be had, too many
        trainings wait, or this one failed.
        """
        await self._limiter.hit("predictions", account, self._per_minute)
        series = await self._candles.candles(wanted.symbol, wanted.timeframe.value, BARS)
        if not series.close:
            raise NotFoundError(f"There is no closed candle of {series.symbol} yet.")
        bars = candles_of(wanted.horizon, wanted.timeframe, self._a_day(series))
        asked = Asked.of(series, wanted.model, bars)
        if made := await self._made(asked):
            return Answer(made)
        check_usable(series, bars)
        return await self._start(asked, account)

    def _a_day(self, series: CandleSeries) -> int:
        return self._hours.a_day(series, indian=self._symbols.indian(series.symbol))

    async def _made(self, asked: Asked) -> bytes | None:
        async def read() -> bytes:
            row = await self._rows.of(asked.key)
            if row is None:
                raise _NotMadeError
            return prediction_json(row)

        try:
            return await self._cache.get_or_make(CACHE, f"made:{asked.key}", self._cache_seconds, read)
        except _NotMadeError:
            return None

    async def _start(self, asked: Asked, account: str) -> Answer:
        keys = {other.key for other in self._waiting().values()}.union(self._starting)
        count = len(keys)
        if count >= MOST_WAITING and asked.key not in keys:
            raise UnavailableError(
                f"{count} predictions are being made or waiting already; try again in a minute or two.",
                retry_after=count * _USUAL_SECONDS,
            )
        self._starting[asked.key] += 1
        try:
            started = await self._runs.start(TRAIN, asked.arguments(), requested_by=account)
        finally:
            self._starting[asked.key] -= 1
            self._starting = +self._starting
        run = await self._runs.wait(started.id, self._patience)
        if run is None or not run.finished:
            return self._to_follow(asked, started.id, run)
        row = await self._rows.by_id(run.result["prediction_id"]) if run.result else None
        if run.state is not RunState.SUCCEEDED or row is None:
            raise UnavailableError(run.error or "The prediction could not be made.", retry_after=30)
        return Answer(prediction_json(row))

    def _to_follow(self, asked: Asked, run_id: str, run: RunView | None) -> Answer:
        job = f"/api/v1/jobs/{run_id}"
        # All of it: the newest one may be what somebody else asked for, over another horizon.
        which = {"timeframe": asked.timeframe, "model": asked.model, "horizon_bars": asked.horizon}
        query = urlencode({**which, "limit": 1})
        progress = run.progress if run else None
        body = {
            "job_id": run_id,
            "state": run.state if run else RunState.QUEUED,
            "progress_percent": progress.done if progress else 0,
            "doing": progress.note if progress else "",
            "status_url": job,
            "result_url": f"/api/predictions/{quote(asked.symbol, safe='')}?{query}",
            "symbol": asked.symbol,
            "timeframe": asked.timeframe,
            "model_used": asked.model,
            "time_horizon": horizon_text(asked.horizon, Timeframe(asked.timeframe)),
            "detail": "The model is being trained. Follow the job at status_url or on the channel jobs of /ws; then "
            "the prediction is at result_url, and the same request answers it at once.",
        }
        return Answer(encode(body), job)
