"""The chart of a prediction: candles, the cone of what is to come, and what became of those before. Pure."""

import math
from collections.abc import Sequence
from datetime import datetime, time
from itertools import pairwise
from textwrap import wrap
from typing import Any, Final, NamedTuple

from app.core.candles import CandleSeries, Timeframe
from app.core.figures import (
    AXIS_ZONE,
    Figure,
    LegendPlace,
    Palette,
    Theme,
    axis_time,
    base_layout,
    empty_figure,
    palette_of,
    plain,
    time_axis,
    value_axis,
)
from app.predictions.rows import Row

DRAWN: Final = 120
"""Candles of a chart."""
MOST_PAST: Final = 60
"""Predictions that are drawn with what became of them."""
_WORDS: Final = {
    Timeframe.M1: "1 minute",
    Timeframe.M5: "5 minutes",
    Timeframe.M15: "15 minutes",
    Timeframe.H1: "1 hour",
    Timeframe.D1: "1 day",
    Timeframe.W1: "1 week",
}
_NAMES: Final = {"lstm": "LSTM", "random_forest": "random forest", "svr": "SVR", "ensemble": "ensemble"}
_NOTE_WIDTH: Final = 100
_MOST_BREAKS: Final = 200
"""Stretches that the axis leaves out; of more nobody sees them."""


class Forecasts(NamedTuple):
    """What a chart is of."""

    series: CandleSeries
    """The newest closed candles; one at least."""
    coming: Sequence[datetime]
    """When the candles after them will begin, as far as the newest prediction looks."""
    rows: Sequence[Row]
    """Predictions of one model over one horizon, newest first."""


class _Grid(NamedTuple):
    """Where candles stand, those that have closed and those to come."""

    starts: Sequence[datetime]
    places: Sequence[datetime]
    first: int
    """Of the series, the candle that is drawn first."""
    timeframe: Timeframe


def prediction_chart(forecasts: Forecasts, *, theme: Theme = Theme.DARK) -> Figure:
    """The newest candles with the cone of the newest prediction and the past ones beside what happened."""
    series, colours = forecasts.series, palette_of(theme)
    timeframe, name = Timeframe(series.timeframe), plain(series.symbol, 40)
    if not series.close:
        return empty_figure(theme, f"{name} · {_WORDS[timeframe]}", "There is no closed candle yet")
    starts = [*series.start, *forecasts.coming]
    grid = _Grid(starts, _places(starts, timeframe), max(len(series.start) - DRAWN, 0), timeframe)
    newest = forecasts.rows[0] if forecasts.rows else None
    layout = base_layout(
        theme, _heading(name, timeframe, newest, colours), _subtitle(series, newest),
        legend=LegendPlace.ABOVE, notes=_notes(series, newest),
    )  # fmt: skip
    data = [_candles(name, series, grid, colours), *_past(forecasts, grid, colours)]
    cone = _cone(newest, series, grid) if newest else []
    if newest and cone:
        data += _cone_traces(newest, cone, grid, colours)
    layout |= {
        "xaxis": {**_axis(theme, grid), "rangeslider": {"visible": False}},
        "yaxis": value_axis(theme, f"Price, {series.currency}" if series.currency else "Price")
        | {"range": _range(series, grid, cone, data), "tickformat": ",.2f" if max(series.high) >= 1 else ",.4~g"},
        "bargap": 0.2,
    }
    layout["meta"] |= {"symbol": series.symbol, "timeframe": str(timeframe)}
    layout["meta"] |= {"prediction": str(newest["_id"]), "verdict": newest["evaluation"]["verdict"]} if newest else {}
    return {"data": data, "layout": layout}


# Words


def _heading(name: str, timeframe: Timeframe, newest: Row | None, colours: Palette) -> str:
    heading = f"{name} · {_WORDS[timeframe]}"
    if newest is None:
        return heading
    tone = colours.up if newest["predicted_return"] >= 0 else colours.down
    change = f"{100 * math.expm1(newest['predicted_return']):+.2f} %".replace("-", "−")
    return f'{heading}  <span style="color:{tone}">{change}</span> in {_spoken(newest["time_horizon"])}'


def _spoken(horizon: str) -> str:
    unit = {"m": "minute", "h": "hour", "d": "day", "w": "week"}[horizon[-1]]
    return f"{horizon[:-1]} {unit}" if horizon[:-1] == "1" else f"{horizon[:-1]} {unit}s"


