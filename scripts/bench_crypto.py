#!/usr/bin/env python3
"""What the listing of cryptocurrencies costs, in ratios of one run: `.venv/bin/python scripts/bench_crypto.py`.

Pages of 50 coins out of 250, asked for by 8 connections, each sending one request after another:

1. a bare JSON endpoint: an application of FastAPI's with nothing else, which encodes the same page by msgspec;
2. the same endpoint where the page is ready as bytes: what is left of it is the server and FastAPI themselves;
3. that one again, within the service: request ids, the log line, metrics and headers are the difference;
4. the listing, one page again and again: what is cached, limits and validators included;
5. the same page for clients that have it: 304;
6. the listing, each time with a filter that nobody sent before: parsed, checked, selected and put together;
7. single coins, and the gainers.

The parts take turns, several rounds of each, and the best round of each counts: whatever else the machine does comes
and goes. The service runs on a fresh folder on loopback, on its embedded database or on MONGODB_URL; nobody is asked
for prices. The load generator shares the cores with the service.
"""

import argparse
import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import psutil
import uvloop
from fastapi import FastAPI, Response

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

CONNECTIONS = 8
COINS = 250
PAGE = "/api/v1/cryptocurrencies/"
BARE, READY = "/bench/bare", "/bench/ready"
BODY = "BENCH_BODY"
BITCOIN = {
    "price": 67187.34,
    "market_cap": 1317802988326.25,
    "fully_diluted_valuation": 1411066138321.0,
    "volume_24h": 31260929299.52,
    "high_24h": 67841.02,
    "low_24h": 66112.9,
    "price_change_1h": 0.0809,
    "price_change_7d": -2.5144,
    "circulating_supply": 19675962.0,
    "total_supply": 21000000.0,
    "max_supply": 21000000.0,
    "ath": 73738.0,
    "atl": 67.81,
}
"""Figures of a coin, of which the others have a part."""


# ── Servers: this file is also the module that uvicorn is given ──────────────────────────────────────────────────────


def _add_bare(app: FastAPI) -> None:
    body = Path(os.environ[BODY]).read_bytes()
    rows = msgspec.json.decode(body)

    @app.get(BARE)
    async def bare() -> Response:
        return Response(msgspec.json.encode(rows), media_type="application/json")

    @app.get(READY)
    async def ready() -> Response:
        return Response(body, media_type="application/json")


def alone() -> FastAPI:
    """The bare endpoints and nothing else."""
    app = FastAPI()
    _add_bare(app)
    return app


def service() -> FastAPI:
    """The whole service, with coins listed."""
    from app.core.clock import SystemClock
    from app.core.settings import Settings
    from app.crypto.encoding import Coin
    from app.crypto.generations import GenerationStore
    from app.crypto.ports import CoinListing, Provider
    from app.main import create_app

    def coin(number: int) -> Coin:
        slug, now = f"coin-number-{number}", SystemClock().now()
        # As doubles would be spelled, so that the bare endpoints' answers are of the same size.
        told: dict[str, Any] = {name: Decimal(repr(value / number)) for name, value in BITCOIN.items()}
        listing = CoinListing(
            provider=Provider.COINGECKO,
            provider_id=slug,
            slug=slug,
            symbol=f"C{number}",
            name=f"Coin number {number}",
            rank=number,
            price_change_24h=Decimal(number % 21 - 10),
            ath_date=now,
            atl_date=now,
            image=f"https://coins.example/{number}/large/coin.png?1696501400",
            updated_at=now,
            **told,
        )
        ids = {"coingecko": slug}
        return Coin(slug=slug, ids=ids, listing=listing, first_seen=now, synced_at=now, reach=COINS, reached_at=now)

    app = create_app(Settings.load())
    _add_bare(app)
    whole = app.router.lifespan_context

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with whole(app):
            store = GenerationStore()
            if await store.newest() is None:
                coins = [coin(number) for number in range(1, COINS + 1)]
                await store.put(None, SystemClock().now(), Provider.COINGECKO, coins, {})
            yield

    app.router.lifespan_context = lifespan
    return app


@contextlib.contextmanager
def server(target: str, folder: Path) -> Iterator[tuple[int, int]]:
    """A uvicorn process that serves `target` of this file; gives its port and pid."""
    from tests.support.service import free_port

    port = free_port()
    env = os.environ | {"DATA_DIR": str(folder), "ENVIRONMENT": "test", BODY: str(folder / "body")}
    env |= {"PYTHONPATH": f"{ROOT}:{ROOT / 'scripts'}", "RATE_LIMIT_PER_MINUTE": "1000000000"}
    env |= {"CRYPTO_SYNC_ENABLED": "false"}
    command = [sys.executable, "-m", "uvicorn", f"bench_crypto:{target}", "--factory", "--port", str(port)]
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen([*command, "--no-access-log"], env=env, cwd=folder, stdout=log, stderr=log)  # noqa: S603 (our own)
        try:
            for _ in range(600):
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"http://127.0.0.1:{port}{BARE}", timeout=1).close()
                    break
                time.sleep(0.05)
            yield port, process.pid
        finally:
            process.terminate()
            process.wait(20)


