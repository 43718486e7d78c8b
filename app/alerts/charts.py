"""Charts of alerts, as Plotly figures: pure functions from alerts to `{"data": [...], "layout": {...}}`.

Everything that came from outside (contracts, strategies, comments) goes through `plain`, so that it shows as text.
Quantities, positions and profits are exact decimals up to the last step; a figure's numbers are the nearest doubles.
"""

from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final

from app.alerts.chart_prices import price_chart
from app.alerts.chart_series import Series, position_series, profit_series, volume_bars
from app.alerts.chart_view import MARKS, TIME_TITLE, TITLES, ChartPoint, ChartType, View
from app.core.figures import (
    Figure,
    Theme,
    amount,
    axis_time,
    category_axis,
    empty_figure,
    number,
    plain,
    time_axis,
    value_axis,
)

__all__ = ["NOTHING", "ChartPoint", "ChartType", "build_chart"]

NOTHING: Final = "No alerts match these filters"
_STARTS_FLAT: Final = "Strategies are taken as flat before the first alert shown."
_BEFORE_CHARGES: Final = "Before charges; first in, first out per strategy and contract."


def build_chart(
    points: Sequence[ChartPoint], chart_type: ChartType, *, theme: Theme = Theme.DARK, truncated: bool = False
) -> Figure:
    """The chart of `points` (oldest first).

    `truncated` says that the selection had more alerts and `points` are its newest: the chart then says so too.
    Takes 10 to 20 µs per alert: for more than a few hundred call it in a thread.
    """
    if not points:
        return empty_figure(theme, TITLES[chart_type], NOTHING)
    return _BUILDERS[chart_type](View(points, chart_type, theme, truncated))


def _volume(view: View) -> Figure:
    bars = volume_bars(view.points)
    layout = view.layout()
    layout |= {
        "barmode": "stack",
        "hovermode": "closest",
        "xaxis": time_axis(
            view.theme, bars.first, bars.last, title=TIME_TITLE, breaks=bars.breaks, period_labels=bars.days
        ),
        "yaxis": value_axis(view.theme, f"Quantity per {bars.bucket}") | {"rangemode": "tozero"},
    }
    data = [
        {
            "type": "bar",
            "name": plain(contract),
            "showlegend": len(view.contracts) > 1,
            "x": [axis_time(bar.middle) for bar in bars.of[contract]],
            "y": [number(bar.quantity) for bar in bars.of[contract]],
            "width": [bar.width_ms for bar in bars.of[contract]],
            "marker": {"color": view.style(contract)["color"], "line": {"width": 0}, "opacity": 0.88},
            "customdata": [[bar.label, amount(bar.quantity)] for bar in bars.of[contract]],
            "hovertemplate": "<b>%{customdata[1]}</b>  %{fullData.name}<br>%{customdata[0]}<extra></extra>",
        }
        for contract in view.contracts
    ]
    return {"data": data, "layout": layout}


def _trade_types(view: View) -> Figure:
    colours = view.palette
    present = view.trade_types
    labels = [MARKS[trade_type].label for trade_type in present]
    totals = Counter(point.trade_type for points in view.by_contract.values() for point in points)
    layout = view.layout()
    layout |= {
        "barmode": "stack",
        "bargap": 0.5,
        "hovermode": "closest",
        "xaxis": category_axis(view.theme, labels),
        "yaxis": value_axis(view.theme, "Alerts") | {"rangemode": "tozero", "tickformat": ",d"},
    }
    layout["annotations"] += [
        {
            "x": MARKS[trade_type].label,
            "y": totals[trade_type],
            "text": f"<b>{totals[trade_type]:,}</b>",
            "showarrow": False,
            "yshift": 12,
            "font": {"size": 14, "color": colours.text},
        }
        for trade_type in present
    ]
    single = len(view.contracts) == 1
    data = []
    for contract in view.contracts:
        counts = Counter(point.trade_type for point in view.by_contract[contract])
        tones = [view.tone(trade_type) for trade_type in present]
        bar = {
            "type": "bar",
            "name": plain(contract),
            "showlegend": not single,
            "x": labels,
            "y": [counts[trade_type] for trade_type in present],
            "marker": {"color": tones if single else view.style(contract)["color"], "line": {"width": 0}},
            "hovertemplate": "<b>%{y:,d}</b>  %{x}<br>%{fullData.name}<extra></extra>",
        }
        data.append(bar)
    return {"data": data, "layout": layout}


def _position(view: View) -> Figure:
    layout = view.layout(_STARTS_FLAT)
    layout["xaxis"] = view.time_axis()
    layout["yaxis"] = value_axis(view.theme, "Open quantity", signed=True)
    series = position_series(view.points, view.contracts)
    data = _two_tone(view, series[0]) if len(series) == 1 else []
    data += [_step_line(view, one) for one in series]
    return {"data": data, "layout": layout}


def _pnl(view: View) -> Figure:
    layout = view.layout(_BEFORE_CHARGES, _STARTS_FLAT)  # the total counts every contract, drawn or not
    layout["xaxis"] = view.time_axis()
    layout["yaxis"] = value_axis(view.theme, "Realised, before charges", signed=True)
    series, total = profit_series(view.points, view.contracts)
    result = total.values[-1]
    tone = view.palette.up if result > 0 else view.palette.down if result < 0 else view.palette.text
    layout["title"]["text"] += f'  <span style="color:{tone}"><b>{amount(result, signed=True)}</b></span>'
    data = _two_tone(view, total)
    data += [_step_line(view, one, width=1.4) for one in series if len(series) > 1]
    data.append(_step_line(view, total, name="Total", style={"color": view.palette.text, "dash": "solid"}, width=2.6))
    data.append(_end_point(total, tone))
    return {"data": data, "layout": layout}


def _step_line(
    view: View, series: Series, *, name: str = "", style: dict[str, str] | None = None, width: float = 2
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name or plain(series.contract),
        "showlegend": len(view.contracts) > 1,
        "x": [axis_time(moment) for moment in series.times],
        "y": [number(value) for value in series.values],
        "line": {**(style or view.style(series.contract)), "width": width, "shape": "hv"},
        "customdata": [amount(value, signed=True) for value in series.values],
        "hovertemplate": "<b>%{customdata}</b>  %{fullData.name}<extra></extra>",
    }


def _end_point(series: Series, colour: str) -> dict[str, Any]:
    """A dot where a line ends: without it a last step at the very edge is not seen."""
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [axis_time(series.times[-1])],
        "y": [number(series.values[-1])],
        "marker": {"color": colour, "size": 9},
        "hoverinfo": "skip",
        "showlegend": False,
        "cliponaxis": False,
    }


def _two_tone(view: View, series: Series) -> list[dict[str, Any]]:
    """The areas between a stepped line and zero: up's colour above, down's below."""
    times = [axis_time(moment) for moment in series.times]
    areas = []
    for tone, bound in ((view.palette.up, max), (view.palette.down, min)):
        values = [number(bound(value, Decimal(0))) for value in series.values]
        if any(values):
            areas.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "x": times,
                    "y": values,
                    "line": {"width": 0, "shape": "hv"},
                    "fill": "tozeroy",
                    "fillcolor": f"{tone}2e",  # 18 % opaque
                    "hoverinfo": "skip",
                    "showlegend": False,
                }
            )
    return areas


_BUILDERS: Final = {
    ChartType.PRICE: price_chart,
    ChartType.VOLUME: _volume,
    ChartType.TRADE_TYPES: _trade_types,
    ChartType.POSITION: _position,
    ChartType.PNL: _pnl,
}
