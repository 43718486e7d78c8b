"""Where listings come from when providers fail, over real sockets: failover, recovery, and what a person is told."""

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from structlog.testing import capture_logs

from app.core.errors import DomainError
from app.crypto.errors import (
    AllFailedError,
    BudgetUsedError,
    CircuitOpenError,
    KeyRefusedError,
    NotConfiguredError,
    ProviderError,
    QuotaUsedError,
    RequestRefusedError,
    UnreachableError,
)
from app.crypto.ports import Provider
from tests.crypto.adapters.kit import TIMEOUTS, Both
from tests.simulators.coins import Coins

FAILS_OVER: list[tuple[str, dict[str, Any], str]] = [
    ("half_open", {}, "unreachable (timeout)"),
    ("unavailable", {}, "unreachable (503)"),
    ("cloudflare", {}, "unreachable (522)"),
    ("html", {"status": 200}, "unreadable answer (not JSON)"),
    ("only_junk", {}, "unreadable answer (rows)"),
    ("on_200", {"code": 500}, "unreachable (500)"),
    ("too_many", {"retry_after": 90}, "rate limited (429)"),
]


@pytest.mark.parametrize(("fault", "options", "word"), FAILS_OVER, ids=[case[0] for case in FAILS_OVER])
async def test_the_second_answers_when_the_first_does_not(both: Both, fault: str, options: dict[str, Any], word: str):
    sources = both.sources()
    both.gecko.fail(fault, **options)
    with TIMEOUTS.hurried(needed=fault == "half_open"):
        fetched = await sources.fetch(10)
    assert (fetched.provider, fetched.failed_over) == (Provider.COINMARKETCAP, f"CoinGecko: {word}")
    assert {row.provider for row in fetched.rows} == {Provider.COINMARKETCAP}
    assert len(fetched.rows) == 10
    assert (both.gecko.total, both.cap.total) == (1, 1)


@pytest.mark.parametrize(("fault", "options"), [("refused_key", {}), ("refused", {}), ("html", {"status": 403})])
async def test_our_own_mistakes_are_told_and_not_hidden_behind_another_provider(
    both: Both, fault: str, options: dict[str, Any]
):
    sources = both.sources()
    for _ in range(4):
        both.gecko.fail(fault, **options)
        with pytest.raises((KeyRefusedError, RequestRefusedError)) as raised:
            await sources.fetch(10)
        both.clock.move(minutes=5)
    assert isinstance(raised.value, DomainError)
    assert raised.value.status == 503
    assert (both.gecko.total, both.cap.total) == (4, 0)
    health = await sources.health()
    assert health["coingecko"]["last_error"] == raised.value.word
    assert (health["status"], health["coingecko"]["circuit"]) == ("degraded", "closed")
    assert (await sources.fetch(10)).provider is Provider.COINGECKO
    assert (await sources.health())["status"] == "ok"


async def test_failover_and_recovery(both: Both):
    """Down for twenty minutes: left alone after three failures, probed now and then, and the first choice again."""
    sources = both.sources()
    seen: list[tuple[str, int]] = []
    for minute in range(0, 40, 5):
        if 5 <= minute < 25:
            both.gecko.fail("unavailable")
        fetched = await sources.fetch(10)
        seen.append((fetched.provider.value, both.gecko.total))
        both.gecko.heal()
        both.clock.move(minutes=5)
    cap, gecko = "coinmarketcap", "coingecko"
    assert seen == [
        (gecko, 1), (cap, 2), (cap, 3), (cap, 4), (cap, 5), (gecko, 6), (gecko, 7), (gecko, 8)
    ]  # fmt: skip
    both.gecko.fail("unavailable", times=3)
    for _ in range(20):
        assert (await sources.fetch(10)).provider is Provider.COINMARKETCAP
        both.clock.move(seconds=1)
    assert both.gecko.total == 11  # three failures, then it was left alone


async def test_retry_after_is_honoured_by_every_process(both: Both):
    sources, other = both.sources(), both.sources()
    both.gecko.fail("too_many", retry_after=90)
    await sources.fetch(10)
    both.clock.move(seconds=89)
    why = (await other.fetch(10)).failed_over
    assert why == "CoinGecko: left alone after failures (rate limited (429))"
    assert both.gecko.total == 1
    both.clock.move(seconds=1)
    assert (await other.fetch(10)).provider is Provider.COINGECKO


