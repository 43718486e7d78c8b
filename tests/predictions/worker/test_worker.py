"""The process that trains: killed, greedy, stuck, chattering and abandoned; over real pipes, with a stub for models."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from app.core.child_program import HEAD
from app.core.errors import UnavailableError
from app.predictions.ml import errors
from app.predictions.ml.values import ONE_THREAD, TrainRequest, TrainResult
from app.predictions.ports import WorkerLostError
from app.predictions.worker import TrainingWorker, model_key
from app.predictions.worker_messages import Begin, Train, encode
from tests.predictions.worker.conftest import KEY, STUB
from tests.predictions.worker.stub import EVALUATION, FORECAST, request

Make = Callable[..., TrainingWorker]


def unheard(share: float, doing: str) -> None:
    pass


def train(worker: TrainingWorker, request: TrainRequest) -> "asyncio.Task[list[TrainResult]]":
    return asyncio.create_task(worker.train(request, unheard))


async def until(condition: Callable[[], object], seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def lines(mark: Path, word: str) -> int:
    return mark.read_text(encoding="utf-8").split().count(word) if mark.exists() else 0


def words_of(process: psutil.Process) -> list[str]:
    """How it was started; nothing of one that has gone meanwhile, as another test's may."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid)


@asynccontextmanager
async def under_way(worker: TrainingWorker, mark: Path, what: str = "steps") -> AsyncIterator["asyncio.Task[object]"]:
    """A training of `worker` that has begun and goes on for long."""
    begun = lines(mark, "begun")
    task = train(worker, request(what, mark=str(mark), count=10_000))
    await until(lambda: lines(mark, "begun") > begun)
    yield task
    task.cancel()
    await asyncio.wait([task])


