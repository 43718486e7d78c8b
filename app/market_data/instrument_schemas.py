"""What goes over the wire about instruments and the watchlist."""

from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field, PlainSerializer, StringConstraints, model_validator

from app.core.schemas import NoControlCharacters, RequestModel, ResponseModel, example
from app.market_data.ports import WatchMode

MOST_ENTRIES = 6000
"""Of a request; what the provider takes is less."""


def _upper(value: object) -> object:
    return " ".join(value.upper().split()) if isinstance(value, str) else value


def _lower(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


def _token(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


_TRIMMED = StringConstraints(strip_whitespace=True, min_length=1, max_length=64)
ExchangeIn = Annotated[Literal["NSE", "BSE", "NFO", "BFO"], BeforeValidator(_upper)]
TokenIn = Annotated[
    str, BeforeValidator(_token), StringConstraints(strip_whitespace=True, pattern=r"^[0-9A-Za-z]{1,24}$")
]
SymbolIn = Annotated[str, _TRIMMED, NoControlCharacters]
SearchText = Annotated[str, StringConstraints(strip_whitespace=True, min_length=2, max_length=64), NoControlCharacters]
WatchModeIn = Annotated[WatchMode, BeforeValidator(_lower)]
Rupees = Annotated[Decimal, PlainSerializer(float, return_type=float, when_used="json")]


class InstrumentInfo(ResponseModel):
    """An instrument, as its exchange lists it."""

    model_config = ConfigDict(
        frozen=True,
        json_schema_extra=example(
            {
                "symbol": "RELIANCE-EQ",
                "name": "RELIANCE",
                "exchange": "NSE",
                "exchange_type": 1,
                "token": "2885",
                "instrument_type": "EQ",
                "expiry": None,
                "strike_price": None,
                "lot_size": 1,
                "tick_size": 0.1,
                "followed": False,
            }
        ),
    )

    symbol: str
    name: str = Field(description="Of the company, the index, or what a contract is about.")
    exchange: str
    exchange_type: int
    token: str = Field(description="The exchange's number for it.")
    instrument_type: str = Field(description="`INDEX`, `EQ` or another series, `FUTSTK`, `OPTIDX`, …")
    expiry: date | None
    strike_price: Rupees | None
    lot_size: int | None
    tick_size: Rupees | None = Field(description="Rupees between two prices; null for indices.")
    followed: bool = Field(description="Whether the live feed follows it.")


class WatchlistEntry(RequestModel):
    """One instrument, by its symbol or name or by its token. Without an exchange the likeliest: NSE before BSE."""

    symbol: SymbolIn | None = Field(None, examples=["RELIANCE-EQ"])
    token: TokenIn | None = Field(None, examples=[None])
    exchange: ExchangeIn | None = Field(None, examples=["NSE"])
    mode: WatchModeIn = WatchMode.QUOTE

    @model_validator(mode="after")
    def _one(self) -> "WatchlistEntry":
        if (self.symbol is None) == (self.token is None):
            raise ValueError("Name either symbol or token")
        return self


class WatchlistIn(RequestModel):
    """What the live feed is to follow, instead of what it follows now."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"symbols": ["NIFTY 50", "NSE:2885", {"symbol": "RELIANCE", "exchange": "BSE"}]}]
        }
    )

    symbols: list[SymbolIn | WatchlistEntry] = Field(
        max_length=MOST_ENTRIES,
        description="Symbols or tokens (`NIFTY 50`, `RELIANCE`, `NSE:2885`), or objects that say more.",
        examples=[["NIFTY 50", "NSE:2885", {"symbol": "SENSEX", "exchange": "BSE", "mode": "quote"}]],
    )


class WatchModeBody(RequestModel):
    """How much to bring of an instrument."""

    mode: WatchModeIn = Field(WatchMode.QUOTE, examples=["quote"])


class WatchedInfo(ResponseModel):
    """One instrument that is followed."""

    symbol: str = Field(examples=["NIFTY 50"], description="By which its ticks are stored and streamed.")
    exchange: str = Field(examples=["NSE"])
    token: str = Field(examples=["99926000"])
    exchange_type: int = Field(examples=[1])
    instrument_type: str = Field(examples=["INDEX"])
    expiry: date | None = None
    mode: WatchMode
    active: bool = Field(description="False for a contract that has ended: it is not subscribed any more.")
    doubt: str | None = Field(
        None, description="What the list of instruments says against it; its ticks are marked `suspect`."
    )


class UnresolvedEntry(ResponseModel):
    """An entry of `ANGEL_ONE_SYMBOLS` that is not followed."""

    text: str
    reason: str
    near: list[str]


class WatchlistInfo(ResponseModel):
    """What the live feed follows."""

    source: Literal["api", "settings", "default"] = Field(
        description="Who said so: this API, `ANGEL_ONE_SYMBOLS` (beside the six indices), or nobody (these alone)."
    )
    symbols: list[WatchedInfo]
    unresolved: list[UnresolvedEntry]
    instruments_version: str | None = Field(description="Of the list of instruments that names are looked up in.")
    revision: int
    changed_at: datetime | None
