"""The listing over HTTP: filters, order, pages, conditional requests, single coins, top lists."""

import json
from datetime import timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from app.crypto.schemas.listing import CoinDetail, CoinRow
from tests.crypto.listing.kit import BASE, COINS, Room, gecko, ranked, room_of


async def test_the_largest_come_first(shelf: Room):
    assert await shelf.slugs() == [
        "bitcoin", "ethereum", "tether", "usd-coin", "shiba", "bitcoin-cash", "ghost",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"symbol_filter": "btc"}, ["bitcoin"]),
        ({"symbol_filter": "ETH, btc"}, ["bitcoin", "ethereum"]),
        ({"symbol_filter": "BT"}, []),
        ({"q": "BIT"}, ["bitcoin", "bitcoin-cash"]),
        ({"q": "usd"}, ["tether", "usd-coin"]),
        ({"q": "coin"}, []),
        ({"min_price": "1", "max_price": "400"}, ["tether", "usd-coin", "bitcoin-cash"]),
        ({"max_price": "1e-12"}, ["shiba"]),
        ({"min_price": "0.000000000001", "max_price": "0.9"}, ["shiba"]),
        ({"min_market_cap": "4.2e11"}, ["bitcoin", "ethereum"]),
        ({"q": "bit", "max_price": "1000"}, ["bitcoin-cash"]),
        ({"limit": 2, "offset": 1}, ["ethereum", "tether"]),
        ({"offset": 50}, []),
    ],
)
async def test_filters_hold_together(shelf: Room, query: dict[str, Any], found: list[str]):
    assert await shelf.slugs(**query) == found


@pytest.mark.parametrize(
    ("query", "first"),
    [
        # 7 twice: the better rank first, either way; unknown (usd-coin) last, either way
        (
            {"sort_by": "price_change_24h"},
            ["shiba", "bitcoin-cash", "ghost", "bitcoin", "tether", "ethereum", "usd-coin"],
        ),
        (
            {"sort_by": "price_change_24h", "order": "asc"},
            ["ethereum", "tether", "bitcoin", "bitcoin-cash", "ghost", "shiba", "usd-coin"],
        ),
        ({"sort_by": "price", "order": "asc"}, ["shiba", "tether", "usd-coin", "bitcoin-cash", "ghost"]),
        ({"sort_by": "Volume_24h"}, ["tether", "bitcoin", "ethereum", "usd-coin", "bitcoin-cash", "shiba", "ghost"]),
        ({"sort_by": "volume_24h", "order": "ASC"}, ["shiba", "bitcoin-cash", "usd-coin"]),
        ({"sort_by": "rank"}, ["bitcoin", "ethereum", "tether", "bitcoin-cash"]),
        ({"sort_by": "name"}, ["bitcoin", "bitcoin-cash", "ethereum", "ghost", "shiba", "tether", "usd-coin"]),
        ({"sort_by": "name", "order": "desc"}, ["usd-coin", "tether"]),
    ],
)
async def test_ties_are_in_the_order_of_ranks_and_what_is_not_known_comes_last(
    shelf: Room, query: dict[str, Any], first: list[str]
):
    assert (await shelf.slugs(**query))[: len(first)] == first


@pytest.mark.parametrize(
    "query",
    [
        {"limit": 0},
        {"limit": 1001},
        {"offset": -1},
        {"sort_by": "colour"},
        {"order": "up"},
        {"min_price": "-1"},
        {"min_price": "NaN"},
        {"min_price": "2", "max_price": "1"},
        {"min_market_cap": "1_000"},
        {"symbol_filter": ","},
        {"symbol_filter": "A\x00"},
        {"q": "a\x07"},
        {"q": ""},
        {"cursor": "nonsense"},
        {"cursor": "A" * 28},
        {"colour": "red"},
    ],
)
async def test_what_makes_no_sense_is_told(shelf: Room, query: dict[str, Any]):
    answer = await shelf.client.get(BASE + "/", params=query)

    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["errors"][0]["loc"][0] == "query"


async def test_answers_are_what_the_documentation_says(shelf: Room):
    for row in await shelf.get():
        assert set(row) == set(CoinRow.model_fields)
        CoinRow.model_validate(row)
    detail = await shelf.get("/btc")
    assert list(detail) == [*CoinRow.model_fields, "listed", "same_symbol"]
    CoinDetail.model_validate(detail)
    assert (detail["source"], detail["synced_at"]) == ("coingecko", "2026-11-22T12:00:00.001000Z")


