#!/usr/bin/env python3
"""What predictions cost beside the libraries they are made with: `.venv/bin/python scripts/bench_predictions.py`.

Five years of Apple's days (bokeh-sampledata), each of these done by the service's own code and by plain calls written
out here, by turns and in one process with one thread; medians of some rounds, in CPU seconds, so that a busy machine
disturbs less:

1. features: the whole table, and how much of it TA-Lib's calls are (the rest is numpy's arithmetic);
2. random forest, SVR, LSTM: five folds and the final model, with forecasts; scikit-learn, and flax and optax with one
   compiled step that is used throughout. Forests and SVRs are checked to forecast the very same numbers;
3. everything: `PredictionEngine.train` of an ensemble (judged, with intervals, signed files) beside the sum of those.

Then the whole once more in a new process: imports, compilation, training, memory. Where bytecode is not compiled yet,
imports take some seconds more. And as the service has it done, by the process that trains: from nothing, once more, and
by the models of before, and for how long the service's event loop was held up meanwhile.
The aim is 1.3 times the libraries' own time, and 15 seconds from cold.
"""

import argparse
import asyncio
import logging
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import bokeh_sampledata.stocks
import flax.linen
import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import optax
import psutil
import structlog
import talib
from sklearn.ensemble import RandomForestRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from app.core.clock import SystemClock
from app.predictions.ml import lstm
from app.predictions.ml.bars import Bars, bars_of
from app.predictions.ml.engine import PredictionEngine
from app.predictions.ml.families import ModelFamily
from app.predictions.ml.features import FEATURES, features, volatility
from app.predictions.ml.progress import Plan, unheard
from app.predictions.ml.samples import Fold, Samples, folds_of, samples_of
from app.predictions.ml.sklearn_models import TREES, RandomForest, SupportVectors
from app.predictions.ml.training import train_family
from app.predictions.ml.values import ONE_THREAD, WINDOW_BARS, Family, TrainRequest
from app.predictions.worker import TrainingWorker

BARS = 1258
KEY = b"a key that signs models in benches"
AIM = 1.3
PARTS = ("comparison", "cold", "worker")
Work = Callable[[], Any]


def request() -> TrainRequest:
    """The newest five years of Apple's days, adjusted."""
    sample: Any = bokeh_sampledata.stocks.AAPL
    share = np.array(sample["adj_close"]) / np.array(sample["close"])
    prices = {name: (np.array(sample[name]) * share)[-BARS:].tolist() for name in ("open", "high", "low", "close")}
    volume = [float(one) for one in sample["volume"][-BARS:]]
    starts = [86_400 * number for number in range(BARS)]
    return TrainRequest(
        symbol="AAPL", timeframe="1D", horizon_bars=5, model="ensemble", starts=starts, volume=volume, **prices
    )


def plain_indicators(bars: Bars) -> None:
    """What `features` takes from TA-Lib."""
    high, low, close, volume = bars.high, bars.low, bars.close, bars.volume
    for values, span in ((close, 50), (close, 200), (volume, 20), (volume, 20), (close, 60)):
        talib.SMA(values, timeperiod=span)
    talib.EMA(close, timeperiod=32)
    talib.SUM(close, timeperiod=14)
    talib.RSI(close, timeperiod=14)
    talib.MACD(close)
    talib.BBANDS(close, timeperiod=20)
    for indicator in (talib.ATR, talib.ADX, talib.PLUS_DI, talib.MINUS_DI):
        indicator(high, low, close, timeperiod=14)


def parts(samples: Samples, folds: list[Fold]) -> list[tuple[Any, Any]]:
    """What to train with and what to forecast, six times."""
    return [*folds, (samples.rows, np.array([samples.last]))]


def plain_sklearn(make: Callable[[int], Any], samples: Samples, folds: list[Fold]) -> Any:
    """Fit and predict, as anybody would write it."""
    forecasts = []
    for number, (train, test) in enumerate(parts(samples, folds)):
        seed = int(np.random.SeedSequence((0, number)).generate_state(1)[0])
        model = make(seed).fit(samples.features[train], samples.targets(train))
        forecasts.append(model.predict(samples.features[test]))
    return np.concatenate(forecasts)


def forest(seed: int) -> Any:
    """See `RandomForest`."""
    return RandomForestRegressor(TREES, min_samples_leaf=5, max_features=1 / 3, n_jobs=1, random_state=seed)


