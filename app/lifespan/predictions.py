"""Predictions, put together."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import time
from typing import Any

from app.core.candles import CandleHistory
from app.core.deps import Registry
from app.core.market_calendar import MarketCalendar
from app.core.scheduler import Job, Scheduler, without_run
from app.core.settings import Settings
from app.lifespan.ground import Ground
from app.predictions.chart_service import PredictionCharts
from app.predictions.forecasting import Forecaster
from app.predictions.hours import TradingHours
from app.predictions.model_files import ModelFiles
from app.predictions.reading import PredictionReading
from app.predictions.rows import PredictionRows
from app.predictions.scoring import Scoring
from app.predictions.service import Predictions
from app.predictions.service_ports import EXPIRE
from app.predictions.stored_models import StoredModels
from app.predictions.worker import TrainingWorker
from app.quotes.naming import resolve


class QuoteSymbols:
    """Fills the port `Symbols` of predictions with the names of quotes."""

    def names(self, text: str) -> Sequence[str]:
        """See the port."""
        found = resolve(text)
        return [found.name, *([found.otherwise] if found.otherwise else [])]

    def indian(self, name: str) -> bool:
        """See the port. A name without exchange that a provider uses is not NSE's: those end with `.NS`."""
        found = resolve(name)
        return found.indian and found.name == name


def predictions(
    registry: Registry,
    settings: Settings,
    ground: Ground,
    jobs: Scheduler,
    candles: CandleHistory,
    calendar: MarketCalendar,
    stack: AsyncExitStack,
) -> Callable[[], Awaitable[dict[str, Any]]]:
    """Make the services and provide what endpoints ask for; gives what `/health` asks."""
    clock, cache, seconds = ground.clock, ground.cache, settings.prediction_cache_seconds
    trainer = TrainingWorker.of(settings, clock)
    stack.push_async_callback(trainer.close)
    rows = PredictionRows(clock, retention_days=settings.prediction_retention_days)
    models, hours, symbols = StoredModels(ModelFiles.of(settings, clock), clock), TradingHours(calendar), QuoteSymbols()
    forecaster = Forecaster(
        candles=candles,
        trainer=trainer,
        rows=rows,
        models=models,
        hours=hours,
        symbols=symbols,
        clock=clock,
        deadline_seconds=settings.predictions_train_seconds,
    )
    made = Predictions(
        candles=candles,
        rows=rows,
        hours=hours,
        symbols=symbols,
        runs=jobs,
        cache=cache,
        limiter=ground.limiter,
        bus=ground.bus,
        clock=clock,
        cache_seconds=seconds,
        per_minute=settings.prediction_rate_limit_per_minute,
    )
    registry.provide(Predictions, made)
    reading = PredictionReading(rows=rows, symbols=symbols, cache=cache, cache_seconds=seconds)
    registry.provide(PredictionReading, reading)
    charts = PredictionCharts(candles=candles, rows=rows, hours=hours, symbols=symbols)
    registry.provide(PredictionCharts, charts)

    async def expire() -> dict[str, int]:
        return {"predictions": await rows.expire(), **await models.expire()}

    # Workers elsewhere have cores of their own; in the service's processes trainings share the machine's.
    jobs.add(forecaster.job(one_at_a_time=settings.task_broker_url is None))
    jobs.add(Scoring(candles=candles, hours=hours, symbols=symbols, clock=clock).job())
    jobs.add(Job(EXPIRE, without_run(expire), at=time(5, 20)))
    if settings.predictions_warm_up and settings.task_broker_url is None:
        trainer.warm_up()

    async def health() -> dict[str, Any]:
        return {"status": "ok", **trainer.health(), **made.health()}

    return health
