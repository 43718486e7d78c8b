"""Generated signals and indicators over HTTP, stored in a real database."""

import asyncio
import json
import math
from datetime import timedelta
from itertools import pairwise
from typing import Any

import plotly.graph_objects as go
import pytest
from pydantic import BaseModel

from app.core.figures import Theme, palette_of
from app.core.hub import Hub
from app.core.indicators import NAMES, WARM_UP
from app.core.outbox import Channel
from app.signals.analysed import THRESHOLD
from app.signals.generate import KEPT
from app.signals.generated_schemas import IndicatorInfo, IndicatorsOut, TradingSignal
from app.signals.signal_charts import DRAWN, equity_chart, signal_chart
from tests.signals.generated.kit import ENGINE, Desk, days, quarters, real, series, walk

FIELDS = {
    *("symbol", "signal_type", "strength", "price_target", "stop_loss", "support_level", "resistance_level"),
    *("timeframe", "reasoning", "created_at"),
}
"""What `systems/3` calls a trading signal."""


@pytest.fixture
def desk(desk: Desk) -> Desk:
    desk.prices.rows["RELIANCE.NS", "1D"] = real()
    desk.prices.rows["AAPL", "1D"] = real("GOOG")
    desk.prices.rows["RELIANCE.NS", "15m"] = walk(quarters(600), keep=0.002)
    return desk


def same_fields(model: type[BaseModel], told: dict[str, Any]) -> None:
    """What is described is what is told."""
    assert set(model.model_fields) == set(told), model
    model.model_validate(told)


async def test_a_signal_has_all_that_is_promised_and_is_stored(desk: Desk):
    made = await desk.generate()
    same_fields(TradingSignal, made)
    assert set(made) >= FIELDS
    assert made["symbol"] == "RELIANCE.NS"
    assert made["signal_type"] in {"BUY", "SELL", "HOLD"}
    assert made["strength"] == abs(made["score"]) <= 100
    assert made["candles"] == 1500
    assert made["indicators"]["rsi_14"] > 0
    assert set(made["backtest"]) >= {"trades", "hit_rate", "max_drawdown_percent", "random_entry_percentile"}
    assert await desk.ask("GET", "/api/signals/RELIANCE") == [made]
    assert await desk.ask("GET", "/api/signals/reliance.ns?timeframe=1d") == [made]
    assert await desk.ask("GET", "/api/signals/RELIANCE?timeframe=1H") == []


async def test_one_candle_has_one_signal_whoever_asks(desk: Desk):
    made = await asyncio.gather(*[desk.generate() for _ in range(20)])
    desk.cache.clear()
    made.append(await desk.generate())
    assert all(one == made[0] for one in made)
    assert await desk.stored() == len(desk.events) == 1


async def test_processes_that_are_as_fast_store_one_signal(desk: Desk):
    series = await desk.analyses.series("RELIANCE", "1D")
    both = []
    for _ in range(2):
        desk.cache.clear()
        both.append(asyncio.create_task(desk.generator.of(series)))
        await asyncio.sleep(0)
    made = await asyncio.gather(*both)
    assert {one.body for one in made} == {made[0].body}
    assert sorted(one.new for one in made) == [False, True]
    assert await desk.stored() == len(desk.events) == 1


async def test_a_new_or_corrected_candle_has_a_signal_of_its_own(desk: Desk):
    rows = desk.prices.rows["RELIANCE.NS", "1D"]
    desk.prices.rows["RELIANCE.NS", "1D"] = rows[:-1]
    first = await desk.generate()
    desk.clock.move(minutes=1)
    desk.prices.rows["RELIANCE.NS", "1D"] = rows
    second = await desk.generate()
    desk.clock.move(minutes=1)
    start, opens, high, low, close, volume = rows[-1]
    desk.prices.rows["RELIANCE.NS", "1D"] = [*rows[:-1], (start, opens, high, low, close * 0.999, volume)]
    third = await desk.generate()
    assert first["candle_start"] < second["candle_start"] == third["candle_start"]
    assert [one["id"] for one in await desk.ask("GET", "/api/signals/RELIANCE")] == [
        one["id"] for one in (third, second, first)
    ]


