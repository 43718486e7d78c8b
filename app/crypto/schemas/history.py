"""History of prices over the wire."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from app.core.schemas import Moment, RequestModel, ResponseModel, example
from app.crypto.history_slots import Interval
from app.crypto.schemas.listing import Exact


class AskedInterval(StrEnum):
    """How far apart points are; `auto` is the finest that there is of each time."""

    M5 = "5m"
    H1 = "1h"
    D1 = "1d"
    AUTO = "auto"

    @property
    def kept(self) -> Interval | None:
        """The interval; None for `auto`."""
        return None if self is AskedInterval.AUTO else Interval(self.value)


class ChartFormat(StrEnum):
    """What a chart comes as."""

    JSON = "json"
    HTML = "html"


def _lower(value: Any) -> Any:
    return value.strip().lower() if isinstance(value, str) else value


IntervalIn = Annotated[AskedInterval, BeforeValidator(_lower)]


class HistorySpan(RequestModel):
    """From when to when; both ends are included."""

    start: Moment | None = None
    end: Moment | None = None

    @model_validator(mode="after")
    def _order(self) -> "HistorySpan":
        if self.start and self.end and self.start > self.end:
            raise ValueError("start is after end")
        return self


class HistoryPoint(ResponseModel):
    """What a coin was worth at one time, in US dollars."""

    model_config = ConfigDict(
        frozen=True,
        json_schema_extra=example(
            {
                "symbol": "BTC",
                "slug": "bitcoin",
                "at": "2026-11-22T10:05:00.250Z",
                "interval": "5m",
                "price": 67187.3358936566,
                "market_cap": 1317802988326.25,
                "volume_24h": 31260929299.5248,
            }
        ),
    )

    symbol: str
    slug: str
    at: datetime = Field(description="When the sync was made whose point this is: the first one of its slot of time.")
    interval: Interval = Field(
        description="Of the slot. With `auto` it grows with age, and a day that was filled in later has `1d`."
    )
    price: Exact
    market_cap: Exact | None
    volume_24h: Exact | None = Field(description="Traded in the 24 hours before.")


class PlotlyFigure(ResponseModel):
    """A Plotly figure."""

    data: list[dict[str, Any]]
    layout: dict[str, Any]
