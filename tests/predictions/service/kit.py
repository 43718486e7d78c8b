"""Candles that tests own, a trainer that trains nothing, and predictions put together as the lifespan does it."""

import asyncio
import json
import math
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
from beanie import PydanticObjectId
from fastapi import FastAPI

from app.core.bus import Bus, NullTransport
from app.core.cache import Cache
from app.core.candles import CandleSeries, Timeframe
from app.core.client_address import ClientAddressResolver
from app.core.deps import KnownQuery, Registry
from app.core.errors import InvalidInputError, NotFoundError, UnauthorizedError
from app.core.events import JobChanged
from app.core.market_calendar import MarketCalendar
from app.core.problem import add_problem_handlers
from app.core.rate_limit import RateLimiter
from app.core.scheduler import RunState, RunView, Scheduler
from app.core.security import ALL_SCOPES, Authenticator, Principal, Role, Scope
from app.core.settings import Settings
from app.job_runs.store import MongoRunStore
from app.predictions.chart_service import PredictionCharts
from app.predictions.forecasting import Forecaster
from app.predictions.hours import TradingHours
from app.predictions.ml.errors import StaleModelError, TooFewBarsError, UntrustedModelError
from app.predictions.ml.values import (
    INTERVAL_LEVEL,
    MEMBERS,
    Evaluation,
    Family,
    Forecast,
    Prediction,
    TrainRequest,
    TrainResult,
    minimum_bars,
)
from app.predictions.model_files import ModelFiles
from app.predictions.ports import Listener
from app.predictions.reading import PredictionReading
from app.predictions.router import router
from app.predictions.rows import PredictionRows
from app.predictions.scoring import Scoring
from app.predictions.service import Predictions
from app.predictions.stored_models import StoredModels
from tests.support.clocks import StandingClock
from tests.support.mongodb import Db

Row = dict[str, Any]
NOON = datetime(2026, 11, 20, 6, 30, tzinfo=UTC)
"""12:00 in India, a Friday; the newest closed day is Thursday, 19 November."""
CLOSE = timedelta(hours=6, minutes=15)
"""From the opening, in India."""
CALENDAR = MarketCalendar(StandingClock(NOON))
SAID: dict[Family, float] = {"lstm": 0.01, "random_forest": 0.02, "svr": -0.012, "ensemble": 0.006}
"""What each model of the trainer that trains nothing forecasts: a logarithmic return."""


def sessions(first: datetime, last: datetime) -> list[datetime]:
    """The openings of the Indian trading days from `first` to `last`."""
    return [session.opens for session in CALENDAR.sessions(first.date(), last.date())]


def indian_days(count: int, last: datetime = NOON - timedelta(days=1)) -> list[datetime]:
    """The openings of so many trading days, the newest that of `last`."""
    return sessions(last - timedelta(days=count * 1.6 + 10), last)[-count:]


@dataclass
class Prices:
    """Fills the port `CandleHistory`: gives of what is listed what has closed by now."""

    clock: StandingClock
    listed: dict[tuple[str, str], list[tuple[datetime, float]]] = field(default_factory=dict)
    """Openings and closes by symbol and timeframe."""
    length: timedelta = CLOSE
    adjusted: bool = True
    asked: int = 0
    failure: Exception | None = None

    def list_days(self, symbol: str, starts: Sequence[datetime], price: float = 1400.0, timeframe: str = "1D") -> None:
        """A walk that never stands still."""
        self.listed[symbol, timeframe] = [
            (start, price * math.exp(0.02 * math.sin(place * 1.7) + 0.0001 * place))
            for place, start in enumerate(starts)
        ]

    async def candles(self, symbol: str, timeframe: str, bars: int) -> CandleSeries:
        self.asked += 1
        if self.failure is not None:
            raise self.failure
        for name in Names().names(symbol):
            if (name, timeframe) in self.listed:
                return self._series(name, timeframe, bars)
        raise NotFoundError(f"There is no {symbol} at yahoo.")

    def _series(self, name: str, timeframe: str, bars: int) -> CandleSeries:
        length = self.length if timeframe == "1D" else Timeframe(timeframe).length
        now = self.clock.now()
        rows = [(start, close) for start, close in self.listed[name, timeframe] if start + length <= now][-bars:]
        close = tuple(close for _, close in rows)
        return CandleSeries(
            symbol=name,
            timeframe=timeframe,
            start=tuple(start for start, _ in rows),
            open=tuple(price * 0.999 for price in close),
            high=tuple(price * 1.004 for price in close),
            low=tuple(price * 0.995 for price in close),
            close=close,
            volume=tuple(1e6 for _ in close),
            closed=True,
            source="yahoo" if self.adjusted else "angel_one",
            fetched_at=now - timedelta(seconds=12),
            stale=False,
            currency="INR" if name.endswith(".NS") else "USD",
            adjusted=self.adjusted,
        )


