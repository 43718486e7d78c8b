#!/usr/bin/env python3
"""What the webhook costs, in ratios of one run: `.venv/bin/python scripts/bench_webhook.py [--requests N]`.

Five things, one after the other, each with 16 connections (or tasks) that send one request after another:

1. a bare ASGI answer under the same server: the floor;
2. the webhook's whole handler without the durable write: what the service itself costs;
3. the webhook as it is: each delivery acknowledged after its durable write, which concurrent deliveries share;
4. the same with one delivery at a time: nothing to share;
5. raw PyMongo: one durable `insert_one` of the same document into a collection with the same indexes.

Limits are raised for the run. Everything runs on this machine's loopback, on the embedded database or on MONGODB_URL.
The load generator shares the cores with the service and the database, so the rates are lower than with a client of its
own; CPU µs are of the service's process alone.
"""

import argparse
import asyncio
import contextlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import uvloop
from fastapi import FastAPI
from pymongo import AsyncMongoClient
from starlette.types import ASGIApp, Receive, Scope, Send

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

CONNECTIONS = 16
SPANS = "spans.json"
entered: ContextVar[float] = ContextVar("entered")
LIMITS = ("RATE", "USER_RATE", "AUTH_RATE", "AUTH_ADDRESS_RATE", "ALERT_RATE")


# ── Servers: this file is also the module that uvicorn is given ──────────────────────────────────────────────────────


async def bare(scope: Scope, receive: Receive, send: Send) -> None:
    """Reads the body and answers 201: what the server itself costs."""
    if scope["type"] != "http":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-type", b"application/json"), (b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 201, "headers": headers})
    await send({"type": "http.response.body", "body": b"{}"})


def without_write() -> FastAPI:
    """The whole service, but the alert's row is taken for stored at once."""
    from app.alerts.ingest import AlertIngest
    from app.core.deps import Registry
    from app.core.settings import Settings
    from app.main import create_app

    spans: list[float] = []

    class Entry:
        """Notes when a request enters the application; nothing suspends it until it would be written."""

        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            entered.set(time.perf_counter())
            await self.app(scope, receive, send)

    class NoWrite:
        def __init__(self, announce: Callable[[dict[str, Any], bytes], None]) -> None:
            self._announce = announce

        async def insert(self, row: dict[str, Any], note: bytes) -> None:
            spans.append(time.perf_counter() - entered.get())
            self._announce(row, note)

        async def drain(self) -> None:
            pass

    settings = Settings.load()
    app = create_app(settings)
    app.add_middleware(Entry)
    whole = app.router.lifespan_context

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with whole(app):
            registry: Registry = app.state.registry
            ingest: Any = registry.get(AlertIngest)
            ingest._commit = NoWrite(ingest._announce)  # noqa: SLF001 (a measurement from within)
            yield
        (settings.data_dir / SPANS).write_text(json.dumps(sorted(spans)))

    app.router.lifespan_context = lifespan
    return app


# ── Measuring ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Result:
    """What one part of the run took."""

    name: str
    rate: float
    p50: float
    p99: float
    cpu: float

    def line(self) -> str:
        """A row of the table."""
        cpu = f"{self.cpu:8.0f}" if self.cpu else "       –"
        return f"{self.name:<44} {self.rate:>8.0f} {self.p50 * 1e3:>8.2f} {self.p99 * 1e3:>8.2f} {cpu}"


def delivery(number: int) -> bytes:
    """The body of a delivery; every number another event."""
    return json.dumps(
        {
            "contract": "NIFTY",
            "trade_type": "buy",
            "quantity": "75",
            "price": 24350.5,
            "comment": "breakout",
            "alert_id": f"{RUN}-{number}",
        }
    ).encode()


RUN = secrets.token_hex(4)