async def test_numbers_are_exact(room: Room):
    tiny, vast = "0.000000000001", "1000000000000000"
    long = "123456789012345678.9012345678901234"
    await room.synced(
        ranked([gecko("x", "X", price=tiny, market_cap=long, total_supply="1e15", ath="0.1", atl="1E-18")])
    )

    answer = await room.client.get(BASE + "/x")

    row = json.loads(answer.content, parse_float=Decimal)
    assert Decimal(row["price"]) == Decimal(tiny)
    assert Decimal(row["total_supply"]) == Decimal(vast)
    assert str(row["market_cap"]) == long
    assert row["atl"] == Decimal("1e-18")
    assert b'"ath":0.1,' in answer.content
    # A reader with doubles comes to the same numbers.
    doubles = answer.json()
    assert (doubles["price"], doubles["total_supply"]) == (1e-12, 1e15)


# ── pages ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def pages(room: Room, *, between: Any = None, **query: Any) -> list[str]:
    """The slugs of all pages, by their cursors; `between` is awaited before each further page."""
    found: list[str] = []
    answer = await room.client.get(BASE + "/", params=query)
    while True:
        assert answer.status_code == 200, answer.text
        found += [row["slug"] for row in answer.json()]
        if "X-Next-Cursor" not in answer.headers:
            return found
        assert 'rel="next"' in answer.headers["Link"]
        if between:
            await between()
        answer = await room.client.get(answer.headers["Link"].split(">")[0].lstrip("<"))


async def test_pages_are_of_one_sync_while_others_go_on(room: Room):
    rows = ranked([gecko(f"coin-{number}") for number in range(23)])
    await room.synced(rows)
    whole = await room.slugs(sort_by="price", limit=1000)
    turned = 0

    async def sync_again() -> None:
        nonlocal turned
        turned += 1
        mixed = rows[turned * 3 % 23 :] + rows[: turned * 2 % 23] + [gecko(f"new-{turned}")]
        await room.synced(ranked([msgspec.structs.replace(row, price=None, market_cap=None) for row in mixed]))

    assert await pages(room, between=sync_again, sort_by="price", limit=4) == whole
    assert turned == 5
    assert await room.slugs(sort_by="price", limit=1000) != whole


@pytest.mark.parametrize(("path", "name"), [("/", "min_price"), ("/", "min_market_cap"), ("/top/volume", "min_volume")])
async def test_bounds_are_told_in_plain_words(shelf: Room, path: str, name: str):
    for value, why in (("1e400", "less than or equal to 1000000000000000"), ("-1", "greater than or equal to 0")):
        answer = await shelf.client.get(BASE + path, params={name: value})
        assert answer.status_code == 422
        assert answer.json()["detail"] == f"query.{name}: Input should be {why}"


async def test_a_cursor_goes_on_with_its_own_list_only(listed: Room):
    answer = await listed.client.get(BASE + "/", params={"limit": 2, "q": "b"})
    assert "X-Next-Cursor" not in answer.headers, "both are on the page"
    cursor = (await listed.client.get(BASE + "/", params={"limit": 2})).headers["X-Next-Cursor"]

    for other in ({"q": "b"}, {"sort_by": "price"}, {"order": "asc"}, {"min_price": "1"}, {"offset": 2}):
        refused = await listed.client.get(BASE + "/", params={"cursor": cursor, **other})
        assert refused.status_code == 422, other
    assert await listed.slugs(cursor=cursor, limit=3) == ["tether", "usd-coin", "shiba"]
    assert await listed.slugs(cursor=cursor, limit=1, sort_by="market_cap", order="desc") == ["tether"]


async def test_a_cursor_holds_for_an_hour_and_then_says_to_begin_again(listed: Room):
    cursor = (await listed.client.get(BASE + "/", params={"limit": 2})).headers["X-Next-Cursor"]
    for minutes in (20, 20, 19):
        listed.clock.forward(timedelta(minutes=minutes))
        await listed.synced(COINS[:3])
    async with room_of(clock=listed.clock) as another:  # has nothing in memory
        assert (await another.slugs(cursor=cursor, limit=1)) == ["tether"]
    listed.clock.forward(timedelta(minutes=2))
    await listed.synced(COINS[:3])

    async with room_of(clock=listed.clock) as another:
        answer = await another.client.get(BASE + "/", params={"cursor": cursor})
    assert answer.status_code == 422
    assert "begin again" in answer.json()["detail"]


