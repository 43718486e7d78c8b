"""The trainer that trains nothing keeps the same promises as the one that does."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from msgspec.structs import replace

from app.core.clock import SystemClock
from app.predictions.asked import request_of
from app.predictions.ml.errors import StaleModelError, TooFewBarsError, UntrustedModelError
from app.predictions.ml.values import MEMBERS, Prediction, TrainRequest, TrainResult, minimum_bars
from app.predictions.ports import Trainer
from app.predictions.worker import TrainingWorker
from tests.predictions.service.kit import NOON, FakeTrainer, Prices, indian_days
from tests.support.clocks import StandingClock

pytestmark = pytest.mark.timeout(300)
"""The process that trains is nice to others: where those are busy it takes its time."""


@pytest_asyncio.fixture(scope="module")
async def worker() -> AsyncIterator[TrainingWorker]:
    made = TrainingWorker(key=b"k" * 32, clock=SystemClock(), grace_seconds=120)
    yield made
    await made.close()


@pytest.fixture(params=["fake", "real"])
def trainer(request: pytest.FixtureRequest) -> Trainer:
    made: Trainer = FakeTrainer() if request.param == "fake" else request.getfixturevalue("worker")
    return made


async def asked(bars: int = 600, **fields: Any) -> TrainRequest:
    prices = Prices(StandingClock(NOON))
    prices.list_days("RELIANCE.NS", indian_days(bars))
    return replace(request_of(await prices.candles("RELIANCE", "1D", bars), "svr", 5, 250), **fields)


def nothing(share: float, doing: str) -> None:
    del share, doing


async def test_training_and_using_what_was_trained(trainer: Trainer):
    told: list[float] = []
    request = await asked()
    (result,) = await trainer.train(request, lambda share, _: told.append(share))
    assert isinstance(result, TrainResult)
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert result.model == "svr"
    assert result.trained_through == result.forecast.last_bar == request.starts[-1]
    assert result.forecast.last_close == request.close[-1]
    assert result.forecast.interval_low < result.forecast.predicted_price < result.forecast.interval_high
    again = await trainer.predict(result.blob, request)
    assert isinstance(again, Prediction)
    assert again.forecast == result.forecast
    assert again.evaluation == result.evaluation
    with pytest.raises(StaleModelError):
        await trainer.predict(result.blob, replace(request, symbol="TCS.NS"))
    with pytest.raises(StaleModelError):
        await trainer.predict(result.blob, replace(request, horizon_bars=6))
    with pytest.raises(UntrustedModelError):
        await trainer.predict(b"x" + result.blob, request)


async def test_too_few_candles(trainer: Trainer):
    with pytest.raises(TooFewBarsError):
        await trainer.train(await asked(minimum_bars(5) - 1), nothing)
    await trainer.train(await asked(minimum_bars(5)), nothing)


async def test_an_ensemble_comes_last(trainer: Trainer):
    """The same with the real one is in the end-to-end test: it takes its time."""
    if isinstance(trainer, FakeTrainer):
        results = await trainer.train(await asked(model="ensemble"), nothing)
        assert [result.model for result in results] == [*MEMBERS, "ensemble"]
    assert trainer.health()["state"] in {"ready", "training", "off"}


async def test_a_caller_who_goes_away_leaves_it_to_the_next(trainer: Trainer):
    if isinstance(trainer, FakeTrainer):
        trainer.go.clear()
    left = asyncio.create_task(trainer.train(await asked(model="random_forest"), nothing))
    await asyncio.sleep(0.2)
    left.cancel()
    with pytest.raises(asyncio.CancelledError):
        await left
    if isinstance(trainer, FakeTrainer):
        trainer.go.set()
    assert len(await trainer.train(await asked(), nothing)) == 1
