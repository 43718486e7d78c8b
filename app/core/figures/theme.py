"""What every chart of this service looks like: palettes, fonts, axes, and text that cannot become markup.

Figures are plain dicts in Plotly's JSON schema. The plotly package is not imported: that takes most of a second
and holds the interpreter meanwhile, beside the webhook's hot path. Tests check every figure against its schema.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta, timezone
from decimal import Decimal
from enum import StrEnum
from math import isfinite
from typing import Any, Final

Figure = dict[str, Any]
"""A figure in Plotly's JSON schema: `{"data": [trace, ...], "layout": {...}}`, JSON values only."""

AXIS_ZONE: Final = timezone(timedelta(hours=5, minutes=30), "IST")
"""The zone that time axes show. India has one zone and no daylight saving, so a fixed offset is exact."""

_FONT: Final = "Inter, system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


class Theme(StrEnum):
    """The two looks of a chart."""

    DARK = "dark"
    LIGHT = "light"


@dataclass(frozen=True, slots=True)
class Palette:
    """Colours of one theme, as CSS values."""

    background: str
    raised: str
    grid: str
    line: str
    text: str
    muted: str
    up: str
    down: str
    neutral: str
    series: tuple[str, ...]
    """For contracts, symbols and other series; none of them is mistaken for up or down."""


_PALETTES: Final = {
    Theme.DARK: Palette(
        background="#0b0e14",
        raised="#151a23",
        grid="#1a202b",
        line="#2b3444",
        text="#dbe2ee",
        muted="#8590a4",
        up="#2ebd85",
        down="#f6465d",
        neutral="#f0b90b",
        series=("#5aa9ff", "#b18cff", "#3fd0d8", "#ff9f5a", "#f582c1", "#d9cf6b", "#93a4bf", "#7fb8a4"),
    ),
    Theme.LIGHT: Palette(
        background="#ffffff",
        raised="#ffffff",
        grid="#edf0f4",
        line="#cfd6e0",
        text="#1a2230",
        muted="#667085",
        up="#0b8f63",
        down="#d5304a",
        neutral="#b27a00",
        series=("#1f6fd6", "#7a4fd0", "#0f8f99", "#c8641a", "#c23f8c", "#8a7f12", "#5b6b83", "#3f7f6a"),
    ),
}
_DASHES: Final = ("solid", "dash", "dot", "dashdot")


def palette_of(theme: Theme) -> Palette:
    """The colours of a theme."""
    return _PALETTES[theme]