async def test_lists_lead_on_by_cursor(desk: Desk):
    rows = desk.prices.rows["RELIANCE.NS", "1D"]
    made = []
    for end in range(1490, 1497):
        desk.prices.rows["RELIANCE.NS", "1D"] = rows[:end]
        made.append((await desk.generate())["id"])
        desk.clock.move(hours=30)
    made.append((await desk.generate(timeframe="15m"))["id"])
    found, path = [], "/api/signals/RELIANCE?limit=3"
    while path:
        answer = await desk.answer("GET", path)
        found += [one["id"] for one in answer.json()]
        cursor = answer.headers.get("x-next-cursor")
        path = f"/api/signals/RELIANCE?limit=3&cursor={cursor}" if cursor else ""
    assert found == made[::-1]
    only = await desk.ask("GET", "/api/signals/RELIANCE?timeframe=15M")
    assert [one["id"] for one in only] == made[-1:]


async def test_a_name_that_nse_does_not_have_may_be_another_exchanges(desk: Desk):
    made = await desk.generate("AAPL")
    assert (made["symbol"], made["currency"], made["backtest"]["segment"]) == ("AAPL", "USD", None)
    assert await desk.ask("GET", "/api/signals/AAPL") == [made]


async def test_what_is_told_on_the_channel(desk: Desk):
    hub = Hub(desk.clock)
    member, stranger = hub.attach(lambda: None), hub.attach(lambda: None)
    hub.identify(member, "66f000000000000000000001")
    hub.subscribe(member, Channel.SIGNALS)
    made = await desk.generate()
    (event,) = desk.events
    assert json.loads(event.body) == {"kind": "generated", **made}
    assert (event.symbol, event.timeframe) == ("RELIANCE.NS", "1D")
    hub.publish(Channel.SIGNALS, event.body, seq=event.seq)
    assert json.loads(member.take()[-1])["data"]["id"] == made["id"]
    assert not stranger.take()


@pytest.mark.parametrize("body", [{"timeframe": "15m"}, {"timeframe": "15M"}])
async def test_the_timeframe_may_come_in_the_body(desk: Desk, body: dict[str, str]):
    made = await desk.ask("POST", "/api/signals/generate/RELIANCE", who="ann", json=body)
    assert made["timeframe"] == "15m"


async def test_what_is_refused(desk: Desk):
    path = "/api/signals/generate/RELIANCE"
    await desk.ask("POST", path, 401)
    await desk.ask("POST", path, 403, "reader")
    await desk.ask("POST", path, 200, "writer")
    await desk.ask("POST", "/api/signals/generate/NOSUCH", 404, "ann")
    for query in ("timeframe=2h", "timeframe=", "days=3"):
        await desk.ask("POST", f"{path}?{query}", 422, "ann")
    await desk.ask("POST", f"{path}?timeframe=1D", 422, "ann", json={"timeframe": "15m"})
    await desk.ask("POST", path, 422, "ann", json={"timeframe": "1D", "model": "lstm"})
    for path in ("/api/signals/a$b", "/api/signals/RELIANCE?cursor=x", "/api/signals/RELIANCE?limit=0"):
        await desk.ask("GET", path, 422)
    assert await desk.ask("GET", "/api/signals/NOSUCH") == []
    for path in ("signals/NOSUCH/chart", "signals/NOSUCH/equity", "market/indicators/NOSUCH"):
        await desk.ask("GET", f"/api/{path}", 404)


async def test_a_symbol_without_a_closed_candle_has_nothing(desk: Desk):
    desk.prices.rows["NEW.NS", "1D"] = []
    answer = await desk.ask("POST", "/api/signals/generate/NEW", 404, "ann")
    assert "no closed candle" in answer["detail"]
    await desk.ask("GET", "/api/market/indicators/NEW", 404)


