"""A service that is started, ended, and started again."""

import asyncio
from collections import Counter
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pymongo import AsyncMongoClient

from tests.support.mongodb import OPTIONS
from tests.support.people import Person
from tests.system.crypto.kit import BASE, JOBS, Exchange, Json, until

VISITORS = 50
SYNCS = ("crypto.top50", "crypto.top200", "crypto.sync")
ALWAYS = ("crypto.top200", "crypto.backfill", "crypto.cleanup")
"""What a new service does at once. In the first minutes of an hour no top 50 is due."""
LENGTHS = {"crypto.top50": 5, "crypto.top200": 60, "crypto.backfill": 60, "crypto.cleanup": 24 * 60}
"""Minutes from slot to slot."""


async def finished(person: Person, *jobs: str) -> list[Json]:
    """All runs so far, as soon as none is under way and each of these jobs has one."""

    async def all_done() -> list[Json] | None:
        answer = await person.client.get(JOBS, params={"limit": 1000})
        assert answer.status_code == 200, answer.text
        rows: list[Json] = answer.json()
        ended = all(row["finished_at"] for row in rows)
        return rows if ended and {row["job"] for row in rows} >= set(jobs) else None

    found: list[Json] = await until(all_done)
    return found


async def moved_back(exchange: Exchange, by: timedelta) -> None:
    """Let every run of the clock's have been that much earlier. The process that made them knows better."""
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(exchange.service.mongodb_url, **OPTIONS)
    async with client:
        runs = client[exchange.service.database_name]["job_runs"]
        for row in await runs.find({"job": {"$in": list(LENGTHS)}}).to_list():
            due = row["due"] - by
            change = {"due": due, "slot": f"{row['job']} {due.isoformat()}"}
            await runs.update_one({"_id": row["_id"]}, {"$set": change})


async def find_requests_refused(exchange: Exchange, person: Person) -> list[Json]:
    """The first life: CoinGecko does not like our requests, which is told, and CoinMarketCap does not cover it up."""
    runs = await finished(person, *ALWAYS)
    assert {row["error"] for row in runs if row["job"] in SYNCS} == {"CoinGecko: request refused (400)."}
    # The year before the first start is not forgotten for want of a list: one is asked for.
    assert [row["arguments"]["unless_listed"] for row in runs if row["job"] == "crypto.sync"] == [True]
    answer = await person.client.get(f"{BASE}/")
    assert answer.status_code == 503
    assert "CoinGecko: request refused (400)." in answer.json()["detail"]
    assert 1 <= int(answer.headers["Retry-After"]) <= 30
    assert exchange.cap.total == 0
    return runs


async def receive_fifty_visitors(exchange: Exchange, person: Person, before: list[Json]) -> list[Json]:
    """The second life: there is no listing, and no slot of the periodic syncs is missing."""
    asked = exchange.asked[0]
    async with exchange.visitor(VISITORS) as visitor:
        answers = await asyncio.gather(*[visitor.get(f"{BASE}/?limit=1000") for _ in range(VISITORS)])
    asked_now = exchange.asked[0]
    runs = await finished(person)
    assert Counter(answer.status_code for answer in answers) == {200: VISITORS}
    assert len({answer.headers["ETag"] for answer in answers}) == 1
    new = newer(runs, before, SYNCS)
    # A sync by the clock, should its time have come meanwhile, is another, or the one.
    periodic = sum(row["due"] is not None for row in new)
    assert len(new) - periodic <= 1
    assert 1 <= asked_now - asked <= 1 + periodic
    return runs


async def catch_up(exchange: Exchange, person: Person, before: list[Json], since: datetime, asked: int) -> None:
    """The third life: two days were missed, and one slot of each job is made up for."""

    async def caught_up() -> list[Json] | None:
        new = newer(await finished(person), before, LENGTHS)
        return new if {row["job"] for row in new} >= set(ALWAYS) else None

    new: list[Json] = await until(caught_up)
    assert {row["state"] for row in new} == {"succeeded"}
    assert {row["result"]["coins"] for row in new if row["job"] == "crypto.backfill"} == {5}
    assert max(Counter((row["job"], row["due"]) for row in new).values()) == 1
    for row in new:
        assert since - datetime.fromisoformat(row["due"]) < timedelta(minutes=LENGTHS[row["job"]]), row

    async def one_question_each() -> bool:  # another may begin by the clock between the two looks
        return exchange.asked[0] - asked == len(newer(await finished(person), before, SYNCS))

    await until(one_question_each)


def newer(runs: list[Json], before: list[Json], jobs: Collection[str]) -> list[Json]:
    """Runs of these jobs that were not there before."""
    known = {row["id"] for row in before}
    return [row for row in runs if row["job"] in jobs and row["id"] not in known]


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_three_lives(tmp_path: Path):
    async with Exchange(tmp_path, CRYPTO_SYNC_ENABLED="true") as exchange:
        exchange.gecko.fail("refused", times=100)
        await exchange.start()
        async with exchange.somebody() as person:
            runs = await find_requests_refused(exchange, person)
        await exchange.stop()
        exchange.gecko.heal()
        exchange.gecko.fail("slow", seconds=0.3)
        exchange.service.workers = 2
        await exchange.start()
        async with exchange.somebody() as person:
            runs = await receive_fifty_visitors(exchange, person, runs)
        await moved_back(exchange, timedelta(hours=49))
        await exchange.stop()
        asked, since = exchange.asked[0], datetime.now(UTC)
        await exchange.start()
        async with exchange.somebody() as person:
            await catch_up(exchange, person, runs, since, asked)
