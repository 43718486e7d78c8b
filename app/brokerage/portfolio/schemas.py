"""Trades over the wire."""

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)

from app.brokerage.portfolio.naming import DERIVATIVES, PRODUCT_OF, Source, TradeStatus, TradeType, is_option
from app.brokerage.words import BrokerName, Exchange, Product, Side
from app.core.schemas import (
    AsNumber,
    Exact,
    Moment,
    NoControlCharacters,
    RequestModel,
    ResponseModel,
    ShownAsNumber,
    example,
)

MAX_PRICE = Decimal(10_000_000)
"""Rupees a unit of a trade that is entered by hand."""
MAX_QUANTITY = 100_000_000


def _number(value: Decimal) -> int | float:
    return int(value) if value == value.to_integral_value() else float(value)


Money = Annotated[
    Decimal,
    PlainSerializer(_number, return_type=int | float, when_used="json"),
    WithJsonSchema({"type": "number"}, mode="serialization"),
]
"""Rupees, computed here: of any size."""


def _upper(value: Any) -> Any:
    return value.strip().upper() if isinstance(value, str) else value


def _lower(value: Any) -> Any:
    return value.strip().lower() if isinstance(value, str) else value


def _no_truth(value: Any) -> Any:
    """`true` is no number."""
    if isinstance(value, bool):
        raise ValueError("Input should be a whole number")  # noqa: TRY004 (pydantic takes this one)
    return value


def _decimals(value: Decimal) -> Decimal:
    exponent = value.normalize().as_tuple().exponent
    if isinstance(exponent, int) and exponent < -6:
        raise ValueError("Input should have at most 6 digits after the point")
    return value


def _ticker(text: str) -> str:
    symbol = " ".join(text.upper().split()).removesuffix("-EQ")
    if not symbol or not all(one.isascii() and (one.isalnum() or one in " &._-") for one in symbol):
        raise ValueError("A symbol has letters, digits, spaces and the characters & . _ -")
    return symbol


Ticker = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=64),
    NoControlCharacters,
    AfterValidator(_ticker),
]
_INPUT = AfterValidator(_decimals)
Price = Annotated[Decimal, Field(allow_inf_nan=False, gt=0, le=MAX_PRICE), Exact, AsNumber, ShownAsNumber, _INPUT]
Fee = Annotated[Decimal, Field(allow_inf_nan=False, ge=0, le=MAX_PRICE), Exact, AsNumber, ShownAsNumber, _INPUT]
Quantity = Annotated[int, Field(gt=0, le=MAX_QUANTITY), BeforeValidator(_no_truth)]
OrderId = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=64), NoControlCharacters]
TypeIn = Annotated[TradeType, BeforeValidator(_lower)]
SideIn = Annotated[Side, BeforeValidator(_lower)]
StatusIn = Annotated[TradeStatus, BeforeValidator(_upper)]
BrokerIn = Annotated[BrokerName, BeforeValidator(_lower)]

_GIVEN = {
    "price": 2500.0,
    "quantity": 10,
    "stock_ticker": "RELIANCE",
    "type": "eq",
    "order_type": "buy",
    "buy_price": 2500.0,
    "brokerage_charge": 20.0,
    "mtf_charge": 0.0,
}


