"""What goes over the wire of orders."""

import re
from datetime import datetime
from typing import Annotated, Any, Self

from fastapi.openapi.models import Example
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from app.brokerage.words import BrokerName, Exchange, OrderState, PriceType, Product, Side, Validity
from app.core.schemas import Amount, Moment, NoControlCharacters, PositiveAmount, RequestModel, ResponseModel, example

_SYMBOL = re.compile(r"[A-Z0-9][A-Z0-9 &._-]*")
_CLIENT_ID = re.compile(r"[A-Za-z0-9._:-]+")
MAX_QUANTITY = 100_000_000


def _symbol(text: str) -> str:
    symbol = " ".join(text.upper().split())
    if not _SYMBOL.fullmatch(symbol):
        raise ValueError("A trading symbol has letters, digits, spaces and the characters & . _ -")
    return symbol


def _client_id(text: str) -> str:
    if not _CLIENT_ID.fullmatch(text):
        raise ValueError("Use letters, digits and the characters . _ : -")
    return text


def _upper(value: Any) -> Any:
    return value.strip().upper() if isinstance(value, str) else value


def _lower(value: Any) -> Any:
    return value.strip().lower() if isinstance(value, str) else value


def _price_type(value: Any) -> Any:
    return _upper(value).replace("_", "-") if isinstance(value, str) else value


def _no_truth(value: Any) -> Any:
    """`true` is no number."""
    if isinstance(value, bool):
        raise ValueError("Input should be a whole number")  # noqa: TRY004 (pydantic takes this one)
    return value


Ticker = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=64),
    NoControlCharacters,
    AfterValidator(_symbol),
]
Quantity = Annotated[int, Field(gt=0, le=MAX_QUANTITY), BeforeValidator(_no_truth)]
SideIn = Annotated[Side, BeforeValidator(_lower)]
ExchangeIn = Annotated[Exchange, BeforeValidator(_upper)]
ProductIn = Annotated[Product, BeforeValidator(_upper)]
PriceTypeIn = Annotated[PriceType, BeforeValidator(_price_type)]
ValidityIn = Annotated[Validity, BeforeValidator(_upper)]
StatusIn = Annotated[OrderState, BeforeValidator(_upper)]
BrokerIn = Annotated[BrokerName, BeforeValidator(_lower)]
ClientOrderId = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=64), AfterValidator(_client_id)
]

BUYING: dict[str, Example] = {
    "a limit order": {
        "value": {"stock_ticker": "RELIANCE", "quantity": 10, "price": 1250.0, "order_type": "buy"},
    },
    "at the market, once however often it is sent": {
        "value": {"stock_ticker": "RELIANCE", "quantity": 1, "client_order_id": "breakout-2026-11-23"},
    },
}
SELLING: dict[str, Example] = {
    "an intraday stop": {
        "value": {
            "stock_ticker": "RELIANCE",
            "quantity": 10,
            "price_type": "SL-M",
            "trigger_price": 1225,
            "product": "MIS",
            "client_order_id": "exit-42",
        },
    },
}
_STORED = {
    "id": "6b02893a002b26997921d778",
    "user_id": "6b02893a002b26997921d700",
    "account_id": "6b02893a002b26997921d701",
    "broker": "paper",
    "client_order_id": None,
    "tag": "A7Q2M9XK40ZT",
    "broker_order_id": "P000017",
    "exchange_order_id": None,
    "stock_symbol": "RELIANCE",
    "exchange": "NSE",
    "order_type": "buy",
    "quantity": 10,
    "filled_quantity": 0,
    "price": 2500,
    "trigger_price": None,
    "average_price": None,
    "price_type": "LIMIT",
    "product": "CNC",
    "validity": "DAY",
    "mtf_enabled": False,
    "status": "OPEN",
    "certain": True,
    "reason": None,
    "pending": None,
    "order_executed_at": None,
    "created_at": "2026-11-20T05:30:01.123Z",
    "updated_at": "2026-11-20T05:30:01.204Z",
    "closed_at": None,
}


class OrderInput(RequestModel):
    """A new order."""

    stock_ticker: Ticker = Field(description="The exchange's trading symbol.")
    quantity: Quantity = Field(description="Units, not lots.")
    price: PositiveAmount | None = Field(None, description="Of a limit. With it and no `price_type`, a LIMIT order.")
    order_type: SideIn | None = Field(None, description="`buy` or `sell`, as the path says.")
    exchange: ExchangeIn = Exchange.NSE
    product: ProductIn | None = Field(None, description="Without it CNC on NSE and BSE, NRML elsewhere.")
    price_type: PriceTypeIn | None = Field(None, description="Without it LIMIT where there is a price, else MARKET.")
    trigger_price: PositiveAmount | None = Field(None, description="For SL and SL-M.")
    validity: ValidityIn = Validity.DAY
    mtf_enabled: bool = Field(False, description="The same as the product `MTF`.")
    client_order_id: ClientOrderId | None = Field(
        None, description="Yours, for good: the same order sent again under it answers the first, and sends nothing."
    )

    @model_validator(mode="after")
    def _one_product(self) -> Self:
        if self.mtf_enabled and self.product not in {None, Product.MTF}:
            raise ValueError(f"mtf_enabled means the product MTF, and product says {self.product}")
        return self