def series_style(palette: Palette, index: int) -> dict[str, str]:
    """Colour and dash of the `index`-th series: distinct for 32 of them, then repeating."""
    colours = palette.series
    return {"color": colours[index % len(colours)], "dash": _DASHES[index // len(colours) % len(_DASHES)]}


# Plotly reads a small HTML in every label (tags, entities), substitutes %{...} in some and takes $...$ for maths.
# With these characters as entities a string from outside shows as it is. No entity is decoded twice.
MARKUP_FREE: Final = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "%{": "%&#123;", "$": "&#36;"}


def plain(text: str, limit: int = 200) -> str:
    """`text` as a label that Plotly shows literally, cut to `limit` characters and on one line."""
    text = " ".join(text.split())
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    for character, entity in MARKUP_FREE.items():
        text = text.replace(character, entity)
    return text


def number(value: Decimal) -> float | None:
    """A decimal as the JSON number nearest to it; None (a gap in a line) when it is beyond a double's range."""
    nearest = float(value) + 0.0  # -0.0 becomes 0.0
    return nearest if isfinite(nearest) else None


def amount(value: Decimal, *, signed: bool = False) -> str:
    """A decimal in full for people, thousands separated, no trailing zeros: `1,234.5`; `signed` marks gains by `+`."""
    if value and abs(value.adjusted()) > 30:
        return str(value)
    text = f"{value:+,f}" if signed and value else f"{value or abs(value):,f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return text.replace("-", "−")  # as Plotly writes it on axes


def axis_time(moment: datetime) -> str:
    """A moment as ISO 8601 in the axis zone, to the millisecond, with its offset.

    Plotly.js draws the wall-clock part and ignores the offset; everybody else reads the exact instant.
    """
    return moment.astimezone(AXIS_ZONE).isoformat(timespec="milliseconds")


def time_span(first: datetime, last: datetime) -> str:
    """`20 Nov 2026, 09:16 – 15:12 IST`, with the second date only where it differs."""
    first, last = first.astimezone(AXIS_ZONE), last.astimezone(AXIS_ZONE)
    start = f"{first:%d %b %Y, %H:%M}"
    if first.date() == last.date():
        end = f" – {last:%H:%M}" if f"{first:%H:%M}" != f"{last:%H:%M}" else ""
    else:
        end = f" – {last:%d %b %Y, %H:%M}"
    return f"{start}{end} {AXIS_ZONE.tzname(None)}"


class LegendPlace(StrEnum):
    """Where a chart has its legend. Beside the plot it can scroll: for many series."""

    NONE = "none"
    ABOVE = "above"
    BESIDE = "beside"


def base_layout(
    theme: Theme,
    title: str,
    subtitle: str = "",
    *,
    legend: LegendPlace = LegendPlace.NONE,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """The layout that every chart starts from, with `notes` under the plot, a line each.

    `title`, `subtitle` and `notes` are Plotly labels: escape what is not ours.
    """
    colours = palette_of(theme)
    below = 12 + 14 * len(notes) if notes else 0
    heading: dict[str, Any] = {
        "text": f"<b>{title}</b>",
        "font": {"size": 19, "color": colours.text},
        "x": 0,
        "xref": "paper",
        "xanchor": "left",
        "y": 1,
        "yref": "container",
        "yanchor": "top",
        "pad": {"t": 18, "l": 0},
    }
    if subtitle:
        heading["subtitle"] = {"text": subtitle, "font": {"size": 12.5, "color": colours.muted}}
    return {
        "title": heading,
        "showlegend": legend is not LegendPlace.NONE,
        "legend": legend_at(theme, legend),
        "autosize": True,
        "paper_bgcolor": colours.background,
        "plot_bgcolor": colours.background,
        "font": {"family": _FONT, "size": 12.5, "color": colours.text},
        "colorway": list(colours.series),
        "margin": {
            "l": 28,
            "r": 76,
            "t": 116 if legend is LegendPlace.ABOVE else 88,
            "b": 62 + below,
        },
        "hoverlabel": {
            "bgcolor": colours.raised,
            "bordercolor": colours.line,
            "font": {"family": _FONT, "size": 12.5, "color": colours.text},
            "align": "left",
            "namelength": -1,
        },
        "modebar": {
            "bgcolor": "rgba(0,0,0,0)",
            "color": colours.muted,
            "activecolor": colours.text,
            "orientation": "h",
        },
        "dragmode": "pan",
        "hovermode": "x unified",
        "annotations": [_footnote(theme, "<br>".join(notes))] if notes else [],
        "meta": {"theme": str(theme)},
    }


def legend_at(theme: Theme, place: LegendPlace, *, right: bool = False) -> dict[str, Any]:
    """A legend above the plot (at its left or right end) or beside it."""
    where = (
        # Of the page, not the plot: the plot then makes room for it and for its own axis.
        {"orientation": "v", "xref": "container", "x": 0.98, "xanchor": "right", "y": 1, "yanchor": "top"}
        if place is LegendPlace.BESIDE
        else {
            "orientation": "h",
            "x": int(right),
            "xanchor": "right" if right else "left",
            "y": 1.01,
            "yanchor": "bottom",
        }
    )
    return {
        "bgcolor": "rgba(0,0,0,0)",
        "font": {"size": 12, "color": palette_of(theme).text},
        "itemsizing": "constant",
        "traceorder": "normal",
        **where,
    }


def _axis(theme: Theme) -> dict[str, Any]:
    colours = palette_of(theme)
    return {
        "gridcolor": colours.grid,
        "linecolor": colours.line,
        "showline": True,
        "zeroline": False,
        "ticks": "outside",
        "ticklen": 5,
        "tickcolor": colours.line,
        "tickfont": {"color": colours.muted, "size": 12},
        "automargin": True,
    }


def _spike(theme: Theme) -> dict[str, Any]:
    return {
        "showspikes": True,
        "spikemode": "across",
        "spikesnap": "cursor",
        "spikethickness": 1,
        "spikedash": "dot",
        "spikecolor": palette_of(theme).muted,
    }


def time_axis(
    theme: Theme,
    first: datetime,
    last: datetime,
    *,
    title: str = "Time",
    breaks: Sequence[dict[str, Any]] = (),
    period_labels: bool = False,
) -> dict[str, Any]:
    """A horizontal axis of wall-clock time in `AXIS_ZONE`: `title` says of what, and the zone follows it.

    It shows `first` to `last` with a little air; a moment alone gets ten minutes around it. `period_labels` sets a
    day's or month's label in its middle instead of its beginning.
    """
    colours = palette_of(theme)
    air = max((last - first) * 0.025, timedelta(minutes=5) if last - first < timedelta(seconds=1) else timedelta(0))
    if breaks:  # the ends have to lie outside of them
        air = min(air, timedelta(minutes=20))
    axis = {
        **_axis(theme),
        **_spike(theme),
        "type": "date",
        "range": [axis_time(first - air), axis_time(last + air)],
        "title": {
            "text": f"{title} ({AXIS_ZONE.tzname(None)})",
            "font": {"color": colours.muted, "size": 12},
            "standoff": 10,
        },
        "ticklabelmode": "period" if period_labels else "instant",
        "hoverformat": "%a %d %b %Y, %H:%M:%S",
        "tickformatstops": [
            # Short ones: where they do not fit side by side they are turned, and lie over what stands below.
            {"dtickrange": [None, 1000], "value": "%S.%L\n%H:%M"},
            {"dtickrange": [1000, 60_000], "value": ":%S\n%H:%M"},
            {"dtickrange": [60_000, 86_399_999], "value": "%H:%M\n%d %b"},
            {"dtickrange": [86_400_000, "M1"], "value": "%d %b\n%Y"},
            {"dtickrange": ["M1", None], "value": "%b\n%Y"},
        ],
    }
    if breaks:
        axis["rangebreaks"] = list(breaks)
    return axis


def category_axis(theme: Theme, categories: Sequence[str]) -> dict[str, Any]:
    """A horizontal axis of words, in the order given."""
    return {
        **_axis(theme),
        "type": "category",
        "categoryorder": "array",
        "categoryarray": list(categories),
        "showgrid": False,
        "tickfont": {"size": 13, "color": palette_of(theme).text},
    }


def value_axis(theme: Theme, title: str, *, signed: bool = False) -> dict[str, Any]:
    """A vertical axis on the right, where trading screens have it. `signed` draws a line at zero."""
    colours = palette_of(theme)
    axis = {
        **_axis(theme),
        "side": "right",
        "title": {"text": title, "font": {"color": colours.muted, "size": 12}, "standoff": 12},
        "separatethousands": True,
        "exponentformat": "none",
        "tickformat": ",~f",
    }
    if signed:
        axis |= {"zeroline": True, "zerolinecolor": colours.muted, "zerolinewidth": 1}
    return axis


def _footnote(theme: Theme, text: str) -> dict[str, Any]:
    return {
        "text": text,
        "x": 0,
        "xref": "paper",
        "xanchor": "left",
        "y": 0,
        "yref": "paper",
        "yanchor": "top",
        "yshift": -62,
        "align": "left",
        "showarrow": False,
        "font": {"size": 11, "color": palette_of(theme).muted},
    }


def quiet_hours(moments: Sequence[datetime], *, nights: bool = True) -> list[dict[str, Any]]:
    """Stretches of the axis to leave out: nights (unless told not to) and weekends in which none of `moments` lies.

    Only for moments more than a day apart, and for nights of six hours or more that are quiet on every day, so
    that sessions of an exchange stand side by side and round-the-clock markets are left as they are.
    """
    if not moments or max(moments) - min(moments) <= timedelta(days=1):
        return []
    local = [moment.astimezone(AXIS_ZONE) for moment in moments]
    breaks: list[dict[str, Any]] = []
    if all(moment.weekday() < 5 for moment in local):
        breaks.append({"bounds": ["sat", "mon"]})
    if not nights:
        return breaks
    # To the full half hour outwards, and half an hour of air on both sides.
    opens = max(0.0, _half_hours(min(moment.time() for moment in local)) / 2 - 0.5)
    closes = min(24.0, _half_hours(max(moment.time() for moment in local)) / 2 + 1)
    if 24 - (closes - opens) >= 6:
        breaks.append({"bounds": [closes, opens], "pattern": "hour"})
    return breaks


def _half_hours(clock: time) -> int:
    return (clock.hour * 60 + clock.minute) // 30


def empty_figure(theme: Theme, title: str, message: str) -> Figure:
    """A chart of nothing that says why."""
    colours = palette_of(theme)
    layout = base_layout(theme, title)
    layout |= {
        "xaxis": {"visible": False},
        "yaxis": {"visible": False},
        "hovermode": False,
        "annotations": [
            {
                "text": message,
                "x": 0.5,
                "y": 0.5,
                "xref": "paper",
                "yref": "paper",
                "showarrow": False,
                "font": {"size": 16, "color": colours.muted},
            }
        ],
    }
    return {"data": [], "layout": layout}
