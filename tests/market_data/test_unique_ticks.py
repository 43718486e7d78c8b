"""`scripts/create_market_data_unique_index.py` on a collection that another program made."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from pymongo import MongoClient

from app.core.embedded import EmbeddedDatabase
from tests.support.http import NO_TLS
from tests.support.service import ROOT, ServiceProcess

AT = datetime(2026, 11, 20, 5, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def tick(number: int, price: float, symbol: str = "NIFTY 50", **more: Any) -> dict[str, Any]:
    """As system 1 stored them."""
    return {
        "tk": "99926000", "token": "99926000", "symbol": symbol, "exchange": "NSE", "ltpc": price, "volume": 7,
        "exchange_type": 1, "instrument_type": "INDEX", "received_at": AT + number * SECOND, "source": "angel_one",
        "processed": False, "raw_data": {}, "data_quality": "good", "is_realtime": True, **more,
    }  # fmt: skip


@pytest.fixture
def service(tmp_path: Path) -> Iterator[ServiceProcess]:
    """Not started yet."""
    made = ServiceProcess(tmp_path)
    yield made
    made.stop()


def store(service: ServiceProcess, rows: list[dict[str, Any]]) -> None:
    """What another program left in the embedded database, which is stopped again."""

    async def work() -> None:
        database = EmbeddedDatabase(service.data_dir)
        service.data_dir.mkdir(parents=True, exist_ok=True)
        uri = await database.start()
        try:
            with MongoClient[dict[str, Any]](uri) as client:
                client[service.env.get("DATABASE_NAME", "arrow")]["market_data"].insert_many(rows)
        finally:
            await database.stop()

    asyncio.run(work())


def program(service: ServiceProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "create_market_data_unique_index.py"), *arguments]
    return subprocess.run(command, env=service.env, capture_output=True, text=True, timeout=50, check=False)


def test_repeats_go_and_different_ticks_stay(service: ServiceProcess):
    rows = [
        tick(0, 100.0), tick(0, 100.0, processed=True), tick(0, 100.0),
        tick(1, 101.0), tick(1, 101.5), tick(1, 102.0), tick(1, 101.5), tick(1, 101.0),
        tick(1, 102.0, received_at=AT + SECOND + timedelta(milliseconds=1)),
        tick(1, 300.0, symbol="SENSEX", data_quality="suspect"),
    ]  # fmt: skip
    store(service, rows)

    looked = program(service, "--dry-run")
    done = program(service)
    again = program(service)

    assert looked.returncode == done.returncode == again.returncode == 0, looked.stderr + done.stderr + again.stderr
    assert "10 ticks: 4 repeats, 2 different ticks at one time, 0 rows" in looked.stdout
    assert "4 repeats deleted, 2 ticks moved" in done.stdout
    assert "0 repeats deleted, 0 ticks moved" in again.stdout
    service.start()
    base = f"{service.url}/api/v1/market-data"
    found = httpx.get(f"{base}/symbol/NIFTY 50", verify=NO_TLS).json()
    assert sorted(row["ltpc"] for row in found) == [100.0, 101.0, 101.5, 102.0, 102.0]
    moved = [datetime.fromisoformat(row["received_at"]) - AT for row in found[:4]]
    assert moved == [SECOND + timedelta(milliseconds=number) for number in (3, 2, 1, 0)]
    statistics = httpx.get(f"{base}/statistics", verify=NO_TLS).json()
    assert statistics["by_symbol"] == {"NIFTY 50": 5, "SENSEX": 1}
    assert statistics["by_quality"] == {"good": 5, "suspect": 1}
    assert [row["symbol"] for row in httpx.get(f"{base}/latest", verify=NO_TLS).json()] == ["NIFTY 50", "SENSEX"]


def test_rows_that_are_no_ticks_are_named_and_left(service: ServiceProcess):
    store(service, [tick(0, 100.0), {"symbol": None, "received_at": AT}, {"symbol": "X", "received_at": "yesterday"}])

    done = program(service)

    assert done.returncode == 1
    assert "2 rows have no symbol or no time" in done.stdout


def test_a_service_that_finds_repeats_names_the_program(service: ServiceProcess):
    store(service, [tick(0, 100.0), tick(0, 100.0)])

    service.launch()

    assert service.process
    assert service.process.wait(30) != 0
    assert "scripts/create_market_data_unique_index.py" in service.log_text()
    assert "Traceback" not in service.log_text()


def test_not_beside_a_running_service(service: ServiceProcess):
    service.start()

    done = program(service)

    assert done.returncode == 1
    assert "stop it first" in done.stderr
