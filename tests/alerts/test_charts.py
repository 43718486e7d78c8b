"""The charts of alerts: valid in Plotly's own schema, true to the alerts, and safe with any text."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plotly import graph_objects

from app.alerts.chart_series import TimedFill, position_series, profit_series, volume_bars
from app.alerts.charts import NOTHING, ChartPoint, ChartType, build_chart
from app.core.figures import Figure, Theme

TRADE_TYPES = ("buy", "sell", "exit", "long_entry", "long_exit", "short_entry", "short_exit")
MORNING = datetime(2026, 11, 20, 4, 0, tzinfo=UTC)  # a Friday, 09:30 in India
EVERY_CHART = pytest.mark.parametrize("chart_type", list(ChartType))


def point(
    minute: float,
    trade_type: str = "buy",
    quantity: str = "75",
    price: str = "24000",
    contract: str = "NIFTY",
    strategy_name: str = "Trend",
    comment: str | None = None,
) -> ChartPoint:
    moment = MORNING + timedelta(minutes=minute)
    return ChartPoint(moment, contract, trade_type, Decimal(quantity), Decimal(price), strategy_name, comment)


def checked(figure: Figure) -> Figure:
    """The figure, if Plotly's schema and JSON have no objection."""
    graph_objects.Figure(figure)
    assert json.loads(json.dumps(figure, allow_nan=False)) == figure
    assert set(figure) == {"data", "layout"}
    return figure


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)


def drawn(figure: Figure, **what: Any) -> list[dict[str, Any]]:
    """The traces that have these values."""
    return [trace for trace in figure["data"] if all(trace.get(key) == value for key, value in what.items())]


positive = st.decimals(min_value="0.0001", max_value="1e15", places=4, allow_nan=False, allow_infinity=False)
points = st.lists(
    st.builds(
        ChartPoint,
        st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 (the zone is given)
        st.sampled_from(["NIFTY", "BANKNIFTY", "RELIANCE", "A<b>&B", "%{x}", "X", "Y", "Z"]),
        st.sampled_from(TRADE_TYPES),
        positive,
        positive,
        st.sampled_from(["Trend", "Mean <i>reversion</i>"]),
        st.none() | st.text(max_size=40),
    ),
    max_size=30,
).map(lambda found: sorted(found, key=lambda one: one.time))


@given(points, st.sampled_from(list(ChartType)), st.sampled_from(list(Theme)), st.booleans())
@settings(deadline=None, max_examples=150)
def test_every_figure_is_valid(found: list[ChartPoint], chart_type: ChartType, theme: Theme, truncated: bool):
    checked(build_chart(found, chart_type, theme=theme, truncated=truncated))


def test_charts_are_made_without_plotly():
    check = "import sys, app.alerts.charts; sys.exit('plotly' in sys.modules)"

    subprocess.run([sys.executable, "-c", check], check=True, cwd=Path(__file__).parents[2])


@EVERY_CHART
@pytest.mark.parametrize("theme", list(Theme))
def test_nothing_to_draw_is_said(chart_type: ChartType, theme: Theme):
    figure = checked(build_chart([], chart_type, theme=theme))

    assert figure["data"] == []
    assert [note["text"] for note in figure["layout"]["annotations"]] == [NOTHING]


@EVERY_CHART
def test_a_cut_selection_is_said(chart_type: ChartType):
    found = [point(minute) for minute in range(3)]

    whole = build_chart(found, chart_type)
    cut = checked(build_chart(found, chart_type, truncated=True))

    assert cut["layout"]["meta"]["truncated"] is True
    assert any("newest 3 alerts of this selection" in text for text in strings(cut["layout"]["annotations"]))
    assert not any("newest" in text for text in strings(whole))


@EVERY_CHART
def test_one_alert_makes_a_chart(chart_type: ChartType):
    assert checked(build_chart([point(0)], chart_type))["data"]


@EVERY_CHART
def test_text_from_outside_is_never_markup(chart_type: ChartType):
    hostile = ["<b>x</b>", "<script>alert(1)</script>", "</script>", "%{meta.theme}", "a & b &lt;", "$x^2$"]
    found = [
        point(minute, contract=contract, strategy_name=strategy, comment=comment)
        for minute, (contract, strategy, comment) in enumerate(product(hostile, hostile[:2], hostile))
    ]

    text = "\n".join(strings(checked(build_chart(found, chart_type))))

    assert "<script" not in text
    assert "</script" not in text
    assert "<b>x" not in text
    assert "%{meta" not in text
    assert "$x" not in text
    assert "&lt;script&gt;alert(1)" in text


