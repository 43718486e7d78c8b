"""The program with the real engine: one start, everything that needs it."""

from collections.abc import Callable

import msgspec
import psutil
import pytest

from app.predictions.ml.errors import DeadlineExceededError, StaleModelError, TooFewBarsError, UntrustedModelError
from app.predictions.worker import PROGRAM, TrainingWorker
from app.predictions.worker_process import NICENESS
from tests.predictions.ml.series import changed, cut, real


@pytest.mark.timeout(300)
async def test_the_real_engine(make_worker: Callable[..., TrainingWorker]):
    worker, shares = make_worker(program=PROGRAM, grace_seconds=120), []  # it is nice, and others may not be
    asked = real(model="ensemble", bars=520)
    results = await worker.train(asked, lambda share, _: shares.append(share))
    assert [result.model for result in results] == ["random_forest", "svr", "lstm", "ensemble"]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert len(shares) > 20
    for result in results:
        stored = changed(asked, model=result.model)
        prediction = await worker.predict(result.blob, stored)
        # Numbers are lists of floats all the way: what is read back forecasts the same.
        assert msgspec.structs.asdict(prediction.forecast) == pytest.approx(msgspec.structs.asdict(result.forecast))
        assert prediction.evaluation == result.evaluation
        assert prediction.trained_through == asked.starts[-1]
    svr = results[1].blob
    with pytest.raises(UntrustedModelError):
        await worker.predict(svr[:-1] + bytes([svr[-1] ^ 1]), changed(asked, model="svr"))
    with pytest.raises(StaleModelError):
        await worker.predict(svr, changed(asked, model="lstm"))
    with pytest.raises(TooFewBarsError, match="300 closed candles"):
        await worker.train(cut(asked, 300), lambda *_: None)
    with pytest.raises(DeadlineExceededError):
        await worker.train(changed(asked, deadline_seconds=0.05), lambda *_: None)
    health = worker.health()
    assert health["lost"] == 0
    assert 200 < health["memory_mb"] < 700
    process = psutil.Process(worker.pid)
    assert process.nice() == psutil.Process().nice() + NICENESS
