"""Charts of generated signals as Plotly figures: pure functions, JSON values only, without numpy."""

from collections.abc import Sequence
from datetime import datetime, time, timedelta
from itertools import pairwise
from typing import Any, Final

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
from app.signals.analysed import THRESHOLD, Analysis, Call, ChartTrade, shown

DRAWN: Final = 150
"""Candles of a signal's chart."""
_WORDS: Final = {
    Timeframe.M1: "1 minute",
    Timeframe.M5: "5 minutes",
    Timeframe.M15: "15 minutes",
    Timeframe.H1: "1 hour",
    Timeframe.D1: "1 day",
    Timeframe.W1: "1 week",
}
_MOST_BREAKS: Final = 200
"""Stretches that the axis leaves out; of more (years of days) nobody sees them."""
_ROOM: Final = 0.11
"""Of the width, for the names of the levels."""
_CLOSE: Final = 0.045
"""Of the height: a name needs as much."""


def signal_chart(series: CandleSeries, analysis: Analysis, *, theme: Theme = Theme.DARK) -> Figure:
    """The newest candles with the signal's levels, the positions of the backtest, and the score below."""
    timeframe, colours = Timeframe(series.timeframe), palette_of(theme)
    first = max(len(series.start) - DRAWN, 0)
    places = _places(series.start[first:], timeframe)
    times = [axis_time(place) for place in places]
    tone = {Call.BUY: colours.up, Call.SELL: colours.down, Call.HOLD: colours.neutral}[analysis.call]
    name = plain(series.symbol, 40)
    score = "" if analysis.score is None else f"  ·  score {analysis.score:+.0f}".replace("-", "−")
    heading = f'{name} · {_WORDS[timeframe]}  <span style="color:{tone}">{analysis.call}</span>'
    subtitle = f"{_moment(series.start[-1], timeframe)}  ·  close {shown(analysis.close)}{score}{_unadjusted(series)}"
    layout = base_layout(theme, heading, subtitle, legend=LegendPlace.ABOVE, notes=_notes(series, analysis))
    axis = _axis(theme, places, timeframe)
    low, high = _range(series, first, analysis)
    ticks = {"tickvals": [-100, -THRESHOLD, 0, THRESHOLD, 100], "ticktext": ["−100", "−30", "0", "+30", "+100"]}
    layout |= {
        "xaxis": {**axis, "rangeslider": {"visible": False}, "anchor": "y2"},
        "yaxis": value_axis(theme, _money(series))
        | {"domain": [0.27, 1], "range": [low, high], "tickformat": _digits(high)},
        "yaxis2": value_axis(theme, "Score", signed=True) | {"domain": [0, 0.2], "range": [-105, 105], **ticks},
        "shapes": _levels(analysis, colours),
        "bargap": 0.2,
    }
    layout["annotations"] = [*layout["annotations"], *_names(analysis, colours, high - low)]
    layout["meta"] |= {"symbol": series.symbol, "timeframe": str(timeframe), "signal": str(analysis.call)}
    data = [_candles(name, times, series, first, colours)]
    data += [_line(times, _average(series.close, first, count), count, colours) for count in (50, 200)]
    data += _trades(analysis.trades, series, first, places, colours)
    data.append(_scores(times, analysis.scores[first:], colours))
    return {"data": data, "layout": layout}


def _candles(name: str, times: Sequence[str], series: CandleSeries, first: int, colours: Palette) -> dict[str, Any]:
    return {
        "type": "candlestick",
        "name": name,
        "showlegend": False,
        "x": times,
        "open": list(series.open[first:]),
        "high": list(series.high[first:]),
        "low": list(series.low[first:]),
        "close": list(series.close[first:]),
        "increasing": {"line": {"color": colours.up, "width": 1}, "fillcolor": colours.up},
        "decreasing": {"line": {"color": colours.down, "width": 1}, "fillcolor": colours.down},
        "whiskerwidth": 0,
    }


def _average(close: Sequence[float], first: int, count: int) -> list[float | None]:
    return [
        None if end + 1 < count else round(sum(close[end + 1 - count : end + 1]) / count, 6)
        for end in range(first, len(close))
    ]


def _line(times: Sequence[str], values: list[float | None], count: int, colours: Palette) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": f"Average of {count}",
        "x": times,
        "y": values,
        "line": {"color": colours.series[0 if count == 50 else 1], "width": 1.3},
        "hovertemplate": f"Average of {count} %{{y:,.2f}}<extra></extra>",
    }