class OrderAmendment(RequestModel):
    """What of an open order is to be another; the rest stays."""

    model_config = ConfigDict(json_schema_extra=example({"price": 2510}, {"quantity": 5, "price": 2495.5}))

    quantity: Quantity | None = None
    price: PositiveAmount | None = None
    trigger_price: PositiveAmount | None = None
    price_type: PriceTypeIn | None = None
    validity: ValidityIn | None = None

    @model_validator(mode="before")
    @classmethod
    def _something(cls, data: Any) -> Any:
        if isinstance(data, dict):
            if not data:
                raise ValueError("Name at least one thing to change")
            for name, value in data.items():
                if value is None and name in cls.model_fields:
                    raise ValueError(f"{name} cannot be null; leave it out to keep it")
        return data


class OrderFilters(RequestModel):
    """Which orders; all conditions hold together."""

    status: StatusIn | None = None
    symbol: Ticker | None = None
    broker: BrokerIn | None = None
    start: Moment | None = None
    end: Moment | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.start and self.end and self.start > self.end:
            raise ValueError("start is after end")
        return self


class OrderTerms(ResponseModel):
    """What of an order can be changed."""

    quantity: int
    price_type: PriceType
    price: Amount | None
    trigger_price: Amount | None
    validity: Validity


class PendingAct(ResponseModel):
    """A change or a cancellation that the broker's book does not show yet."""

    kind: str = Field(examples=["cancel"], description="`modify` or `cancel`.")
    state: str = Field(description="`SENDING`, `ACCEPTED` by the broker, or `UNKNOWN`: no answer came.")
    since: datetime
    wanted: OrderTerms | None


class Transition(ResponseModel):
    """One step of an order."""

    status: OrderState
    at: datetime
    cause: str = Field(
        description="`client`; `answer` of the broker to the request; `broker`: its book or a push; `reconciled`: "
        "concluded from its book; `clock`."
    )
    note: str | None


class OrderRow(ResponseModel):
    """An order of yours."""

    model_config = ConfigDict(json_schema_extra=example(_STORED))

    id: str
    user_id: str
    account_id: str
    broker: BrokerName
    client_order_id: str | None
    tag: str = Field(description="By it the order is found in the broker's book.")
    broker_order_id: str | None
    exchange_order_id: str | None
    stock_symbol: str
    exchange: Exchange
    order_type: Side
    quantity: int
    filled_quantity: int
    price: Amount | None
    trigger_price: Amount | None
    average_price: Amount | None = Field(description="Of what is filled.")
    price_type: PriceType
    product: Product
    validity: Validity
    mtf_enabled: bool
    status: OrderState
    certain: bool = Field(description="False: concluded, because the broker's book of that day could not be seen.")
    reason: str | None = Field(description="Why it was rejected, cancelled or not sent.")
    pending: PendingAct | None
    order_executed_at: datetime | None = Field(description="When it was last filled.")
    created_at: datetime
    updated_at: datetime
    closed_at: datetime | None


class Order(OrderRow):
    """An order of yours, with all that happened to it."""

    model_config = ConfigDict(
        json_schema_extra=example(
            {
                **_STORED,
                "transitions": [
                    {"status": "INTENT", "at": "2026-11-20T05:30:01.123Z", "cause": "client", "note": None},
                    {"status": "SENDING", "at": "2026-11-20T05:30:01.126Z", "cause": "client", "note": None},
                    {"status": "PENDING", "at": "2026-11-20T05:30:01.190Z", "cause": "answer", "note": None},
                    {"status": "OPEN", "at": "2026-11-20T05:30:01.204Z", "cause": "broker", "note": None},
                ],
            }
        )
    )

    transitions: list[Transition]


class Difference(ResponseModel):
    """Something that the broker has otherwise than we do."""

    kind: str = Field(
        description="`unresolved`: nobody knows whether it was placed; `missing`: open here, not in the broker's book; "
        "`foreign`: in its book, and not from here; `twin`: a second order with one tag; `state`, `quantity`: "
        "told otherwise; `fills`: filled, and not in the trade book; `position`; "
        "`converted`: the broker moved the position to another product, and so it was here; `conversion`: it did, and "
        "here it is still the old one."
    )
    order_id: str | None = None
    broker_order_id: str | None = None
    exchange: Exchange | None = None
    symbol: str | None = None
    ours: str | None = None
    theirs: str | None = None
    detail: str


class ReconciliationReport(ResponseModel):
    """An account, compared with its broker's books."""

    account_id: str
    broker: BrokerName
    at: datetime
    status: str = Field(description="`agrees`, `differs`, or `unavailable`: the books could not be read.")
    orders: int = Field(description="In the broker's book.")
    trades: int
    positions: int
    compared: list[str] = Field(description="What was compared: `orders`, `trades`, `positions`.")
    differences: list[Difference]
    more: int = Field(description="Differences beyond those that are listed.")
    detail: str | None = Field(description="Why the books could not be read.")
