"""The engine whole: what can be learnt is found, what cannot is not, and a stored model says the same again."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from app.predictions.ml.engine import PredictionEngine
from app.predictions.ml.errors import (
    DeadlineExceededError,
    InvalidSeriesError,
    StaleModelError,
    TooFewBarsError,
    UntrustedModelError,
)
from app.predictions.ml.model_file import ModelSeal
from app.predictions.ml.values import ONE_THREAD, Prediction, TrainResult
from tests.predictions.ml.series import KEY, changed, cut, invented, real

pytestmark = pytest.mark.timeout(300)
PLANTED = invented(momentum=0.4, model="ensemble")
ROOT = Path(__file__).resolve().parents[3]
LIGHT = """
import sys
import app.predictions.ml.errors, app.predictions.ml.values
heavy = {"numpy", "talib", "sklearn", "scipy", "pandas", "jax", "flax", "optax", "skops", "safetensors"}
print(sorted(heavy & set(sys.modules)))
"""
COLD = """
import json, time
from pathlib import Path
from app.predictions.ml.engine import PredictionEngine
from tests.predictions.ml.series import real
results = PredictionEngine(b"k" * 32, time.monotonic).train(real(model="ensemble"))
# Not getrusage's: on Linux that begins with what the process that started this one has used.
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(json.dumps({
    "prices": [one.forecast.predicted_price for one in results],
    "p": [one.evaluation.p_value for one in results],
    "megabytes": int(status["VmHWM"].split()[0]) / 1024,
}))
"""
FAMILIES = ["random_forest", "svr", "lstm", "ensemble"]


@pytest.fixture(scope="module")
def planted(engine: PredictionEngine) -> list[TrainResult]:
    """All four models of a series in which 40 % of each return carries on."""
    return engine.train(PLANTED)


def test_a_planted_signal_is_found_by_every_family(planted: list[TrainResult]) -> None:
    assert [one.model for one in planted] == FAMILIES
    for one in planted:
        found = one.evaluation
        assert found.p_value < 0.05
        assert found.skill_vs_naive > 0.03
        assert found.hit_rate > 0.53
        assert found.rmse < found.naive_rmse
        assert (found.verdict, found.folds, found.samples) == ("skill", 5, 615)
        assert one.forecast.confidence_score > 0.5


@pytest.mark.parametrize("model", ["svr", "lstm"])
def test_a_planted_signal_is_found_again_and_again(engine: PredictionEngine, model: str) -> None:
    found = [engine.train(invented(momentum=0.3, seed=seed, model=model))[0].evaluation for seed in range(20, 24)]
    assert sum(one.p_value < 0.05 for one in found) >= 3


@pytest.mark.parametrize(("model", "horizon", "walks"), [("svr", 1, 12), ("svr", 5, 12), ("lstm", 1, 6)])
def test_a_random_walk_is_not(engine: PredictionEngine, model: str, horizon: int, walks: int) -> None:
    """At 5 %, one in twenty would be allowed to look like skill; the test errs on the side of "none"."""
    requests = [invented(seed=seed, horizon=horizon, model=model) for seed in range(40, 40 + walks)]
    results = [engine.train(one)[0] for one in requests]
    assert sum(one.evaluation.verdict == "skill" for one in results) <= 1
    assert np.mean([one.evaluation.skill_vs_naive for one in results]) < 0.005
    assert np.mean([one.evaluation.hit_rate for one in results]) == pytest.approx(0.5, abs=0.03)
    assert np.median([one.forecast.confidence_score for one in results]) < 0.53
    assert np.mean([one.evaluation.observed_coverage for one in results]) == pytest.approx(0.8, abs=0.025)


def test_a_real_share_shows_no_skill_and_is_told_so(share: list[TrainResult]) -> None:
    for one in share:
        assert one.evaluation.verdict == "no demonstrated skill"
        assert one.evaluation.summary.startswith("No demonstrated skill")
        assert 0.5 <= one.forecast.confidence_score < 0.56
        assert one.evaluation.observed_coverage == pytest.approx(0.8, abs=0.04)


def test_a_forecast_is_whole(planted: list[TrainResult], share: list[TrainResult]) -> None:
    for request, results in ((PLANTED, planted), (real(), share)):
        for one in results:
            forecast = one.forecast
            assert forecast.last_close == request.close[-1]
            assert forecast.last_bar == one.trained_through == request.starts[-1]
            assert forecast.predicted_price == pytest.approx(request.close[-1] * np.exp(forecast.predicted_return))
            assert forecast.interval_low < forecast.predicted_price < forecast.interval_high
            width = np.log(forecast.interval_high / forecast.interval_low)
            daily = np.std(np.diff(np.log(request.close[-60:])))
            assert 1.2 * daily < width < 5 * daily
            assert forecast.interval_level == 0.8


def test_an_ensemble_is_the_mean_of_its_members(planted: list[TrainResult]) -> None:
    *members, together = planted
    returns = [one.forecast.predicted_return for one in members]
    assert together.forecast.predicted_return == pytest.approx(np.mean(returns))
    assert together.evaluation.rmse < max(one.evaluation.rmse for one in members)


def test_results_cross_a_process_boundary(planted: list[TrainResult]) -> None:
    encoded = msgspec.msgpack.encode(planted)
    assert msgspec.msgpack.decode(encoded, type=list[TrainResult]) == planted


def test_training_is_reproducible_by_seed(engine: PredictionEngine, planted: list[TrainResult]) -> None:
    """By another engine that compiled for itself, and not by another seed. Forests: see the cold process."""
    before = planted[FAMILIES.index("lstm")]
    again = PredictionEngine(KEY, time.monotonic).train(changed(PLANTED, model="lstm"))[0]
    assert (again.forecast, again.evaluation) == (before.forecast, before.evaluation)
    other = engine.train(changed(PLANTED, model="lstm", seed=2))[0]
    assert other.forecast.predicted_price != before.forecast.predicted_price


def test_a_stored_model_says_the_same_without_training(planted: list[TrainResult]) -> None:
    """In another engine, as after a restart; then at once, because it was read before."""
    engine = PredictionEngine(KEY, time.monotonic)
    for one in planted:
        request = changed(PLANTED, model=one.model)
        first = engine.predict(one.blob, request)
        assert (first.forecast, first.evaluation) == (one.forecast, one.evaluation)
        assert first.trained_through == one.trained_through
        began = time.thread_time()
        second = engine.predict(one.blob, request)
        assert time.thread_time() - began < 0.2
        assert second.forecast == first.forecast
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(first), type=Prediction) == first


def test_a_stored_model_forecasts_from_newer_candles(engine: PredictionEngine) -> None:
    whole = invented(momentum=0.3, bars=1260)
    trained = engine.train(cut(whole, 1258))[0]
    newer = engine.predict(trained.blob, whole)
    assert newer.trained_through == whole.starts[1257]
    assert (newer.forecast.last_bar, newer.forecast.last_close) == (whole.starts[-1], whole.close[-1])
    assert newer.forecast.predicted_return != trained.forecast.predicted_return


def test_tampered_models_are_refused(engine: PredictionEngine, planted: list[TrainResult]) -> None:
    blob, request = planted[0].blob, changed(PLANTED, model="random_forest")
    engine.predict(blob, request)
    middle = len(blob) // 2
    with pytest.raises(UntrustedModelError):
        engine.predict(blob[:middle] + bytes([blob[middle] ^ 1]) + blob[middle + 1 :], request)
    with pytest.raises(UntrustedModelError):
        PredictionEngine(b"another key, of thirty-two bytes", time.monotonic).predict(blob, request)


def test_a_signed_model_for_something_else_is_refused(engine: PredictionEngine, planted: list[TrainResult]) -> None:
    blob, request = planted[1].blob, changed(PLANTED, model="svr")
    other: dict[str, object]
    for other in ({"symbol": "OTHER"}, {"timeframe": "1H"}, {"horizon_bars": 2}, {"model": "lstm"}):
        with pytest.raises(StaleModelError, match="is a svr for INVENTED at 1D over 1 bars"):
            engine.predict(blob, changed(request, **other))
    seal = ModelSeal(KEY)
    for change in ({"versions": {"numpy": "1"}}, {"feature_names": ("rsi_14",)}):
        old = seal.seal(msgspec.structs.replace(seal.open(blob), **change))
        with pytest.raises(StaleModelError, match="another version"):
            engine.predict(old, request)


def test_a_signed_member_of_types_that_no_model_has_is_refused(planted: list[TrainResult]) -> None:
    """Even then: skops builds none of what was not reviewed."""
    import zlib

    import skops.io

    seal = ModelSeal(KEY)
    foreign = zlib.compress(skops.io.dumps({"model": Iterator}))
    blob = seal.seal(msgspec.structs.replace(seal.open(planted[1].blob), members={"svr": foreign}))
    with pytest.raises(UntrustedModelError, match="types"):
        PredictionEngine(KEY, time.monotonic).predict(blob, changed(PLANTED, model="svr"))


def test_progress_grows_to_the_whole(engine: PredictionEngine) -> None:
    told: list[tuple[float, str]] = []
    engine.train(invented(model="lstm"), lambda done, doing: told.append((done, doing)))
    shares = [done for done, _ in told]
    assert shares == sorted(shares)
    assert (shares[0], told[-1]) == (0.0, (1.0, "done"))
    assert len(told) == 6 * 4 + 1
    assert told[0][1] == "lstm: fold 1 of 5"
    assert told[-2][1] == "lstm: on all candles"


def test_training_gives_up_at_its_deadline() -> None:
    """A clock that goes on a second whenever it is asked."""
    seconds = iter(range(1000))
    engine = PredictionEngine(KEY, lambda: float(next(seconds)))
    with pytest.raises(DeadlineExceededError, match="svr: fold 4 of 5"):
        engine.train(changed(invented(), deadline_seconds=4.0))


def test_whoever_listens_can_end_it(engine: PredictionEngine) -> None:
    class CancelledError(Exception):
        pass

    def cancel(done: float, doing: str) -> None:
        raise CancelledError(done, doing)

    with pytest.raises(CancelledError, match="svr: fold 1"):
        engine.train(invented(), cancel)


def test_refusals(engine: PredictionEngine) -> None:
    with pytest.raises(TooFewBarsError):
        engine.train(cut(invented(), 300))
    with pytest.raises(InvalidSeriesError):
        engine.train(changed(invented(), close=[float("nan")] * 1258))


def test_the_least_history_and_the_longest_horizon_work(engine: PredictionEngine) -> None:
    from app.predictions.ml.values import MAXIMUM_HORIZON, minimum_bars

    for horizon in (1, 20, MAXIMUM_HORIZON):
        request = invented(bars=minimum_bars(horizon), horizon=horizon)
        found = engine.train(request)[0]
        assert 0.4 < found.evaluation.observed_coverage <= 1
        assert 0 < found.evaluation.p_value <= 1
        assert found.forecast.interval_low < found.forecast.interval_high


# As a process of its own, as the worker is one


def run(program: str) -> str:
    environment = {**os.environ, **ONE_THREAD}
    command = [sys.executable, "-W", "error::RuntimeWarning", "-c", program]
    return subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout


def test_values_and_errors_need_no_library() -> None:
    """The API process imports them."""
    assert run(LIGHT).strip() == "[]"


@pytest.mark.timeout(300)
def test_a_cold_process_gives_the_same_in_bounded_memory(share: list[TrainResult]) -> None:
    """All three families with evaluation of five years of days. What time it takes is `bench_predictions.py`'s."""
    told = json.loads(run(COLD))
    assert told["prices"] == [one.forecast.predicted_price for one in share]
    assert told["p"] == [one.evaluation.p_value for one in share]
    assert told["megabytes"] < 800
