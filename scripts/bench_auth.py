#!/usr/bin/env python3
"""What signing in costs, and what it costs everybody else: `.venv/bin/python scripts/bench_auth.py [--seconds N]`.

The service runs on a fresh folder, on this machine's loopback, on its embedded database or on MONGODB_URL:

1. raw argon2id: verifications in as many threads as the service hashes with, in a process that does nothing else;
2. logins by 1, 8 and 32 connections, each sending one after another. Meanwhile a further connection asks
   `/health/live` every few milliseconds, and a task in the service notes how late its event loop wakes it;
3. refreshes by 8 connections, each spending chains of tokens of its own;
4. `/me` by 16 connections, whose sessions are in the cache, and `/health/live` by 16: the floor for an answer.

Limits are raised for the run. The load generator shares the cores with the service and the database, so the rates are
lower than with a client of its own.
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
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop
from fastapi import FastAPI

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

PASSWORD = secrets.token_hex(8)
V1 = "/api/v1/auth"
LATE = "late.json"
TICK = 0.002
LIMITS = ("RATE", "USER_RATE", "AUTH_RATE", "AUTH_ADDRESS_RATE")


def watched() -> FastAPI:
    """The service with one task more, which notes by how much the event loop is late; uvicorn is given this."""
    from app.core.settings import Settings
    from app.main import create_app

    settings = Settings.load()
    app = create_app(settings)
    whole = app.router.lifespan_context
    late: list[tuple[float, float]] = []

    async def tick() -> None:
        while True:
            due = time.monotonic() + TICK
            await asyncio.sleep(TICK)
            now = time.monotonic()
            late.append((now, now - due))

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with whole(app):
            ticker = asyncio.create_task(tick())
            yield
            ticker.cancel()
        (settings.data_dir / LATE).write_text(json.dumps(late))

    app.router.lifespan_context = lifespan
    return app


@contextlib.contextmanager
def server(data_dir: Path) -> Iterator[int]:
    """The running service; gives its port."""
    from tests.support.service import free_port

    port = free_port()
    env = os.environ | {f"{name}_LIMIT_PER_MINUTE": "1000000000" for name in LIMITS}
    env |= {"DATA_DIR": str(data_dir), "ENVIRONMENT": "test", "PYTHONPATH": f"{ROOT}:{ROOT / 'scripts'}"}
    command = [sys.executable, "-m", "uvicorn", "bench_auth:watched", "--factory", "--port", str(port)]
    with (data_dir / "server.log").open("ab") as log:
        process = subprocess.Popen([*command, "--no-access-log"], env=env, cwd=data_dir, stdout=log, stderr=log)  # noqa: S603 (our own)
    try:
        for _ in range(600):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=1).close()
                break
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(20)


# ── Measuring ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Part:
    """What one part of the run took; times in seconds, `began` and `ended` on the machine's monotonic clock."""

    name: str
    began: float
    ended: float
    latencies: list[float]
    probes: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.latencies) / (self.ended - self.began)

    def line(self, late: list[tuple[float, float]]) -> str:
        """A row of the table."""
        loop = sorted(value for moment, value in late if self.began <= moment <= self.ended)
        shown = [
            f"{milliseconds(values, share):>8}"
            for values, share in (
                (self.latencies, 0.5),
                (self.latencies, 0.99),
                (self.probes, 0.5),
                (self.probes, 0.99),
                (self.probes, 1),
                (loop, 0.99),
                (loop, 1),
            )
        ]
        return f"{self.name:<28} {self.rate:>8.1f} {' '.join(shown)}"


def milliseconds(values: list[float], share: float) -> str:
    """A quantile of `values`, or a dash where there are none."""
    ordered = sorted(values)
    return f"{ordered[min(int(len(ordered) * share), len(ordered) - 1)] * 1e3:.1f}" if ordered else "–"


