"""Charts of coins and portfolios as Plotly figures: pure functions, JSON values only."""

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Context, Decimal
from itertools import pairwise
from typing import Any, Final, NamedTuple

from app.core.figures import (
    AXIS_ZONE,
    Figure,
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
from app.crypto.history_reading import Placed
from app.crypto.history_slots import Interval
from app.crypto.risk import Day
from app.crypto.valuation import cents

NOTHING: Final = "No prices of {symbol} in this stretch of time"
_WORDS: Final = {Interval.M5: "5 minutes", Interval.H1: "1 hour", Interval.D1: "1 day"}
_GAP: Final = 3
"""Slots without a point after which the line stops: what happened meanwhile is not known."""
_MOST_BARS: Final = 12


def price_chart(symbol: str, name: str | None, points: Sequence[Placed], *, theme: Theme = Theme.DARK) -> Figure:
    """The price above the volume of the 24 hours before; `points` are oldest first."""
    title = f"{plain(symbol, 64)} · {plain(name, 60)}" if name else plain(symbol, 64)
    if not points:
        return empty_figure(theme, title, NOTHING.format(symbol=plain(symbol, 64)))
    colours = palette_of(theme)
    prices = [placed.point.price for placed in points]
    tone = _tone(prices[-1] - prices[0], colours)
    times = _with_gaps(points)
    traded = any(placed.point.volume_24h for placed in points)
    notes = [] if traded else ["No volume is known of this stretch of time."]
    first, last = points[0].point.at, points[-1].point.at
    layout = base_layout(theme, f"{title}  {_change(prices, tone)}", _subtitle(points), notes=notes)
    layout |= _panels(theme, first, last, share=0.22 if traded else 0.0)
    layout["yaxis"] |= _range([float(price) for price in prices])
    layout["meta"] |= {"symbol": symbol, "points": len(points), "time_zone": AXIS_ZONE.tzname(None)}
    data = [_price_line(times, colours, tone)]
    if traded:
        data.append(_volume_area(times, colours))
    return {"data": data, "layout": layout}


def _panels(theme: Theme, first: datetime, last: datetime, share: float) -> dict[str, Any]:
    """Time below, prices above volume, whose panel is `share` high."""
    air = max((last - first) * 0.01, timedelta(minutes=5))
    axis = time_axis(theme, first, last)
    axis |= {"range": [axis_time(first - air), axis_time(last + air)], "anchor": "y2" if share else "y"}
    axis["hoverformat"] = "%a %d %b %Y, %H:%M"
    panels: dict[str, Any] = {"xaxis": axis, "yaxis": value_axis(theme, "US dollars"), "showlegend": False}
    if share:
        panels["yaxis"] |= {"domain": [share + 0.04, 1]}
        panels["yaxis2"] = value_axis(theme, "Volume, 24 h") | {
            "domain": [0, share],
            "rangemode": "tozero",
            "tickformat": "~s",
            "nticks": 3,
        }
    return panels


def _price_line(times: Sequence[Placed | datetime], colours: Palette, tone: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines" if len(times) > 1 else "markers",
        "name": "Price",
        "x": [axis_time(_at(each)) for each in times],
        "y": [number(each.point.price) if isinstance(each, Placed) else None for each in times],
        "customdata": [_told(each) for each in times],
        "hovertemplate": "<b>%{customdata[0]}</b> USD<br>Market cap %{customdata[1]}<extra></extra>",
        "line": {"color": tone, "width": 1.8},
        "marker": {"color": tone, "size": 7},
        "fill": _fill(times),
        "fillcolor": _faint(tone, 0.1),
        "connectgaps": False,
        "hoverlabel": {"font": {"color": colours.text}},
    }


def _volume_area(times: Sequence[Placed | datetime], colours: Palette) -> dict[str, Any]:
    volumes = [each.point.volume_24h if isinstance(each, Placed) else None for each in times]
    tone = colours.series[6]
    return {
        "type": "scatter",
        "mode": "lines" if len(times) > 1 else "markers",
        "name": "Volume, 24 h",
        "x": [axis_time(_at(each)) for each in times],
        "y": [None if volume is None else number(volume) for volume in volumes],
        "yaxis": "y2",
        "hovertemplate": "Volume, 24 h %{y:.4~s}<extra></extra>",
        "line": {"color": tone, "width": 1.2},
        "fill": _fill(times),
        "fillcolor": _faint(tone, 0.22),
        "connectgaps": False,
    }


def _with_gaps(points: Sequence[Placed]) -> list[Placed | datetime]:
    """The points, with a moment without a value wherever several are missing."""
    times: list[Placed | datetime] = [points[0]]
    for before, after in pairwise(points):
        length = max(before.interval.length, after.interval.length)
        if after.point.at - before.point.at > _GAP * length:
            times.append(before.point.at + length)
        times.append(after)
    return times


def _fill(times: Sequence[Placed | datetime]) -> str:
    """Plotly fills across a gap as if there were none: with one, nothing is filled."""
    return "tozeroy" if all(isinstance(each, Placed) for each in times) else "none"


def _at(each: Placed | datetime) -> datetime:
    return each.point.at if isinstance(each, Placed) else each


def _told(each: Placed | datetime) -> list[str]:
    """Price and market capitalisation in full: a double has 16 digits, and an axis fewer."""
    if not isinstance(each, Placed):
        return ["", ""]
    cap = each.point.market_cap
    return [
        amount(each.point.price),
        "unknown" if cap is None else amount(cents(cap)),
    ]


def _change(prices: Sequence[Decimal], tone: str) -> str:
    """The last price, and how far it is from the first."""
    share = prices[-1] / prices[0] * 100 - 100
    percent = f"{amount(cents(share), signed=True)} %" if abs(share) < 10**9 else "a lot"
    return f'<span style="color:{tone}">{amount(_readable(prices[-1]))} USD  {percent}</span>'


def _readable(price: Decimal) -> Decimal:
    """Eight digits, and never less than cents."""
    return Context(prec=max(8, price.adjusted() + 3)).plus(price)


def _tone(change: Decimal | float, colours: Palette) -> str:
    return colours.up if change > 0 else colours.down if change < 0 else colours.series[0]


def _subtitle(points: Sequence[Placed]) -> str:
    count = "1 point" if len(points) == 1 else f"{len(points):,} points"
    lengths = [_WORDS[interval] for interval in Interval if any(placed.interval is interval for placed in points)]
    return f"{count}, {' / '.join(lengths)} apart  ·  {time_span(points[0].point.at, points[-1].point.at)}"


def _range(values: Sequence[float]) -> dict[str, Any]:
    """A range around the values, and labels with as many decimals as its steps need."""
    low, high = min(values), max(values)
    span = high - low or abs(high) * 0.02 or 1.0
    bottom = low - span * 0.06
    # The axis of what cannot be negative does not show that it could.
    bottom = max(bottom, 0.0) if low >= 0 else bottom
    step = math.floor(math.log10(span / 5))
    labels = f",.{max(0, -step)}f" if -12 <= step <= 15 else ".4~g"
    return {"range": [bottom, high + span * 0.06], "tickformat": labels}


def _faint(colour: str, share: float) -> str:
    """A colour as CSS, of which only `share` shows."""
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},{share})"


