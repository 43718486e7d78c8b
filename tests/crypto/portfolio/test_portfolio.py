"""Holdings, watchlists, their values and their risk, over HTTP."""

import json
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from bson import ObjectId
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import UnavailableError
from app.crypto.history_slots import Interval
from app.crypto.holdings import MAX_HOLDINGS
from app.crypto.portfolio_models import HoldingDocument, WatchlistDocument
from app.crypto.schemas.portfolio import Holding, Portfolio, Watchlist
from app.crypto.schemas.risk import PortfolioRisk
from app.crypto.valuation import valued
from app.crypto.watchlists import MAX_LISTS
from tests.crypto.portfolio.kit import MINE, NOON, Desk, ListingHere, daily, price_of, walk

HOLDINGS, LISTS = f"{MINE}/holdings", f"{MINE}/watchlists"


def listed(desk: Desk) -> None:
    desk.listing.put(
        price_of("bitcoin", "BTC", "67187.3358936566", "25"),
        price_of("ethereum", "ETH", "3500.5", "-2"),
        price_of("batcat", "BTC", "0.001"),
        price_of("dust", "DUST", "1e-12", "0"),
    )


async def add(desk: Desk, who: str = "ann", **body: Any) -> Any:
    return await desk.ask("POST", HOLDINGS, who, 201, json=body)


# Holdings


async def test_a_holding_is_written_read_changed_and_removed(desk: Desk) -> None:
    listed(desk)
    made = await add(desk, symbol="btc", quantity="0.123456789012345678", cost_basis=5000.25, note=" cold ")
    Holding.model_validate(made)
    assert (made["slug"], made["symbol"], made["name"]) == ("bitcoin", "BTC", "Bitcoin")
    assert (made["quantity"], made["cost_basis"], made["note"]) == (
        Decimal("0.123456789012345678"),
        Decimal("5000.25"),
        "cold",
    )
    path = f"{HOLDINGS}/{made['id']}"
    assert await desk.get(path, "ann") == made
    desk.clock.move(minutes=1)
    changed = await desk.ask("PUT", path, "ann", json={"quantity": 2})
    assert (changed["quantity"], changed["cost_basis"], changed["note"]) == (2, None, None)
    assert changed["created_at"] == made["created_at"] < changed["updated_at"]
    await desk.ask("DELETE", path, "ann", 204)
    await desk.get(path, "ann", 404)
    await desk.ask("DELETE", path, "ann", 404)


async def test_quantities_are_stored_exactly(desk: Desk) -> None:
    listed(desk)
    await add(desk, slug="dust", quantity="999999999999999.999999999999999999")
    row = await HoldingDocument.get_pymongo_collection().find_one({})
    assert str(row["quantity"]) == "999999999999999.999999999999999999"
    answer = await desk.client.get(HOLDINGS, headers={"Authorization": "Bearer ann"})
    assert '"quantity":999999999999999.999999999999999999,' in answer.text
    assert answer.headers["cache-control"] == "no-store"


async def test_nobody_sees_or_touches_what_is_somebody_elses(desk: Desk) -> None:
    listed(desk)
    path = f"{HOLDINGS}/{(await add(desk, symbol='BTC', quantity=1))['id']}"
    watched = f"{LISTS}/{(await desk.ask('POST', LISTS, 'ann', 201, json={'name': 'Mine'}))['id']}"
    for method, target, body in (
        ("GET", path, None),
        ("PUT", path, {"quantity": 5}),
        ("DELETE", path, None),
        ("GET", watched, None),
        ("PUT", watched, {"name": "Yours"}),
        ("DELETE", watched, None),
    ):
        unknown = target.rsplit("/", 1)[0] + f"/{ObjectId()}"
        theirs = await desk.ask(method, target, "bob", 404, json=body)
        nobodys = await desk.ask(method, unknown, "bob", 404, json=body)
        assert theirs["detail"] == nobodys["detail"]
        await desk.ask(method, target.rsplit("/", 1)[0] + "/none", "bob", 404, json=body)
    assert await desk.get(HOLDINGS, "bob") == await desk.get(LISTS, "bob") == []
    assert (await desk.get(MINE, "bob"))["holdings"] == []
    assert (await desk.get(path, "ann"))["quantity"] == 1
    assert (await desk.get(watched, "ann"))["name"] == "Mine"
    await add(desk, "bob", symbol="BTC", quantity=7)
    assert (await desk.get(MINE, "ann"))["value"] == Decimal("67187.3358936566")