async def test_what_was_trained_comes_back(make_worker: Make, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SECRET_KEY", "never-to-be-passed-on")
    worker, told = make_worker(), []
    assert worker.health()["state"] == "off"
    asked = request("steps", count=4, seconds=12.5)
    [result] = await worker.train(asked, lambda share, doing: told.append((share, doing)))
    assert told == [(0.0, "begun"), *((number / 4, f"step {number}") for number in (1, 2, 3, 4))]
    assert result.forecast == FORECAST
    assert result.evaluation == EVALUATION
    assert result.blob == KEY
    assert result.seconds == 12.5
    # Its surroundings: one thread, a place behind the service, and none of its secrets.
    assert result.versions.items() >= ONE_THREAD.items()
    assert "never-to-be-passed-on" not in result.versions.values()
    process = psutil.Process(worker.pid)
    assert KEY.decode() not in " ".join([*process.cmdline(), *process.environ().values()])
    assert process.nice() == psutil.Process().nice() + 10
    health = worker.health()
    assert health["state"] == "ready"
    assert 5 < health.pop("memory_mb") < 100
    assert (health["answered"], health["lost"], health["waiting"]) == (1, 0, 0)


async def test_a_stored_model_forecasts(make_worker: Make):
    worker = make_worker()
    prediction = await worker.predict(KEY, request())
    assert prediction.forecast == FORECAST
    with pytest.raises(errors.UntrustedModelError, match="signature"):
        await worker.predict(b"forged", request())
    assert worker.health()["lost"] == 0


async def test_refusals_come_through_as_they_are(make_worker: Make):
    worker = make_worker()
    for kind in ("InvalidSeries", "TooFewBars", "DeadlineExceeded", "UntrustedModel", "StaleModel", "Prediction"):
        with pytest.raises(errors.PredictionError, match="a person can act on") as caught:
            await worker.train(request("refuse", kind=f"{kind}Error"), unheard)
        assert type(caught.value).__name__ == f"{kind}Error"
    assert worker.health()["lost"] == 0


async def test_the_unforeseen_is_told_without_its_details_and_leaves_no_process(make_worker: Make):
    worker = make_worker()
    with pytest.raises(errors.PredictionError, match="ZeroDivisionError") as caught:
        await worker.train(request("fail"), unheard)
    assert "nobody" not in str(caught.value)
    assert worker.pid is None
    assert await worker.train(request(), unheard)


# Lost


async def test_killed_in_the_middle_it_is_done_once_more(make_worker: Make, tmp_path: Path):
    worker, told, mark = make_worker(), [], tmp_path / "mark"
    asked = request("die", mark=str(mark), seconds=50)
    [result] = await worker.train(asked, lambda share, doing: told.append((share, doing)))
    # Progress goes on; it never goes back.
    assert told == [
        (0.0, "begun"),
        (0.5, "about to die"),
        (0.5, "begun"),
        (0.5, "about to die"),
        (0.5, "a second time"),
    ]
    assert lines(mark, "begun") == 2
    assert 0 < result.seconds < 50  # what was left
    assert worker.health()["lost"] == 1
    assert "signal 9" in worker.health()["last_loss"]["reason"]


async def test_killed_from_outside_both_times_it_is_given_up_and_the_next_is_served(make_worker: Make, tmp_path: Path):
    worker, mark = make_worker(), tmp_path / "mark"
    asked = train(worker, request("sleep", mark=str(mark)))
    pids = set()
    for number in (1, 2):
        await until(lambda number=number: lines(mark, "begun") == number)
        pids.add(worker.pid)
        os.kill(worker.pid or 0, signal.SIGKILL)
    with pytest.raises(WorkerLostError) as caught:
        await asked
    assert "signal 9" in caught.value.reason
    assert len(pids) == 2
    assert all(gone(pid or 0) for pid in pids)
    assert worker.health()["lost"] == 2
    assert await worker.train(request(), unheard)


async def test_what_takes_too_much_memory_is_ended(make_worker: Make):
    worker = make_worker(max_memory_mb=150)
    with pytest.raises(WorkerLostError, match=r"more than 150 MB of memory.*PREDICTIONS_MAX_MEMORY_MB"):
        await worker.train(request("eat"), unheard)
    assert worker.pid is None
    assert await worker.train(request(), unheard)


async def test_what_does_not_end_is_ended_and_not_tried_again(make_worker: Make, tmp_path: Path):
    worker, mark = make_worker(grace_seconds=0.3), tmp_path / "mark"
    await worker.train(request(), unheard)
    began = time.monotonic()
    with pytest.raises(WorkerLostError, match="did not end in 1 seconds"):
        await worker.train(request("hang", mark=str(mark), seconds=1), unheard)
    assert time.monotonic() - began > 1.2  # it never ends by itself
    assert lines(mark, "begun") <= 1
    assert worker.health()["lost"] == 1
    assert worker.pid is None
    assert await worker.train(request(), unheard)


async def test_one_that_was_stopped_by_a_signal_does_not_hold_everybody_up(make_worker: Make):
    """It takes nothing from its pipe either."""
    worker = make_worker(grace_seconds=0.2)
    await worker.train(request(), unheard)
    os.kill(worker.pid or 0, signal.SIGSTOP)
    with pytest.raises(WorkerLostError, match="did not end"):
        await worker.predict(b"x" * 5_000_000, request(seconds=0.5))
    assert await worker.train(request(), unheard)


async def test_what_libraries_print_disturbs_nothing(make_worker: Make, capfd: pytest.CaptureFixture[str]):
    worker = make_worker()
    assert await worker.train(request("chatter"), unheard)
    assert await worker.train(request(), unheard)
    assert worker.health()["lost"] == 0
    said = capfd.readouterr()
    assert "garbage by print" in said.err
    assert "garbage from C" in said.err
    assert "garbage by print" not in said.out


async def test_a_program_that_cannot_start_is_told(make_worker: Make):
    worker = make_worker(program="tests.predictions.worker.none")
    with pytest.raises(WorkerLostError, match="status 1"):
        await worker.train(request(), unheard)
    assert worker.health()["state"] == "off"


# Abandoned


async def test_nothing_is_trained_for_somebody_who_has_gone(make_worker: Make, tmp_path: Path):
    worker, mark = make_worker(grace_seconds=30), tmp_path / "mark"
    async with under_way(worker, mark) as task:
        pid = worker.pid
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # The same process serves the next.
        assert await worker.train(request(), unheard)
        assert worker.pid == pid
        steps = lines(mark, "step")
        await asyncio.sleep(0.1)
        assert lines(mark, "step") == steps
        assert lines(mark, "done") == 0


async def test_what_does_not_stop_for_nobody_is_ended(make_worker: Make, tmp_path: Path):
    worker, mark = make_worker(grace_seconds=0.2), tmp_path / "mark"
    async with under_way(worker, mark, "hang") as task:
        pid = worker.pid or 0
        task.cancel()
        assert await worker.train(request(), unheard)
        assert worker.pid != pid
        assert gone(pid)
        assert worker.health()["lost"] == 0


async def test_who_waits_and_goes_takes_no_turn(make_worker: Make, tmp_path: Path):
    worker, mark = make_worker(), tmp_path / "mark"
    async with under_way(worker, tmp_path / "first"):
        waits = train(worker, request(mark=str(mark)))
        await until(lambda: worker.health()["waiting"] == 1)
        waits.cancel()
        await asyncio.wait([waits])
        assert worker.health()["waiting"] == 0
    assert await worker.train(request(), unheard)
    assert lines(mark, "begun") == 0


def test_it_ends_with_its_input_whatever_it_does(tmp_path: Path):
    mark, asked = tmp_path / "mark", Train(request("sleep", mark=str(tmp_path / "mark")))
    with subprocess.Popen([sys.executable, "-m", STUB], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        assert process.stdin is not None
        for number, body in enumerate((encode(Begin(KEY)), encode(asked)), 1):
            process.stdin.write(HEAD.pack(len(body), number, False) + body)
        process.stdin.flush()
        deadline = time.monotonic() + 30
        while not mark.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.stdin.close()
        try:
            assert process.wait(30) == 0
        finally:
            process.kill()


async def test_no_process_outlives_the_service(tmp_path: Path):
    """One that sleeps sees its input end; one that hangs cannot look, and is ended by the system. In the loop that
    uvicorn uses, which hands down more open files than asyncio's."""
    program = f"""
import asyncio, os, uvloop
from pathlib import Path
from app.core.clock import SystemClock
from app.predictions.worker import TrainingWorker
from tests.predictions.worker.stub import request
async def main():
    workers, marks = [], [Path({str(tmp_path)!r}) / what for what in ("sleep", "hang")]
    for mark in marks:
        workers.append(TrainingWorker(key=b"k" * 32, clock=SystemClock(), program={STUB!r}))
        asyncio.ensure_future(workers[-1].train(request(mark.name, mark=str(mark)), lambda share, doing: None))
    while not all(mark.exists() for mark in marks):
        await asyncio.sleep(0.02)
    print("PIDS", *(worker.pid for worker in workers), flush=True)
    os.kill(os.getpid(), 9)
uvloop.run(main())
"""
    command = [sys.executable, "-c", program]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    pids = [int(pid) for pid in done.stdout.split("PIDS ")[1].split()]
    assert len(pids) == 2
    await until(lambda: all(map(gone, pids)))


# Several


async def test_they_take_turns_and_too_many_are_sent_away(make_worker: Make, tmp_path: Path):
    worker, mark, order = make_worker(most_waiting=2), tmp_path / "mark", []
    async with under_way(worker, mark) as first:
        others = [train(worker, request()) for _ in range(2)]
        for number, task in enumerate(others):
            task.add_done_callback(lambda _, number=number: order.append(number))
        await until(lambda: worker.health()["waiting"] == 2)
        with pytest.raises(UnavailableError, match="2 forecasts wait") as caught:
            await worker.predict(KEY, request())
        assert int(caught.value.headers["Retry-After"]) > 1
        assert worker.health()["state"] == "training"
        first.cancel()
        await asyncio.wait(others)
    assert order == [0, 1]
    assert await worker.train(request(), unheard)


async def test_idle_it_goes_and_comes_back(make_worker: Make):
    worker = make_worker(idle_seconds=0.2)
    await worker.train(request(), unheard)
    pid = worker.pid or 0
    await until(lambda: worker.pid is None and gone(pid))
    assert await worker.train(request(), unheard)
    assert worker.health()["lost"] == 0


async def test_it_is_not_idle_while_it_trains(make_worker: Make):
    worker = make_worker(idle_seconds=0.1)
    assert await worker.train(request("steps", count=3, each=0.15), unheard)
    assert worker.health()["lost"] == 0


async def test_warmed_up_it_is_the_one_that_trains(make_worker: Make):
    worker = make_worker()
    worker.warm_up()
    worker.warm_up()
    first = train(worker, request())
    await until(lambda: worker.health()["state"] != "off")
    pid = worker.pid
    await first
    assert worker.pid == pid
    assert len([child for child in psutil.Process().children() if STUB in words_of(child)]) == 1


async def test_who_goes_while_it_starts_disturbs_nobody(make_worker: Make, tmp_path: Path):
    worker = make_worker(key=os.fsencode(tmp_path / "go"))
    goes, stays = train(worker, request()), train(worker, request())
    await until(lambda: worker.health()["state"] == "starting")  # until it may go on
    pid = worker.pid
    goes.cancel()
    await asyncio.wait([goes])
    (tmp_path / "go").touch()
    await stays
    assert worker.pid == pid
    assert worker.health()["lost"] == 0


async def test_at_the_end_everybody_is_told(make_worker: Make, tmp_path: Path):
    worker, mark = make_worker(grace_seconds=50), tmp_path / "mark"
    async with under_way(worker, mark, "hang") as trains:
        pid = worker.pid or 0
        waits = train(worker, request())
        await until(lambda: worker.health()["waiting"] == 1)
        began = time.monotonic()
        await worker.close()
        assert time.monotonic() - began < 25  # what it is asked may take 30 seconds, and 50 more
        assert gone(pid)
        for task in (trains, waits):
            with pytest.raises(WorkerLostError, match="service is ending"):
                await task
    worker.warm_up()
    with pytest.raises(WorkerLostError, match="service is ending"):
        await worker.predict(KEY, request())
    assert worker.pid is None


async def test_closed_while_it_starts(make_worker: Make):
    worker = make_worker()
    trains = train(worker, request())
    await asyncio.sleep(0)
    await worker.close()
    with pytest.raises(WorkerLostError, match="service is ending"):
        await trains
    assert worker.pid is None


def test_keys_of_models_are_their_own():
    keys = {model_key(secret) for secret in ("one secret of the service", "another")}
    assert len(keys) == 2
    assert {len(key) for key in keys} == {32}
    assert b"one secret of the service" not in keys