def svr(_: int) -> Any:
    """See `SupportVectors`."""
    return make_pipeline(StandardScaler(), SVR(C=0.05, epsilon=0.3))


class Network(flax.linen.Module):
    """The same network, as flax's guide would have it."""

    @flax.linen.compact
    def __call__(self, windows: Any) -> Any:
        (_, hidden), _ = flax.linen.RNN(flax.linen.OptimizedLSTMCell(lstm.HIDDEN), return_carry=True)(windows)
        return flax.linen.Dense(1)(hidden)[..., 0]


class PlainLstm:
    """flax and optax with a jitted epoch over batches made beforehand; compiled at the first call."""

    def __init__(self) -> None:
        self.network, self.columns = Network(), [FEATURES.index(name) for name in lstm.INPUTS]
        self.optimizer = optax.adamw(lstm.LEARNING_RATE, weight_decay=lstm.WEIGHT_DECAY)
        self.empty = self.network.init(jax.random.key(0), jnp.zeros((1, WINDOW_BARS, len(lstm.INPUTS))))
        self.epoch, self.apply = jax.jit(self._epoch), jax.jit(self.network.apply)

    def _epoch(self, state: Any, batches: Any) -> Any:
        def step(state: Any, batch: Any) -> Any:
            (weights, memory), (windows, wanted) = state, batch
            gradient = jax.grad(lambda tried: jnp.mean((self.network.apply(tried, windows) - wanted) ** 2))(weights)
            updates, memory = self.optimizer.update(gradient, memory, weights)
            return (optax.apply_updates(weights, updates), memory), None

        return jax.lax.scan(step, state, batches)[0]

    def __call__(self, samples: Samples, folds: list[Fold]) -> Any:
        """Six trainings; forecasts padded to one shape."""
        chance, forecasts = np.random.default_rng(0), []
        back = np.arange(-WINDOW_BARS + 1, 1)
        for train, test in parts(samples, folds):
            seen = samples.features[train][:, self.columns]
            table = ((samples.features[:, self.columns] - seen.mean(axis=0)) / seen.std(axis=0)).astype(np.float32)
            targets = dict(zip(train.tolist(), samples.targets(train), strict=True))
            state: Any = (self.empty, self.optimizer.init(self.empty))
            for _ in range(lstm.PIECES):
                rows = chance.choice(train, (lstm.STEPS_OF_PIECE, lstm.BATCH))
                windows = table[rows[..., None] + back]
                windows += lstm.BLUR * chance.standard_normal(windows.shape, dtype=np.float32)
                wanted = np.array([[targets[row] for row in batch] for batch in rows.tolist()], dtype=np.float32)
                state = self.epoch(state, (windows, wanted))
            padded = np.resize(test, 512)
            forecasts.append(np.asarray(self.apply(state[0], table[padded[:, None] + back]))[: len(test)])
        return np.concatenate(forecasts)


def own(family: Family, learner: ModelFamily, samples: Samples, folds: list[Fold]) -> Any:
    """The service's way: the same trainings, as `PredictionEngine` does them."""
    plan = Plan([family], len(folds) + 1, unheard, time.monotonic, float("inf"))
    trained = train_family(learner, samples, folds, 0, plan.of(family))
    return np.append(trained.walk_forward, trained.newest)


def medians(ours: Work, plain: Work, rounds: int) -> tuple[float, float]:
    """CPU seconds of both, by turns after one unmeasured round of each."""
    times: dict[str, list[float]] = {"ours": [], "plain": []}
    for number in range(rounds + 1):
        for name, work in (("ours", ours), ("plain", plain)):
            began = time.process_time()
            work()
            if number:
                times[name].append(time.process_time() - began)
    return statistics.median(times["ours"]), statistics.median(times["plain"])


def row(name: str, ours: float, plain: float) -> None:
    """A line of the table."""
    mark = "" if ours <= AIM * plain else f"   above {AIM}"
    print(f"{name:<15} {ours * 1e3:10.1f} ms {plain * 1e3:10.1f} ms {ours / plain:7.2f}{mark}")


