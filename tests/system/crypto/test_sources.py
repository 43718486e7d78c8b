"""What a provider's trouble means for those who read the list."""

import asyncio
import time
from typing import Any

import pytest

from tests.system.crypto.kit import BASE, Exchange, listed, runs, sync

GECKO, CAP = "coingecko", "coinmarketcap"


@pytest.mark.timeout(120)
async def test_the_second_provider_answers_for_the_first_until_that_is_well_again(single: Exchange):
    gecko, few = single.gecko, {"limit": 20}
    async with single.somebody() as person:
        before = single.asked
        assert (await sync(person, **few))["provider"] == GECKO
        for fault, options, why in [
            ("slow", {}, "CoinGecko: unreachable (timeout)"),
            ("unavailable", {"http": 502}, "CoinGecko: unreachable (502)"),
        ]:
            gecko.fail(fault, **options)
            report = await sync(person, **few)
            assert (report["provider"], report["failed_over"]) == (CAP, why)
            assert {row["source"] for row in await listed(person.client, limit=20)} == {CAP}
            # Two failures in a row are not three: it is asked first again.
            report = await sync(person, **few)
            assert (report["provider"], report["failed_over"]) == (GECKO, None)
            assert {row["source"] for row in await listed(person.client, limit=20)} == {GECKO}
        assert single.asked == (before[0] + 5, before[1] + 2)

        # It asks for some seconds of rest, and gets them. Longer ones where the machine was too slow for those.
        for rest in (4, 20):
            before, began = single.asked, time.monotonic()
            gecko.fail("too_many", retry_after=rest)
            answers = [await person.client.post(f"{BASE}/sync", params=few) for _ in range(2)]
            answers.append(await person.client.post(f"{BASE}/sync", params=few | {"provider": GECKO}))
            health = await single.health()
            if time.monotonic() - began < rest:
                break
        first, second, third = [answer.json() for answer in answers]
        assert [answer.status_code for answer in answers] == [200, 200, 503]
        assert (first["failed_over"], second["provider"]) == ("CoinGecko: rate limited (429)", CAP)
        assert third["detail"].startswith("CoinGecko: left alone")
        assert single.asked == (before[0] + 1, before[1] + 2)
        assert health["status"] == health["crypto"]["status"] == "degraded"
        assert (health["crypto"][GECKO]["circuit"], health["crypto"][CAP]["circuit"]) == ("open", "closed")
        assert health["crypto"][GECKO]["last_error"] == "rate limited (429)"
        assert [health["crypto"][name]["month"]["used"] for name in (GECKO, CAP)] == [gecko.total, single.cap.total]

    async with asyncio.timeout(40), single.somebody() as patient:
        while (await single.health())["crypto"][GECKO]["circuit"] != "half-open":
            await asyncio.sleep(0.1)
        assert (await sync(patient, **few))["provider"] == GECKO
    crypto = (await single.health())["crypto"]
    assert (crypto["status"], crypto[GECKO]["circuit"], "last_error" in crypto[GECKO]) == ("ok", "closed", False)


@pytest.mark.parametrize(
    ("fault", "told"), [("refused_key", "key refused (10002)"), ("refused", "request refused (400)")]
)
async def test_what_is_our_own_fault_is_told_and_not_covered_up(single: Exchange, fault: str, told: str):
    async with single.somebody() as person:
        await sync(person, limit=20)
        newest = await listed(person.client)
        cap = single.cap.total
        single.gecko.fail(fault)
        problem: Any = await sync(person, 503, limit=20)
        assert f"CoinGecko: {told}." in problem["detail"]
        assert single.cap.total == cap
        assert await listed(person.client) == newest
        [run] = await runs(person, "crypto.sync", limit=1)
        assert run["state"] == "failed"
        assert problem["detail"] == f"{run['error']} The listing stays as it was."
        crypto = (await single.health())["crypto"]
        assert (crypto["status"], crypto[GECKO]["last_error"]) == ("degraded", told)
        assert (await sync(person, limit=20))["provider"] == GECKO
        assert (await single.health())["crypto"]["status"] == "ok"