async def test_a_used_up_month_of_the_second_is_believed_until_it_ends(both: Both):
    sources = both.sources()
    both.cap.fail("error", code=1010)
    with pytest.raises(QuotaUsedError):
        await sources.fetch(10, "coinmarketcap")
    for _ in range(3):
        both.clock.move(days=4)
        with pytest.raises(BudgetUsedError):
            await sources.fetch(10, "coinmarketcap")
    assert both.cap.total == 1
    both.clock.moment = datetime(2026, 12, 1, tzinfo=UTC)
    await sources.fetch(10, "coinmarketcap")


async def test_a_named_provider_is_the_only_one_that_is_asked(both: Both):
    sources = both.sources()
    assert (await sources.fetch(10, "coinmarketcap")).provider is Provider.COINMARKETCAP
    assert both.gecko.total == 0
    both.gecko.fail("unavailable")
    with pytest.raises(UnreachableError):
        await sources.fetch(10, "coingecko")
    assert both.cap.total == 1


async def test_both_fail(both: Both):
    sources = both.sources()
    both.gecko.fail("unavailable")
    both.cap.fail("too_many")
    with pytest.raises(AllFailedError) as raised:
        await sources.fetch(10)
    assert raised.value.detail == "CoinGecko: unreachable (503). CoinMarketCap: rate limited (1008)."
    assert (raised.value.status, raised.value.headers["Retry-After"]) == (503, "60")


async def test_without_a_key_there_is_no_second(both: Both):
    sources = both.sources(second=False)
    both.gecko.fail("unavailable")
    with pytest.raises(UnreachableError) as raised:
        await sources.fetch(10)
    assert raised.value.detail == "CoinGecko: unreachable (503)."
    with pytest.raises(NotConfiguredError) as missing:
        await sources.fetch(10, "coinmarketcap")
    assert missing.value.detail.endswith("Set COINMARKETCAP_API_KEY to use CoinMarketCap.")
    assert (await sources.health())["coinmarketcap"] == {"circuit": "off", "needs": "COINMARKETCAP_API_KEY"}


async def test_a_wrong_key_of_the_second_is_seen_in_health(both: Both):
    sources = both.sources(coinmarketcap_api_key="a-wrong-one")
    both.gecko.fail("unavailable")
    with pytest.raises(KeyRefusedError):
        await sources.fetch(10)
    await sources.fetch(10)  # the first is well again
    health = await sources.health()
    assert (health["status"], health["coinmarketcap"]["last_error"]) == ("degraded", "key refused (1001)")
    assert "a-wrong-one" not in str(health)


async def test_health_says_what_is_left(both: Both):
    sources = both.sources(coingecko_calls_per_month=500, coinmarketcap_calls_per_month=700)
    await sources.fetch(10)
    await sources.fetch(20, "coinmarketcap")
    health = await both.sources(coingecko_calls_per_month=500, coinmarketcap_calls_per_month=700).health()
    assert health["status"] == "ok"
    assert health["coingecko"]["month"] == {
        "name": "2026-11", "used": 1, "limit": 500, "left": 499, "ends": datetime(2026, 12, 1, tzinfo=UTC)
    }  # fmt: skip
    assert health["coinmarketcap"]["month"]["left"] == 699
    assert health["coinmarketcap"]["minute"] == {"used": 1, "limit": 30}


async def test_a_thousand_coins_are_four_requests_of_one_vendor_and_five_credits_of_the_other(both: Both):
    market = Coins(1000)
    both.gecko.coins = both.cap.coins = market
    sources = both.sources()
    fetched = await sources.fetch(1000)
    assert (len(fetched.rows), both.gecko.total) == (1000, 4)
    assert [row.rank for row in fetched.rows[:998]] == list(range(1, 999))
    assert (await both.row())["used"]["credits"] == 4
    assert (await sources.fetch(1000, "coinmarketcap")).rows[-1].rank == 999
    assert both.cap.total == 1
    assert (await both.row("coinmarketcap"))["used"]["credits"] == 5 == both.cap.limits.by_month["2026-11"]


@pytest.mark.parametrize("limit", [0, -1, 1001])
async def test_a_limit_out_of_range_is_a_mistake_of_ours(both: Both, limit: int):
    with pytest.raises(ValueError, match="1 to 1000"):
        await both.sources().fetch(limit)