async def test_old_signals_of_minutes_go_and_those_of_days_stay(desk: Desk):
    await desk.generate()
    await desk.generate(timeframe="15m")
    desk.clock.moment += KEPT["15m"] - timedelta(days=1)
    assert await desk.generator.expire() == {"deleted": 0}
    desk.clock.move(days=2)
    assert await desk.generator.expire() == {"deleted": 1}
    assert [one["timeframe"] for one in await desk.ask("GET", "/api/signals/RELIANCE")] == ["1D"]


# Indicators


async def test_indicators_of_a_symbol(desk: Desk):
    answer = await desk.answer("GET", "/api/market/indicators/RELIANCE?limit=40")
    told = answer.json()
    assert set(told) == set(IndicatorsOut.model_fields)
    IndicatorsOut.model_validate(told)
    assert [one["name"] for one in told["indicators"]] == list(NAMES)
    same_fields(IndicatorInfo, told["indicators"][0])
    assert len(told["values"]) == 40
    newest = told["values"][0]
    assert newest == {"timestamp": newest["timestamp"], "close": newest["close"], **told["latest"]}
    assert newest["close"] == pytest.approx(real()[-1][4])
    assert all(value is not None for value in newest.values())
    generated = await desk.generate()
    for name, value in generated["indicators"].items():
        # Made of more candles, but the beginning is forgotten; on-balance volume begins with it.
        if name != "obv":
            assert newest[name] == pytest.approx(value, rel=2e-4), name


async def test_pages_of_indicators_lead_back_to_the_first_candle(desk: Desk):
    desk.prices.rows["TCS.NS", "1D"] = walk(days(330))
    found, path, latest = [], "/api/market/indicators/TCS?limit=100", []
    while path:
        answer = await desk.answer("GET", path)
        found += answer.json()["values"]
        latest.append(answer.json()["latest"])
        cursor = answer.headers.get("x-next-cursor")
        path = f"/api/market/indicators/TCS?limit=100&cursor={cursor}" if cursor else ""
    stamps = [one["timestamp"] for one in found]
    assert len(stamps) == 330
    assert stamps == sorted(stamps, reverse=True)
    assert all(one == latest[0] for one in latest)
    known = sum(one["rsi_14"] is not None for one in found)
    assert known == 330 - WARM_UP
    for text in ("x", "AAAA", "_____________w"):
        await desk.ask("GET", f"/api/market/indicators/TCS?cursor={text}", 422)


async def test_the_volume_on_balance_goes_on_over_pages(desk: Desk):
    """The second page is of more candles than the first; its sums begin elsewhere."""
    rows = desk.prices.rows["TCS.NS", "1D"] = walk(days(900))
    volumes = [row[5] for row in reversed(rows)]
    found, path = [], "/api/market/indicators/TCS?limit=300"
    while path:
        answer = await desk.answer("GET", path)
        found += [one["obv"] for one in answer.json()["values"]]
        assert answer.json()["latest"]["obv"] == found[0]
        cursor = answer.headers.get("x-next-cursor")
        path = f"/api/market/indicators/TCS?limit=300&cursor={cursor}" if cursor else ""
    assert len(found) == 900
    steps = [abs(newer - older) for newer, older in pairwise(found)]
    assert all(step in {0, volume} for step, volume in zip(steps, volumes, strict=False))


async def test_intraday_indicators_have_the_average_price_of_the_session(desk: Desk):
    told = await desk.ask("GET", "/api/market/indicators/RELIANCE?timeframe=15M&limit=25")
    first = told["values"][-1]
    row = desk.prices.rows["RELIANCE.NS", "15m"][-25]
    assert first["vwap"] == pytest.approx((row[2] + row[3] + row[4]) / 3)


# Charts