def test_times_are_exact_instants_that_read_as_indian_time():
    figure = build_chart([point(0), point(1.5)], ChartType.PRICE)

    (markers,) = drawn(figure, mode="markers", name="NIFTY")

    assert markers["x"] == ["2026-11-20T09:30:00.000+05:30", "2026-11-20T09:31:30.000+05:30"]
    assert [datetime.fromisoformat(x) for x in markers["x"]] == [point(0).time, point(1.5).time]
    assert figure["layout"]["xaxis"]["title"]["text"] == "Time of arrival (IST)"


@EVERY_CHART
def test_times_are_said_to_be_those_of_arrival(chart_type: ChartType):
    layout = build_chart([point(0), point(1)], chart_type)["layout"]

    assert layout["title"]["subtitle"]["text"].endswith("arrived 20 Nov 2026, 09:30 – 09:31 IST")
    if chart_type is not ChartType.TRADE_TYPES:
        assert layout["xaxis"]["title"]["text"] == "Time of arrival (IST)"


def test_the_price_chart_marks_each_alert_by_its_side():
    found = [point(minute, trade_type) for minute, trade_type in enumerate(TRADE_TYPES)]
    figure = checked(build_chart(found, ChartType.PRICE))

    (markers,) = drawn(figure, mode="markers", name="NIFTY")

    symbols = dict(zip(TRADE_TYPES, markers["marker"]["symbol"], strict=True))
    colours = dict(zip(TRADE_TYPES, markers["marker"]["color"], strict=True))
    assert symbols["buy"] == "triangle-up"
    assert symbols["sell"] == "triangle-down"
    assert {symbols[name] for name in TRADE_TYPES if "exit" in name} == {"x"}
    assert colours["buy"] == colours["long_entry"] != colours["sell"] == colours["short_entry"]
    key = {trace["name"] for trace in figure["data"] if trace.get("legend") == "legend2"}
    assert key == {"Buy", "Sell", "Exit", "Long entry", "Long exit", "Short entry", "Short exit"}


def test_the_price_chart_tells_of_each_alert():
    found = [point(0, "sell", "1500.50", "24350.5000", comment="Stop\nhit", strategy_name="Mean reversion")]

    (markers,) = drawn(build_chart(found, ChartType.PRICE), mode="markers", name="NIFTY")

    assert markers["customdata"] == [["Sell", "1,500.5", "24,350.5", "Mean reversion", "<br><i>Stop hit</i>"]]


def test_contracts_of_different_scale_get_panels_of_their_own():
    found = [point(0, contract="NIFTY"), point(1, contract="NIFTY24200CE", price="180"), point(2, contract="NIFTY")]

    layout = checked(build_chart(found, ChartType.PRICE))["layout"]

    upper, lower = layout["yaxis"]["domain"], layout["yaxis2"]["domain"]
    assert lower[1] < upper[0]
    assert [note["text"] for note in layout["annotations"]] == ["<b>NIFTY</b>", "<b>NIFTY24200CE</b>"]


def test_contracts_of_one_scale_share_a_panel_and_a_legend():
    found = [point(0, contract="TCS", price="3900"), point(1, contract="INFY", price="3950")]

    figure = checked(build_chart(found, ChartType.PRICE))

    assert "yaxis2" not in figure["layout"]
    assert {trace["name"] for trace in drawn(figure, mode="lines", showlegend=True)} == {"TCS", "INFY"}


def test_volumes_add_up_exactly():
    found = [
        point(0, quantity="0.1"),
        point(0.2, "sell", quantity="0.2"),
        point(30, quantity="5"),
        point(31, quantity="7", contract="INFY"),
    ]

    bars = volume_bars(found)

    assert {contract: [bar.quantity for bar in of] for contract, of in bars.of.items()} == {
        "NIFTY": [Decimal("0.3"), Decimal(5)],
        "INFY": [Decimal(7)],
    }
    assert bars.bucket == "minute"


@pytest.mark.parametrize(
    ("span", "bucket"),
    [
        (timedelta(0), "minute"),
        (timedelta(hours=1), "minute"),
        (timedelta(hours=4), "5 minutes"),
        (timedelta(hours=8), "15 minutes"),
        (timedelta(hours=30), "30 minutes"),
        (timedelta(days=2), "hour"),
        (timedelta(days=40), "day"),
        (timedelta(days=300), "week"),
        (timedelta(days=3000), "month"),
    ],
)
def test_bars_suit_the_span(span: timedelta, bucket: str):
    last = point(0)._replace(time=MORNING + span)

    assert volume_bars([point(0), last]).bucket == bucket


