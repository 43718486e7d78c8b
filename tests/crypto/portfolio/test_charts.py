"""Charts of coins and portfolios."""

import json
import re
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from plotly import graph_objects

from app.core.figures import Theme
from app.crypto.charts import Share, allocation_chart, portfolio_chart, price_chart
from app.crypto.history_reading import Placed
from app.crypto.history_slots import Interval
from app.crypto.ports import PricePoint
from app.crypto.risk import Day
from tests.crypto.portfolio.kit import COINS, DAY, HOUR, MINE, NOON, Desk, daily, listing_of, point, price_of, walk


def checked(figure: dict[str, Any]) -> dict[str, Any]:
    """`figure`, which Plotly has to take and JSON to hold."""
    graph_objects.Figure(figure)
    json.dumps(figure, allow_nan=False)
    return figure


def hours(prices: list[str], volume: str | None = "5e9") -> list[Placed]:
    return [
        Placed(
            Interval.H1,
            PricePoint(NOON - (len(prices) - n) * HOUR, Decimal(price), None, Decimal(volume) if volume else None),
        )
        for n, price in enumerate(prices)
    ]


@pytest.mark.parametrize("theme", list(Theme))
@pytest.mark.parametrize(
    "prices",
    [
        ["67000.5", "67200", "66900.25"],
        ["1e-12", "3e-12", "2.5e-12"],
        ["1e15", "2e15"],
        ["1", "1", "1"],
        ["5"],
        ["1e-30", "1e30"],
    ],
)
def test_every_price_can_be_drawn(theme: Theme, prices: list[str]) -> None:
    figure = checked(price_chart("BTC", "Bitcoin", hours(prices), theme=theme))
    line, volume = figure["data"]
    assert line["y"] == [float(price) for price in prices]
    assert volume["y"] == [5e9] * len(prices)
    low, high = figure["layout"]["yaxis"]["range"]
    assert 0 <= low <= min(line["y"]) <= max(line["y"]) <= high
    assert low < high
    assert figure["layout"]["meta"]["theme"] == theme
    assert [Decimal(told[0].replace(",", "")) for told in line["customdata"]] == [Decimal(price) for price in prices]


def test_a_hole_in_the_history_is_a_hole_in_the_line() -> None:
    points = hours(["1", "2", "3", "4", "5", "6", "7", "8"])
    figure = checked(price_chart("BTC", None, [*points[:2], *points[6:]]))
    assert figure["data"][0]["y"] == [1, 2, None, 7, 8]
    assert figure["data"][0]["connectgaps"] is False
    assert {trace["fill"] for trace in figure["data"]} == {"none"}, "a fill would bridge it"
    whole = checked(price_chart("BTC", None, [*points[:2], *points[4:]]))
    assert None not in whole["data"][0]["y"], "one or two that are missing are none"


def test_text_from_outside_stays_text_and_nothing_says_so() -> None:
    figure = checked(price_chart("<b>X", "</script><i>%{y}", hours(["1", "2"], volume=None)))
    assert "&lt;b&gt;X" in figure["layout"]["title"]["text"]
    assert "<i>" not in figure["layout"]["title"]["text"]
    assert len(figure["data"]) == 1
    assert "No volume" in figure["layout"]["annotations"][0]["text"]
    empty = checked(price_chart("BTC", "Bitcoin", []))
    assert "No prices of BTC" in empty["layout"]["annotations"][0]["text"]


@pytest.mark.parametrize("theme", list(Theme))
def test_portfolios_of_every_size(theme: Theme) -> None:
    for count in (0, 1, 12, 40):
        shares = [Share(f"C{n}", Decimal(10) ** (30 - n), Decimal(1) / count) for n in range(count)]
        figure = checked(allocation_chart(shares, theme=theme))
        if count > 12:
            assert figure["data"][0]["y"][-1] == "28 others"
            assert sum(figure["data"][0]["x"]) == pytest.approx(1)
    days = [Day(NOON - (4 - n) * DAY, value) for n, value in enumerate((100.0, 120.0, 90.0, 120.5))]
    figure = checked(portfolio_chart(days, ["<new>"], theme=theme))
    assert figure["data"][1]["y"] == pytest.approx([0, 0, -0.25, 0])
    assert "&lt;new&gt;" in figure["layout"]["annotations"][0]["text"]
    assert checked(portfolio_chart(days[:1], [], theme=theme))["data"] == []


