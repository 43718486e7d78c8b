"""Lists of predictions, their charts, and how long they are kept."""

import json
import math
from datetime import timedelta
from pathlib import Path

import plotly.graph_objects as go
import pytest

from app.predictions.charts import DRAWN
from app.predictions.stored_models import UNUSED
from tests.predictions.service.kit import CLOSE, SAID, Desk, indian_days


async def days_of_predictions(desk: Desk, count: int, **body: str) -> list[str]:
    """A prediction after each close, scored when its time has come; their ids, the oldest first."""
    made = []
    for start, _ in desk.prices.listed["RELIANCE.NS", "1D"][699 : 699 + count]:
        desk.clock.moment = start + CLOSE + timedelta(minutes=30)
        made.append((await desk.generate(model="svr", **body))["id"])
        await desk.score()
    return made


async def test_lists_lead_on_by_cursor(desk: Desk):
    made = await days_of_predictions(desk, 7)
    found, path = [], "/RELIANCE?limit=3&model=svr&timeframe=1D"
    while path:
        answer = await desk.answer("GET", path)
        found += [one["id"] for one in answer.json()]
        cursor = answer.headers.get("x-next-cursor")
        path = f"/RELIANCE?limit=3&model=svr&timeframe=1D&cursor={cursor}" if cursor else ""
    assert found == made[::-1]
    assert await desk.ask("/RELIANCE", model="lstm") == []
    assert await desk.ask("/RELIANCE", timeframe="1H") == []
    assert await desk.ask("/TCS") == []
    for bad in ("/RELIANCE?model=oracle", "/RELIANCE?cursor=x", "/RELIANCE?limit=0", "/RELIANCE?symbol=A", "/A$B"):
        await desk.answer("GET", bad, 422)


async def test_symbols_have_their_form(desk: Desk):
    for symbol, told in (("A" * 33, "at most 32 characters"), ("A%01B", "Control characters"), ("A$B", "not a symbol")):
        assert told in (await desk.answer("GET", f"/{symbol}", 422)).text


async def test_a_name_that_nse_does_not_have_may_be_another_exchanges(desk: Desk):
    desk.prices.list_days("AAPL", indian_days(700), 180.0)
    made = await desk.generate("AAPL", model="svr")
    assert (made["symbol"], made["currency"]) == ("AAPL", "USD")
    assert await desk.ask("/aapl") == [made]
    assert (await desk.ask("/AAPL/scorecard"))["symbol"] == "AAPL"


@pytest.mark.parametrize("theme", ["dark", "light"])
async def test_charts_are_figures_and_pages(desk: Desk, theme: str):
    await days_of_predictions(desk, 8)
    figure = await desk.ask("/RELIANCE/chart", model="svr", theme=theme)
    go.Figure(figure)
    assert figure["layout"]["meta"]["theme"] == theme
    page = await desk.answer("GET", f"/RELIANCE/chart?model=svr&format=html&theme={theme}")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "RELIANCE.NS" in page.text
    await desk.ask("/NOBODY/chart", 404)


@pytest.mark.parametrize("predicted", [True, False])
async def test_a_chart_of_candles_without_adjustments_says_so(desk: Desk, predicted: bool):
    told = "not adjusted for splits"
    if predicted:
        await desk.generate(model="svr")
    assert told not in (await desk.ask("/RELIANCE/chart", model="svr"))["layout"]["title"]["subtitle"]["text"]
    desk.prices.adjusted = False
    assert told in (await desk.ask("/RELIANCE/chart", model="svr"))["layout"]["title"]["subtitle"]["text"]