async def test_who_may(desk: Desk) -> None:
    listed(desk)
    body = {"symbol": "BTC", "quantity": 1}
    await desk.ask("POST", HOLDINGS, None, 401, json=body)
    await desk.ask("POST", HOLDINGS, "reader", 403, json=body)
    await add(desk, **body)
    assert (await desk.get(MINE, "reader"))["valued"] == 1
    for path in (MINE, HOLDINGS, LISTS, f"{MINE}/risk", f"{MINE}/chart"):
        await desk.get(path, None, 401)
        await desk.get(path, "alerts", 403)


@pytest.mark.parametrize(
    "body",
    [
        {"quantity": 1},
        {"symbol": "BTC", "slug": "bitcoin", "quantity": 1},
        {"symbol": "NOPE", "quantity": 1},
        {"slug": "nope", "quantity": 1},
        {"symbol": "BTC"},
        {"symbol": "BTC", "quantity": 0},
        {"symbol": "BTC", "quantity": -1},
        {"symbol": "BTC", "quantity": "NaN"},
        {"symbol": "BTC", "quantity": "1e999"},
        {"symbol": "BTC", "quantity": "0.0000000000000000001"},
        {"symbol": "BTC", "quantity": {"$gt": 0}},
        {"symbol": {"$ne": ""}, "quantity": 1},
        {"symbol": "BTC", "quantity": 1, "cost_basis": -1},
        {"symbol": "BTC", "quantity": 1, "note": "a\u0000b"},
        {"symbol": "BTC", "quantity": 1, "note": "x" * 201},
        {"symbol": "BTC", "quantity": 1, "user_id": "6b02893a002b26997921d778"},
    ],
)
async def test_what_is_no_holding_is_refused(desk: Desk, body: dict[str, Any]) -> None:
    listed(desk)
    problem = await desk.ask("POST", HOLDINGS, "ann", 422, json=body)
    assert problem["errors"][0]["loc"][0] == "body"
    assert await HoldingDocument.get_pymongo_collection().count_documents({}) == 0


async def test_a_coin_is_held_once_and_there_is_a_limit(desk: Desk) -> None:
    listed(desk)
    await add(desk, symbol="BTC", quantity=1)
    problem = await desk.ask("POST", HOLDINGS, "ann", 409, json={"slug": "bitcoin", "quantity": 2})
    assert "change that holding" in problem["detail"]
    await add(desk, slug="batcat", quantity=2)
    row = await HoldingDocument.get_pymongo_collection().find_one({"slug": "batcat"})
    more = [{**row, "_id": ObjectId(), "slug": f"coin-{number}"} for number in range(MAX_HOLDINGS - 2)]
    await HoldingDocument.get_pymongo_collection().insert_many(more)
    problem = await desk.ask("POST", HOLDINGS, "ann", 409, json={"symbol": "ETH", "quantity": 2})
    assert str(MAX_HOLDINGS) in problem["detail"]
    assert len(await desk.get(HOLDINGS, "ann", limit=1000)) == MAX_HOLDINGS
    await add(desk, "bob", symbol="ETH", quantity=2)


async def test_before_the_first_listing(desk: Desk) -> None:
    desk.listing.cold = UnavailableError("No listing has been fetched yet.")
    await desk.ask("POST", HOLDINGS, "ann", 503, json={"symbol": "BTC", "quantity": 1})
    assert (await desk.get(MINE, "ann"))["value"] == 0


async def test_holdings_page_newest_first(desk: Desk) -> None:
    listed(desk)
    for symbol in ("BTC", "ETH", "DUST"):
        await add(desk, symbol=symbol, quantity=1)
        desk.clock.move(hours=1)
    answer = await desk.client.get(HOLDINGS, headers={"Authorization": "Bearer ann"}, params={"limit": 2})
    assert [row["symbol"] for row in answer.json()] == ["DUST", "ETH"]
    after = {"cursor": answer.headers["X-Next-Cursor"]}
    assert [row["symbol"] for row in await desk.get(HOLDINGS, "ann", **after)] == ["BTC"]