async def measure(
    name: str, work: Callable[[Iterator[int], list[float]], Awaitable[None]], count: int, tasks: int, pid: int | None
) -> Result:
    """Run `tasks` workers over `count` numbers."""
    numbers = iter(range(count))
    latencies: list[float] = []
    process = psutil.Process(pid) if pid else None
    cpu = sum(process.cpu_times()[:2]) if process else 0.0
    began = time.perf_counter()
    await asyncio.gather(*[work(numbers, latencies) for _ in range(tasks)])
    elapsed = time.perf_counter() - began
    used = (sum(process.cpu_times()[:2]) - cpu) / count * 1e6 if process else 0.0
    latencies.sort()
    return Result(name, count / elapsed, latencies[count // 2], latencies[int(count * 0.99)], used)


def poster(port: int, path: str, answers: Counter[int]) -> Callable[[Iterator[int], list[float]], Awaitable[None]]:
    """A keep-alive connection that posts deliveries: bytes on a socket, so that the generator costs little."""

    async def work(numbers: Iterator[int], latencies: list[float]) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"POST {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: ".encode()
        for number in numbers:
            body = delivery(number)
            began = time.perf_counter()
            writer.write(head + str(len(body)).encode() + b"\r\n\r\n" + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = int(answer.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
            latencies.append(time.perf_counter() - began)
            answers[int(answer[9:12])] += 1
        writer.close()

    return work


@contextlib.contextmanager
def server(target: str, data_dir: Path) -> Iterator[tuple[int, int]]:
    """A uvicorn process that serves `target`; gives its port and pid."""
    from tests.support.service import free_port

    port = free_port()
    env = os.environ | {f"{name}_LIMIT_PER_MINUTE": "1000000000" for name in LIMITS}
    env |= {"DATA_DIR": str(data_dir), "ENVIRONMENT": "test", "PYTHONPATH": f"{ROOT}:{ROOT / 'scripts'}"}
    command = [sys.executable, "-m", "uvicorn", target, "--port", str(port), "--no-access-log"]
    command += ["--factory"] if target.endswith("without_write") else []
    log = (data_dir / "server.log").open("ab")
    process = subprocess.Popen(command, env=env, cwd=data_dir, stdout=log, stderr=log)  # noqa: S603 (our own)
    try:
        for _ in range(600):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health/live", timeout=1).close()
                break
            time.sleep(0.05)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait(20)
        log.close()


def call(port: int, path: str, body: dict[str, Any], token: str = "") -> Any:
    """One JSON request."""
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {token}"} if token else {})
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 (loopback)
        return json.load(answer)


def new_key(port: int) -> str:
    """A strategy key of a new account."""
    account = {"email": f"{secrets.token_hex(5)}@example.com", "password": secrets.token_hex(8)}
    token = call(port, "/api/v1/auth/signup", account)["access_token"]
    key: str = call(port, "/alerts/bind_key", {"name": "bench"}, token)["secret_key"]
    return key


async def raw_inserts(data_dir: Path, count: int) -> Result:
    """One durable `insert_one` a document, by as many tasks as there were connections."""
    from app.alerts.models import AlertDocument

    uri = os.environ.get("MONGODB_URL") or embedded_uri(data_dir)
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(uri, w="majority", journal=True, maxPoolSize=4)
    source, target = client["arrow"]["alerts"], client["arrow_bench"]["alerts"]
    await target.drop()
    await target.create_indexes(AlertDocument.Settings.indexes)
    template = await source.find_one({})
    if template is None:
        raise SystemExit("the webhook stored nothing")

    async def work(numbers: Iterator[int], latencies: list[float]) -> None:
        for number in numbers:
            row = template | {"_id": f"{RUN}{number}", "dedup": f"{RUN}{number}", "seq": template["seq"] + number}
            began = time.perf_counter()
            await target.insert_one(row)
            latencies.append(time.perf_counter() - began)

    result = await measure("raw PyMongo insert_one, durable, 16 tasks", work, count, CONNECTIONS, None)
    await target.drop()
    await client.close()
    return result


def embedded_uri(data_dir: Path) -> str:
    """Where the running service's embedded database listens."""
    endpoint = json.loads(next((data_dir / "embedded").glob("endpoint*")).read_text())
    return f"mongodb://127.0.0.1:{endpoint['port']}/?directConnection=true"


async def run(requests: int) -> tuple[list[Result], float]:
    """All parts of the run, and the median µs from a request's entry to its write."""
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder)
        answers: Counter[int] = Counter()
        with server("bench_webhook:bare", data_dir) as (port, pid):
            work = poster(port, "/data/x", answers)
            results.append(await measure("bare ASGI answer, 16 connections", work, 2 * requests, CONNECTIONS, pid))
        with server("bench_webhook:without_write", data_dir) as (port, pid):
            work = poster(port, f"/data/{new_key(port)}", answers)
            await measure("warm-up", work, 500, CONNECTIONS, pid)
            results.append(await measure("webhook without the write, 16 connections", work, requests, CONNECTIONS, pid))
        with server("app.main:app", data_dir) as (port, pid):
            path = f"/data/{new_key(port)}"
            await measure("warm-up", poster(port, path, answers), 500, CONNECTIONS, pid)
            work = poster(port, f"/data/{new_key(port)}", answers)
            results.append(await measure("webhook, durable, 16 connections", work, requests, CONNECTIONS, pid))
            work = poster(port, f"/data/{new_key(port)}", answers)
            results.append(await measure("webhook, durable, 1 connection", work, requests // 4, 1, pid))
            results.append(await raw_inserts(data_dir, requests // 2))
            before_write = json.loads((data_dir / SPANS).read_text())
        if set(answers) != {201}:
            raise SystemExit(f"not every delivery was stored: {answers}")
    return results, before_write[len(before_write) // 2] * 1e6


def main() -> None:
    """Run and print the table and its ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=6000, help="deliveries of each part (default 6000)")
    requests = parser.parse_args().requests
    results, before_write = uvloop.run(run(requests))
    print(f"{'':<44} {'req/s':>8} {'p50 ms':>8} {'p99 ms':>8} {'CPU µs':>8}")
    for result in results:
        print(result.line())
    bare_answer, handler, durable, lone, raw = results
    print()
    print(f"handler without the write / bare answer, CPU   {handler.cpu / bare_answer.cpu:6.2f} ×")
    print(f"durable webhook / raw insert_one, rate         {durable.rate / raw.rate:6.0%}   (aim: over 100 % grouped)")
    print(f"one at a time / raw insert_one, p50            {lone.p50 / (raw.p50 / CONNECTIONS):6.2f} ×")
    print(f"from the request's entry to the write          {before_write:6.0f} µs (aim: at most 180 of CPU; median)")
    print(f"acknowledged alerts a second                   {durable.rate:6.0f}   (goal: 1,000 on 2 cores)")


if __name__ == "__main__":
    main()
