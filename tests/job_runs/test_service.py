"""Jobs of the running service: in its own process, and in taskiq's processes beside it."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest
from websockets.asyncio.client import connect

from tests.support.people import Person, somebody
from tests.support.redis_servers import RedisServer
from tests.support.service import ROOT, ServiceProcess

pytestmark = pytest.mark.timeout(180)
"""Services or programs are started here, for which a busy machine needs its time."""

JOBS = "/api/v1/jobs"


async def runs(person: Person, **query: Any) -> list[dict[str, Any]]:
    answer = await person.client.get(JOBS, params=query)
    assert answer.status_code == 200, answer.text
    rows: list[dict[str, Any]] = answer.json()
    return rows


async def succeeded(person: Person, job: str, seconds: float = 30) -> dict[str, Any]:
    """The newest run of `job` that succeeded."""
    deadline = time.monotonic() + seconds
    while not (rows := await runs(person, job=job, state="succeeded")):
        assert time.monotonic() < deadline, await runs(person)
        await asyncio.sleep(0.05)
    return rows[0]


async def test_the_service_does_its_jobs_and_tells_of_them(user: Person, service: ServiceProcess) -> None:
    run = await succeeded(user, "alerts.expire")
    assert (run["requested_by"], run["error"], run["retry_of"], run["arguments"]) == (None, None, None, {})
    assert run["due"].endswith(":00:00Z")
    answer = await user.client.get(f"{JOBS}/{run['id']}")
    assert answer.json() == run
    assert answer.headers["content-type"] == "application/json"

    async with asyncio.timeout(30):
        while len(await runs(user)) < 2:  # the other jobs begin after it
            await asyncio.sleep(0.05)
    first = await user.client.get(JOBS, params={"limit": 1})
    assert len(first.json()) == 1
    second = await user.client.get(JOBS, params={"limit": 1, "cursor": first.headers["X-Next-Cursor"]})
    assert second.json()[0]["id"] != first.json()[0]["id"]
    assert 'rel="next"' in first.headers["Link"]

    health = service.health()["jobs"]
    assert (health["status"], health["mode"]) == ("ok", "in process")
    # Or one of these, should its next hour have begun just now.
    assert health["jobs"]["alerts.expire"]["last_state"] in {"succeeded", "queued", "running"}
    metrics = (await user.client.get("/metrics")).text
    assert 'arrow_job_runs_total{job="alerts.expire",outcome="succeeded"}' in metrics


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"{JOBS}/6b02893a002b26997921d778", 404),
        (f"{JOBS}/nonsense", 404),
        (f"{JOBS}?state=done", 422),
        (f"{JOBS}?job=$where", 422),
        (f"{JOBS}?limit=0", 422),
        (f"{JOBS}?cursor=x", 422),
        (f"{JOBS}?states=failed", 422),
    ],
)
async def test_what_cannot_be_answered(user: Person, path: str, status: int) -> None:
    answer = await user.client.get(path)
    assert (answer.status_code, answer.json()["status"]) == (status, status)


@contextmanager
def taskiq(service: ServiceProcess, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """One of taskiq's programs, with the settings of the service; ended by SIGTERM."""
    log = (service.folder / f"{arguments[0]}.log").open("wb")
    program = subprocess.Popen(
        [sys.executable, "-m", "taskiq", *arguments],
        cwd=ROOT,
        env=service.env,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield program
        program.send_signal(signal.SIGTERM)
        assert program.wait(60) in {0, -signal.SIGTERM}
    finally:
        if program.poll() is None:
            for process in (*psutil.Process(program.pid).children(recursive=True), program):
                process.kill()
            program.wait(30)
        log.close()


async def all_ended(person: Person) -> None:
    """Wait until no run is under way: one that is cut off may have reasons to complain of it in the log."""
    async with asyncio.timeout(60):
        while [run for run in await runs(person) if run["state"] in {"queued", "running"}]:
            await asyncio.sleep(0.1)


@pytest.mark.timeout(300)
async def test_workers_do_the_jobs_and_the_service_streams_them(
    make_service: Callable[..., ServiceProcess], broker_server: RedisServer
) -> None:
    """taskiq's scheduler and worker alone: the service leads nothing, and tells of everything."""
    service = make_service(TASK_BROKER_URL=broker_server.url, BACKGROUND_TASKS_ENABLED="false").start()
    async with somebody(service.url) as person, connect(f"{service.ws_url}?token={person.token}") as socket:
        await socket.send(json.dumps({"action": "subscribe", "channel": "jobs", "since": 0}))
        assert await runs(person) == []
        with (
            taskiq(service, "scheduler", "app.jobs:scheduler"),
            taskiq(service, "worker", "app.jobs:broker", "--workers", "1"),
        ):
            # Two programs start, for which a busy machine needs its time.
            run = await succeeded(person, "alerts.expire", 120)
            heard: list[str] = []
            async with asyncio.timeout(30):
                while "succeeded" not in heard:
                    message = json.loads(await socket.recv())
                    if message["type"] == "job" and message["data"]["id"] == run["id"]:
                        assert message["channel"] == "jobs"
                        heard.append(message["data"]["state"])
            assert heard == ["queued", "running", "succeeded"]
            await all_ended(person)
        metrics = (await person.client.get("/metrics")).text
        assert 'arrow_job_runs_total{job="alerts.expire",outcome="succeeded"}' in metrics
        worker = (service.folder / "worker.log").read_text()
        assert "stopping" in worker
        assert "Traceback" not in worker


def test_taskiqs_programs_need_an_address(tmp_path: Any) -> None:
    env = {"PATH": "/usr/bin:/bin", "ENVIRONMENT": "test", "DATA_DIR": str(tmp_path)}
    code = "import app.jobs; app.jobs.scheduler"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "arrow: TASK_BROKER_URL: is not set; without it the service runs its jobs by itself\n"


def test_serving_requests_needs_no_taskiq() -> None:
    code = "import sys, app.main, app.lifespan; sys.exit('taskiq' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