class Connection:
    """A keep-alive connection that speaks bytes, so that the generator costs little."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def open(self) -> "Connection":
        """Connect."""
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def ask(self, method: str, path: str, body: Any = None, token: str = "") -> Any:
        """One request; its JSON answer. Anything but a success ends the run."""
        content = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
        head += f"authorization: Bearer {token}\r\n" if token else ""
        self._writer.write(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        length = int(answer.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        text = await self._reader.readexactly(length)
        if not answer.startswith(b"HTTP/1.1 2"):
            raise SystemExit(f"{method} {path}: {text.decode()}")
        return json.loads(text)


Work = Callable[[Connection, int], Awaitable[None]]


async def measure(name: str, port: int, connections: int, seconds: float, work: Work, *, probe: bool = False) -> Part:
    """Repeat `work` on so many connections for so long; with `probe`, ask for a sign of life all the while."""
    open_ones = [await Connection(port).open() for _ in range(connections)]
    latencies: list[float] = []
    probes: list[float] = []
    began = time.monotonic()
    running = True

    async def repeat(connection: Connection, number: int) -> None:
        while time.monotonic() < began + seconds:
            start = time.monotonic()
            await work(connection, number)
            latencies.append(time.monotonic() - start)

    async def watch() -> None:
        connection = await Connection(port).open()
        while running:
            start = time.monotonic()
            await connection.ask("GET", "/health/live")
            probes.append(time.monotonic() - start)
            await asyncio.sleep(TICK)

    watcher = asyncio.create_task(watch()) if probe else None
    await asyncio.gather(*(repeat(connection, number) for number, connection in enumerate(open_ones)))
    ended = time.monotonic()
    running = False
    if watcher:
        await watcher
    return Part(name, began, ended, latencies, probes)


def raw_hashing(seconds: float) -> Part:
    """Verifications of one hash by nothing but threads; as the service does it, without the service."""
    from passlib.context import CryptContext

    from app.auth.passwords import ARGON2_KIB, ARGON2_LANES, ARGON2_PASSES, THREADS

    costs = {"time_cost": ARGON2_PASSES, "memory_cost": ARGON2_KIB, "parallelism": ARGON2_LANES}
    context = CryptContext(["argon2"], argon2__type="ID", **{f"argon2__{name}": cost for name, cost in costs.items()})
    hashed = context.hash(PASSWORD)
    latencies: list[float] = []
    began = time.monotonic()

    def repeat(_: int) -> None:
        while time.monotonic() < began + seconds:
            start = time.monotonic()
            context.verify(PASSWORD, hashed)
            latencies.append(time.monotonic() - start)

    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(repeat, range(THREADS)))
    return Part(f"raw argon2id, {THREADS} threads", began, time.monotonic(), latencies)


# ── The run ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def run(port: int, seconds: float) -> list[Part]:
    """Everything that needs the service."""
    emails = [f"{secrets.token_hex(6)}@example.com" for _ in range(64)]
    pairs: list[dict[str, Any]] = [{} for _ in emails]

    async def sign_up(numbers: Iterator[int]) -> None:
        connection = await Connection(port).open()
        for number in numbers:
            body = {"email": emails[number], "password": PASSWORD}
            pairs[number] = await connection.ask("POST", f"{V1}/signup", body)

    async def login(connection: Connection, number: int) -> None:
        await connection.ask("POST", f"{V1}/login", {"email": emails[number], "password": PASSWORD})

    refreshed = [0] * 8

    async def refresh(connection: Connection, number: int) -> None:
        # Every chain of tokens has a limit of its own: a connection goes from one to its next before that.
        chain = number + 8 * (refreshed[number] // 28)
        refreshed[number] += 1
        pairs[chain] = await connection.ask("POST", f"{V1}/refresh", {"refresh_token": pairs[chain]["refresh_token"]})

    async def me(connection: Connection, number: int) -> None:
        await connection.ask("GET", f"{V1}/me", token=pairs[number]["access_token"])

    async def live(connection: Connection, _: int) -> None:
        await connection.ask("GET", "/health/live")

    numbers = iter(range(len(emails)))
    await asyncio.gather(*(sign_up(numbers) for _ in range(4)))
    await measure("warm-up", port, 2, 0.5, login)
    return [
        await measure("logins, 1 connection", port, 1, seconds, login, probe=True),
        await measure("logins, 8 connections", port, 8, seconds, login, probe=True),
        await measure("logins, 32 connections", port, 32, seconds, login, probe=True),
        await measure("refreshes, 8 connections", port, 8, seconds / 2, refresh),
        await measure("/me, 16 connections", port, 16, seconds / 2, me),
        await measure("/health/live, 16 connections", port, 16, seconds / 2, live),
    ]


def main() -> None:
    """Run and print the table and its ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=6, help="length of each part with logins (default 6)")
    seconds = parser.parse_args().seconds
    raw = raw_hashing(seconds / 2)
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder)
        with server(data_dir) as port:
            parts = uvloop.run(run(port, seconds))
        late = json.loads((data_dir / LATE).read_text())
    print(f"{'':<28} {'':>8} {'latency ms':^17} {'/health/live ms':^26} {'loop late ms':^17}")
    print(f"{'':<28} {'a second':>8} {'p50':>8} {'p99':>8} {'p50':>8} {'p99':>8} {'max':>8} {'p99':>8} {'max':>8}")
    for part in (raw, *parts):
        print(part.line(late))
    alone, eight, many, refreshes, me, live = parts
    print()
    for part in (alone, eight, many):
        print(f"{part.name + ' / raw hashing, rate':<48} {part.rate / raw.rate:7.0%}")
    print(f"{'refreshes / bare answers, rate':<48} {refreshes.rate / live.rate:7.1%}")
    print(f"{'/me / bare answers, rate':<48} {me.rate / live.rate:7.0%}")
    worst = max(eight.probes) * 1e3
    print(f"{'slowest probe while 8 log in at once':<48} {worst:7.1f} ms (bound: 50)")


if __name__ == "__main__":
    main()