# Values


async def test_what_a_portfolio_is_worth(desk: Desk) -> None:
    listed(desk)
    await add(desk, symbol="BTC", quantity="0.5", cost_basis=20000)
    await add(desk, symbol="ETH", quantity=2)
    await add(desk, symbol="DUST", quantity="1e9", cost_basis="0.002")
    await add(desk, slug="batcat", quantity=1000)
    del desk.listing.prices["batcat"]
    desk.listing.put(price_of("ethereum", "ETH", "3500.5", "-2", NOON - timedelta(hours=3)))
    desk.clock.moment = NOON + timedelta(seconds=90)
    found = await desk.get(MINE, "ann")
    Portfolio.model_validate(found)
    bitcoin, ethereum, dust, batcat = found["holdings"]
    assert [row["slug"] for row in found["holdings"]] == ["bitcoin", "ethereum", "dust", "batcat"]
    assert bitcoin["value"] == Decimal("33593.6679468283")
    assert found["value"] == Decimal("33593.6679468283") + 7001 + Decimal("0.001")
    assert (found["valued"], found["not_valued"], found["stale"]) == (3, 1, 1)
    # A quarter more than a day ago is a fifth of what it is now.
    assert bitcoin["day_change"] == Decimal("6718.73358936566")
    assert dust["day_change"] == 0
    assert ethereum["day_change"] == pytest.approx(
        Decimal(7001) - Decimal(7001) / Decimal("0.98"), rel=Decimal("1e-12")
    )
    change = bitcoin["day_change"] + ethereum["day_change"]
    assert found["day_change"] == pytest.approx(change, rel=Decimal("1e-12"))
    assert found["day_change_percent"] == pytest.approx(change / (found["value"] - change) * 100, rel=Decimal("1e-12"))
    assert bitcoin["profit"] == Decimal("13593.6679468283")
    assert bitcoin["profit_percent"] == Decimal("67.9683397341415")
    assert dust["profit"] == Decimal("-0.001")
    assert (ethereum["profit"], ethereum["profit_percent"]) == (None, None)
    assert (found["cost_basis"], found["profit_covers"], found["day_change_covers"]) == (Decimal("20000.002"), 2, 3)
    assert found["profit"] == Decimal("13593.6669468283")
    assert sum(row["weight"] for row in found["holdings"] if row["weight"] is not None) == pytest.approx(1)
    assert (bitcoin["age_seconds"], bitcoin["stale"], bitcoin["source"]) == (90, False, "coingecko")
    assert (ethereum["age_seconds"], ethereum["stale"]) == (3 * 3600 + 90, True)
    assert found["oldest_price_seconds"] == 3 * 3600 + 90
    assert (batcat["value"], batcat["price"], batcat["weight"]) == (None, None, None)
    assert "No provider" in batcat["reason"]
    assert bitcoin["reason"] is None


AMOUNTS = st.decimals("1e-18", "1e15", places=18)
HELD = st.tuples(
    AMOUNTS, st.decimals("1e-12", "1e9", places=12), st.none() | AMOUNTS, st.none() | st.decimals(-120, 500, places=4)
)


@given(st.lists(HELD, min_size=1, max_size=12))
def test_sums_are_exact_and_nothing_is_counted_that_is_not_known(held: list[Any]) -> None:
    listing, rows = ListingHere(), []
    for number, (quantity, price, cost, change) in enumerate(held):
        listing.put(price_of(f"c{number}", f"C{number}", str(price), None if change is None else str(change)))
        rows.append({"_id": number, "slug": f"c{number}", "symbol": "C", "name": "C", "quantity": quantity})
        rows[-1] |= {} if cost is None else {"cost_basis": cost}
    found = valued(rows, listing, NOON)
    worth = [Fraction(quantity) * Fraction(price) for quantity, price, _, _ in held]
    assert Fraction(found.value) == sum(worth)
    costs = [(value, Fraction(row[2])) for value, row in zip(worth, held, strict=True) if row[2] is not None]
    assert found.profit_covers == len(costs)
    assert Fraction(found.profit or 0) == sum(value - cost for value, cost in costs)
    moved = [(v, Fraction(row[3])) for v, row in zip(worth, held, strict=True) if row[3] is not None and row[3] > -100]
    assert found.day_change_covers == len(moved)
    if moved:
        change = sum(value - value / (1 + percent / 100) for value, percent in moved)
        scale = sum(value + value / (1 + percent / 100) for value, percent in moved)
        assert abs(Fraction(found.day_change or 0) - change) <= scale / 10**14
    weights = [Fraction(one.weight or 0) for one in found.holdings]
    assert abs(sum(weights) - 1) < Fraction(1, 10**13)
    assert weights == sorted(weights, reverse=True)