def _subtitle(series: CandleSeries, newest: Row | None) -> str:
    told = "" if series.adjusted else "  ·  not adjusted for splits"
    return f"{_said(series, newest)}{told}"


def _said(series: CandleSeries, newest: Row | None) -> str:
    timeframe = Timeframe(series.timeframe)
    if newest is None:
        return f"{_moment(series.start[-1], timeframe)}  ·  close {_price(series.close[-1])}"
    interval = newest["interval"]
    told = f"{_price(newest['predicted_price'])} by the {_NAMES[newest['model_used']]}"
    span = f"{interval['level']:.0%} between {_price(interval['low'])} and {_price(interval['high'])}"
    return f"{_moment(newest['last_bar'], timeframe)}  ·  {told}  ·  {span}"


def _notes(series: CandleSeries, newest: Row | None) -> list[str]:
    told = newest["evaluation"]["summary"] if newest else "There is no prediction yet."
    notes = [plain(line) for line in wrap(told, _NOTE_WIDTH)]
    if series.stale:
        notes.append("Newer candles should exist, and no provider answered.")
    return notes


def _price(value: float) -> str:
    return f"{value:,.2f}" if value >= 1 else f"{value:.4g}"


def _moment(start: datetime, timeframe: Timeframe) -> str:
    if timeframe.intraday:
        return f"{start.astimezone(AXIS_ZONE):%d %b %Y, %H:%M} IST"
    return f"{start.date():%d %b %Y}"


# Time


def _places(starts: Sequence[datetime], timeframe: Timeframe) -> list[datetime]:
    """Where candles stand: at their start, those of days and weeks at midnight of their day."""
    if timeframe.intraday:
        return list(starts)
    return [datetime.combine(start.date(), time(), AXIS_ZONE) for start in starts]


def _axis(theme: Theme, grid: _Grid) -> dict[str, Any]:
    """Without the stretches in which there is no candle."""
    places, length = grid.places[grid.first :], grid.timeframe.length
    gaps = [(before + length, after) for before, after in pairwise(places) if after - before > length]
    breaks = [{"bounds": [axis_time(low), axis_time(high)]} for low, high in gaps] if len(gaps) <= _MOST_BREAKS else []
    axis = time_axis(theme, places[0], places[-1], breaks=breaks)
    axis["range"] = [axis_time(places[0] - length / 2), axis_time(places[-1] + length * 1.5)]
    axis["hoverformat"] = "%a %d %b %Y, %H:%M" if grid.timeframe.intraday else "%a %d %b %Y"
    return axis


# Traces


def _candles(name: str, series: CandleSeries, grid: _Grid, colours: Palette) -> dict[str, Any]:
    first = grid.first
    return {
        "type": "candlestick",
        "name": name,
        "showlegend": False,
        "x": [axis_time(place) for place in grid.places[first : len(series.start)]],
        "open": list(series.open[first:]),
        "high": list(series.high[first:]),
        "low": list(series.low[first:]),
        "close": list(series.close[first:]),
        "increasing": {"line": {"color": colours.up, "width": 1}, "fillcolor": colours.up},
        "decreasing": {"line": {"color": colours.down, "width": 1}, "fillcolor": colours.down},
        "whiskerwidth": 0,
    }


class ConePoint(NamedTuple):
    """The forecast after so many candles."""

    place: int
    """In the grid."""
    middle: float
    low: float
    high: float


def _cone(row: Row, series: CandleSeries, grid: _Grid) -> list[ConePoint]:
    """From the last close to the interval at the horizon. In between nothing is forecast: the middle goes straight in
    logarithms, and the bounds leave it as the square root of time, as those of a random walk do."""
    begin = _place_of(row["last_bar"], grid)
    if begin is None or begin < grid.first or begin >= len(series.close):
        return []
    close, bars = series.close[begin], row["horizon_bars"]
    said, interval = row["predicted_price"], row["interval"]
    down, up = math.log(interval["low"] / said), math.log(interval["high"] / said)
    points = []
    for step in range(min(bars, len(grid.places) - 1 - begin) + 1):
        middle, spread = close * math.exp(row["predicted_return"] * step / bars), math.sqrt(step / bars)
        points.append(ConePoint(begin + step, middle, middle * math.exp(down * spread), middle * math.exp(up * spread)))
    return points


def _place_of(start: datetime, grid: _Grid) -> int | None:
    # Searched from the end, where predictions are.
    return next((place for place in range(len(grid.starts) - 1, -1, -1) if grid.starts[place] == start), None)


