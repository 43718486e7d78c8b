"""What goes over the wire in this feature."""

import re
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)

from app.alerts.charts import ChartType
from app.core.schemas import Amount, Moment, NoControlCharacters, PositiveAmount, RequestModel, ResponseModel, example


class TradeType(StrEnum):
    """What an alert says to do."""

    BUY = "buy"
    SELL = "sell"
    EXIT = "exit"
    LONG_ENTRY = "long_entry"
    LONG_EXIT = "long_exit"
    SHORT_ENTRY = "short_entry"
    SHORT_EXIT = "short_exit"


def _lower(value: Any) -> Any:
    return value.strip().lower() if isinstance(value, str) else value


def _empty_is_absent(value: Any) -> Any:
    """TradingView's placeholders leave an empty text where there is nothing."""
    return None if isinstance(value, str) and not value.strip() else value


_PLACEHOLDER = re.compile(r"\{\{.*?\}\}")


def _filled_in(value: Any) -> Any:
    """A placeholder that TradingView did not replace is a mistake in the message, never a name."""
    if isinstance(value, str) and (left := _PLACEHOLDER.search(value)):
        raise ValueError(f"TradingView did not replace {left[0][:60]}; not every placeholder works in every alert")
    return value


def _number_as_text(value: Any) -> Any:
    """`{{interval}}` and order ids may come without quotes."""
    if isinstance(value, Decimal) and not value.is_finite():
        raise ValueError("Input should be a finite number or text")
    return str(value) if isinstance(value, int | Decimal) and not isinstance(value, bool) else value


def _name(value: Any) -> Any:
    return _filled_in(_number_as_text(value))


def _trimmed(limit: int) -> StringConstraints:
    return StringConstraints(strip_whitespace=True, min_length=1, max_length=limit)


def _taken(limit: int, *, numbers: bool) -> WithJsonSchema:
    """What an optional text is taken from: empty text counts as absent, and some may be numbers."""
    text = {"type": "string", "maxLength": limit}
    return WithJsonSchema({"anyOf": [text, {"type": "number"}]} if numbers else text, mode="validation")


ShortText = Annotated[str, _trimmed(32), NoControlCharacters, BeforeValidator(_filled_in), _taken(32, numbers=False)]
LongText = Annotated[
    str, _trimmed(1000), NoControlCharacters, BeforeValidator(_number_as_text), _taken(1000, numbers=True)
]
Interval = Annotated[str, _trimmed(16), NoControlCharacters, BeforeValidator(_name), _taken(16, numbers=True)]
Identity = Annotated[str, _trimmed(128), NoControlCharacters, BeforeValidator(_name), _taken(128, numbers=True)]
_TIME_SCHEMA = {"anyOf": [{"type": "string", "maxLength": 64}, {"type": "number"}]}
AlertTime = Annotated[Moment, WithJsonSchema(_TIME_SCHEMA, mode="validation")]
TradeTypeIn = Annotated[TradeType, BeforeValidator(_lower), BeforeValidator(_filled_in)]
StrategyName = Annotated[str, _trimmed(100), NoControlCharacters]
Contract = Annotated[str, _trimmed(64), NoControlCharacters, BeforeValidator(_filled_in)]

OPTIONAL_FIELDS = (
    "exchange",
    "product",
    "order_type",
    "stop_loss",
    "target",
    "interval",
    "comment",
    "alert_time",
    "alert_id",
)
"""Of an alert; what of them is absent is not stored."""
_EXAMPLE = {
    "contract": "NIFTY",
    "trade_type": "buy",
    "quantity": 75,
    "price": 24350.5,
    "exchange": "NSE",
    "stop_loss": 24300,
    "target": 24450,
    "comment": "breakout",
    "alert_time": "2026-11-20T05:30:00Z",
}


