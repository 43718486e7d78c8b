"""The equity curve."""

import json
import re
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest
from plotly import graph_objects

from app.brokerage.portfolio.charts import CurvePoint, equity_chart
from app.core.figures import Theme
from tests.brokerage.portfolio.kit import DAY, NOON, Desk, fill

CURVE = "/api/v1/dashboard/equity-curve"


def checked(figure: dict[str, Any]) -> dict[str, Any]:
    """`figure`, which Plotly has to take and JSON to hold."""
    graph_objects.Figure(figure)
    json.dumps(figure, allow_nan=False)
    return figure


def points(*net: str, marked: bool = True) -> list[CurvePoint]:
    made, before = [], Decimal(0)
    for number, text in enumerate(net):
        value = Decimal(text)
        unrealised = Decimal(10) if marked and number % 2 else None
        made.append(CurvePoint(date(2026, 11, 2) + timedelta(days=number), value - before, value, unrealised))
        before = value
    return made


@pytest.mark.parametrize("theme", list(Theme))
@pytest.mark.parametrize("net", [["100", "-50.25", "70"], ["0"], ["1e15", "-1e15"], ["5"] * 60])
def test_every_curve_can_be_drawn(theme: Theme, net: list[str]) -> None:
    figure = checked(equity_chart("zerodha", points(*net), theme=theme))
    lines = {trace["name"]: trace for trace in figure["data"]}
    assert lines["Realised"]["y"] == [float(text) for text in net]
    assert sum(lines["Of the day"]["y"]) == pytest.approx(float(net[-1]))
    assert ("With open positions" in lines) == (len(net) > 1)
    assert figure["layout"]["meta"]["theme"] == theme


def test_nothing_says_so_and_text_stays_text() -> None:
    assert "no trades" in checked(equity_chart("x", []))["layout"]["annotations"][0]["text"]
    assert "<b>X" not in checked(equity_chart("<b>X", points("1")))["layout"]["title"]["text"][3:]
    assert len(checked(equity_chart("x", points("1", "2", marked=False)))["data"]) == 2


async def test_the_curve_of_an_account(desk: Desk) -> None:
    desk.prices.put("RELIANCE", "130")
    await desk.take(fill("buy", 10, "100", NOON - 4 * DAY), fill("sell", 4, "120", NOON - 2 * DAY))
    await desk.take(fill("buy", 1, "50", NOON - 300 * DAY, "TCS"), fill("sell", 1, "80", NOON - 299 * DAY, "TCS"))
    desk.clock.move(hours=4)  # after the close
    await desk.upkeep.snapshot()
    desk.clock.move(hours=-4)
    figure = checked((await raw(desk)).json())
    lines = {trace["name"]: trace for trace in figure["data"]}
    pnl = await desk.get("/api/v1/dashboard/pnl", start="2025-11-01")
    assert lines["Realised"]["y"][-1] == pytest.approx(float(pnl["net_pnl"]))
    assert len(lines["Realised"]["y"]) == 3, "of this financial year; what was before is in its beginning"
    assert lines["Realised"]["y"][0] == pytest.approx(30 - float(sum(row["charges"] for row in pnl["rows"][1:])))
    assert lines["With open positions"]["y"] == [pytest.approx(float(pnl["net_pnl"]) + 6 * 30)]
    page = await raw(desk, format="html", theme="light")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    (embedded,) = re.findall(r'id="figure">(.*?)</script>', page.text, re.DOTALL)
    assert json.loads(embedded)["layout"]["meta"]["theme"] == "light"
    assert (await raw(desk, who="bob")).json()["data"] == []
    assert checked((await raw(desk, start="2025-11-01")).json())["layout"]["meta"]["points"] == 5
    await desk.get(CURVE, 422, format="png")
    await desk.get(CURVE, 422, start="2026-01-02", end="2026-01-01")


async def test_a_trading_day_that_is_not_over_shows_what_is_open_now(desk: Desk) -> None:
    """Else profit that is not realised would be gone from the opening until the day's snapshot."""
    desk.clock.moment = NOON - DAY
    await desk.take(fill("buy", 10, "100", desk.clock.moment))
    desk.prices.put("RELIANCE", "150")
    desk.clock.move(hours=4)  # after the close
    await desk.upkeep.snapshot()
    desk.clock.move(hours=-4)
    desk.clock.moment = NOON
    desk.prices.put("RELIANCE", "160")
    figure = checked((await raw(desk)).json())
    spent = float((await desk.get("/api/v1/dashboard/pnl"))["net_pnl"])
    (whole,) = [trace for trace in figure["data"] if trace["name"] == "With open positions"]
    assert whole["y"] == [pytest.approx(spent + 500), pytest.approx(spent + 600)]
    await desk.take(fill("buy", 1, "50", NOON, "TCS"), fill("sell", 1, "80", NOON, "TCS"))
    figure = checked((await raw(desk)).json())
    net = float((await desk.get("/api/v1/dashboard/pnl"))["net_pnl"])
    assert f"₹+{net + 600:,.2f}" in figure["layout"]["title"]["text"]
    figure = checked((await raw(desk, end="2026-11-19")).json())
    assert figure["layout"]["meta"]["points"] == 1, "of the past it is what was kept"
    desk.prices.known.clear()
    figure = checked((await raw(desk)).json())
    assert [len(trace["y"]) for trace in figure["data"] if trace["name"] == "With open positions"] == [1]


async def raw(desk: Desk, who: str = "ann", **query: str) -> Any:
    answer = await desk.client.get(CURVE, params=query, headers={"Authorization": f"Bearer {who}"})
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    return answer
