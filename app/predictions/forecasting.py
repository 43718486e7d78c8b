"""Makes predictions: by a model that is still good, or by one trained now. The work of the job `predictions.train`."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Final, NamedTuple

import structlog
from msgspec.structs import replace

from app.core.cancelling import end
from app.core.candles import CandleHistory, CandleSeries
from app.core.clock import Clock, from_micros
from app.core.errors import InvalidInputError, UnavailableError
from app.core.scheduler import Job, JobResult, Run
from app.predictions.asked import BARS, Asked, check_usable, request_of
from app.predictions.hours import TradingHours
from app.predictions.ml.errors import (
    DeadlineExceededError,
    InvalidSeriesError,
    PredictionError,
    StaleModelError,
    TooFewBarsError,
    UntrustedModelError,
)
from app.predictions.ml.values import Evaluation, Family, Forecast, TrainRequest, TrainResult
from app.predictions.ports import Trainer, WorkerLostError
from app.predictions.rows import PredictionRows, Row
from app.predictions.service_ports import TRAIN, Symbols
from app.predictions.stored_models import StoredModels

log = structlog.get_logger(__name__)

GROUP: Final = "predictions"
_AIR: Final = timedelta(minutes=8)
"""What a run may take beyond its training: the start of a process, and of another, and the turns of others before."""


class _Given(NamedTuple):
    """What the work of one run goes by."""

    asked: Asked
    series: CandleSeries
    request: TrainRequest

    def model_key(self, model: Family) -> str:
        """Names the model: what was learnt from adjusted candles says nothing of others, and neither takes the other's
        place."""
        key = self.asked._replace(model=model).series_key
        return key if self.series.adjusted else f"{key}|unadjusted"


class Forecaster:
    """Fills the database with predictions; nobody else writes them."""

    def __init__(
        self,
        *,
        candles: CandleHistory,
        trainer: Trainer,
        rows: PredictionRows,
        models: StoredModels,
        hours: TradingHours,
        symbols: Symbols,
        clock: Clock,
        deadline_seconds: float,
    ) -> None:
        """`deadline_seconds`: what one training may take."""
        self._candles, self._trainer, self._rows, self._models = candles, trainer, rows, models
        self._hours, self._symbols, self._clock = hours, symbols, clock
        self._deadline = deadline_seconds

    def job(self, *, one_at_a_time: bool) -> Job:
        """The job. `one_at_a_time`: in all processes of the service, because they share a machine's cores."""
        timeout = 2 * timedelta(seconds=self._deadline) + _AIR
        return Job(TRAIN, self.work, timeout=timeout, group=GROUP if one_at_a_time else None)

    async def work(self, run: Run) -> JobResult:
        """Answer what the run's arguments ask: about its candle, or about the newest one, if there is a newer by now.

        Raises what `CandleHistory` raises, `InvalidInputError` for candles that nothing can be learnt from, and
        `UnavailableError` when nobody can train now.
        """
        asked = Asked.from_arguments(run.arguments)
        row = await self._rows.of(asked.key)
        if row is None:
            series = await self._candles.candles(asked.symbol, asked.timeframe, BARS)
            asked = Asked.of(series, asked.model, asked.horizon)
            row = await self._rows.of(asked.key) or await self._made(asked, series, run)
        return {
            "prediction_id": str(row["_id"]),
            "symbol": row["symbol"],
            "timeframe": row["timeframe"],
            "model_used": row["model_used"],
            "time_horizon": row["time_horizon"],
            "predicted_price": row["predicted_price"],
            "verdict": row["evaluation"]["verdict"],
            "trained": not row["model"]["reused"],
        }

    async def _made(self, asked: Asked, series: CandleSeries, run: Run) -> Row:
        check_usable(series, asked.horizon)
        given = _Given(asked, series, request_of(series, asked.model, asked.horizon, self._deadline))
        try:
            return await self._reused(given) or await self._trained(given, run)
        except (TooFewBarsError, InvalidSeriesError) as error:
            raise InvalidInputError(str(error)) from None
        except DeadlineExceededError as error:
            raise UnavailableError(str(error), retry_after=60) from None
        except WorkerLostError as error:
            raise UnavailableError(error.reason, retry_after=60) from None
        except PredictionError as error:
            log.warning("a prediction was refused", key=asked.key, code=error.code)
            raise UnavailableError("The models could not be used. Try again in a minute.", retry_after=60) from None

    async def _reused(self, given: _Given) -> Row | None:
        key = given.model_key(given.asked.model)
        kept = await self._models.of(key, given.series)
        if kept is None:
            return None
        model, blob = kept
        try:
            made = await self._trainer.predict(blob, given.request)
        except (StaleModelError, UntrustedModelError) as error:
            log.info("a stored model is not used any more", key=key, reason=error.code)
            return None
        await self._models.used(key)
        about = {"trained_through": model["trained_through"], "trained_at": model["trained_at"], "reused": True}
        return await self._add(given, made.model, made.forecast, made.evaluation, about)

    async def _trained(self, given: _Given, run: Run) -> Row:
        results = await _telling(run, lambda listener: self._trainer.train(given.request, listener))
        row: Row | None = None
        for result in results:  # those of an ensemble before itself
            row = await self._keep(given, result)
        if row is None:
            raise UnavailableError("The training gave nothing. Try again in a minute.", retry_after=60)
        return row

    async def _keep(self, given: _Given, result: TrainResult) -> Row:
        await self._models.keep(given.model_key(result.model), result)
        through = from_micros(result.trained_through * 1_000_000)
        about = {"trained_through": through, "trained_at": self._clock.now(), "reused": False}
        return await self._add(given, result.model, result.forecast, result.evaluation, about)

    async def _add(self, given: _Given, family: Family, forecast: Forecast, evaluation: Evaluation, model: Row) -> Row:
        asked, series = given.asked._replace(model=family), given.series
        indian = self._symbols.indian(series.symbol)
        ends = self._hours.following(series, asked.horizon, indian=indian)[-1].end
        neat = replace(forecast, **{name: _neat(getattr(forecast, name)) for name in _ROUNDED})
        return await self._rows.add(asked.key, series, neat, evaluation, ends, {**model, "family": family})


_ROUNDED: Final = ("predicted_price", "interval_low", "interval_high", "last_close")


def _neat(price: float) -> float:
    """Without the digits that are rounding."""
    return float(f"{price:.8g}")


Listener = Callable[[float, str], None]


async def _telling(run: Run, train: Callable[[Listener], Awaitable[list[TrainResult]]]) -> list[TrainResult]:
    """What `train` gives; meanwhile the run tells how far it is, in per cent."""
    news: dict[str, Any] = {}
    changed = asyncio.Event()

    def listener(share: float, doing: str) -> None:
        news.update(done=int(100 * share), note=doing)
        changed.set()

    async def tell() -> None:
        while True:
            await changed.wait()
            changed.clear()
            await run.progress(news["done"], 100, news["note"])

    await run.progress(0, 100, "waits for its turn")
    telling = asyncio.create_task(tell(), name="progress of a training")
    try:
        return await train(listener)
    finally:
        await end([telling])
