"""The equity curve as a Plotly figure: pure, JSON values only."""

from collections.abc import Sequence
from datetime import date, timedelta
from decimal import Decimal
from typing import Any, Final, NamedTuple

from app.brokerage.portfolio.naming import day_begins
from app.core.figures import (
    Figure,
    LegendPlace,
    Palette,
    Theme,
    amount,
    axis_time,
    base_layout,
    empty_figure,
    number,
    palette_of,
    plain,
    time_axis,
    time_span,
    value_axis,
)

TITLE: Final = "Equity curve"
_CENT: Final = Decimal("0.01")
_NOON: Final = timedelta(hours=12)
"""A day stands in its middle."""


class CurvePoint(NamedTuple):
    """A day of the curve, in rupees."""

    day: date
    made: Decimal
    """Realised on it, less charges and interest."""
    net: Decimal
    """The same of all days until then."""
    unrealised: Decimal | None
    """Of what was open at its close, today of what is open now; None where that is not known."""


def equity_chart(account: str, points: Sequence[CurvePoint], *, theme: Theme = Theme.DARK) -> Figure:
    """Profit of all times, above what each day made; `points` are oldest first."""
    title = f"{TITLE} · {plain(account, 40)}"
    if not points:
        return empty_figure(theme, title, "There are no trades in this stretch of time")
    colours = palette_of(theme)
    last = points[-1].net + (points[-1].unrealised or 0)
    tone = colours.up if last > 0 else colours.down if last < 0 else colours.series[0]
    first_at, last_at = (day_begins(point.day) + _NOON for point in (points[0], points[-1]))
    days = "1 day" if len(points) == 1 else f"{len(points):,} days"
    heading = f'{title}  <span style="color:{tone}">{_rupees(last)}</span>'
    notes = ["After charges and interest, first in, first out."]
    marked = [point for point in points if point.unrealised is not None]
    layout = base_layout(
        theme, heading, f"{days}  ·  {time_span(first_at, last_at)}", legend=LegendPlace.ABOVE, notes=notes
    )
    axis = time_axis(theme, first_at - _NOON, last_at + _NOON, title="Day")
    layout["xaxis"] = axis | {"anchor": "y2", "hoverformat": "%a %d %b %Y"}
    layout["yaxis"] = value_axis(theme, "Rupees, since the first trade", signed=True) | {"domain": [0.32, 1]}
    layout["yaxis2"] = value_axis(theme, "Of the day", signed=True) | {"domain": [0, 0.26], "nticks": 4}
    layout["meta"] |= {"points": len(points), "account": account}
    data = [_realised(points, colours), _bars(points, colours)]
    if marked:
        data.insert(0, _whole(marked, tone))
    return {"data": data, "layout": layout}


def _rupees(value: Decimal) -> str:
    return f"₹{amount(value.quantize(_CENT), signed=True)}"


def _times(points: Sequence[CurvePoint]) -> list[str]:
    return [axis_time(day_begins(point.day) + _NOON) for point in points]


def _whole(points: Sequence[CurvePoint], tone: str) -> dict[str, Any]:
    values = [point.net + (point.unrealised or 0) for point in points]
    return {
        "type": "scatter",
        "mode": "lines+markers" if len(points) < 40 else "lines",
        "name": "With open positions",
        "x": _times(points),
        "y": [number(value) for value in values],
        "customdata": [_rupees(value) for value in values],
        "hovertemplate": "<b>%{customdata}</b><extra>With open positions</extra>",
        "line": {"color": tone, "width": 2},
        "marker": {"color": tone, "size": 6},
    }


def _realised(points: Sequence[CurvePoint], colours: Palette) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines" if len(points) > 1 else "markers",
        "name": "Realised",
        "x": _times(points),
        "y": [number(point.net) for point in points],
        "customdata": [_rupees(point.net) for point in points],
        "hovertemplate": "%{customdata}<extra>Realised</extra>",
        "line": {"color": colours.series[0], "width": 1.5, "dash": "dot", "shape": "hv"},
        "marker": {"color": colours.series[0], "size": 7},
    }


def _bars(points: Sequence[CurvePoint], colours: Palette) -> dict[str, Any]:
    return {
        "type": "bar",
        "name": "Of the day",
        "x": _times(points),
        "y": [number(point.made) for point in points],
        "yaxis": "y2",
        "customdata": [_rupees(point.made) for point in points],
        "hovertemplate": "%{customdata}<extra>Of the day</extra>",
        "marker": {"color": [colours.up if point.made >= 0 else colours.down for point in points]},
        "showlegend": False,
    }