def compare(rounds: int) -> None:
    """The table of ratios."""
    asked = request()
    bars = bars_of(asked)
    samples = samples_of(bars, asked.horizon_bars)
    folds = folds_of(samples)
    engine, plain_lstm = PredictionEngine(KEY, time.monotonic), PlainLstm()
    engine.warm_up()
    for ours, make in ((RandomForest(), forest), (SupportVectors(), svr)):
        same = np.array_equal(own("svr", ours, samples, folds), plain_sklearn(make, samples, folds))
        if not same:
            sys.exit("The service's forecasts differ from those of the plain calls: the times compare nothing.")
    print(f"{'':<15} {'service':>13} {'libraries':>13}   ratio")
    table, bare = medians(lambda: features(bars, volatility(bars.close)), partial(plain_indicators, bars), 50 * rounds)
    print(f"{'features':<15} {table * 1e3:10.2f} ms, TA-Lib's calls {bare * 1e3:.2f} ms of it")
    families: list[tuple[Family, ModelFamily, Work]] = [
        ("random_forest", RandomForest(), partial(plain_sklearn, forest, samples, folds)),
        ("svr", SupportVectors(), partial(plain_sklearn, svr, samples, folds)),
        ("lstm", lstm.Lstm(), partial(plain_lstm, samples, folds)),
    ]
    plain_sum = 0.0
    for family, learner, plain in families:
        found = medians(partial(own, family, learner, samples, folds), plain, rounds)
        plain_sum += found[1]
        row(family, *found)
    row("everything", whole(engine, asked, rounds), plain_sum)
    for one in engine.train(asked):
        asking = msgspec.structs.replace(asked, model=one.model)
        seconds = [engine.predict(one.blob, asking).seconds for _ in range(2)]
        print(
            f"{one.model}: stored in {len(one.blob) / 1e3:.0f} kB; forecasts again in {seconds[0] * 1e3:.0f} ms,",
            end=" ",
        )
        print(f"and in {seconds[1] * 1e3:.0f} ms once read. {one.evaluation.summary}")


def whole(engine: PredictionEngine, asked: TrainRequest, rounds: int) -> float:
    """CPU seconds of a request, compiled before."""
    times = []
    for _ in range(rounds):
        began = time.process_time()
        engine.train(asked)
        times.append(time.process_time() - began)
    return statistics.median(times)


def cold() -> None:
    """One request in this process, just begun; a line of figures."""
    engine = PredictionEngine(KEY, time.monotonic)
    engine.warm_up()
    warm, warm_cpu = time.time() - psutil.Process().create_time(), time.process_time()
    began = time.perf_counter()
    engine.train(request())
    training, cpu = time.perf_counter() - began, time.process_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"new process: {warm:.1f} s imports and compilation + {training:.1f} s training and judging =", end=" ")
    print(
        f"{warm + training:.1f} s (aim: under 15), of these {cpu:.1f} s CPU ({warm_cpu:.1f} + {cpu - warm_cpu:.1f});",
        end=" ",
    )
    print(f"at most {peak:.0f} MiB")


async def by_worker() -> None:
    """What the service waits for; a line of figures."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    worker, asked = TrainingWorker(key=KEY, clock=SystemClock()), request()
    held_up = [0.0]

    async def watch() -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.002)
            held_up.append(time.perf_counter() - began - 0.002)

    watching = asyncio.create_task(watch())
    times, blob = [], b""
    try:
        for train in (True, True, False, False):
            began = time.perf_counter()
            if train:
                blob = (await worker.train(asked, unheard))[-1].blob
            else:
                await worker.predict(blob, asked)
            times.append(time.perf_counter() - began)
    finally:
        watching.cancel()
        await worker.close()
    first, second, stored, again = times
    print(f"by the process that trains: {first:.1f} s from nothing (aim: under 15), {second:.1f} s once more;", end=" ")
    print(f"by the stored ensemble {stored * 1e3:.0f} ms, and {again * 1e3:.0f} ms once read;", end=" ")
    print(f"the event loop was held up for {max(held_up) * 1e3:.0f} ms at most (aim: under 50)")


def main() -> None:
    """Starts this program three times, with the libraries' threads kept to one: a part in each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--part", choices=PARTS, help="only this, with the environment as it is")
    options = parser.parse_args()
    if options.part == "comparison":
        compare(options.rounds)
    elif options.part == "cold":
        cold()
    elif options.part == "worker":
        asyncio.run(by_worker())
    else:
        for part in PARTS:
            command = [sys.executable, __file__, "--rounds", str(options.rounds), "--part", part]
            subprocess.run(command, check=True, env={**os.environ, **ONE_THREAD})  # noqa: S603 (this program)


if __name__ == "__main__":
    main()
