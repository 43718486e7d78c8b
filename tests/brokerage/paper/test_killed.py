"""Killed at any moment: no order is lost or there twice, every fill is told, and the money adds up."""

import asyncio
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from app.brokerage.adapters.paper.ledger import charges_of
from app.brokerage.words import OrderState, Side
from tests.brokerage.paper.kit import ENGINE, ist
from tests.brokerage.paper.worker import ACCOUNT, parts_of
from tests.support.mongodb import Db

ROOT = Path(__file__).parents[3]
KILLS = (3, 12, 25)
"""After so many acknowledgements; the matching is somewhere between filling, filing and telling then."""


async def _placed_until_killed(mongodb_url: str, db: Db, prefix: str, shift: float, acknowledged: int) -> list[str]:
    arguments = ("-m", "tests.brokerage.paper.worker", mongodb_url, db.name, prefix, str(shift))
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    tags: list[str] = []
    try:
        async with asyncio.timeout(60):
            while len(tags) < acknowledged and (line := await process.stdout.readline()):
                tags.append(line.decode().strip())
    finally:
        process.kill()
        rest = await process.stdout.read()
        await process.wait()
    assert len(tags) == acknowledged, "the worker ended by itself"
    # The last line may be half a line.
    return tags + [line.decode() for line in rest.split(b"\n")[:-1]]


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_killed_while_it_places_and_fills(mongodb_url: str, db: Db) -> None:
    shift = (ist("10:00") - datetime.now(UTC)).total_seconds()
    acknowledged: list[str] = []
    for number, count in enumerate(KILLS):
        acknowledged += await _placed_until_killed(mongodb_url, db, f"kill{number}x", shift, count)
    broker, matcher, store = parts_of(db, shift)
    session = await broker.sign_in(ACCOUNT)
    matcher.start()
    deadline = time.monotonic() + 60
    while True:
        await matcher.step()
        orders = await broker.orders(ACCOUNT, session)
        stored = await store.load(ACCOUNT.account_id)
        assert stored is not None
        told = not stored.book.trades and all(o.is_open and o.told == o.version for o in stored.book.orders)
        if told and not any(order.state is OrderState.OPEN and order.price == 100 for order in orders):
            break
        assert time.monotonic() < deadline, "something was not filled, or not told"
        await asyncio.sleep(0.05)
    counted = Counter(order.tag for order in orders if order.tag)
    assert set(acknowledged) <= counted.keys()
    assert len(counted) <= len(acknowledged) + len(KILLS)  # at each kill one was on its way at most
    assert set(counted.values()) == {1}

    trades = await broker.trades(ACCOUNT, session)
    filled = Counter[str]()
    for trade in trades:
        filled[trade.broker_order_id] += trade.quantity
    assert {order.broker_order_id: order.filled_quantity for order in orders if order.filled_quantity} == filled
    heard = await db["heard"].find({}).to_list()
    assert {row["trade"] for row in heard if "trade" in row} == {trade.trade_id for trade in trades}
    heard_of = {(row["tag"], row["state"]) for row in heard if "tag" in row}
    assert {(order.tag, order.state.value) for order in orders} <= heard_of

    book = stored.book
    net = sum(trade.quantity * trade.side.sign for trade in trades)
    assert [position.net for position in book.positions] == [net]
    assert any(trade.side is Side.SELL for trade in trades)
    assert book.charges == charges_of(ENGINE, book, book.lines)
    assert book.cash == 1_000_000 - book.charges  # bought and sold at one price
    assert sum(line.turnover for line in book.lines) == sum((t.price * t.quantity for t in trades), Decimal(0))
