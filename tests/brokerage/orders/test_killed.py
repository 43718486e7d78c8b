"""`kill -9` at every message between an order and its answer: one order at the broker or none, and that is known here.

The messages of the process to its database and its broker are counted. At the n-th the process is killed and the
message is lost; for every n, until a run comes through. One other process, with the
background tasks, takes all of them on. What it says of each order has to be what the broker's book has.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from bson import ObjectId

from app.audit.models import DOCUMENTS as AUDIT_DOCUMENTS
from app.brokerage.orders.merging import Timing
from app.brokerage.orders.models import DOCUMENTS
from tests.brokerage.orders.parts import ShiftedClock, past_the_turn
from tests.brokerage.orders.program import Wanted
from tests.brokerage.orders.tripwire import Tripwire, WatchedProxy
from tests.simulators.brokers.book import Order as Booked
from tests.simulators.brokers.kite.simulator import KiteSimulator
from tests.support.http import NO_TLS
from tests.support.mongodb import Db, empty_database, server_port, through

ROOT = Path(__file__).resolve().parents[3]
ORDERS = "/api/v1/dashboard/orders"
MOST = 40
"""Messages; more than any of these acts exchanges."""
PATIENT = Timing(send_within=60.0, call=60.0, settle=180.0, act=60.0)
"""For who is killed: the same rules, and no machine is too slow for them."""
SOON = Timing(send_within=0.2, call=1.0, settle=1.4, confirm=0.1, act=1.5)
"""For who takes on what was left: the same rules, sooner."""
UNSETTLED = {"INTENT", "SENDING", "UNKNOWN", "PENDING"}
"""What the process that takes over has something to find out about; also of orders that the broker has acknowledged."""


@dataclass
class Stage:
    """The database, the broker, and processes between them."""

    db: Db
    kite: KiteSimulator
    wire: Tripwire
    wanted: Wanted
    forks: asyncio.subprocess.Process
    clients: list[httpx.AsyncClient] = field(default_factory=list)
    pids: list[int] = field(default_factory=list)

    def end(self) -> None:
        """All its processes."""
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def process(self, **values: Any) -> tuple[httpx.AsyncClient, int]:
        """A new process: a client of it, and its number."""
        line = msgspec.json.encode(msgspec.structs.replace(self.wanted, **values))
        assert self.forks.stdin is not None
        assert self.forks.stdout is not None
        self.forks.stdin.write(line + b"\n")
        told = json.loads(await asyncio.wait_for(self.forks.stdout.readline(), 60))
        client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{told['port']}", timeout=60, verify=NO_TLS)
        self.clients.append(client)
        self.pids.append(told["pid"])
        return client, told["pid"]


@asynccontextmanager
async def stage(url: str) -> AsyncIterator[Stage]:
    wire = Tripwire()
    command = [sys.executable, "-m", "tests.brokerage.orders.program"]
    shift = past_the_turn(datetime.now(UTC))
    forks = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with (
            empty_database(url, [*DOCUMENTS, *AUDIT_DOCUMENTS]) as db,
            KiteSimulator(limited=False, now=ShiftedClock(shift).now) as kite,
            WatchedProxy(server_port(url), wire, "database", framed=True) as database,
            WatchedProxy(kite.port, wire, "broker", framed=False) as broker,
        ):
            kite.book.fills_itself = False
            address = f"http://127.0.0.1:{broker.port}"
            wanted = Wanted(through(url, database.port), db.name, address, kite.issue(), timing=PATIENT, shift=shift)
            made = Stage(db, kite, wire, wanted, forks)
            try:
                yield made
            finally:
                wire.disarm()
                made.end()
                for client in made.clients:
                    await client.aclose()
    finally:
        forks.kill()
        await forks.wait()


@dataclass
class Victim:
    """Somebody whose process was killed in the middle of something."""

    id: str
    quantity: int
    messages: list[str]

    @property
    def who(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.id}"}

    @property
    def body(self) -> dict[str, Any]:
        return {"stock_ticker": "RELIANCE", "quantity": self.quantity, "price": 1500, "client_order_id": "mine"}

    def at_broker(self, kite: KiteSimulator) -> list[Booked]:
        """Theirs are told by their quantities."""
        return [order for order in kite.book.orders.values() if order.quantity == self.quantity]

    async def place(self, client: httpx.AsyncClient, **values: Any) -> httpx.Response:
        return await client.post("/api/v1/dashboard/order/buy", json=self.body | values, headers=self.who)

    async def orders(self, client: httpx.AsyncClient) -> list[dict[str, Any]]:
        answer = await client.get(ORDERS, headers=self.who)
        assert answer.status_code == 200, answer.text
        rows: list[dict[str, Any]] = answer.json()
        return rows


Act = Callable[[httpx.AsyncClient, Victim], Awaitable[httpx.Response]]


async def killed_everywhere(on: Stage, act: Act, *, first: bool) -> list[Victim]:
    """`act` in a process of its own, killed at its first message, at its second, …; and once not at all.

    `first`: an order of each is placed before, in peace.
    """
    victims: list[Victim] = []
    everybody = [Victim(str(ObjectId()), 100 + number, []) for number in range(1, MOST)]
    if first:
        peaceful, _ = await on.process()
        answers = await asyncio.gather(*(victim.place(peaceful) for victim in everybody))
        assert {answer.status_code for answer in answers} == {201}
    for number, victim in enumerate(everybody, 1):
        client, pid = await on.process()
        # Connections are made, and what can be remembered is; and it works.
        assert len(await victim.orders(client)) == first
        on.wire.arm(pid, number)
        answered = asyncio.create_task(act(client, victim))
        tripped = asyncio.create_task(on.wire.tripped.wait())
        await asyncio.wait([answered, tripped], return_when=asyncio.FIRST_COMPLETED)
        victim.messages = on.wire.messages
        victims.append(victim)
        tripped.cancel()
        try:
            answer = await answered
        except httpx.TransportError:
            on.wire.disarm()
            continue
        on.wire.disarm()
        assert answer.status_code in {200, 201}, answer.text
        return victims
    raise AssertionError(f"more than {MOST} messages: {victims[-1].messages}")


async def all_settled(on: Stage) -> httpx.AsyncClient:
    """When a process that takes on what was left has nothing in doubt any more: another one, which has time.

    What was hurried would take an order of the other's for lost that is merely slow.
    """
    _, hurried = await on.process(follows=True, timing=SOON)
    async with asyncio.timeout(120):
        while await on.db["orders"].count_documents(
            {"$or": [{"state": {"$in": [*UNSETTLED]}}, {"act": {"$ne": None}}]}
        ):
            await asyncio.sleep(0.1)
    os.kill(hurried, signal.SIGKILL)
    client, _ = await on.process()
    return client


pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


async def test_placing_is_once_and_known_wherever_it_is_killed(url: str):
    async with stage(url) as on:
        victims = await killed_everywhere(on, lambda client, victim: victim.place(client), first=False)
        steps = victims[-1].messages
        # The budget, the intent, its sending, the audit trail and the answer; and the broker between them.
        assert steps.count("to broker") >= 1
        assert steps.count("to database") >= 5
        client = await all_settled(on)

        ends: list[tuple[int, str]] = []
        for victim in victims:
            rows, there = await victim.orders(client), victim.at_broker(on.kite)
            assert len(there) <= 1
            assert len(rows) <= 1
            ends.append((len(there), rows[0]["status"] if rows else "nothing"))
            if there:
                assert (rows[0]["status"], rows[0]["broker_order_id"]) == ("OPEN", there[0].order_id)
                assert there[0].tag == rows[0]["tag"]
                who = {"action": "order.place", "target": {"kind": "order", "id": rows[0]["id"]}}
                assert await on.db["audit_entries"].count_documents(who) == 1
            else:
                assert not rows or rows[0]["status"] == "NOT_SENT"
        # Everything that can happen did: nothing stored, given up unsent, and found at the broker.
        assert {(0, "nothing"), (0, "NOT_SENT"), (1, "OPEN")} == set(ends)

        # Whoever sends it again gets one order and no second.
        for victim, (there, status) in zip(victims, ends, strict=True):
            again = await victim.place(client)
            assert again.status_code == {"nothing": 201, "NOT_SENT": 409, "OPEN": 200}[status]
            assert len(victim.at_broker(on.kite)) == (1 if status == "nothing" else there)
            if status == "NOT_SENT":
                assert (await victim.place(client, client_order_id="another")).status_code == 201
            assert len(victim.at_broker(on.kite)) == 1


async def test_a_cancellation_is_true_wherever_it_is_killed(url: str):
    async def cancel(client: httpx.AsyncClient, victim: Victim) -> httpx.Response:
        row = await on.db["orders"].find_one({"user_id": ObjectId(victim.id)})
        assert row is not None
        return await client.delete(f"{ORDERS}/{row['_id']}", headers=victim.who)

    async with stage(url) as on:
        victims = await killed_everywhere(on, cancel, first=True)
        client = await all_settled(on)
        ends: set[str] = set()
        for victim in victims:
            [row], [there] = await victim.orders(client), victim.at_broker(on.kite)
            assert (row["status"], row["pending"]) == ("CANCELLED" if there.status == "cancelled" else "OPEN", None)
            ends.add(row["status"])
            if row["status"] == "OPEN":
                again = await client.delete(f"{ORDERS}/{row['id']}", headers=victim.who)
                assert again.status_code == 200
                assert there.status == "cancelled"
        assert ends == {"OPEN", "CANCELLED"}


async def test_a_change_is_true_wherever_it_is_killed(url: str):
    async def change(client: httpx.AsyncClient, victim: Victim) -> httpx.Response:
        row = await on.db["orders"].find_one({"user_id": ObjectId(victim.id)})
        assert row is not None
        return await client.patch(f"{ORDERS}/{row['_id']}", json={"price": 1490}, headers=victim.who)

    async with stage(url) as on:
        victims = await killed_everywhere(on, change, first=True)
        client = await all_settled(on)
        ends: set[int] = set()
        for victim in victims:
            [row], [there] = await victim.orders(client), victim.at_broker(on.kite)
            assert (row["status"], row["pending"], row["price"]) == ("OPEN", None, there.price)
            assert there.price is not None
            ends.add(int(there.price))
            again = await client.patch(f"{ORDERS}/{row['id']}", json={"price": 1490}, headers=victim.who)
            assert again.status_code == 200
            assert there.price == 1490
        assert ends == {1490, 1500}