async def test_both_list_the_same_coins_exactly(both: Both):
    """Colliding symbols, a renamed coin, a price of a billionth of a cent, a supply with 34 digits: nothing is lost."""
    sources, now = both.sources(), both.clock.now()
    both.gecko.coins.rename("holo", symbol="HOLO", name="Holochain", cap_slug="holochain")
    first = {row.provider_id: row for row in (await sources.fetch(20)).rows}
    second = {row.provider_id: row for row in (await sources.fetch(20, "coinmarketcap")).rows}
    for coin in both.gecko.coins.coins:
        ours = first[coin.gecko_id]
        assert (ours.price, ours.total_supply, ours.symbol) == (coin.worth(now), coin.supply, coin.symbol)
        if coin.price is not None:
            theirs = second[str(coin.cap_id)]
            assert (theirs.price, theirs.market_cap) == (ours.price, ours.market_cap)
            assert (theirs.slug, theirs.categories) == (coin.cap_slug, coin.tags)
            assert theirs.price_change_7d == ours.price_change_7d == coin.percent(now, timedelta(days=7))
    assert first["dust-inu"].price is not None
    assert first["dust-inu"].price < Decimal("1.1e-12")
    assert first["holo"].name == second["900003"].name == "Holochain"


async def test_rows_that_cannot_be_read_are_counted_and_logged(both: Both):
    sources = both.sources()
    both.gecko.fail("junk_rows", count=8)
    with capture_logs() as logs:
        fetched = await sources.fetch(20)
    assert (len(fetched.rows), fetched.rejected, fetched.provider) == (20, 8, Provider.COINGECKO)
    assert [entry["rows"] for entry in logs] == [8]


async def test_history_has_a_coins_points(both: Both):
    sources, now = both.sources(), both.clock.now()
    coin = next(coin for coin in both.gecko.coins.coins if coin.gecko_id == "dust-inu")
    steps = {1: (289, timedelta(minutes=5)), 30: (721, timedelta(hours=1)), 365: (366, timedelta(days=1))}
    for days, (count, step) in steps.items():
        points = await sources.history("dust-inu", days)
        assert (len(points), points[-1].at, points[-1].at - points[-2].at) == (count, now, step)
        assert points[-1].price == coin.worth(now)
        assert points[0].price == coin.worth(now - timedelta(days=days))
    with pytest.raises(RequestRefusedError) as raised:
        await sources.history("../../ping", 1)
    assert raised.value.code == "404"
    for days in (0, 366):
        with pytest.raises(RequestRefusedError):
            await sources.history("bitcoin", days)
    assert both.gecko.total == 4


async def test_on_demand_leaves_the_schedule_its_calls(both: Both):
    sources = both.sources(coingecko_calls_per_month=6000)
    await sources.fetch(10, on_demand=True)  # of a plan that small nine tenths of its share are kept: 3,690
    await both.db["crypto_providers"].update_one(
        {"_id": "coingecko"}, {"$set": {"standing.used.credits": 2400, "version": 9}}
    )
    fresh = both.sources(coingecko_calls_per_month=6000)
    with pytest.raises(BudgetUsedError) as raised:
        await fresh.history("bitcoin", 1)
    assert raised.value.code == "kept for the schedule"
    assert (await fresh.fetch(10, on_demand=True)).provider is Provider.COINMARKETCAP
    assert (await fresh.fetch(10)).provider is Provider.COINGECKO


async def test_many_at_once_stay_within_the_minute(both: Both):
    both.gecko.limits.per_minute = 30
    processes = [both.sources(second=False) for _ in range(3)]
    outcomes = await asyncio.gather(*(processes[n % 3].fetch(2) for n in range(45)), return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert {type(outcome) for outcome in refused} == {BudgetUsedError}
    assert (len(refused), both.gecko.total) == (15, 30)
    assert not both.gecko.limits.refused


async def test_a_call_that_is_cancelled_stays_counted_and_blocks_nobody(both: Both):
    sources = both.sources(second=False)
    both.gecko.fail("half_open")
    asking = asyncio.create_task(sources.fetch(5))
    async with asyncio.timeout(30):
        while not both.gecko.total:
            await asyncio.sleep(0.01)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert (await sources.fetch(5)).provider is Provider.COINGECKO
    assert (await both.row())["used"]["credits"] == 2


async def test_an_open_circuit_answers_at_once(both: Both):
    sources = both.sources(second=False)
    both.gecko.fail("unavailable", retry_after=120)
    with pytest.raises(UnreachableError):
        await sources.fetch(5)
    with pytest.raises(CircuitOpenError) as raised:
        await sources.fetch(5)
    assert raised.value.headers["Retry-After"] == "120"
    assert isinstance(raised.value, ProviderError)
    assert both.gecko.total == 1
