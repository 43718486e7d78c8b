#!/usr/bin/env python3
"""Our own share of an order's latency: `.venv/bin/python scripts/bench_orders.py [--orders N] [--at-once N]`.

A simulated Zerodha that answers at once, in a process of its own; the embedded database, or MONGODB_URL. Measured at
the client, on loopback, through the whole HTTP service of orders:

0. a durable write: one small document without indexes, as the database at hand stores it: the yardstick for the rest;
1. the bare call: the same order sent to the broker by the same adapter, and nothing else;
2. the order: checked, counted, stored as about to be sent and written into the audit trail (both durable before it
   is), sent, and its answer stored, durably;
3. our share: the difference of the two; its 99th percentile is to be under 15 ms.

After every order the broker's book is read. `--pause` leaves room for that: what is measured is how long an order
takes, not how many go through. The yardstick and the bare call pause as well: a machine that has rested is slower. The
orders are those of `--accounts` accounts in turn, so that no limit is in the way; the first of each, which takes one
more durable write, is not measured.
"""

import argparse
import asyncio
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
from bson import ObjectId
from pydantic import SecretStr
from pymongo import AsyncMongoClient

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from app.audit.models import DOCUMENTS as AUDIT_DOCUMENTS  # noqa: E402
from app.brokerage.adapters.zerodha.client import ZerodhaBroker  # noqa: E402
from app.brokerage.orders.drafts import tag_of  # noqa: E402
from app.brokerage.orders.models import DOCUMENTS  # noqa: E402
from app.brokerage.ports import BrokerAccount, BrokerSession  # noqa: E402
from app.brokerage.words import BrokerName, OrderTicket, PriceType, Product, Side  # noqa: E402
from app.core.clock import SystemClock  # noqa: E402
from tests.brokerage.orders.parts import listing_of  # noqa: E402
from tests.simulators.brokers.instruments import RELIANCE  # noqa: E402
from tests.simulators.brokers.kite.simulator import KiteAccount, KiteSimulator  # noqa: E402
from tests.support.http import NO_TLS  # noqa: E402
from tests.support.mongodb import empty_database, mongodb_server  # noqa: E402

BUY = "/api/v1/dashboard/order/buy"


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--orders", type=int, default=500, help="default: %(default)s")
    parser.add_argument("--at-once", type=int, default=1, help="clients that order at one time; default: 1")
    parser.add_argument("--pause", type=float, default=0.1, help="seconds between two orders; default: %(default)s")
    parser.add_argument("--accounts", type=int, default=50, help="default: %(default)s")
    parser.add_argument("--simulate", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    asyncio.run(simulate() if options.simulate else measure(options))


async def simulate() -> None:
    """The broker, until its input ends."""
    async with KiteSimulator(limited=False) as kite:
        kite.book.fills_itself = False
        sys.stdout.write(json.dumps({"url": kite.base_url, "token": kite.issue()}) + "\n")
        sys.stdout.flush()
        # Every account here sees the book of all: it is kept as small as one person's.
        waits = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
        while not (await asyncio.wait([waits], timeout=0.05))[0]:
            for order_id in list(kite.book.orders)[:-1]:
                del kite.book.orders[order_id]


@contextmanager
def program(*command: str, ask: dict[str, Any] | None = None) -> Iterator[dict[str, Any]]:
    """A program that prints one line of JSON when it is ready."""
    with subprocess.Popen(  # noqa: S603
        [sys.executable, *command], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None  # noqa: S101
        assert process.stdout is not None  # noqa: S101
        if ask is not None:
            process.stdin.write(json.dumps(ask) + "\n")
            process.stdin.flush()
        told = json.loads(process.stdout.readline())
        try:
            yield told
        finally:
            if pid := told.get("pid"):
                os.kill(pid, 15)
            process.stdin.close()
            process.terminate()


async def measure(options: argparse.Namespace) -> None:
    """Both ways, and what lies between."""
    people = itertools.cycle([str(ObjectId()) for _ in range(options.accounts)])
    if url := os.environ.get("MONGODB_URL"):
        os.environ["TEST_MONGODB_URL"] = url
    with tempfile.TemporaryDirectory() as folder, program(__file__, "--simulate") as broker:
        async with mongodb_server(Path(folder)) as server, empty_database(server, [*DOCUMENTS, *AUDIT_DOCUMENTS]) as db:
            wanted = {"database": server, "name": db.name, "broker": broker["url"], "token": broker["token"]}
            with program("-m", "tests.brokerage.orders.program", ask=wanted) as service:
                write = await run(options, lambda: db["bench"].insert_one({"at": time.time()}))
                bare = await run(options, bare_call(broker["url"], broker["token"]))
                async with httpx.AsyncClient(
                    base_url=f"http://127.0.0.1:{service['port']}", verify=NO_TLS, timeout=30
                ) as client:
                    ours = await run(options, lambda: buy(client, next(people)))
                await check(server, db.name)
    show("a durable write", write)
    show("the bare call", bare)
    show("the order", ours)
    share = [whole - statistics.median(bare) for whole in ours]
    show("our share", share)
    print(f"our share to the bare call: {statistics.median(share) / statistics.median(bare):.1f} : 1 at the median")


def bare_call(url: str, token: str) -> Any:
    """Sends one order with the adapter alone."""
    broker = ZerodhaBroker(SystemClock(), base_url=url, tls=NO_TLS)
    secrets = {"api_key": SecretStr(KiteAccount().api_key)}
    session = BrokerSession(access_token=SecretStr(token), expires_at=None)

    async def call() -> None:
        id_ = str(ObjectId())
        account = BrokerAccount(account_id=id_, user_id=id_, broker=BrokerName.ZERODHA, base_url=url, secrets=secrets)
        ticket = OrderTicket(
            tag=tag_of(ObjectId()),
            listing=listing_of(RELIANCE),
            side=Side.BUY,
            quantity=1,
            product=Product.CNC,
            price_type=PriceType.LIMIT,
            price=Decimal(1500),
        )
        await broker.place(account, session, ticket)

    return call


async def buy(client: httpx.AsyncClient, who: str) -> None:
    """One order through the service."""
    body = {"stock_ticker": "RELIANCE", "quantity": 1, "price": 1500, "client_order_id": str(ObjectId())}
    answer = await client.post(BUY, json=body, headers={"Authorization": f"Bearer {who}"})
    answer.raise_for_status()


async def run(options: argparse.Namespace, call: Any) -> list[float]:
    """Milliseconds of each, once every account has had its first."""
    for _ in range(options.accounts):
        await call()
    left, took = iter(range(options.orders)), []

    async def one() -> None:
        for _ in left:
            began = time.perf_counter()
            await call()
            took.append((time.perf_counter() - began) * 1000)
            await asyncio.sleep(options.pause)

    await asyncio.gather(*(one() for _ in range(options.at_once)))
    return took


async def check(server: str, name: str) -> None:
    """That what was measured was done."""
    client: AsyncMongoClient[dict[str, Any]]
    async with AsyncMongoClient(server) as client:
        sent = await client[name]["orders"].count_documents({"broker_order_id": {"$ne": None}})
        written = await client[name]["audit_entries"].count_documents({"action": "order.place"})
    print(f"{sent} orders are at the broker, {written} are in the audit trail")


def show(name: str, took: list[float]) -> None:
    """Percentiles."""
    cuts = statistics.quantiles(took, n=1000, method="inclusive")
    print(f"{name:>15}: p50 {cuts[499]:6.2f}  p95 {cuts[949]:6.2f}  p99 {cuts[989]:6.2f}  max {max(took):6.2f} ms")


if __name__ == "__main__":
    main()
