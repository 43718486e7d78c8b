"""What a provider's trouble means for those who read the list."""

import asyncio
from typing import Any

import pytest

from tests.system.crypto.kit import Exchange, listed, runs, sync

GECKO, CAP = "coingecko", "coinmarketcap"


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
        gecko.fail("too_many", retry_after=4)
        assert (await sync(person, **few))["failed_over"] == "CoinGecko: rate limited (429)"
        assert single.asked == (before[0] + 6, before[1] + 3)

        # It asked for four seconds of rest, and gets them.
        assert (await sync(person, **few))["provider"] == CAP
        assert (await sync(person, 503, provider=GECKO, **few))["detail"].startswith("CoinGecko: left alone")
        assert single.asked == (before[0] + 6, before[1] + 4)
        health = await single.health()
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