@given(points.filter(bool))
def test_every_alert_is_in_its_bar(found: list[ChartPoint]):
    bars = volume_bars(found)

    for of_contract in bars.of.values():
        assert all(bar.start < bar.end for bar in of_contract)
        assert all(left.end <= right.start for left, right in pairwise(of_contract))
    for one in found:
        assert sum(bar.start <= one.time < bar.end for bar in bars.of[one.contract]) == 1
    expected: Counter[str] = Counter()
    for one in found:
        expected[one.contract] += one.quantity  # type: ignore[assignment]
    assert {contract: sum(bar.quantity for bar in of) for contract, of in bars.of.items()} == dict(expected)


def test_hourly_bars_begin_at_the_opening():
    last = point(0)._replace(time=MORNING + timedelta(days=2))

    (first, _) = volume_bars([point(0), last]).of["NIFTY"]

    assert (first.start.hour, first.start.minute) == (9, 15)


def test_trade_types_are_counted():
    found = [point(0), point(1), point(2, "exit"), point(3, contract="INFY")]

    figure = checked(build_chart(found, ChartType.TRADE_TYPES))

    counts = {trace["name"]: dict(zip(trace["x"], trace["y"], strict=True)) for trace in figure["data"]}
    assert counts == {"NIFTY": {"Buy": 2, "Exit": 1}, "INFY": {"Buy": 1, "Exit": 0}}
    assert {note["x"]: note["text"] for note in figure["layout"]["annotations"]} == {
        "Buy": "<b>3</b>",
        "Exit": "<b>1</b>",
    }


def test_positions_of_strategies_add_up_per_contract():
    found = [
        point(0, "buy", "75"),
        point(1, "short_entry", "50", strategy_name="Hedge"),
        point(2, "exit", "999"),
        point(3, "buy", "10", contract="INFY"),
    ]

    series = {one.contract: one for one in position_series(found, ["INFY", "NIFTY"])}

    assert series["NIFTY"].values == [0, 75, 25, -50, -50]
    assert series["INFY"].values == [0, 0, 0, 0, 10]
    assert series["NIFTY"].times == [found[0].time, *(one.time for one in found)]


def test_profits_add_up_per_contract_and_in_all():
    found = [
        point(0, "buy", "75", "24000"),
        point(1, "sell", "75", "24010.10"),
        point(2, "short_entry", "10", "1500", "INFY"),
        point(3, "short_exit", "4", "1502", "INFY"),
    ]

    series, total = profit_series(found, ["INFY", "NIFTY"])

    assert [one.values[-1] for one in series] == [Decimal(-8), Decimal("757.5")]
    assert total.values[-1] == Decimal("749.5")


def test_the_profit_chart_shows_its_result_and_what_it_leaves_out():
    found = [point(0, "buy", "75", "24000"), point(1, "sell", "75", "23990")]

    figure = checked(build_chart(found, ChartType.PNL))

    assert "−750" in figure["layout"]["title"]["text"]
    assert any("Before charges" in note["text"] for note in figure["layout"]["annotations"])
    (total,) = drawn(figure, name="Total")
    assert total["y"] == [0.0, 0.0, -750.0]
    assert total["line"]["shape"] == "hv"


def at(series_times: list[datetime], values: list[Decimal], moment: datetime) -> Decimal:
    """What a stepped line says at a moment."""
    return [value for time, value in zip(series_times, values, strict=True) if time <= moment][-1]


def test_long_and_short_forms_of_a_line_say_the_same():
    """Above some size a line has points only where it changes."""
    names = [f"C{number}" for number in range(30)]
    found: list[TimedFill] = [point(index, contract=names[index % 30], quantity=str(index + 1)) for index in range(700)]

    sparse = position_series(found, names)

    assert len(sparse[0].times) < 40
    for line in sparse:
        (dense,) = position_series([one for one in found if one.contract == line.contract], [line.contract])
        for moment in dense.times:
            assert at(line.times, line.values, moment) == at(dense.times, dense.values, moment)
        assert line.times[-1] == found[-1].time


@EVERY_CHART
def test_too_many_contracts_leave_the_busiest(chart_type: ChartType):
    found = [point(index, contract=f"C{index}") for index in range(60)] + [point(100, "exit", contract="C59")]

    figure = checked(build_chart(found, chart_type))

    assert any("40 busiest of 60 contracts" in note["text"] for note in figure["layout"]["annotations"])
    assert "C59" in {trace.get("name") for trace in figure["data"]}


def test_a_number_beyond_a_double_is_a_gap_and_still_told():
    figure = checked(build_chart([point(0, price="1E+400"), point(1)], ChartType.PRICE))

    (markers,) = drawn(figure, mode="markers", name="NIFTY")

    assert markers["y"] == [None, 24000.0]
    assert markers["customdata"][0][2] == "1E+400"
