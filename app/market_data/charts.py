"""Charts of candles as Plotly figures: pure functions from candles to `{"data": [...], "layout": {...}}`.

The time axis leaves out when nothing is traded. Which hours these are the calendar says, session by session, so that
holidays vanish and a session on a Sunday does not; a candle outside the calendar's sessions (a drill that it does not
know, a feed that is played back at night) is never hidden.
"""

from collections.abc import Sequence
from datetime import datetime, time, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any, Final, NamedTuple

from app.core.figures import (
    AXIS_ZONE,
    Figure,
    Theme,
    amount,
    axis_time,
    base_layout,
    empty_figure,
    palette_of,
    plain,
    time_axis,
    time_span,
    value_axis,
)
from app.core.market_calendar import DAY, Session, Window
from app.market_data.ports import Timeframe

NOTHING: Final = "No candles of {symbol} in this stretch of time"
_WORDS: Final = {
    Timeframe.M1: "1 minute",
    Timeframe.M3: "3 minutes",
    Timeframe.M5: "5 minutes",
    Timeframe.M10: "10 minutes",
    Timeframe.M15: "15 minutes",
    Timeframe.M30: "30 minutes",
    Timeframe.H1: "1 hour",
    Timeframe.D1: "1 day",
}


class ChartBar(NamedTuple):
    """What a chart needs of a candle; `start` is aware, prices are rupees."""

    start: datetime
    open: float
    high: float
    low: float
    close: float
    volume: int
    source: str


def candle_chart(
    symbol: str,
    timeframe: Timeframe,
    bars: Sequence[ChartBar],
    sessions: Sequence[Session],
    *,
    theme: Theme = Theme.DARK,
) -> Figure:
    """Candlesticks above their volume.

    `bars` are oldest first; `sessions` are those of the calendar from the first bar's day to the last one's. Takes
    some 5 µs per bar: for thousands call it in a thread.
    """
    name = plain(symbol, 64)
    title = f"{name} · {_WORDS[timeframe]}"
    if not bars:
        return empty_figure(theme, title, NOTHING.format(symbol=name))
    traded = any(bar.volume for bar in bars)
    length = DAY if timeframe is Timeframe.D1 else timedelta(milliseconds=timeframe.milliseconds)
    times = [axis_time(_place(bar.start, length)) for bar in bars]
    layout = base_layout(theme, f"{title}  {_change(bars, theme)}", _subtitle(bars, length), notes=_notes(bars, traded))
    layout |= _axes(bars, sessions, length, theme, traded)
    layout |= {"bargap": 0.25, "showlegend": False}
    layout["meta"] |= {
        "symbol": symbol,
        "timeframe": str(timeframe),
        "candles": len(bars),
        "time_zone": AXIS_ZONE.tzname(None),
    }
    return {"data": [_candles(name, times, bars, theme), _volume(times, bars, theme, traded)], "layout": layout}


def _axes(
    bars: Sequence[ChartBar], sessions: Sequence[Session], length: timedelta, theme: Theme, traded: bool
) -> dict[str, Any]:
    """Time below, prices above volume."""
    first, last = _place(bars[0].start, length), _place(bars[-1].start, length)
    axis = time_axis(theme, first, last, breaks=_breaks(bars, sessions, length))
    axis["range"] = [axis_time(first - length / 2), axis_time(last + length / 2)]
    axis["hoverformat"] = "%a %d %b %Y" if length == DAY else "%a %d %b %Y, %H:%M"
    share = 0.2 if traded else 0.08
    return {
        # The slider would show the same once more, and take a fifth of the height.
        "xaxis": {**axis, "rangeslider": {"visible": False}, "anchor": "y2"},
        "yaxis": value_axis(theme, "Price") | {"domain": [share + 0.03, 1], "tickformat": ",.2f"},
        "yaxis2": value_axis(theme, "Volume")
        | {"domain": [0, share], "rangemode": "tozero", "tickformat": "~s", "nticks": 3, "visible": traded},
    }