class AlertFields(RequestModel):
    """The fields of an alert that clients give."""

    contract: Contract = Field(description="The instrument, as TradingView's `{{ticker}}` names it.")
    trade_type: TradeTypeIn = Field(description="Case does not matter.")
    quantity: PositiveAmount
    price: PositiveAmount
    exchange: ShortText | None = None
    product: ShortText | None = None
    order_type: ShortText | None = None
    stop_loss: PositiveAmount | None = None
    target: PositiveAmount | None = None
    interval: Interval | None = None
    comment: LongText | None = None
    alert_time: AlertTime | None = Field(
        None, description="When the alert fired: ISO 8601 (without an offset it is UTC), or seconds since the epoch."
    )
    alert_id: Identity | None = Field(
        None, description="The sender's identity of the event; widens the repeat window to 24 h."
    )

    @model_validator(mode="before")
    @classmethod
    def _absent(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for name in OPTIONAL_FIELDS:
                value = data.get(name)
                if isinstance(value, str) and not value.strip():
                    data = {**data, name: None}
        return data


class WebhookAlert(AlertFields):
    """What TradingView posts: the known fields, and anything else, which is kept in `raw`."""

    model_config = ConfigDict(extra="allow", json_schema_extra=example(_EXAMPLE))


class AlertInput(AlertFields):
    """An alert written by hand, or its replacement."""

    model_config = ConfigDict(json_schema_extra=example({"strategy_name": "My Strategy", **_EXAMPLE}))

    strategy_name: StrategyName = Field(description="One of your strategies.")


class Alert(ResponseModel):
    """A stored alert."""

    model_config = ConfigDict(
        json_schema_extra=example(
            {
                "id": "6b02893a002b26997921d778",
                "strategy_name": "My Strategy",
                **_EXAMPLE,
                "raw": {},
                "source": "webhook",
                "seq": 1795328314123000,
                "created_at": "2026-11-20T05:30:01.123Z",
                "updated_at": "2026-11-20T05:30:01.123Z",
            }
        )
    )

    id: str
    strategy_id: str
    strategy_name: str
    contract: str
    trade_type: TradeType
    quantity: Amount
    price: Amount
    exchange: str | None = None
    product: str | None = None
    order_type: str | None = None
    stop_loss: Amount | None = None
    target: Amount | None = None
    interval: str | None = None
    comment: str | None = None
    alert_time: datetime | None = None
    alert_id: str | None = None
    raw: dict[str, Any] = Field({}, description="Everything else that arrived.")
    source: Literal["webhook", "manual"]
    seq: int = Field(description="Orders alerts; the `seq` of the alert's message on `/ws`.")
    created_at: datetime
    updated_at: datetime


class AlertFilters(RequestModel):
    """Which alerts; all conditions hold together."""

    contract: Contract | None = None
    trade_type: TradeTypeIn | None = None
    strategy_name: StrategyName | None = None
    start: Moment | None = Field(None, description="Stored at or after this time.")
    end: Moment | None = Field(None, description="Stored at or before this time.")

    @model_validator(mode="after")
    def _order(self) -> "AlertFilters":
        if self.start and self.end and self.start > self.end:
            raise ValueError("start is after end")
        return self


class ChartRequest(AlertFilters):
    """Which alerts to draw, and how."""

    model_config = ConfigDict(
        json_schema_extra=example({"chart_type": "price", "contract": "NIFTY"}, {"chart_type": "pnl"})
    )

    chart_type: ChartType = ChartType.PRICE


class Figure(ResponseModel):
    """A Plotly figure: give it to `Plotly.newPlot(element, figure.data, figure.layout)`."""

    data: list[dict[str, Any]]
    layout: dict[str, Any]


class BindKey(RequestModel):
    """The strategy that a new key belongs to; it is made if there is none of this name."""

    model_config = ConfigDict(json_schema_extra=example({"name": "My Strategy"}))

    name: StrategyName


class BoundKey(ResponseModel):
    """A new key. It is shown this once."""

    id: str
    name: str
    secret_key: str = Field(description="43 URL-safe characters. Keep it: only its SHA-256 is stored.")
    webhook_url: str = Field(description="Give this to TradingView.")
    created_at: datetime


class KeyInfo(ResponseModel):
    """A key without its secret."""

    id: str
    strategy_name: str
    prefix: str = Field(description="The key's first characters, to tell keys apart.")
    created_at: datetime
    last_used_at: datetime | None = Field(None, description="To the minute or so.")
    revoked_at: datetime | None = None


class KeyStrategy(ResponseModel):
    """The strategy behind a key."""

    name: str


class FieldProblem(ResponseModel):
    """One thing wrong with one field."""

    loc: list[str | int]
    msg: str
    type: str


class Rejected(ResponseModel):
    """A delivery that did not become an alert."""

    id: str
    strategy_name: str
    status: int = Field(description="What the sender was answered.")
    reason: str
    errors: list[FieldProblem] = Field(default_factory=list)
    body: str = Field(description="What was sent; the first KiB of it where the delivery was refused for size or rate.")
    size: int = Field(description="Bytes that were sent, as far as they were read.")
    content_type: str | None = None
    address: str
    also_refused: int = Field(
        0, description="Further deliveries refused for the same reason that have no row of their own."
    )
    created_at: datetime