def _trades(
    trades: Sequence[ChartTrade], series: CandleSeries, first: int, places: Sequence[datetime], colours: Palette
) -> list[dict[str, Any]]:
    """Where positions of the backtest began and ended."""
    last = len(series.start) - 1
    begins = [trade for trade in trades if trade.begin >= first]
    ends = [trade for trade in trades if trade.end >= first and trade.reason != "still_open" and trade.end <= last]
    marks = []
    for side, symbol, name in ((1, "triangle-up", "Bought"), (-1, "triangle-down", "Sold first")):
        some = [trade for trade in begins if trade.side == side]
        if some:
            marks.append(
                _marks(
                    name,
                    [axis_time(places[trade.begin - first]) for trade in some],
                    [trade.entry for trade in some],
                    [f"{name} at {shown(trade.entry)}" for trade in some],
                    {"symbol": symbol, "size": 11, "color": colours.up if side > 0 else colours.down},
                    colours,
                )
            )
    if ends:
        marks.append(
            _marks(
                "Closed",
                [axis_time(places[trade.end - first]) for trade in ends],
                [trade.exit for trade in ends],
                [_closed(trade) for trade in ends],
                {"symbol": "x", "size": 8, "color": colours.neutral},
                colours,
            )
        )
    return marks


def _closed(trade: ChartTrade) -> str:
    return f"Closed at {shown(trade.exit)} ({trade.reason}): {trade.net_of_costs:+.2f} % after charges"


def _marks(
    name: str, times: list[str], prices: list[float], told: list[str], marker: dict[str, Any], colours: Palette
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": times,
        "y": prices,
        "customdata": told,
        "hovertemplate": "%{customdata}<extra></extra>",
        "marker": {**marker, "line": {"color": colours.background, "width": 1.2}},
    }


def _scores(times: Sequence[str], scores: Sequence[float | None], colours: Palette) -> dict[str, Any]:
    def tone(score: float | None) -> str:
        if score is None or abs(score) < THRESHOLD:
            return colours.muted
        return colours.up if score > 0 else colours.down

    return {
        "type": "bar",
        "name": "Score",
        "showlegend": False,
        "x": times,
        "y": list(scores),
        "yaxis": "y2",
        "marker": {"color": [tone(score) for score in scores], "line": {"width": 0}},
        "hovertemplate": "Score %{y:+.0f}<extra></extra>",
    }


# Levels


def _level_list(analysis: Analysis, colours: Palette) -> list[tuple[str, float, str, str]]:
    """Name, price, colour, dash; the highest first."""
    levels = [
        ("Target", analysis.price_target, colours.up, "solid"),
        ("Stop", analysis.stop_loss, colours.down, "solid"),
        ("Resistance", analysis.resistance_level, colours.muted, "dash"),
        ("Support", analysis.support_level, colours.muted, "dash"),
    ]
    known = [(name, price, tone, dash) for name, price, tone, dash in levels if price is not None]
    return sorted(known, key=lambda level: -level[1])


def _levels(analysis: Analysis, colours: Palette) -> list[dict[str, Any]]:
    return [
        {
            "type": "line",
            "xref": "x domain",
            "yref": "y",
            "x0": 0,
            "x1": 1,
            "y0": price,
            "y1": price,
            "line": {"color": tone, "width": 1.2, "dash": dash},
        }
        for _, price, tone, dash in _level_list(analysis, colours)
    ]


def _names(analysis: Analysis, colours: Palette, height: float) -> list[dict[str, Any]]:
    """Above their lines; of two that are close the lower one's is below. `height`: what the axis shows."""
    levels = _level_list(analysis, colours)
    names, below = [], False
    for place, (name, price, tone, _) in enumerate(levels):
        # A name below its line leaves no room for the next one's above.
        crowded = place > 0 and levels[place - 1][1] - price < _CLOSE * height * (2 if below else 1)
        below = crowded and not (below and levels[place - 1][1] - price >= _CLOSE * height)
        names.append(
            {
                "text": f"{name} {shown(price)}",
                "xref": "x domain",
                "yref": "y",
                "x": 1,
                "xanchor": "right",
                "y": price,
                "yanchor": "top" if below else "bottom",
                "showarrow": False,
                "font": {"size": 11.5, "color": tone},
            }
        )
    return names


def _range(series: CandleSeries, first: int, analysis: Analysis) -> tuple[float, float]:
    """From below the lowest to above the highest of prices and levels."""
    levels = (
        analysis.price_target,
        analysis.stop_loss,
        analysis.resistance_level,
        analysis.support_level,
    )
    known = [price for price in levels if price is not None]
    low, high = min(*series.low[first:], *known, analysis.close), max(*series.high[first:], *known, analysis.close)
    air = (high - low) * 0.06 or high * 0.01
    return max(low - air, 0.0), high + air


def _digits(price: float) -> str:
    """How prices are written on the axis."""
    return ",.2f" if price >= 1 else ",.4~g"


# The time axis


def _places(starts: Sequence[datetime], timeframe: Timeframe) -> list[datetime]:
    """Where candles stand: at their start, those of days and weeks at midnight of their day."""
    if timeframe.intraday:
        return list(starts)
    return [datetime.combine(start.date(), time(), AXIS_ZONE) for start in starts]