class Names:
    """Fills the port `Symbols`."""

    def names(self, text: str) -> list[str]:
        name = text.strip().upper()
        if not name or "$" in name:
            raise InvalidInputError("path.symbol: This is not a symbol.")
        known = {"NIFTY50": "^NSEI"}.get(name)
        return [known or name] if known or name[0] == "^" or "." in name else [f"{name}.NS", name]

    def indian(self, name: str) -> bool:
        return name.endswith((".NS", ".BO")) or name == "^NSEI"


class FakeTrainer:
    """Fills the port `Trainer`: says what `SAID` has, at once, or when it is let go."""

    def __init__(self) -> None:
        self.trained: list[TrainRequest] = []
        self.used: list[TrainRequest] = []
        self.failures: list[Exception] = []
        self.version = 1
        self.go = asyncio.Event()
        self.go.set()

    async def train(self, request: TrainRequest, progress: Listener) -> list[TrainResult]:
        needed = minimum_bars(request.horizon_bars)
        if len(request.close) < needed:
            raise TooFewBarsError(f"{request.symbol} has too few.")
        self.trained.append(request)
        families: list[Family] = [*MEMBERS, "ensemble"] if request.model == "ensemble" else [request.model]
        progress(0.0, f"{families[0]}: fold 1 of 5")
        await asyncio.sleep(0)
        progress(0.5, f"{families[0]}: on all candles")
        await self.go.wait()
        if self.failures:
            raise self.failures.pop(0)
        progress(1.0, "done")
        return [self._result(request, family) for family in families]

    async def predict(self, blob: bytes, request: TrainRequest) -> Prediction:
        if not blob.startswith(b"fake:"):
            raise UntrustedModelError("Nothing of it was read.")
        made = json.loads(blob[5:])
        wanted = {"model": request.model, "symbol": request.symbol, "timeframe": request.timeframe}
        if made != wanted | {"horizon": request.horizon_bars, "through": made["through"], "version": self.version}:
            raise StaleModelError("It is for something else.")
        self.used.append(request)
        return Prediction(
            model=request.model,
            forecast=_forecast(request, request.model),
            evaluation=EVALUATION,
            trained_through=made["through"],
            seconds=0.0,
        )

    def _result(self, request: TrainRequest, family: Family) -> TrainResult:
        through = request.starts[-1]
        about = {"model": family, "symbol": request.symbol, "timeframe": request.timeframe, "through": through}
        return TrainResult(
            model=family,
            forecast=_forecast(request, family),
            evaluation=EVALUATION,
            blob=b"fake:" + json.dumps(about | {"horizon": request.horizon_bars, "version": self.version}).encode(),
            trained_through=through,
            feature_names=("momentum",),
            versions={"fake": "1"},
            seconds=0.1,
        )

    def warm_up(self) -> None:
        """There is nothing to warm."""

    def health(self) -> dict[str, Any]:
        return {"state": "ready"}

    async def close(self) -> None:
        """There is nothing to close."""


EVALUATION = Evaluation(
    skill_vs_naive=-0.01,
    p_value=0.7,
    hit_rate=0.5,
    observed_coverage=0.79,
    rmse=0.021,
    naive_rmse=0.0208,
    folds=5,
    samples=400,
    verdict="no demonstrated skill",
    summary="No demonstrated skill: over 400 forecasts it was no better. Do not trade on it.",
)


def _forecast(request: TrainRequest, family: Family) -> Forecast:
    last, said = request.close[-1], SAID[family]
    return Forecast(
        last_bar=request.starts[-1],
        last_close=last,
        horizon_bars=request.horizon_bars,
        predicted_price=last * math.exp(said),
        predicted_return=said,
        interval_low=last * math.exp(said - 0.03),
        interval_high=last * math.exp(said + 0.03),
        interval_level=INTERVAL_LEVEL,
        confidence_score=0.52,
    )


class People:
    """`ann` and `bob` may do everything, `reader` may not have predictions made."""

    async def authenticate(self, access_token: str) -> Principal:
        later = NOON + timedelta(days=3650)
        numbers = {"ann": 1, "bob": 2, "reader": 3}
        if access_token not in numbers:
            raise UnauthorizedError("No.")
        one = PydanticObjectId(f"66f00000000000000000000{numbers[access_token]}")
        if access_token == "reader":
            return Principal(one, one, Role.USER, later, ALL_SCOPES - {Scope.PREDICTIONS_WRITE}, api_token=True)
        return Principal(one, one, Role.USER, later)


