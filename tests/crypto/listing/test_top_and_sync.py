"""Top lists, syncs on request, and what others get of them: points and prices."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest

from tests.crypto.listing.kit import BASE, COINS, NOON, SIGNED_IN, Room, cmc, gecko, ranked, room_of

# ── top lists ────────────────────────────────────────────────────────────────────────────────────────────────────────

MOVERS = ranked(
    [
        gecko("up", "UP", volume_24h="2e6", price_change_1h="1", price_change_24h="5", price_change_7d="-3"),
        gecko("down", "DN", volume_24h="3e6", price_change_1h="-1", price_change_24h="-6", price_change_7d="9"),
        gecko("dead", "DD", volume_24h="10", price_change_1h="99", price_change_24h="900", price_change_7d="-99"),
        gecko("flat", "FL", volume_24h="9e6", price_change_1h="0", price_change_24h="0", price_change_7d="0"),
        gecko("mute", "MU", price_change_24h="50"),
        gecko("rise", "RI", volume_24h="1e6", price_change_24h="7"),
    ]
)


@pytest.fixture(scope="module")
async def shelf_of_movers(listing_server: Any) -> AsyncIterator[Room]:
    assert listing_server.name
    async with room_of() as made:
        await made.synced(MOVERS)
        await made.listings.refresh()
        yield made


@pytest.mark.parametrize(
    ("path", "query", "found"),
    [
        ("/top/gainers", {}, ["rise", "up"]),
        ("/top/GAINERS", {"window": "1H"}, ["up"]),
        ("/top/gainers", {"window": "7d"}, ["down"]),
        ("/top/losers", {}, ["down"]),
        ("/top/losers", {"window": "7d"}, ["up"]),
        ("/top/gainers", {"min_volume": "0"}, ["dead", "rise", "up"]),
        ("/top/gainers", {"min_volume": "1500000"}, ["up"]),
        ("/top/volume", {}, ["flat", "down", "up", "rise", "dead", "mute"]),
        ("/top/market_cap", {"limit": 2}, ["up", "down"]),
        ("/top/market_cap", {"min_volume": "3e6"}, ["down", "flat"]),
    ],
)
async def test_top_lists(shelf_of_movers: Room, path: str, query: dict[str, Any], found: list[str]):
    assert await shelf_of_movers.slugs(path, **query) == found


async def test_categories_are_those_of_the_providers_and_outlive_a_sync_of_the_other_one(room: Room):
    rows = [
        cmc(1, "bitcoin", "BTC", categories=("mineable", "pow"), market_cap="2"),
        cmc(2, "litecoin", "LTC", categories=("mineable",), market_cap="1"),
    ]
    await room.synced(rows)
    await room.synced([gecko("bitcoin", "BTC", market_cap="1"), gecko("litecoin", "LTC", market_cap="3")])

    assert await room.slugs("/top/mineable") == ["litecoin", "bitcoin"]
    assert await room.slugs("/top/POW") == ["bitcoin"]
    page = await room.client.get(BASE + "/top/mineable", params={"limit": 1})
    assert [row["slug"] for row in (await room.client.get(page.headers["Link"].split(">")[0][1:])).json()] == [
        "bitcoin"
    ]
    unknown = await room.client.get(BASE + "/top/nonsense")
    assert unknown.status_code == 404
    assert unknown.json()["categories"] == ["gainers", "losers", "volume", "market_cap", "mineable", "pow"]
    assert "gainers, losers" in unknown.json()["detail"]
    assert (await room.client.get(BASE + "/top/gainers", params={"window": "1y"})).status_code == 422


async def test_categories_that_rows_do_not_name_are_asked_for(room: Room):
    await room.synced(COINS)
    room.vendor.coins = {"stable": ["usd-coin", "tether", "not-listed"], "empty": []}
    told = await room.client.get(BASE + "/top/stable")
    assert datetime.fromisoformat(told.headers["X-Category-As-Of"]) == NOON
    again = await room.client.get(BASE + "/top/stable", headers={"If-None-Match": told.headers["ETag"]})
    assert (again.status_code, again.headers["X-Category-As-Of"]) == (304, told.headers["X-Category-As-Of"])
    assert "X-Category-As-Of" not in (await room.client.get(BASE + "/top/volume")).headers

    assert await room.slugs("/top/Stable") == ["tether", "usd-coin"]
    assert await room.slugs("/top/stable", min_volume="1e10") == ["tether"]
    assert await room.slugs("/top/empty") == []
    page = await room.client.get(BASE + "/top/stable", params={"limit": 1})
    following = await room.client.get(page.headers["Link"].split(">")[0].lstrip("<"))
    assert [row["slug"] for row in following.json()] == ["usd-coin"]
    unknown = await room.client.get(BASE + "/top/nonsense")
    assert unknown.json()["categories"][-2:] == ["stable", "empty"]
    room.vendor.used_up = {"empty"}
    later = await room.client.get(BASE + "/top/empty")
    assert (later.status_code, later.headers["Retry-After"]) == (503, "7200"), "there is such a category"
    room.vendor.coins = None
    doubtful = await room.client.get(BASE + "/top/nonsense")
    assert (doubtful.status_code, doubtful.json()["categories"]) == (404, ["gainers", "losers", "volume", "market_cap"])
    assert "CoinGecko: unreachable (timeout)" in doubtful.json()["detail"]


# ── syncs on request ─────────────────────────────────────────────────────────────────────────────────────────────────


async def sync(room: Room, **query: Any) -> httpx.Response:
    return await room.client.post(BASE + "/sync", params=query, headers=SIGNED_IN)


async def test_a_sync_answers_with_what_it_changed(room: Room):
    await room.synced([gecko("a", "A", price="1"), gecko("b", "B", price="1"), gecko("c", "C"), gecko("d", "D")])
    room.source.rows = [
        gecko("a", "A", price="2"),
        gecko("b", "BB", "Renamed", price="1"),
        gecko("c", "C"),
        gecko("e", "E", price="1"),
    ]
    room.source.failed_over = "CoinGecko: unreachable (timeout)"

    answer = await sync(room, limit=50, provider="CoinMarketCap")

    assert answer.status_code == 200, answer.text
    assert room.source.asked[-1] == (50, "coinmarketcap")
    report = answer.json()
    assert report.pop("run_id")
    assert report == {
        "state": "succeeded",
        "joined": False,
        "provider": "coingecko",
        "failed_over": "CoinGecko: unreachable (timeout)",
        "duration_ms": 7,
        "rows": 4,
        "rejected": 0,
        "listed": 5,
        "changed": 1,
        "unchanged": 2,
        "added": [{"slug": "e", "symbol": "E", "name": "E"}],
        "renamed": [{"slug": "b", "symbol": "BB", "name": "Renamed", "was": {"slug": "b", "symbol": "B", "name": "B"}}],
        "left": [],
    }
    room.source.failed_over = None
    assert (await sync(room, limit=250)).json()["left"] == [{"slug": "d", "symbol": "D", "name": "D"}]
    assert await room.slugs(sort_by="name", q="r") == ["b"]


@pytest.mark.parametrize("query", [{"limit": 0}, {"limit": 251}, {"provider": "binance"}, {"colour": "red"}])
async def test_a_sync_asks_for_what_a_provider_can_answer(room: Room, query: dict[str, Any]):
    assert (await sync(room, **query)).status_code == 422
    assert not room.source.asked


@pytest.mark.usefixtures("listing_db")
@pytest.mark.within_a_minute(12)
async def test_syncs_are_limited_by_address_and_need_a_token():
    async with room_of(crypto_sync_rate_limit_per_minute=3) as room:
        room.source.rows = list(COINS)
        for _ in range(5):
            assert (await room.client.post(BASE + "/sync")).status_code == 401
        statuses = [(await sync(room)).status_code for _ in range(4)]

        assert statuses == [200, 200, 200, 429]
        assert len(room.source.asked) == 3


async def test_the_points_of_a_sync_go_to_the_history(room: Room):
    result = await room.synced(COINS[:2])

    assert result["points"] == 2
    assert [(at, slug) for at, slug, _ in room.history.points] == [
        (NOON + timedelta(milliseconds=1), "bitcoin"),
        (NOON + timedelta(milliseconds=1), "ethereum"),
    ]


async def test_prices_are_those_of_the_newest_listing(listed: Room):
    await listed.listings.refresh()
    price = listed.listings.price("shiba")
    assert price is not None
    assert (price.symbol, price.price, price.price_change_24h) == ("SHIB", Decimal("1e-12"), 400)
    assert price.at == NOON + timedelta(milliseconds=1)
    assert listed.listings.price("nobody") is None
    assert listed.listings.slug_of("eth") == "ethereum"
    assert listed.listings.slug_of("nobody") is None