async def test_candles_without_adjustments_are_told_and_never_taken_for_others(desk: Desk):
    told = "not adjusted for splits"
    signal = await desk.generate()
    desk.prices.adjusted = False
    other = await desk.generate()
    assert (signal["adjusted"], other["adjusted"]) == (True, False)
    assert signal["id"] != other["id"]
    indicators = (await desk.ask("GET", "/api/market/indicators/RELIANCE"))["adjusted"]
    titles = [
        (await desk.ask("GET", f"/api/signals/RELIANCE/{what}"))["layout"]["title"]["subtitle"]["text"]
        for what in ("chart", "equity")
    ]
    assert not indicators
    assert all(told in title for title in titles)
    desk.prices.adjusted = True
    figure = await desk.ask("GET", "/api/signals/RELIANCE/chart")
    assert told not in figure["layout"]["title"]["subtitle"]["text"]


@pytest.mark.parametrize("theme", ["dark", "light"])
@pytest.mark.parametrize("what", ["chart", "equity"])
async def test_charts_are_figures_and_pages(desk: Desk, what: str, theme: str):
    path = f"/api/signals/RELIANCE/{what}?theme={theme}"
    figure = (await desk.answer("GET", path)).json()
    go.Figure(figure)
    assert figure["layout"]["meta"]["theme"] == theme
    page = await desk.answer("GET", f"{path}&format=html")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "RELIANCE.NS" in page.text


@pytest.mark.parametrize("kind", ["1D", "15m", "1W"])
def test_the_signals_chart_shows_its_levels_within_the_axis(kind: str):
    from app.signals.analysis import analyse

    rows = walk(quarters(900), keep=0.002) if kind == "15m" else real("GOOG", 900)
    whole = series(rows[::5] if kind == "1W" else rows, timeframe=kind)
    found = analyse(whole, ENGINE)
    figure = signal_chart(whole, found)
    go.Figure(figure)
    candles, layout = figure["data"][0], figure["layout"]
    assert len(candles["x"]) == min(DRAWN, len(whole.start))
    low, high = layout["yaxis"]["range"]
    levels = [found.price_target, found.stop_loss, found.support_level, found.resistance_level]
    known = [level for level in levels if level is not None]
    assert sorted(shape["y0"] for shape in layout["shapes"]) == sorted(known)
    assert all(low < level < high for level in [*known, *candles["low"], *candles["high"]])
    scores = figure["data"][-1]
    assert scores["y"] == found.scores[-len(scores["x"]) :]
    grey = palette_of(Theme.DARK).muted
    for tone, score in zip(scores["marker"]["color"], scores["y"], strict=True):
        assert (tone == grey) is (score is None or abs(score) < THRESHOLD)
    average = next(trace for trace in figure["data"] if trace["name"] == "Average of 50")
    assert average["y"][-1] == pytest.approx(found.indicators["sma_50"] or math.nan, abs=1e-5)
    # Nothing that is drawn stands in a stretch that the axis leaves out.
    for gap in layout["xaxis"].get("rangebreaks", []):
        assert not any(gap["bounds"][0] <= time < gap["bounds"][1] for time in candles["x"])


def test_the_equity_curve_is_that_of_the_backtest():
    from app.signals.analysis import analyse

    whole = series(real("GOOG", 900))
    found = analyse(whole, ENGINE)
    rules, held, below, _ = equity_chart(whole, found)["data"]
    assert rules["y"][-1] == pytest.approx(found.backtest.net_return_percent, abs=0.01)
    assert held["y"][-1] == pytest.approx(found.backtest.buy_and_hold.net_return_percent, abs=0.01)
    assert -min(below["y"]) == pytest.approx(found.backtest.max_drawdown_percent, abs=0.01)
    assert len(rules["x"]) == len(whole.start) - found.course_first


def test_a_chart_of_few_candles_says_so():
    from app.signals.analysis import analyse

    for count in (1, 20):
        whole = series(walk(days(count)), "A&B<i>.NS")
        found = analyse(whole, ENGINE)
        go.Figure(signal_chart(whole, found))
        text = json.dumps(equity_chart(whole, found))
        assert "too few candles" in text
        assert "<i>" not in text