async def test_the_chart_of_a_coin(desk: Desk) -> None:
    desk.listing.put(price_of("bitcoin", "BTC", "67187.34"))
    for number in range(5):
        await desk.history.append(NOON - number * HOUR, [("bitcoin", listing_of(str(100 - number)))])
    await desk.rows.pack("bitcoin", Interval.H1, [point(NOON - n * HOUR, n) for n in range(40, 24 * 40)])
    await desk.rows.pack("bitcoin", Interval.D1, daily(walk(365, 1), NOON - 2 * DAY))
    figure = checked((await desk.client.get(f"{COINS}/btc/chart")).json())
    times = [datetime.fromisoformat(x) for x in figure["data"][0]["x"]]
    assert times == sorted(times)
    assert NOON - timedelta(days=31, hours=1) <= times[0] <= NOON - timedelta(days=30)
    assert figure["layout"]["meta"]["symbol"] == "BTC"
    year = (await desk.client.get(f"{COINS}/BTC/chart", params={"interval": "1d", "theme": "light"})).json()
    assert year["layout"]["meta"]["theme"] == "light"
    assert year["layout"]["meta"]["points"] >= 363
    within = {"start": "2026-11-22T09:00:00Z", "end": "2026-11-22T11:00:00Z"}
    assert (await desk.client.get(f"{COINS}/BTC/chart", params=within)).json()["layout"]["meta"]["points"] == 3
    page = await desk.client.get(f"{COINS}/BTC/chart", params={"format": "html"})
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    (embedded,) = re.findall(r'id="figure">(.*?)</script>', page.text, re.DOTALL)
    assert json.loads(embedded)["data"] == figure["data"]
    await desk.get(f"{COINS}/BTC/chart", status=422, format="png")
    await desk.get(f"{COINS}/NOPE/chart", status=404)


async def test_the_chart_of_a_coin_that_was_filled_in(desk: Desk) -> None:
    desk.listing.put(price_of("bitcoin", "BTC", "67187.34"))
    given = daily(walk(365, 1))
    await desk.history.fill("bitcoin", given)
    for number in range(2):
        await desk.history.append(NOON - number * timedelta(minutes=5), [("bitcoin", listing_of("100"))])
    figure = checked((await desk.client.get(f"{COINS}/BTC/chart")).json())
    month = [float(one.price) for one in given if one.at >= NOON - timedelta(days=31)]
    assert len(month) == 30
    assert figure["data"][0]["y"] == [*month, 100, 100], "one line without a gap"
    span = {"start": (NOON - timedelta(days=100)).isoformat(), "interval": "auto"}
    hundred = checked((await desk.client.get(f"{COINS}/BTC/chart", params=span)).json())
    assert hundred["layout"]["meta"]["points"] == 99 + 2
    assert None not in hundred["data"][0]["y"]


async def test_the_charts_of_a_portfolio(desk: Desk) -> None:
    for slug, days in (("bitcoin", 100), ("ethereum", 60), ("new", 3)):
        desk.listing.put(price_of(slug, slug[:3].upper(), "10"))
        await desk.rows.pack(slug, Interval.D1, daily([float(n + 1) for n in range(days)]))
        await desk.ask("POST", f"{MINE}/holdings", "ann", 201, json={"slug": slug, "quantity": 2})
    figure = checked(json.loads(json.dumps(await desk.get(f"{MINE}/chart", "ann"), default=float)))
    assert figure["data"][0]["y"] == [2.0 * (n + 41 + n + 1) for n in range(60)]
    assert "NEW" in figure["layout"]["annotations"][0]["text"]
    parts = await desk.get(f"{MINE}/chart", "ann", chart_type="allocation")
    assert sorted(parts["data"][0]["y"]) == ["BIT", "ETH", "NEW"]
    answer = await desk.client.get(f"{MINE}/chart", params={"format": "html"}, headers={"Authorization": "Bearer ann"})
    assert answer.headers["cache-control"] == "no-store"
    assert "today's quantities" in answer.text
    assert (await desk.get(f"{MINE}/chart", "bob"))["data"] == []
