"""Syncs that a worker of taskiq does for a service that does none."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.redis_servers import RedisServer
from tests.support.service import ROOT, ServiceProcess
from tests.system.crypto.kit import BASE, COINS, Exchange, listed, sync, until


@contextmanager
def taskiq_worker(service: ServiceProcess) -> Iterator[Path]:
    """A worker with the settings of the service, and its log; ended by SIGTERM."""
    command = ["-m", "taskiq", "worker", "app.jobs:broker", "--workers", "1"]
    path = service.folder / "worker.log"
    with path.open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env=service.env,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield path
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(60) in {0, -signal.SIGTERM}
        finally:
            if worker.poll() is None:
                for process in (*psutil.Process(worker.pid).children(recursive=True), worker):
                    process.kill()
                worker.wait(5)


@pytest.mark.timeout(180)
async def test_a_worker_syncs_and_the_service_shows_it(tmp_path: Path):
    with RedisServer() as broker:
        settings = {"TASK_BROKER_URL": broker.url, "BACKGROUND_TASKS_ENABLED": "false", "CRYPTO_SYNC_ENABLED": "true"}
        async with Exchange(tmp_path, **settings) as exchange:
            await exchange.start()
            with taskiq_worker(exchange.service) as log:
                async with exchange.somebody() as person, exchange.visitor() as visitor:

                    async def listing() -> httpx.Response | None:
                        """Of ten at once; while the worker starts they are told to come again, and do."""
                        answers = await asyncio.gather(*[visitor.get(f"{BASE}/?limit=1000") for _ in range(10)])
                        assert {answer.status_code for answer in answers} <= {200, 503}
                        return answers[0] if {answer.status_code for answer in answers} == {200} else None

                    assert len((await until(listing, 90)).json()) == COINS
                    assert exchange.asked == (1, 0)

                    exchange.gecko.fail("unavailable")
                    report = await sync(person, limit=20)
                    assert (report["provider"], report["rows"], report["joined"]) == ("coinmarketcap", 20, False)
                    assert {row["source"] for row in await listed(visitor, limit=20)} == {"coinmarketcap"}
                    assert exchange.asked == (2, 1)
                    jobs = (await person.client.get(f"/api/v1/jobs/{report['run_id']}")).json()
                    assert (jobs["state"], jobs["result"]["failed_over"]) == ("succeeded", report["failed_over"])
                assert (await exchange.health())["jobs"]["mode"] == "workers"
            assert log.read_text().count("listing synced") == 2
            assert "listing synced" not in exchange.service.log_text()
