"""One listing in two workers, while it changes."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest_asyncio
from pymongo import AsyncMongoClient

from app.core.clock import SystemClock
from app.crypto.history import CryptoHistory
from app.crypto.history_rows import HistoryRows
from tests.crypto.listing.kit import gecko
from tests.support.mongodb import OPTIONS
from tests.support.people import Person
from tests.support.workers import one_client_each, socket_to
from tests.system.crypto.kit import BASE, Exchange, listed, runs, story, subscribed, sync

LIST = f"{BASE}/"
HOUR, DAY, MINUTE = timedelta(hours=1), timedelta(days=1), timedelta(minutes=1)


@pytest_asyncio.fixture
async def each(pair: Exchange) -> AsyncIterator[list[httpx.AsyncClient]]:
    """A client of each worker."""
    async with one_client_each(pair.service) as clients:
        yield list(clients.values())


@pytest_asyncio.fixture
async def trader(pair: Exchange) -> AsyncIterator[Person]:
    async with pair.somebody() as person:
        yield person


def signed_in(person: Person) -> dict[str, str]:
    return {"Authorization": f"Bearer {person.token}"}


async def test_a_sync_is_seen_in_every_worker_at_once(pair: Exchange, trader: Person, each: list[httpx.AsyncClient]):
    await sync(trader, limit=10)
    for number in range(6):
        here, there = each if number % 2 else reversed(each)
        old = [(await client.get(LIST)).headers["ETag"] for client in each]
        known = {"If-None-Match": old[0]}
        assert old[0] == old[1]
        unchanged = [await client.get(LIST, headers=known) for client in each]
        assert [(answer.status_code, answer.content) for answer in unchanged] == [(304, b"")] * 2

        price = Decimal(90_000 + number)
        pair.gecko.coins.reprice("bitcoin", price)
        answer = await here.post(f"{BASE}/sync?limit=10", headers=signed_in(trader))
        assert answer.status_code == 200, answer.text
        news = [await client.get(LIST, headers=known) for client in (there, here)]
        assert [answer.status_code for answer in news] == [200, 200]
        assert news[0].headers["ETag"] == news[1].headers["ETag"] != old[0]
        bitcoin = json.loads(news[0].content, parse_float=Decimal)[0]
        assert bitcoin["slug"] == "bitcoin"
        assert abs(bitcoin["price"] / price - 1) < Decimal("0.07")  # what the market sways by
        assert (await there.get(f"{BASE}/BTC")).json()["synced_at"] == bitcoin["synced_at"]


async def test_pages_neither_skip_nor_repeat_while_syncs_go_on(
    pair: Exchange, trader: Person, each: list[httpx.AsyncClient]
):
    await sync(trader, limit=60)
    whole = [row["slug"] for row in await listed(each[0], limit=1000)]
    assert len(whole) >= 60
    url, seen, pages = f"{LIST}?limit=13&sort_by=market_cap", [], 0
    while url:
        answer = await each[pages % 2].get(url)
        assert answer.status_code == 200, answer.text
        seen += [row["slug"] for row in answer.json()]
        url, pages = answer.links.get("next", {}).get("url", ""), pages + 1
        # What was first is last, in the next listing.
        pair.gecko.coins.reprice(seen[-1], Decimal(1_000_000_000 * pages))
        pair.gecko.coins.reprice(seen[0], Decimal("0.01"))
        await sync(trader, limit=60)
    assert seen == whole
    assert pages == -(-len(whole) // 13)
    assert [row["slug"] for row in await listed(each[1], limit=1000)] != whole


async def test_the_same_sync_at_both_workers_is_one_and_all_are_told(
    pair: Exchange, trader: Person, each: list[httpx.AsyncClient]
):
    pair.gecko.fail("slow", seconds=5)
    asked = pair.asked
    async with socket_to(pair.service, pair.service.worker_pids()[0]) as socket, pair.somebody() as other:
        await subscribed(socket, other)
        both = zip(each, (trader, other), strict=True)
        posts = []
        for number, (client, person) in enumerate(both):
            post = client.post(f"{BASE}/sync?limit=30", headers=signed_in(person))
            posts.append(asyncio.create_task(post))
            while not number and pair.asked == asked and not posts[0].done():
                await asyncio.sleep(0.02)  # the provider takes its time: from now on the others have as much
        answers = await asyncio.gather(*posts)
        reports: list[Any] = [answer.json() for answer in answers]
        told = await story(socket, reports[0]["run_id"])

    assert [answer.status_code for answer in answers] == [200, 200]
    assert sorted(report["joined"] for report in reports) == [False, True]
    assert len({json.dumps(report | {"joined": None}) for report in reports}) == 1
    assert pair.asked == (asked[0] + 1, asked[1])
    states = [run["state"] for run in told]
    assert list(dict.fromkeys(states)) == ["queued", "running", "succeeded"]
    notes = [run["progress"]["note"] for run in told if run["progress"]]
    assert notes[0] == "asking the provider"
    assert told[-1]["progress"] == {"done": 30, "total": 30, "note": "stored"}
    assert {run["requested_by"] for run in told} == {None}
    [run] = await runs(trader, "crypto.sync", limit=1)
    assert run | {"requested_by": None} == told[-1]


async def test_a_point_per_sync_that_is_thinned_with_age(pair: Exchange, trader: Person):
    # What the syncs and the daily jobs of a service leave that has run for weeks.
    while (now := datetime.now(UTC)).minute == 59 and now.second >= 40:
        await asyncio.sleep(1)  # what is thinned depends on the hour
    fine = (now - DAY).replace(minute=0, second=0, microsecond=0)
    day = fine.replace(hour=0)
    older = [fine + 5 * MINUTE * number for number in range(-24, 12)]
    older += [day - 10 * DAY + 20 * MINUTE * number for number in range(12)]
    older += [day - 40 * DAY + HOUR * number for number in range(24)]
    doge = gecko("dogecoin", price="0.1234567890123456789")
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(pair.service.mongodb_url, **OPTIONS)
    async with client:
        rows = HistoryRows(client[pair.service.database_name])
        history = CryptoHistory(rows=rows, clock=SystemClock(), retention_days=365)
        for at in sorted(older):
            await history.append(at, [(doge.slug, doge)])
        await history.expire()
    expected = [fine + 5 * MINUTE * number for number in range(12)]
    expected += [fine - HOUR, fine - 2 * HOUR]
    expected += [day - 10 * DAY + HOUR * number for number in range(4)]
    expected += [day - 40 * DAY]

    await sync(trader, limit=10)
    url, points = f"{BASE}/DOGE/history?limit=7", []
    while url:
        answer = await trader.client.get(url)
        assert answer.status_code == 200, answer.text
        points += json.loads(answer.content, parse_float=Decimal)
        url = answer.links.get("next", {}).get("url", "")
    # This sync's point, and those of the tests before it in other slots.
    new = [point for point in points if datetime.fromisoformat(point["at"]) > fine + HOUR]
    assert datetime.now(UTC) - datetime.fromisoformat(new[0]["at"]) < 6 * MINUTE
    old = points[len(new) :]
    assert [datetime.fromisoformat(point["at"]) for point in old] == sorted(expected, reverse=True)
    assert [point["interval"] for point in old] == ["5m"] * 12 + ["1h"] * 6 + ["1d"]
    assert {point["price"] for point in old} == {Decimal("0.1234567890123456789")}
    chart = (await trader.client.get(f"{BASE}/DOGE/chart?interval=1d")).json()
    days = {at.date() for at in expected} | {datetime.fromisoformat(point["at"]).date() for point in new}
    assert len([price for price in chart["data"][0]["y"] if price is not None]) == len(days)