async def test_the_page_after_an_offset_is_led_to_by_a_cursor(listed: Room):
    answer = await listed.client.get(BASE + "/", params={"limit": 2, "offset": 2})

    assert [row["slug"] for row in answer.json()] == ["tether", "usd-coin"]
    following = await listed.client.get(answer.headers["Link"].split(">")[0].lstrip("<"))
    assert following.status_code == 200, following.text
    assert [row["slug"] for row in following.json()] == ["shiba", "bitcoin-cash"]


# ── conditional requests ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", ["/?limit=3", "/btc", "/top/volume"])
async def test_what_the_client_has_is_not_sent_again(listed: Room, path: str):
    first = await listed.client.get(BASE + path)
    tag = first.headers["ETag"]
    assert first.headers["Cache-Control"] == "public, no-cache"

    for header in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = await listed.client.get(BASE + path, headers={"If-None-Match": header})
        assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", tag)
        assert again.headers.get("Link") == first.headers.get("Link")
        assert again.headers["Cache-Control"] == "public, no-cache"
    other = await listed.client.get(BASE + path, headers={"If-None-Match": '"other"'})
    assert (other.status_code, other.content) == (200, first.content)
    head = await listed.client.head(BASE + path)
    assert (head.status_code, head.content, head.headers["ETag"]) == (200, b"", tag)
    assert head.headers["Content-Length"] == str(len(first.content))
    unchanged = await listed.client.head(BASE + path, headers={"If-None-Match": tag})
    assert unchanged.status_code == 304

    await listed.synced([msgspec.structs.replace(row, price=Decimal(2)) for row in COINS])
    later = await listed.client.get(BASE + path, headers={"If-None-Match": tag})
    assert later.status_code == 200
    assert later.headers["ETag"] != tag


@pytest.mark.usefixtures("listing_db")
@pytest.mark.within_a_minute(12)
async def test_ready_answers_are_the_ones_that_were_made_and_limited_as_they():
    async with room_of(rate_limit_per_minute=6) as room:
        await room.synced(COINS)
        answers = [await room.client.get(BASE + "/?limit=3&q=b") for _ in range(7)]

        assert [answer.status_code for answer in answers] == [200] * 6 + [429]
        assert len({answer.content for answer in answers[:6]}) == 1
        assert len({tuple(answer.headers.keys()) for answer in answers[:6]}) == 1
        assert int(answers[6].headers["Retry-After"]) > 0
        assert room.listings.ready(b"limit=3&q=b") is not None
        await room.synced(COINS)
        assert room.listings.ready(b"limit=3&q=b") is None, "an answer outlived its listing"


# ── one coin ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_of_coins_with_one_symbol_the_largest_is_meant(room: Room):
    await room.synced(
        [
            gecko("small", "ONE", "Small One", market_cap="10", rank=3, price="1"),
            gecko("large", "ONE", "Large One", market_cap="20", rank=2, price="2"),
            gecko("unknown", "ONE", "Unknown One"),
        ]
    )

    largest = await room.get("/one")
    assert (largest["slug"], largest["price"]) == ("large", 2)
    assert [coin["slug"] for coin in largest["same_symbol"]] == ["small", "unknown"]
    assert (await room.get("/ONE", slug="small"))["price"] == 1
    assert await room.slugs(symbol_filter="one", sort_by="rank") == ["large", "small", "unknown"]
    missing = await room.client.get(BASE + "/ONE", params={"slug": "medium"})
    assert missing.status_code == 404
    assert "large, small, unknown" in missing.json()["detail"]
    slug = await room.client.get(BASE + "/Small")
    assert slug.json()["detail"] == "There is no coin with the symbol SMALL; small has the symbol ONE."
    assert room.listings.slug_of("one") == "large"


async def test_a_coin_that_left_is_shown_as_it_was_last(room: Room):
    await room.synced([gecko("stays", "S", price="1"), gecko("leaves", "L", price="5", market_cap="7")])
    await room.synced([gecko("stays", "S", price="1")])

    gone = await room.get("/l")
    assert (gone["listed"], gone["price"], gone["slug"]) == (False, 5, "leaves")
    assert (await room.get("/s"))["listed"] is True
    assert await room.slugs() == ["stays"]
    for unknown in ("/nope", "/" + "x" * 64):
        answer = await room.client.get(BASE + unknown)
        assert answer.status_code == 404