# Portfolios


class Share(NamedTuple):
    """A coin in a portfolio."""

    symbol: str
    value: Decimal
    weight: Decimal


def allocation_chart(shares: Sequence[Share], *, theme: Theme = Theme.DARK) -> Figure:
    """What a portfolio consists of; `shares` are the largest first, the small ones are drawn as one."""
    total = sum((share.value for share in shares), Decimal(0))
    title = "Portfolio · allocation"
    if not shares:
        return empty_figure(theme, title, "No holding has a price")
    colours = palette_of(theme)
    drawn = [(plain(share.symbol, 32), share.value, share.weight) for share in shares[:_MOST_BARS]]
    if rest := shares[_MOST_BARS:]:
        value = sum((share.value for share in rest), Decimal(0))
        drawn.append((f"{len(rest)} others", value, sum((share.weight for share in rest), Decimal(0))))
    count = "1 coin" if len(shares) == 1 else f"{len(shares)} coins"
    layout = base_layout(theme, f"{title}  {amount(cents(total))} USD", count)
    layout |= {"hovermode": "closest", "bargap": 0.35, "showlegend": False}
    layout["xaxis"] = value_axis(theme, "Share of the value") | {
        "side": "bottom",
        "tickformat": ".0%",
        "rangemode": "tozero",
    }
    layout["yaxis"] = {
        "type": "category",
        "autorange": "reversed",
        "automargin": True,
        "tickfont": {"size": 13, "color": colours.text},
        "ticks": "",
        "ticksuffix": "  ",
    }
    layout["meta"] |= {"coins": len(shares)}
    bars = {
        "type": "bar",
        "orientation": "h",
        "y": [symbol for symbol, _, _ in drawn],
        "x": [number(weight) for _, _, weight in drawn],
        "text": [f"{amount(cents(weight * 100))} %" for _, _, weight in drawn],
        "textposition": "auto",
        "customdata": [amount(cents(value)) for _, value, _ in drawn],
        "hovertemplate": "<b>%{y}</b>  %{customdata} USD<extra></extra>",
        "marker": {"color": [colours.series[place % len(colours.series)] for place in range(len(drawn))]},
    }
    return {"data": [bars], "layout": layout}