@dataclass
class Desk:
    """Predictions behind their endpoints, in one process."""

    db: Db
    clock: StandingClock
    prices: Prices
    trainer: FakeTrainer
    jobs: Scheduler
    predictions: Predictions
    rows: PredictionRows
    models: StoredModels
    scoring: Scoring
    cache: Cache
    client: httpx.AsyncClient
    told: list[RunView] = field(default_factory=list)

    async def answer(
        self, method: str, path: str, status: int = 200, who: str | None = None, **options: Any
    ) -> httpx.Response:
        headers = {"Authorization": f"Bearer {who}"} if who else {}
        answer = await self.client.request(method, f"/api/predictions{path}", headers=headers, **options)
        assert answer.status_code == status, answer.text
        return answer

    async def ask(self, path: str, status: int = 200, **query: Any) -> Any:
        return (await self.answer("GET", path, status, params=query)).json()

    async def generate(self, symbol: str = "RELIANCE", status: int = 200, who: str = "ann", **body: Any) -> Any:
        answer = await self.answer("POST", f"/generate/{symbol}", status, who, json=body)
        return json.loads(answer.content)

    async def run_of(self, run_id: str) -> RunView:
        """How it ended."""
        run = await self.jobs.wait(run_id, 30)
        assert run is not None
        assert run.finished
        return run

    async def score(self) -> dict[str, int]:
        """What a run of the job gives."""
        started = await self.jobs.start("predictions.score")
        run = await self.run_of(started.id)
        assert run.state is RunState.SUCCEEDED, run
        return run.result or {}

    async def stored(self, **query: Any) -> list[Row]:
        """Rows, the oldest first."""
        return await self.db["predictions"].find(query).sort("seq", 1).to_list()


@asynccontextmanager
async def desk_of(
    db: Db, clock: StandingClock, folder: Path, *, bus: Bus | None = None, patience: float = 30, per_minute: int = 1000
) -> AsyncIterator[Desk]:
    """Put everything together; Beanie has to know the documents already. `bus`: other processes' too."""
    bus, prices, cache, trainer = bus or Bus(NullTransport()), Prices(clock), Cache(), FakeTrainer()
    scheduler = Scheduler(db=db, store=MongoRunStore(clock), bus=bus, clock=clock, holder=secrets.token_hex(4))
    names, hours = Names(), TradingHours(MarketCalendar(clock))
    rows = PredictionRows(clock, retention_days=730)
    models = StoredModels(ModelFiles(folder / "models", clock, max_bytes=10**7), clock)
    shared: Row = {"candles": prices, "hours": hours, "symbols": names}
    forecaster = Forecaster(
        trainer=trainer, rows=rows, models=models, clock=clock, deadline_seconds=60, **shared
    )  # fmt: skip
    scoring = Scoring(clock=clock, **shared)
    scheduler.add(forecaster.job(one_at_a_time=True))
    scheduler.add(scoring.job())
    limiter = RateLimiter()
    predictions = Predictions(
        rows=rows, runs=scheduler, cache=cache, limiter=limiter, bus=bus, clock=clock,
        per_minute=per_minute, patience=patience, **shared,
    )  # fmt: skip
    app = FastAPI()
    registry = app.state.registry = Registry()
    known: Row = {"rate_limit_per_minute": 1_000_000, "user_rate_limit_per_minute": 1_000_000}
    registry.provide(Settings, Settings(secret_key=secrets.token_hex(32), _env_file=None, **known))
    registry.provide(RateLimiter, limiter)
    registry.provide(ClientAddressResolver, ClientAddressResolver([]))
    registry.provide(Authenticator, People())  # type: ignore[type-abstract]
    registry.provide(Predictions, predictions)
    registry.provide(PredictionReading, PredictionReading(rows=rows, symbols=names, cache=cache))
    registry.provide(PredictionCharts, PredictionCharts(rows=rows, **shared))
    add_problem_handlers(app)
    app.include_router(router, dependencies=[KnownQuery])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://arrow.test") as client:
        desk = Desk(
            db, clock, prices, trainer, scheduler, predictions, rows, models, scoring, cache, client
        )  # fmt: skip
        bus.subscribe(JobChanged, lambda event: desk.told.append(msgspec.json.decode(event.body, type=RunView)))
        yield desk
        trainer.go.set()
        await scheduler.close()