# ── Measuring ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Part:
    """One thing that is measured, and its best round."""

    name: str
    port: int
    pid: int
    path: Callable[[int], str]
    status: int = 200
    header: str = ""
    rate: float = 0.0
    p99: float = 0.0
    cpu: float = 0.0

    def line(self) -> str:
        """A row of the table."""
        return f"{self.name:<46} {self.rate:>8.0f} {self.p99 * 1e3:>8.2f} {self.cpu:>8.0f}"


class Numbers:
    """1, 2, 3…: no filter is sent twice in a run."""

    def __init__(self) -> None:
        self.last = 0

    def next(self) -> int:
        """One more."""
        self.last += 1
        return self.last


async def ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, header: str
) -> tuple[int, bytes, bytes]:
    """One request on a connection that stays open: status, head and body."""
    writer.write(f"GET {path} HTTP/1.1\r\nhost: bench\r\n{header}\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
    body = await reader.readexactly(int(length)) if length else b""
    return int(head[9:12]), head, body


async def once(port: int, path: str) -> tuple[bytes, bytes]:
    """Head and body of one answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    status, head, body = await ask(reader, writer, path, "")
    writer.close()
    if status != 200:
        raise SystemExit(f"{path} answered {status}: {body[:300].decode()}")
    return head, body


async def round_of(part: Part, seconds: float, numbers: Numbers) -> None:
    """Measure `part` for so long, and keep the result if it is its best."""
    latencies: list[float] = []
    end = time.perf_counter() + seconds

    async def work() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", part.port)
        while (began := time.perf_counter()) < end:
            status, _, body = await ask(reader, writer, part.path(numbers.next()), part.header)
            latencies.append(time.perf_counter() - began)
            if status != part.status:
                raise SystemExit(f"{part.name}: answered {status}: {body[:300].decode()}")
        writer.close()

    process = psutil.Process(part.pid)
    used, began = sum(process.cpu_times()[:2]), time.perf_counter()
    await asyncio.gather(*[work() for _ in range(CONNECTIONS)])
    rate = len(latencies) / (time.perf_counter() - began)
    if rate > part.rate:
        part.rate, part.p99 = rate, sorted(latencies)[int(len(latencies) * 0.99)]
        part.cpu = (sum(process.cpu_times()[:2]) - used) / len(latencies) * 1e6


async def run(seconds: float, rounds: int) -> tuple[list[Part], int]:
    """All parts, and the bytes of a page."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "body").write_bytes(b"[]")
        with server("service", folder) as (port, _):
            body = (await once(port, PAGE))[1]
        (folder / "body").write_bytes(body)
        with server("alone", folder) as (bare, bare_pid), server("service", folder) as (port, pid):
            head, page = await once(port, PAGE)
            if {len(page), len((await once(bare, BARE))[1]), len((await once(bare, READY))[1])} != {len(body)}:
                raise SystemExit("the answers are not of one size")
            tag = head.lower().partition(b"etag: ")[2].partition(b"\r\n")[0].decode()
            parts = [
                Part("bare JSON endpoint", bare, bare_pid, lambda _: BARE),
                Part("ready bytes, an application of their own", bare, bare_pid, lambda _: READY),
                Part("ready bytes, in the service", port, pid, lambda _: READY),
                Part("listing, cached", port, pid, lambda _: PAGE),
                Part("listing, 304", port, pid, lambda _: PAGE, 304, f"if-none-match: {tag}\r\n"),
                Part("listing, uncached", port, pid, lambda number: f"{PAGE}?min_price=0.{number:012}"),
                Part("one coin", port, pid, lambda number: f"{PAGE}C{number % COINS + 1}"),
                Part("top gainers", port, pid, lambda _: f"{PAGE}top/gainers"),
            ]
            numbers = Numbers()
            for _ in range(rounds):
                for part in parts:
                    await round_of(part, seconds, numbers)
    return parts, len(body)


def main() -> None:
    """Run and print the table and its ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each part in each round (default 1.5)")
    parser.add_argument("--rounds", type=int, default=4, help="(default 4)")
    options = parser.parse_args()
    parts, size = uvloop.run(run(options.seconds, options.rounds))
    print(f"{f'pages of {size:,} bytes':<46} {'req/s':>8} {'p99 ms':>8} {'CPU µs':>8}")
    for part in parts:
        print(part.line())
    bare, ready, inside, cached, _, uncached, *_ = parts
    print()
    print(f"{'':<34} {'req/s':>6} {'CPU':>6}")
    for name, part, other in (
        ("cached / bare JSON endpoint", cached, bare),
        ("cached / ready bytes alone", cached, ready),
        ("cached / ready bytes in service", cached, inside),
        ("uncached / bare JSON endpoint", uncached, bare),
        ("uncached / ready bytes in service", uncached, inside),
    ):
        aim = "   (aim: at least 80 %)" if part is cached and other is bare else ""
        print(f"{name:<34} {part.rate / other.rate:>6.0%} {other.cpu / part.cpu:>6.0%}{aim}")


if __name__ == "__main__":
    main()