async def test_the_cone_opens_as_the_square_root_of_time(desk: Desk):
    await days_of_predictions(desk, 8, time_horizon="4")
    figure = await desk.ask("/RELIANCE/chart", model="svr")
    (newest, *_) = await desk.ask("/RELIANCE")
    traces = {trace["name"]: trace for trace in figure["data"]}
    high, low, middle = traces["Upper bound"], traces["80% interval"], traces["Forecast (SVR)"]
    assert len(middle["x"]) == 5
    close = newest["last_close"]
    assert middle["y"][0] == low["y"][0] == high["y"][0] == pytest.approx(close)
    assert middle["y"][-1] == pytest.approx(newest["predicted_price"])
    assert (low["y"][-1], high["y"][-1]) == tuple(pytest.approx(newest["interval"][side]) for side in ("low", "high"))
    for step in range(1, 5):
        expected = close * math.exp(SAID["svr"] * step / 4)
        assert middle["y"][step] == pytest.approx(expected)
        assert high["y"][step] == pytest.approx(expected * math.exp(0.03 * math.sqrt(step / 4)))
    # It begins at the newest candle, and goes on at those that the calendar expects.
    candles = figure["data"][0]
    assert len(candles["x"]) == DRAWN
    assert middle["x"][0] == candles["x"][-1]
    listed = [start for start, _ in desk.prices.listed["RELIANCE.NS", "1D"]]
    assert [time[:10] for time in middle["x"]] == [str(start.date()) for start in listed[706:711]]
    for gap in figure["layout"]["xaxis"]["rangebreaks"]:
        for trace in figure["data"]:
            assert not any(gap["bounds"][0] <= time < gap["bounds"][1] for time in trace["x"])
    bottom, top = figure["layout"]["yaxis"]["range"]
    assert bottom < min(low["y"])
    assert max(high["y"]) < top


async def test_past_predictions_stand_where_they_were_for(desk: Desk):
    await days_of_predictions(desk, 12, time_horizon="3")
    # Prices are other ones since, and all that is drawn with them.
    listed = desk.prices.listed["RELIANCE.NS", "1D"]
    desk.prices.listed["RELIANCE.NS", "1D"] = [(start, price / 2) for start, price in listed]
    figure = await desk.ask("/RELIANCE/chart", model="svr")
    scored = [one for one in await desk.ask("/RELIANCE") if one["outcome"]]
    assert len(scored) == 9
    for inside, name in ((True, "Past forecast, price inside"), (False, "Price outside")):
        some = [one for one in scored if one["outcome"]["inside_interval"] is inside]
        trace = next(trace for trace in figure["data"] if trace["name"] == name)
        assert trace["y"] == pytest.approx([one["predicted_price"] / 2 for one in some])
        assert [time[:10] for time in trace["x"]] == [one["horizon_ends_at"][:10] for one in some]
        for one, up, down in zip(some, trace["error_y"]["array"], trace["error_y"]["arrayminus"], strict=True):
            assert up == pytest.approx((one["interval"]["high"] - one["predicted_price"]) / 2, rel=1e-4)
            assert down == pytest.approx((one["predicted_price"] - one["interval"]["low"]) / 2, rel=1e-4)


async def test_a_chart_without_a_prediction_says_so(desk: Desk):
    figure = await desk.ask("/RELIANCE/chart")
    go.Figure(figure)
    assert "There is no prediction yet." in json.dumps(figure)
    assert [trace["type"] for trace in figure["data"]] == ["candlestick"]


async def test_an_old_prediction_is_drawn_over_what_happened(desk: Desk):
    await days_of_predictions(desk, 1)
    desk.clock.move(days=30)
    figure = await desk.ask("/RELIANCE/chart", model="svr")
    forecast = next(trace for trace in figure["data"] if trace["name"] == "Forecast (SVR)")
    assert forecast["x"][-1] < figure["data"][0]["x"][-1]
    desk.clock.move(days=250)
    figure = await desk.ask("/RELIANCE/chart", model="svr")
    assert [trace["type"] for trace in figure["data"]] == ["candlestick"]


async def test_old_predictions_and_unused_models_go(desk: Desk, tmp_path: Path):
    await desk.generate(model="svr")
    hours = [start + hour * timedelta(hours=1) for start in indian_days(120) for hour in range(6)]
    desk.prices.list_days("RELIANCE.NS", hours, timeframe="1H")
    await desk.generate(model="svr", timeframe="1h")
    assert await desk.rows.expire() == 0
    assert await desk.models.expire() == {"models": 0, "files": 0}
    assert len(list((tmp_path / "models").iterdir())) == 2
    desk.clock.moment += UNUSED + timedelta(hours=1)
    assert await desk.models.expire() == {"models": 2, "files": 2}
    assert list((tmp_path / "models").iterdir()) == []
    desk.clock.move(days=400 - UNUSED.days)
    assert await desk.rows.expire() == 1
    assert [one["timeframe"] for one in await desk.ask("/RELIANCE")] == ["1D"]
    desk.clock.move(days=331)
    assert await desk.rows.expire() == 1
