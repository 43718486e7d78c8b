#!/usr/bin/env python3
"""What live market data cost, in ratios of one run: `.venv-dev/bin/python scripts/bench_feed.py [--parts a,b]`.

parser    our frames' parser beside the one of smartapi-python, per mode
pipeline  ticks from another process through socket, parser, checks, newest prices, candles and hub into a counter
store     the whole pipeline into the database beside raw `insert_many` of the same documents with the same indexes
burst     many more at once than the database takes
latency   from the simulated exchange to a WebSocket client, one worker and two
clients   the service's processor time with many WebSocket clients
queries   the public questions while the ticks grow thirtyfold

Everything runs on this machine's loopback, on the embedded database (`store` and `burst` on MONGODB_URL where that is
set). What sends and what listens shares the cores with what is measured. It needs the packages of the tests.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

import psutil
import uvloop
from websockets.asyncio.client import ClientConnection, connect

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts.bench_feed_pipeline import Line, flood, parser, pipeline, running  # noqa: E402 (the path comes first)
from scripts.bench_feed_store import burst, queries, store  # noqa: E402
from tests.simulators.angel_one import INDICES  # noqa: E402
from tests.support.workers import one_client_each, socket_to  # noqa: E402
from tests.system.live.kit import NIFTY, Listener, Live, subscribed  # noqa: E402

PARTS = ("parser", "pipeline", "store", "burst", "latency", "clients", "queries")
SERVER = {"UVICORN_WS": "websockets-sansio", "UVICORN_ACCESS_LOG": "false", "WS_MAX_CONNECTIONS_PER_ADDRESS": "2000"}
"""As `scripts/run` starts it."""
GAP = 0.01


# ── Latency ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def latency(count: int) -> list[Line]:
    """From before the exchange sends a tick until after a client has read it, one tick at a time."""
    with tempfile.TemporaryDirectory() as folder:
        async with Live(Path(folder), env=SERVER) as live, live.listening("NIFTY 50") as listener:
            alone = [await _one(live, listener) for _ in range(count)]
    lines = [_shown("tick to a WebSocket client, 1 worker", alone)]
    with tempfile.TemporaryDirectory() as folder:
        async with Live(Path(folder), workers=2, env=SERVER) as live, AsyncExitStack() as stack:
            clients = await stack.enter_async_context(one_client_each(live.service))
            for pid, client in clients.items():
                leading = (await client.get("/health")).json()["feed"]["leading"]
                socket = await stack.enter_async_context(socket_to(live.service, pid))
                listener = await subscribed(socket, "NIFTY 50")
                times = [await _one(live, listener) for _ in range(count)]
                which = "the one with the feed" if leading else "the other one"
                lines.append(_shown(f"  2 workers, {which}", times))
                await listener.close()
    return lines


async def _one(live: Live, listener: Listener) -> float:
    listener.messages.clear()
    began = time.perf_counter()
    sent = await live.send(NIFTY)
    await listener.hear(NIFTY, sent)
    took = time.perf_counter() - began
    await asyncio.sleep(GAP)
    return took


def _shown(name: str, times: list[float]) -> Line:
    times = sorted(times)
    median, p99 = times[len(times) // 2], times[int(len(times) * 0.99)]
    return name, f"{median * 1e3:.2f} ms, p99 {p99 * 1e3:.2f}", "5 ms" if "1 worker" in name else ""


# ── Many clients ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def clients(count: int, seconds: float) -> list[Line]:
    """The share of a core that the service takes with nobody listening, and with `count` clients."""
    heard = Heard()
    with tempfile.TemporaryDirectory() as folder:
        async with (
            Live(Path(folder), env=SERVER) as live,
            AsyncExitStack() as stack,
            running(live.simulator.stream(INDICES, every=0.05)),
        ):
            idle = await _share(live, seconds)
            sockets = [await stack.enter_async_context(_client(live)) for _ in range(count)]
            async with running(*(_hear(socket, heard) for socket in sockets)):
                await asyncio.sleep(2)
                heard.messages = 0
                share = await _share(live, seconds)
    rate = heard.messages / seconds
    return [
        (f"{count} clients of 120 ticks/s, conflated to {rate:,.0f} messages/s", f"{share:.0%} of a core", ""),
        ("  of it for the clients", f"{share - idle:.0%} of a core", "25 %"),
    ]


def _client(live: Live) -> connect:
    return connect(live.service.ws_url, compression=None, ping_interval=None)


class Heard:
    """What all clients heard together."""

    messages = 0


async def _hear(socket: ClientConnection, heard: Heard) -> None:
    await socket.send('{"action": "subscribe", "channel": "ticks"}')
    async for _ in socket:
        heard.messages += 1


async def _share(live: Live, seconds: float) -> float:
    process = psutil.Process(live.service.worker_pids()[0])
    before, began = sum(process.cpu_times()[:2]), time.monotonic()
    await asyncio.sleep(seconds)
    return (sum(process.cpu_times()[:2]) - before) / (time.monotonic() - began)


# ── The run ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def options_of() -> argparse.Namespace:
    """What the person who runs it wants."""
    parser_ = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser_.add_argument("--parts", default=",".join(PARTS), help="of these, separated by commas (default: all)")
    parser_.add_argument("--seconds", type=float, default=60, help="of the pipeline (default 60)")
    parser_.add_argument("--ticks", type=int, default=300_000, help="that the questions are asked of, in the end")
    parser_.add_argument("--rate", type=int, default=20_000, help="ticks a second into the pipeline (default 20,000)")
    parser_.add_argument("--rows", type=int, default=10_000, help="of one round of `store` (default 10,000)")
    parser_.add_argument("--burst", type=int, default=50_000, help="ticks (default 50,000)")
    parser_.add_argument("--clients", type=int, default=500, help="WebSocket clients (default 500)")
    parser_.add_argument("--flood", type=int, default=0, help=argparse.SUPPRESS)
    parser_.add_argument("--symbols", type=int, default=100, help=argparse.SUPPRESS)
    options = parser_.parse_args()
    if unknown := set(options.parts.split(",")) - set(PARTS):
        parser_.error(f"there is no part {', '.join(sorted(unknown))}")
    return options


async def part(name: str, options: argparse.Namespace) -> list[Line]:
    """The lines of one part."""
    match name:
        case "parser":
            return await asyncio.to_thread(parser)
        case "pipeline":
            return await pipeline(options.rate, options.seconds)
        case "store":
            return await store(options.rows, 3)
        case "burst":
            return await burst(options.burst)
        case "latency":
            return await latency(500)
        case "clients":
            return await clients(options.clients, min(options.seconds, 15))
        case _:
            return await queries(options.ticks)


def main() -> None:
    """Run the parts that are wanted and print what they found."""
    options = options_of()
    if options.flood:
        uvloop.run(flood(options.flood, options.seconds, options.symbols))
        return
    print(f"{'load average before':<86} {os.getloadavg()[0]:>26.1f}   aim")
    for name in PARTS:
        if name in options.parts.split(","):
            for what, value, aim in uvloop.run(part(name, options)):
                print(f"{what:<86} {value:>26}   {aim}", flush=True)


if __name__ == "__main__":
    main()