# Risk


async def hold_with_history(desk: Desk, days: dict[str, int]) -> dict[str, list[float]]:
    """Ann has two of each; the prices of the days."""
    prices = {slug: walk(count, seed) for seed, (slug, count) in enumerate(days.items())}
    for slug, walked in prices.items():
        desk.listing.put(price_of(slug, slug[:3].upper(), str(walked[-1])))
        await desk.rows.pack(slug, Interval.D1, daily(walked))
        await add(desk, slug=slug, quantity=2)
    return prices


async def test_the_risk_of_a_portfolio_is_that_of_todays_weights(desk: Desk) -> None:
    prices = await hold_with_history(desk, {"bitcoin": 300, "ethereum": 280})
    found = await desk.get(f"{MINE}/risk", "ann")
    PortfolioRisk.model_validate(found)
    last = np.array([prices["bitcoin"][-1], prices["ethereum"][-1]])
    weights = last / last.sum()
    told = {row["slug"]: float(row["weight"]) for row in found["weights"]}
    assert told == pytest.approx(dict(zip(prices, weights, strict=True)))
    table = np.array([prices["bitcoin"][-280:], prices["ethereum"]])
    returns = weights @ (np.diff(table) / table[:, :-1])
    assert (found["data"]["returns"], found["data"]["points"]) == (279, 280)
    assert float(found["volatility"]["value"]) == pytest.approx(
        float(np.std(np.log1p(returns), ddof=1)) * 365**0.5, rel=1e-9
    )
    index = np.concatenate([[1], np.cumprod(1 + returns)])
    depth = float(np.max(1 - index / np.maximum.accumulate(index)))
    assert float(found["maximum_drawdown"]["value"]) == pytest.approx(depth, rel=1e-9)
    value = float(last.sum() * 2)
    for tail, confidence in zip(found["value_at_risk"], (0.95, 0.99), strict=True):
        quantile = float(np.quantile(-returns, confidence, method="inverted_cdf"))
        assert float(tail["value"]) == pytest.approx(quantile, rel=1e-9)
        assert float(tail["amount"]) == pytest.approx(quantile * value, abs=0.006)
    correlation = float(np.corrcoef(np.diff(table) / table[:, :-1])[0, 1])
    assert float(found["correlation"]["matrix"][0][1]) == pytest.approx(correlation, rel=1e-9)
    assert (found["covered"], found["left_out"]) == (1, [])
    assert float(found["value"]) == pytest.approx(value)


async def test_the_coin_with_the_shortest_history_is_named(desk: Desk) -> None:
    await hold_with_history(desk, {"bitcoin": 300, "ethereum": 41})
    found = await desk.get(f"{MINE}/risk", "ann")
    assert found["volatility"]["value"] is not None
    assert found["value_at_risk"][0]["value"] is None
    assert found["value_at_risk"][0]["reason"] == (
        "There are only 40 common daily returns yet; 60 are needed. ETH has the shortest history."
    )


async def test_without_enough_history_for_most_of_the_value_nothing_is_measured(desk: Desk) -> None:
    prices = await hold_with_history(desk, {"bitcoin": 100, "newcomer": 5})
    desk.listing.put(price_of("newcomer", "NEW", str(prices["bitcoin"][-1])))
    found = await desk.get(f"{MINE}/risk", "ann")
    assert [row["slug"] for row in found["left_out"]] == ["newcomer"]
    assert found["covered"] == Decimal("0.5")
    reasons = {found[name]["reason"] for name in ("volatility", "maximum_drawdown")}
    reasons |= {each["reason"] for each in (*found["value_at_risk"], *found["expected_shortfall"])}
    assert reasons == {"Only 50.0 % of the value is in coins with 30 daily returns; 80 % are needed."}
    assert found["volatility"]["value"] is None
    # A little of it may be missing.
    desk.listing.put(price_of("newcomer", "NEW", "0.01"))
    found = await desk.get(f"{MINE}/risk", "ann")
    assert found["volatility"]["value"] is not None
    del desk.listing.prices["newcomer"]
    found = await desk.get(f"{MINE}/risk", "ann")
    assert (found["covered"], found["left_out"][0]["slug"]) == (1, "newcomer")