def portfolio_chart(days: Sequence[Day], left_out: Sequence[str], *, theme: Theme = Theme.DARK) -> Figure:
    """What today's quantities would have been worth, above how far that was below its peak."""
    title = "Portfolio · today's quantities at past prices"
    notes = [f"Left out, for want of history: {plain(', '.join(left_out), 160)}."] if left_out else []
    if len(days) < 2:
        layout_title = "There is too little history of these coins yet"
        return empty_figure(theme, title, layout_title)
    colours = palette_of(theme)
    values = [day.value for day in days]
    tone = _tone(values[-1] - values[0], colours)
    times = [axis_time(day.at) for day in days]
    last = amount(cents(Decimal(repr(values[-1]))))
    heading = f'{title}  <span style="color:{tone}">{last} USD</span>'
    layout = base_layout(theme, heading, f"{len(days):,} days  ·  {time_span(days[0].at, days[-1].at)}", notes=notes)
    layout |= _panels(theme, days[0].at, days[-1].at, share=0.22)
    layout["xaxis"]["hoverformat"] = "%a %d %b %Y"
    layout["yaxis"] |= _range(values)
    layout["yaxis2"] |= {"title": value_axis(theme, "Below peak")["title"], "tickformat": ".0%", "rangemode": "normal"}
    layout["meta"] |= {"points": len(days)}
    value_line = {
        "type": "scatter",
        "mode": "lines",
        "name": "Value",
        "x": times,
        "y": values,
        "hovertemplate": "<b>%{y:,.2f}</b> USD<extra></extra>",
        "line": {"color": tone, "width": 1.8},
        "fill": "tozeroy",
        "fillcolor": _faint(tone, 0.1),
    }
    below = {
        "type": "scatter",
        "mode": "lines",
        "name": "Below peak",
        "x": times,
        "y": _below_peak(values),
        "yaxis": "y2",
        "hovertemplate": "Below peak %{y:.2%}<extra></extra>",
        "line": {"color": colours.down, "width": 1.2},
        "fill": "tozeroy",
        "fillcolor": _faint(colours.down, 0.2),
    }
    return {"data": [value_line, below], "layout": layout}


def _below_peak(values: Sequence[float]) -> list[float]:
    peak, found = values[0], []
    for value in values:
        peak = max(peak, value)
        found.append(value / peak - 1)
    return found
