"""The price chart: alerts as markers on their contract's line."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from app.alerts.chart_view import MARKS, ChartPoint, View
from app.core.figures import Figure, LegendPlace, amount, axis_time, legend_at, number, plain, value_axis


def price_chart(view: View) -> Figure:
    """Each contract's alert prices over time, with a marker for each alert."""
    panels = _panels(view)
    layout = view.layout(beside_from=2)
    data: list[dict[str, Any]] = []
    for contract in view.contracts:
        data += _price_traces(view, contract, panels.index(contract) if panels else 0, named=not panels)
    data += [_key(view, trade_type) for trade_type in view.trade_types]
    layout |= {"xaxis": view.time_axis(), "hovermode": "closest", "showlegend": True}
    layout["margin"]["t"] = 116
    # The key of markers explains; it switches nothing.
    fixed = {"itemclick": False, "itemdoubleclick": False}
    layout["legend2"] = legend_at(view.theme, LegendPlace.ABOVE, right=True) | fixed
    if panels:
        _lay_panels(view, panels, layout)
    else:
        several_scales = len(view.contracts) > 1 and _spread(view) > 20
        layout["yaxis"] = value_axis(view.theme, "Price (log scale)" if several_scales else "Price")
        # Ten labels a decade would lie on one another.
        layout["yaxis"] |= {"type": "log", "nticks": 5} if several_scales else {"type": "linear"}
    return {"data": data, "layout": layout}


def _lay_panels(view: View, panels: Sequence[str], layout: dict[str, Any]) -> None:
    """One panel under another, on one time axis, each with its contract's name."""
    gap = 0.06  # above each panel, for its name
    height = 1 / len(panels) - gap
    for index, contract in enumerate(panels):
        top = 1 - gap - index * (height + gap)
        axis = value_axis(view.theme, "") | {"domain": [max(0, top - height), top], "nticks": 6}
        layout[f"yaxis{index + 1 if index else ''}"] = axis
        layout["annotations"].append(
            {
                "text": f"<b>{plain(contract)}</b>",
                "x": 0,
                "y": top,
                "xref": "paper",
                "yref": "paper",
                "xanchor": "left",
                "yanchor": "bottom",
                "showarrow": False,
                "font": {"size": 12.5, "color": view.style(contract)["color"]},
            }
        )
    layout["xaxis"]["anchor"] = f"y{len(panels)}"


def _price_traces(view: View, contract: str, panel: int, *, named: bool) -> list[dict[str, Any]]:
    """A contract's line and its markers: two traces, so that the legend shows the line alone; one entry for both."""
    points = view.by_contract[contract]
    shared = {
        "type": "scatter",
        "name": plain(contract),
        "legendgroup": plain(contract),
        "yaxis": f"y{panel + 1}" if panel else "y",
        "x": [axis_time(point.time) for point in points],
        "y": [number(point.price) for point in points],
    }
    line = {
        "mode": "lines",
        "line": {**view.style(contract), "width": 1.4},
        "hoverinfo": "skip",
        "showlegend": named and len(view.contracts) > 1,
    }
    return [shared | line, shared | _markers(view, points)]


def _markers(view: View, points: Sequence[ChartPoint]) -> dict[str, Any]:
    marks = [MARKS[point.trade_type] for point in points]
    # Thousands of markers lie on one another: outlines would leave nothing of them.
    size, outline = (13, 1) if len(view.points) <= 150 else (9, 1) if len(view.points) <= 600 else (5, 0)
    return {
        "mode": "markers",
        "showlegend": False,
        "marker": {
            "symbol": [mark.symbol for mark in marks],
            "color": [view.tone(point.trade_type) for point in points],
            "size": size,
            "line": {"color": view.palette.background, "width": outline},
            "opacity": 1,
        },
        "customdata": [
            [
                mark.label,
                amount(point.quantity),
                amount(point.price),
                plain(point.strategy_name, 60),
                f"<br><i>{plain(point.comment, 90)}</i>" if point.comment else "",
            ]
            for point, mark in zip(points, marks, strict=True)
        ],
        "hovertemplate": (
            "<b>%{customdata[0]} %{customdata[1]} @ %{customdata[2]}</b><br>%{fullData.name}"
            "<br>%{customdata[3]}<br>%{x|%a %d %b %Y, %H:%M:%S} IST%{customdata[4]}<extra></extra>"
        ),
    }


def _key(view: View, trade_type: str) -> dict[str, Any]:
    """A legend entry that explains a marker; it draws nothing."""
    mark = MARKS[trade_type]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": mark.label,
        "legend": "legend2",
        "x": [None],
        "y": [None],
        "hoverinfo": "skip",
        "marker": {"symbol": mark.symbol, "color": view.tone(trade_type), "size": 11},
    }


def _spread(view: View) -> Decimal:
    """How many times the dearest contract's middle price is the cheapest one's."""
    middles = [sorted(point.price for point in points)[len(points) // 2] for points in view.by_contract.values()]
    return max(middles) / min(middles)


def _panels(view: View) -> list[str]:
    """The contracts that get a panel each, if that reads better than one panel for all; else empty.

    An index and its option differ a hundredfold: on one axis both would be flat lines.
    """
    separate = 2 <= len(view.contracts) <= 4 and _spread(view) > Decimal("1.05")
    return view.contracts if separate else []