def _candles(name: str, times: Sequence[str], bars: Sequence[ChartBar], theme: Theme) -> dict[str, Any]:
    colours = palette_of(theme)
    return {
        "type": "candlestick",
        "name": name,
        "x": times,
        "open": [bar.open for bar in bars],
        "high": [bar.high for bar in bars],
        "low": [bar.low for bar in bars],
        "close": [bar.close for bar in bars],
        "increasing": {"line": {"color": colours.up, "width": 1}, "fillcolor": colours.up},
        "decreasing": {"line": {"color": colours.down, "width": 1}, "fillcolor": colours.down},
        "whiskerwidth": 0,
    }


def _volume(times: Sequence[str], bars: Sequence[ChartBar], theme: Theme, traded: bool) -> dict[str, Any]:
    colours = palette_of(theme)
    return {
        "type": "bar",
        "name": "Volume",
        "x": times,
        "y": [bar.volume for bar in bars],
        "yaxis": "y2",
        "marker": {
            "color": [colours.up if bar.close >= bar.open else colours.down for bar in bars],
            "opacity": 0.55,
            "line": {"width": 0},
        },
        **({"hovertemplate": "Volume %{y:,d}<extra></extra>"} if traded else {"hoverinfo": "skip"}),
    }


def _change(bars: Sequence[ChartBar], theme: Theme) -> str:
    """The last price, and how far it is from the first."""
    colours = palette_of(theme)
    last, first = Decimal(str(bars[-1].close)), Decimal(str(bars[0].open))
    change = last - first
    tone = colours.up if change > 0 else colours.down if change < 0 else colours.muted
    percent = f" ({amount(round(change / first * 100, 2), signed=True)} %)" if first else ""
    text = f"{amount(last)}  {amount(change, signed=True)}{percent}"
    return f'<span style="color:{tone}">{text}</span>'


def _subtitle(bars: Sequence[ChartBar], length: timedelta) -> str:
    count = "1 candle" if len(bars) == 1 else f"{len(bars):,} candles"
    first, last = bars[0].start, bars[-1].start
    if length != DAY:
        return f"{count}  ·  {time_span(first, last)}"
    days = [f"{moment.astimezone(AXIS_ZONE):%d %b %Y}" for moment in (first, last)]
    return f"{count}  ·  {' – '.join(dict.fromkeys(days))}"


def _notes(bars: Sequence[ChartBar], traded: bool) -> list[str]:
    notes = []
    filled = sum(bar.source != "ticks" for bar in bars)
    if filled:
        notes.append(f"{filled:,} of the candles are from the provider's history, or completed by it.")
    if not traded:
        notes.append("No volume was reported: an index has none.")
    return notes


# What the time axis leaves out


def _breaks(bars: Sequence[ChartBar], sessions: Sequence[Session], length: timedelta) -> list[dict[str, Any]]:
    """The stretches between sessions, so that the first candle of one stands beside the last candle of the other.

    Each by its two ends: Plotly also knows patterns (nights, weekends) and single days, but where a single day meets a
    pattern it draws everything in the wrong place (seen with plotly.js 3), and it is not slower with hundreds of these.
    """
    starts = sorted(_place(bar.start, length) for bar in bars)
    gaps = [(before.closes, after.opens) for before, after in pairwise(_slots(sessions, length))]
    found, index = [], 0
    for opens, closes in gaps:
        while index < len(starts) and starts[index] < opens:
            index += 1
        outside = index < len(starts) and starts[index] < closes
        if opens < closes and not outside:
            found.append({"bounds": [axis_time(opens), axis_time(closes)]})
    return found


def _slots(sessions: Sequence[Session], length: timedelta) -> list[Window]:
    """Where there is room for candles; the last one of a session has as much as the others, however short it is."""
    if length == DAY:
        return [Window(start := _place(session.opens, length), start + DAY) for session in sessions]
    windows = (window for session in sessions for window in session.windows)
    return [Window(one.opens, one.opens - (one.opens - one.closes) // length * length) for one in windows]


def _place(start: datetime, length: timedelta) -> datetime:
    """Where a candle stands: at its start, that of a day at midnight."""
    if length != DAY:
        return start
    return datetime.combine(start.astimezone(AXIS_ZONE).date(), time(), AXIS_ZONE)