class TradeInput(RequestModel):
    """A trade that you made and this service did not see. Capital, profit and charges are computed."""

    model_config = ConfigDict(json_schema_extra=example(_GIVEN))

    price: Price = Field(description="Rupees a unit.")
    quantity: Quantity
    order_id: OrderId | None = Field(None, description="Of an order of yours here.")
    stock_ticker: Ticker = Field(description="The exchange's symbol, without the series.")
    type: TypeIn = Field(TradeType.EQUITY, description="`eq`: delivery.")
    order_type: SideIn
    buy_price: Price | None = Field(
        None, description="Of a purchase the same as `price`. Of a sale it is computed: what it closes is the oldest."
    )
    brokerage_charge: Fee | None = Field(
        None, description="What the broker took, before tax; without it the broker's usual plan is reckoned."
    )
    mtf_charge: Fee | None = Field(None, description="Interest of margin trading; without it an estimate is reckoned.")
    exchange: Annotated[Exchange, BeforeValidator(_upper)] | None = Field(
        None, description="By default `NSE`, for futures and options `NFO`."
    )
    order_executed_at: Moment | None = Field(None, description="Now by default.")

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.order_type is Side.BUY and self.buy_price is not None and self.buy_price != self.price:
            raise ValueError("buy_price of a purchase is its price: leave it out, or make the two equal")
        derivative = self.type in {TradeType.FUTURE, TradeType.OPTION}
        if derivative != (self.where in DERIVATIVES):
            raise ValueError(f"A trade of the type {self.type} is not made on {self.where}")
        if derivative and is_option(self.stock_ticker) != (self.type is TradeType.OPTION):
            raise ValueError("The symbol of an option ends with its strike and CE or PE, that of a future does not")
        return self

    @property
    def where(self) -> Exchange:
        """The exchange."""
        if self.exchange is not None:
            return self.exchange
        return Exchange.NFO if self.type in {TradeType.FUTURE, TradeType.OPTION} else Exchange.NSE

    @property
    def product(self) -> Product:
        """What the type means."""
        return PRODUCT_OF[self.type]


class Trade(ResponseModel):
    """One fill, and what became of it. Amounts are rupees."""

    id: str
    user_id: str
    account_id: str
    broker: BrokerName
    source: Source = Field(description="`manual`: entered by you. It closes only what you entered.")
    order_id: str | None
    broker_order_id: str | None
    stock_ticker: str
    exchange: Exchange
    product: Product
    type: TradeType
    order_type: Side
    quantity: int
    price: Money
    buy_price: Money | None = Field(description="Of a sale the average of what it closed, first in, first out.")
    sell_price: Money | None = Field(description="Of a purchase the average at which it was sold, as far as it is.")
    capital_used: Money = Field(description="Quantity times price.")
    status: TradeStatus = Field(description="Whether what it opened is open still.")
    open_quantity: int
    closed_quantity: int = Field(description="How much of an earlier position it closed.")
    realised_pnl: Money = Field(description="Of what it closed, before charges.")
    brokerage_charge: Money = Field(description="Its part of the order's.")
    mtf_charge: Money
    charges: Money = Field(description="Its part of the day's contract note, brokerage included.")
    net_pnl: Money = Field(description="`realised_pnl` less `charges` and `mtf_charge`.")
    note: str | None = Field(None, description="That it settles a contract, or sold what was bought elsewhere.")
    order_executed_at: datetime
    created_at: datetime
    updated_at: datetime


class TradeFilters(RequestModel):
    """Which trades; all conditions hold together."""

    status: StatusIn | None = None
    stock_ticker: Ticker | None = None
    broker: BrokerIn | None = None
    start: Moment | None = None
    end: Moment | None = None

    @model_validator(mode="after")
    def _order(self) -> Self:
        if self.start and self.end and self.start > self.end:
            raise ValueError("start is after end")
        return self


class ListFormat(StrEnum):
    """What a list comes as."""

    JSON = "json"
    CSV = "csv"
    XLSX = "xlsx"


class FileFormat(StrEnum):
    """What a file comes as."""

    CSV = "csv"
    XLSX = "xlsx"


class ChartFormat(StrEnum):
    """What a chart comes as."""

    JSON = "json"
    HTML = "html"


class PnlBy(StrEnum):
    """What the rows of a P&L are of."""

    DAY = "day"
    SYMBOL = "symbol"


ListFormatIn = Annotated[ListFormat, BeforeValidator(_lower)]
FileFormatIn = Annotated[FileFormat, BeforeValidator(_lower)]
ChartFormatIn = Annotated[ChartFormat, BeforeValidator(_lower)]
PnlByIn = Annotated[PnlBy, BeforeValidator(_lower)]


class PlotlyFigure(ResponseModel):
    """A Plotly figure."""

    data: list[dict[str, Any]]
    layout: dict[str, Any]