async def test_the_risk_of_nothing(desk: Desk) -> None:
    found = await desk.get(f"{MINE}/risk", "ann")
    assert found["volatility"]["reason"] == "You hold nothing that has a price."
    assert (found["weights"], found["correlation"]["matrix"], found["covered"]) == ([], None, None)
    PortfolioRisk.model_validate(found)


# Watchlists


async def test_a_watchlist_keeps_its_order_and_shows_prices(desk: Desk) -> None:
    listed(desk)
    coins = [{"symbol": "eth"}, {"slug": "batcat"}, {"symbol": "BTC"}, {"slug": "ethereum"}]
    made = await desk.ask("POST", LISTS, "ann", 201, json={"name": " Layer 1 ", "coins": coins})
    Watchlist.model_validate(made)
    assert made["name"] == "Layer 1"
    assert [coin["slug"] for coin in made["coins"]] == ["ethereum", "batcat", "bitcoin"]
    assert (made["coins"][0]["price"], made["coins"][0]["price_change_24h"]) == (Decimal("3500.5"), -2)
    path = f"{LISTS}/{made['id']}"
    del desk.listing.prices["batcat"]
    found = await desk.get(path, "ann")
    assert (found["coins"][1]["symbol"], found["coins"][1]["price"]) == ("BTC", None)
    assert found["coins"][1]["reason"]
    kept = await desk.ask("PUT", path, "ann", json={"name": "Rest", "coins": [{"slug": "batcat"}, {"symbol": "DUST"}]})
    assert [coin["slug"] for coin in kept["coins"]] == ["batcat", "dust"]
    assert [row["name"] for row in await desk.get(LISTS, "ann")] == ["Rest"]
    await desk.ask("DELETE", path, "ann", 204)
    assert await desk.get(LISTS, "ann") == []


async def test_names_of_watchlists_are_unique_and_their_number_is_limited(desk: Desk) -> None:
    listed(desk)
    made = await desk.ask("POST", LISTS, "ann", 201, json={"name": "Majors"})
    await desk.ask("POST", LISTS, "ann", 409, json={"name": "majors"})
    await desk.ask("POST", LISTS, "bob", 201, json={"name": "Majors"})
    other = await desk.ask("POST", LISTS, "ann", 201, json={"name": "Minors"})
    await desk.ask("PUT", f"{LISTS}/{other['id']}", "ann", 409, json={"name": "MAJORS"})
    await desk.ask("PUT", f"{LISTS}/{made['id']}", "ann", json={"name": "MAJORS"})
    row = await WatchlistDocument.get_pymongo_collection().find_one({"key": "minors"})
    more = [{**row, "_id": ObjectId(), "key": f"list {number}"} for number in range(MAX_LISTS - 2)]
    await WatchlistDocument.get_pymongo_collection().insert_many(more)
    await desk.ask("POST", LISTS, "ann", 409, json={"name": "One more"})


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"coins": []}, ["body", "name"]),
        ({"name": "  "}, ["body", "name"]),
        ({"name": "x" * 65}, ["body", "name"]),
        ({"name": "A", "coins": [{"symbol": "BTC"}, {"symbol": "NOPE"}]}, ["body", "coins", 1, "symbol"]),
        ({"name": "A", "coins": [{}]}, ["body", "coins", 0]),
        ({"name": "A", "coins": [{"symbol": "BTC"}] * 101}, ["body", "coins"]),
        ({"name": "A", "coins": "BTC"}, ["body", "coins"]),
        ({"name": "A", "public": True}, ["body", "public"]),
    ],
)
async def test_what_is_no_watchlist_is_refused(desk: Desk, body: dict[str, Any], place: list[Any]) -> None:
    listed(desk)
    problem = await desk.ask("POST", LISTS, "ann", 422, json=body)
    assert json.loads(json.dumps(problem["errors"][0]["loc"])) == place