def _cone_traces(row: Row, cone: Sequence[ConePoint], grid: _Grid, colours: Palette) -> list[dict[str, Any]]:
    times = [axis_time(grid.places[point.place]) for point in cone]
    tone, level = colours.series[0], f"{row['interval']['level']:.0%} interval"
    edge: dict[str, Any] = {
        "type": "scatter", "mode": "lines", "x": times, "legendgroup": "cone", "line": {"color": tone, "width": 1},
    }  # fmt: skip
    high = edge | {
        "name": "Upper bound", "y": [_neat(point.high) for point in cone], "showlegend": False,
        "hovertemplate": "Upper bound %{y:,.2f}<extra></extra>",
    }  # fmt: skip
    low = edge | {
        "name": level, "y": [_neat(point.low) for point in cone], "fill": "tonexty", "fillcolor": _faint(tone),
        "hovertemplate": "Lower bound %{y:,.2f}<extra></extra>",
    }  # fmt: skip
    middle = edge | {
        "name": f"Forecast ({_NAMES[row['model_used']]})", "y": [_neat(point.middle) for point in cone],
        "line": {"color": tone, "width": 2, "dash": "dash"}, "legendgroup": "forecast",
        "hovertemplate": "Forecast %{y:,.2f}<extra></extra>",
    }  # fmt: skip
    return [high, low, middle]


class _PastPoint(NamedTuple):
    place: int
    said: float
    low: float
    high: float
    inside: bool
    told: str


def _past(forecasts: Forecasts, grid: _Grid, colours: Palette) -> list[dict[str, Any]]:
    """Each past prediction where it was for: what it said, its interval, and whether the price came to lie in it."""
    points = [_past_point(row, forecasts.series, grid) for row in forecasts.rows[1:] if row.get("outcome")]
    drawn = [point for point in points if point is not None][:MOST_PAST]
    traces = []
    for inside, name, tone in (
        (True, "Past forecast, price inside", colours.series[2]),
        (False, "Price outside", colours.neutral),
    ):
        some = [point for point in drawn if point.inside is inside]
        if some:
            traces.append(_past_trace(name, some, grid, tone))
    return traces


def _past_trace(name: str, some: Sequence[_PastPoint], grid: _Grid, tone: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [axis_time(grid.places[point.place]) for point in some],
        "y": [point.said for point in some],
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [_neat(point.high - point.said) for point in some],
            "arrayminus": [_neat(point.said - point.low) for point in some],
            "color": tone,
            "thickness": 1,
            "width": 2,
        },
        "opacity": 0.75,
        "marker": {"symbol": "diamond-open", "size": 6, "color": tone, "line": {"width": 1.5, "color": tone}},
        "customdata": [point.told for point in some],
        "hovertemplate": "%{customdata}<extra></extra>",
    }


def _past_point(row: Row, series: CandleSeries, grid: _Grid) -> _PastPoint | None:
    begin = _place_of(row["last_bar"], grid)
    if begin is None:
        return None
    place = begin + row["horizon_bars"]
    if not grid.first <= place < len(series.close):
        return None
    # Older closes may have been adjusted since.
    factor, interval, outcome = series.close[begin] / row["last_close"], row["interval"], row["outcome"]
    said, low, high = (_neat(factor * price) for price in (row["predicted_price"], interval["low"], interval["high"]))
    told = f"Forecast of {_moment(row['last_bar'], grid.timeframe)}: {_price(said)} ({_price(low)} to {_price(high)})"
    return _PastPoint(place, said, low, high, outcome["inside_interval"], told)


def _range(
    series: CandleSeries, grid: _Grid, cone: Sequence[ConePoint], data: Sequence[dict[str, Any]]
) -> tuple[float, float]:
    """From below the lowest to above the highest of what is drawn; past intervals may stick out."""
    past = [price for trace in data if "error_y" in trace for price in trace["y"]]
    low = min(*series.low[grid.first :], *(point.low for point in cone), *past, series.close[-1])
    high = max(*series.high[grid.first :], *(point.high for point in cone), *past, series.close[-1])
    air = (high - low) * 0.06 or high * 0.01
    return max(low - air, 0.0), high + air


def _neat(price: float) -> float:
    return float(f"{price:.8g}")


def _faint(colour: str) -> str:
    """A colour as CSS, of which little shows."""
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.18)"
