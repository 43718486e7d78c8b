"""What goes over the wire of users' signals."""

import re
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from app.core.schemas import (
    Amount,
    NoControlCharacters,
    PositiveAmount,
    RequestModel,
    ResponseModel,
    example,
    no_control_characters,
)
from app.signals.status import OptionType, SignalType, Status
from app.signals.touches import OutcomeKind, SeenIn

_SYMBOL = re.compile(r"[A-Z0-9^][A-Z0-9 &._:^/-]*")
_CONTRACT = re.compile(r"\d(PE|CE)$")


def _symbol(text: str) -> str:
    symbol = " ".join(text.upper().split())
    if not _SYMBOL.fullmatch(symbol):
        raise ValueError("A symbol has letters, digits, spaces and the characters & . _ : ^ / -")
    return symbol


def _upper(value: Any) -> Any:
    return value.strip().upper() if isinstance(value, str) else value


def _no_truth(value: Any) -> Any:
    """`true` is no number."""
    if isinstance(value, bool):
        raise ValueError("Input should be a whole number")  # noqa: TRY004 (pydantic takes this one)
    return value


def contract_type(symbol: str) -> OptionType | None:
    """What a symbol says of its option, if it is that of an option's contract (`NIFTY24NOV2624500CE`)."""
    found = _CONTRACT.search(symbol)
    return OptionType(found[1]) if found else None


def followed_live(symbol: str, option_type: str | None) -> bool:
    """Whether ticks of `symbol` are prices of what the signal is about.

    An option named by its underlying has no price of its own: NIFTY at 24,000 is no touch of a premium of 120.
    """
    return option_type is None or contract_type(symbol) is not None


Symbol = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=64),
    NoControlCharacters,
    AfterValidator(_symbol),
]
Side = Annotated[SignalType, BeforeValidator(_upper)]
Option = Annotated[OptionType, BeforeValidator(_upper)]
StatusIn = Annotated[Status, BeforeValidator(_upper)]
Quantity = Annotated[int, Field(gt=0, le=1_000_000_000), BeforeValidator(_no_truth)]
Confidence = Annotated[int, Field(ge=0, le=100, description="From 0 to 100."), BeforeValidator(_no_truth)]


def _plain_lines(text: str) -> str:
    """Notes may have lines; no other control characters."""
    no_control_characters(text.translate(_LINES))
    return text


_LINES = dict.fromkeys(map(ord, "\r\n\t"), " ")
Notes = Annotated[str, StringConstraints(max_length=2000), AfterValidator(_plain_lines)]

_EXAMPLE = {
    "symbol": "RELIANCE",
    "signal_type": "BUY",
    "entry_price": 2500,
    "target_price": 2600.5,
    "stop_loss": 2450,
    "quantity": 10,
    "confidence": 70,
    "notes": "Breakout above the range",
}
_STORED = {
    "id": "6b02893a002b26997921d778",
    "user_id": "6b02893a002b26997921d700",
    **_EXAMPLE,
    "option_type": None,
    "status": "COMPLETED",
    "followed_live": False,
    "outcome": {
        "kind": "target",
        "price": 2601.25,
        "at": "2026-11-20T06:12:03.417Z",
        "seen_in": "tick",
        "certain": True,
    },
    "created_at": "2026-11-20T05:30:01.123Z",
    "updated_at": "2026-11-20T06:12:03.431Z",
    "closed_at": "2026-11-20T06:12:03.431Z",
}


class SignalInput(RequestModel):
    """A new signal."""

    model_config = ConfigDict(json_schema_extra=example(_EXAMPLE))

    symbol: Symbol = Field(
        description="The instrument. Live ticks of this symbol complete the signal; an option is followed only by the "
        "symbol of its contract (`NIFTY24NOV2624500CE`). `RELIANCE`, `NSE:RELIANCE` and `RELIANCE.NS` are the ticks "
        "of `RELIANCE-EQ`, `NIFTY50` those of `NIFTY 50`."
    )
    option_type: Option | None = Field(None, description="For options; known from the symbol of a contract.")
    signal_type: Side
    entry_price: PositiveAmount
    target_price: PositiveAmount = Field(description="Above the entry for BUY, below it for SELL.")
    stop_loss: PositiveAmount = Field(description="Below the entry for BUY, above it for SELL.")
    quantity: Quantity
    confidence: Confidence
    status: Annotated[Literal["ACTIVE"], BeforeValidator(_upper)] = "ACTIVE"
    notes: Notes | None = None

    @model_validator(mode="after")
    def _one_option(self) -> Self:
        named = contract_type(self.symbol)
        if named and self.option_type and named is not self.option_type:
            raise ValueError(f"{self.symbol} is a {named}, and option_type says {self.option_type}")
        return self


class SignalChange(RequestModel):
    """What is to change; the rest stays."""

    model_config = ConfigDict(json_schema_extra=example({"stop_loss": 2475}, {"status": "CANCELLED"}))

    entry_price: PositiveAmount | None = None
    target_price: PositiveAmount | None = None
    stop_loss: PositiveAmount | None = Field(
        None, description="May pass the entry, to follow the price; never the target."
    )
    quantity: Quantity | None = None
    confidence: Confidence | None = None
    status: StatusIn | None = Field(None, description="`COMPLETED` or `CANCELLED`, which are final.")
    notes: Notes | None = Field(None, description="null removes them.")

    @model_validator(mode="before")
    @classmethod
    def _something(cls, data: Any) -> Any:
        if isinstance(data, dict):
            if not data:
                raise ValueError("Name at least one thing to change")
            for name, value in data.items():
                if value is None and name in cls.model_fields and name != "notes":
                    raise ValueError(f"{name} cannot be null; leave it out to keep it")
        return data


class SignalOutcome(ResponseModel):
    """How a signal ended by itself."""

    kind: OutcomeKind
    price: Amount = Field(description="Of the tick; for a candle the level, or its opening if that was beyond it.")
    at: datetime = Field(description="The exchange's time of the tick, or when the candle began.")
    seen_in: SeenIn = Field(description="`candle` where the price went through while no tick was seen.")
    certain: bool = Field(description="False where one candle reached both target and stop: the stop is assumed.")


class UserSignal(ResponseModel):
    """A signal of yours."""

    model_config = ConfigDict(json_schema_extra=example(_STORED))

    id: str
    user_id: str
    symbol: str
    option_type: OptionType | None
    signal_type: SignalType
    entry_price: Amount
    target_price: Amount
    stop_loss: Amount
    quantity: int
    confidence: int
    status: Status
    notes: str | None
    followed_live: bool = Field(
        description="Whether the price of `symbol` completes it: an active signal on what the live feed follows "
        "(`GET /api/v1/market-data/watchlist`), and no option named by its underlying."
    )
    outcome: SignalOutcome | None = Field(description="Null while it is active, and where it was closed by hand.")
    created_at: datetime
    updated_at: datetime
    closed_at: datetime | None


class SignalFilters(RequestModel):
    """Which signals; all conditions hold together."""

    status: StatusIn | None = None
    symbol: Symbol | None = None
