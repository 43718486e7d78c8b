"""What every chart of alerts has in common: its alerts, words, colours and layout."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from functools import cached_property
from typing import Any, Final, NamedTuple

from app.core.figures import (
    AXIS_ZONE,
    LegendPlace,
    Palette,
    Theme,
    base_layout,
    palette_of,
    plain,
    quiet_hours,
    series_style,
    time_axis,
    time_span,
)


class ChartType(StrEnum):
    """What a chart of alerts shows."""

    PRICE = "price"
    VOLUME = "volume"
    TRADE_TYPES = "trade_types"
    POSITION = "position"
    PNL = "pnl"


class ChartPoint(NamedTuple):
    """What a chart needs of an alert. `time`: when it arrived, aware; `trade_type`: one of the seven, in lower case."""

    time: datetime
    contract: str
    trade_type: str
    quantity: Decimal
    price: Decimal
    strategy_name: str
    comment: str | None = None


class Mark(NamedTuple):
    """How a trade type looks: its words, its marker, and which of the palette's colours it has."""

    label: str
    symbol: str
    tone: str


# Shape and colour both tell the side, so that the chart also reads without telling red from green.
MARKS: Final = {
    "buy": Mark("Buy", "triangle-up", "up"),
    "long_entry": Mark("Long entry", "star-triangle-up", "up"),
    "sell": Mark("Sell", "triangle-down", "down"),
    "short_entry": Mark("Short entry", "star-triangle-down", "down"),
    "exit": Mark("Exit", "x", "neutral"),
    "long_exit": Mark("Long exit", "x", "down"),
    "short_exit": Mark("Short exit", "x", "up"),
}
MOST_CONTRACTS: Final = 40
TIME_TITLE: Final = "Time of arrival"
"""What the time axis shows: when an alert arrived (`created_at`), not the time that it names (`alert_time`)."""
TITLES: Final = {
    ChartType.PRICE: "Alert prices",
    ChartType.VOLUME: "Traded quantity",
    ChartType.TRADE_TYPES: "Alerts by trade type",
    ChartType.POSITION: "Net position",
    ChartType.PNL: "Realised P&amp;L",
}


@dataclass(frozen=True)
class View:
    """The alerts of one chart (at least one), and what all its parts ask about them."""

    points: Sequence[ChartPoint]
    chart_type: ChartType
    theme: Theme
    truncated: bool

    @cached_property
    def trade_types(self) -> list[str]:
        """The trade types that occur, in the order of `MARKS`."""
        found = {point.trade_type for point in self.points}
        return [trade_type for trade_type in MARKS if trade_type in found]

    @cached_property
    def by_contract(self) -> dict[str, list[ChartPoint]]:
        """The alerts of each contract drawn, by name so that colours do not depend on which came first."""
        busiest = [name for name, _ in self._activity.most_common(MOST_CONTRACTS)]
        groups: dict[str, list[ChartPoint]] = {name: [] for name in sorted(busiest)}
        for point in self.points:
            if point.contract in groups:
                groups[point.contract].append(point)
        return groups

    @cached_property
    def _activity(self) -> Counter[str]:
        return Counter(point.contract for point in self.points)

    @cached_property
    def contracts(self) -> list[str]:
        """The contracts drawn: all, or the busiest where there are too many to tell apart."""
        return list(self.by_contract)

    @property
    def palette(self) -> Palette:
        """The theme's colours."""
        return palette_of(self.theme)

    def tone(self, trade_type: str) -> str:
        """A trade type's colour."""
        colour: str = getattr(self.palette, MARKS[trade_type].tone)
        return colour

    @property
    def title(self) -> str:
        """What the chart shows, and of which contract if there is one only."""
        title = TITLES[self.chart_type]
        return f"{title} · {plain(self.contracts[0])}" if len(self.contracts) == 1 else title

    @property
    def subtitle(self) -> str:
        """Whose alerts, how many, and when they arrived."""
        count = len(self.points)
        strategies = {point.strategy_name for point in self.points}
        whose = plain(next(iter(strategies)), 60) if len(strategies) == 1 else f"{len(strategies)} strategies"
        moments = [point.time for point in self.points]
        alerts = "1 alert" if count == 1 else f"{'the newest ' if self.truncated else ''}{count:,} alerts"
        return f"{whose}  ·  {alerts}  ·  arrived {time_span(min(moments), max(moments))}"

    def style(self, contract: str) -> dict[str, str]:
        """Colour and dash of a contract's line."""
        return series_style(self.palette, self.contracts.index(contract))

    def layout(self, *notes: str, beside_from: int = 7) -> dict[str, Any]:
        """The layout without axes. The legend names contracts; from `beside_from` on it stands beside the plot."""
        count = len(self.contracts)
        place = LegendPlace.NONE if count == 1 else LegendPlace.BESIDE if count >= beside_from else LegendPlace.ABOVE
        if len(self._activity) > count:
            notes = (*notes, f"Drawn are the {count} busiest of {len(self._activity):,} contracts.")
        if self.truncated:
            notes = (*notes, f"Only the newest {len(self.points):,} alerts of this selection are shown.")
        layout = base_layout(self.theme, self.title, self.subtitle, legend=place, notes=notes)
        layout["meta"] |= {
            "chart_type": str(self.chart_type),
            "alerts": len(self.points),
            "truncated": self.truncated,
            "time_zone": AXIS_ZONE.tzname(None),
        }
        return layout

    def time_axis(self) -> dict[str, Any]:
        """The axis from the first alert to the last."""
        moments = [point.time for point in self.points]
        return time_axis(self.theme, min(moments), max(moments), title=TIME_TITLE, breaks=quiet_hours(moments))