def _axis(theme: Theme, places: Sequence[datetime], timeframe: Timeframe, *, room: bool = True) -> dict[str, Any]:
    """Without the stretches in which there is no candle; with `room` for the levels' names on the right."""
    length = timeframe.length
    gaps = [(before + length, after) for before, after in pairwise(places) if after - before > length]
    breaks = [{"bounds": [axis_time(low), axis_time(high)]} for low, high in gaps] if len(gaps) <= _MOST_BREAKS else []
    axis = time_axis(theme, places[0], places[-1], breaks=breaks)
    air = length * max(round(len(places) * _ROOM), 2) if room else timedelta(0)
    axis["range"] = [axis_time(places[0] - length / 2), axis_time(places[-1] + length / 2 + air)]
    axis["hoverformat"] = "%a %d %b %Y, %H:%M" if timeframe.intraday else "%a %d %b %Y"
    return axis


def _moment(start: datetime, timeframe: Timeframe) -> str:
    if timeframe.intraday:
        return f"{start.astimezone(AXIS_ZONE):%d %b %Y, %H:%M} IST"
    return f"{start.date():%d %b %Y}"


def _money(series: CandleSeries) -> str:
    return f"Price, {series.currency}" if series.currency else "Price"


def _unadjusted(series: CandleSeries) -> str:
    return "" if series.adjusted else "  ·  not adjusted for splits"


def _notes(series: CandleSeries, analysis: Analysis) -> list[str]:
    notes = [plain(analysis.headline, 200)]
    if series.stale:
        notes.append("Newer candles should exist, and no provider answered.")
    return notes


# What following the rules would have brought


def equity_chart(series: CandleSeries, analysis: Analysis, *, theme: Theme = Theme.DARK) -> Figure:
    """The capital of who follows the rules, beside that of who buys and holds, above how far it fell from its peak."""
    timeframe, colours, test = Timeframe(series.timeframe), palette_of(theme), analysis.backtest
    name = plain(series.symbol, 40)
    title = f"{name} · {_WORDS[timeframe]} · backtest"
    if len(analysis.course) < 2:
        return empty_figure(theme, title, "There are too few candles for a backtest")
    places = _places(series.start[analysis.course_first :], timeframe)
    times = [axis_time(place) for place in places]
    tone = colours.up if analysis.course[-1] >= 0 else colours.down
    heading = f'{title}  <span style="color:{tone}">{_signed(analysis.course[-1])} %</span>'
    hits = "" if test.hit_rate is None else f", {100 * test.hit_rate:.0f} % with a gain"
    chance = test.random_entry_percentile
    drawn = "" if chance is None else f"  ·  better than {chance:.0f} % of random entries"
    subtitle = f"{_count(test.trades)}{hits}{drawn}  ·  after charges{_unadjusted(series)}"
    layout = base_layout(theme, heading, subtitle, legend=LegendPlace.ABOVE, notes=[plain(test.note, 160)])
    layout |= {
        "xaxis": {**_axis(theme, places, timeframe, room=False), "anchor": "y2"},
        "yaxis": value_axis(theme, "Change of the capital", signed=True)
        | {"domain": [0.3, 1], "ticksuffix": " %", "tickformat": ",~f"},
        "yaxis2": value_axis(theme, "Below peak") | {"domain": [0, 0.22], "ticksuffix": " %", "nticks": 4},
    }
    layout["meta"] |= {"symbol": series.symbol, "timeframe": str(timeframe), "trades": test.trades}
    held = colours.series[6]
    lines = [
        _course("Rules", times, analysis.course, colours.series[0], 2.0, "y"),
        _course("Bought and held", times, analysis.held_course, held, 1.3, "y"),
        _course("Rules", times, _below(analysis.course), colours.series[0], 1.2, "y2", fill=True),
        _course("Bought and held", times, _below(analysis.held_course), held, 1.0, "y2"),
    ]
    return {"data": lines, "layout": layout}


def _count(trades: int) -> str:
    return "1 trade" if trades == 1 else f"{trades:,} trades"


def _signed(value: float) -> str:
    return f"{value:+,.1f}".replace("-", "−")


def _below(course: Sequence[float]) -> list[float]:
    """How far a course is below its highest before, in per cent."""
    peak, found = 100.0, []
    for change in course:
        value = 100 + change
        peak = max(peak, value)
        found.append(round(100 * value / peak - 100, 4))
    return found


def _course(
    name: str, times: Sequence[str], values: Sequence[float], tone: str, width: float, axis: str, *, fill: bool = False
) -> dict[str, Any]:
    told = "below peak " if axis == "y2" else ""
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "legendgroup": name,
        "showlegend": axis == "y",
        "x": times,
        "y": list(values),
        "yaxis": axis,
        "line": {"color": tone, "width": width},
        "hovertemplate": f"{name}, {told}%{{y:+,.1f}} %<extra></extra>",
        **({"fill": "tozeroy", "fillcolor": _faint(tone)} if fill else {}),
    }


def _faint(colour: str) -> str:
    """A colour as CSS, of which little shows."""
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.16)"
