"""Rates per address, as they are by default."""

import asyncio
from collections import Counter

import httpx

from tests.support.clocks import wait_for_minute
from tests.system.crypto.kit import BASE, Exchange, sync

PUBLIC, SYNCS = 60, 10


def check_refusal(answer: httpx.Response, limit: int) -> None:
    assert answer.status_code == 429
    assert answer.headers["RateLimit-Limit"] == str(limit)
    assert 1 <= int(answer.headers["Retry-After"]) <= 60
    assert str(limit) in answer.json()["detail"]


async def test_reads_are_sixty_a_minute_and_address(single: Exchange):
    async with single.somebody() as person:
        await sync(person, limit=20)
    paths = [f"{BASE}/", f"{BASE}/?limit=3", f"{BASE}/BTC", f"{BASE}/top/volume", f"{BASE}/BTC/history"]
    await asyncio.to_thread(wait_for_minute, 10)  # where a minute turns, its count is forgotten little by little
    async with single.visitor() as visitor, single.visitor() as other:
        answers = [await visitor.get(paths[number % len(paths)]) for number in range(PUBLIC + 5)]
        taken = Counter(answer.status_code for answer in answers)
        assert taken[200] in {PUBLIC, PUBLIC + 1}  # rounded
        assert taken[200] + taken[429] == len(answers)
        check_refusal(answers[-1], PUBLIC)
        # What is answered by the fast lane, or with a 304, is counted like everything else.
        etag = answers[0].headers["ETag"]
        check_refusal(await visitor.get(paths[0], headers={"If-None-Match": etag}), PUBLIC)
        assert (await other.get(paths[0], headers={"If-None-Match": etag})).status_code == 304


async def test_syncs_are_ten_a_minute_and_address(single: Exchange):
    async with single.somebody() as person, single.somebody() as other:
        url, address = f"{BASE}/sync?limit=5", {"X-Forwarded-For": person.client.headers["X-Forwarded-For"]}
        async with single.visitor() as visitor:
            for _ in range(SYNCS + 1):  # whoever is nobody uses nothing up
                assert (await visitor.post(url, headers=address)).status_code == 401
        await asyncio.to_thread(wait_for_minute, 10)
        statuses = [(await person.client.post(url)).status_code for _ in range(SYNCS + 2)]
        assert statuses[:SYNCS] == [200] * SYNCS
        assert statuses[-1] == 429
        # Of an address: another account there is refused, one elsewhere is not.
        check_refusal(await other.client.post(url, headers=address), SYNCS)
        assert (await other.client.post(url)).status_code == 200
