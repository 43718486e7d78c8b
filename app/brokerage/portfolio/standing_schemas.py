"""Positions, holdings, sums and P&L over the wire. Amounts are rupees."""

from datetime import date, datetime

from pydantic import Field

from app.brokerage.orders.schemas import OrderRow
from app.brokerage.portfolio.naming import Source
from app.brokerage.portfolio.schemas import Money, Trade
from app.brokerage.words import BrokerName, Exchange, Product
from app.core.schemas import ResponseModel


class BrokerSide(ResponseModel):
    """A position as the broker has it. Brokers reckon profit by average prices, here it is first in, first out: the two
    differ while a part of a position is open. The paper broker reckons as it is done here."""

    quantity: int
    average_price: Money
    realised_pnl: Money | None
    unrealised_pnl: Money | None


class Priced(ResponseModel):
    """Something with a newest price."""

    last_price: Money | None = Field(description="Null where nobody knows one.")
    price_at: datetime | None
    price_live: bool = Field(description="Whether it comes from the live feed; else it is a quote, delayed perhaps.")


class Position(Priced):
    """An instrument in which there is a position, or was one today."""

    exchange: Exchange
    symbol: str
    product: Product
    source: Source = Field(description="`manual`: of the trades that you entered.")
    tracked: bool = Field(description="False: the broker tells of it, and no trade here accounts for it.")
    quantity: int = Field(description="Below 0: short.")
    average_price: Money | None = Field(description="Of what is open, first in, first out.")
    cost: Money
    value: Money | None
    realised_pnl: Money = Field(description="Of all times, before charges.")
    unrealised_pnl: Money | None = Field(description="Null without a price.")
    day_realised_pnl: Money
    day_pnl: Money | None = Field(description="Null where what was open before today has no price of the day before.")
    day_charges: Money
    broker: BrokerSide | None = Field(description="What the broker has; null while it is away, and if it has none.")
    expired: str | None = Field(
        None,
        description="Why a position in a contract that has ended is still shown: its settlement is not known here, or "
        "is one in shares. It is no exposure, and in none of the sums.",
    )


class Holding(Priced):
    """Shares that are kept."""

    exchange: Exchange
    symbol: str
    isin: str | None
    quantity: int = Field(description="What trades here account for, and what the broker has beyond that.")
    tracked_quantity: int = Field(description="For how many of them trades here account.")
    average_price: Money | None = Field(description="By the trades here; of what came from elsewhere by the broker.")
    cost: Money
    value: Money | None
    unrealised_pnl: Money | None


class Totals(ResponseModel):
    """Sums of an account."""

    invested: Money = Field(description="What open long positions and holdings cost.")
    value: Money = Field(description="What those are worth that have a price.")
    realised_pnl: Money = Field(description="Of all times, before charges.")
    unrealised_pnl: Money
    day_pnl: Money = Field(description="Realised today, and how much the open positions have changed.")
    day_charges: Money
    charges: Money = Field(description="Of all times, by contract notes.")
    interest: Money = Field(description="Of margin trading, of all times; an estimate where you did not tell it.")
    overall_pnl: Money = Field(description="Realised and unrealised, before charges.")
    net_pnl: Money = Field(description="`overall_pnl` less charges and interest.")
    unpriced: int = Field(description="Open positions and holdings without a price: they are in no value.")
    day_unknown: int = Field(description="Positions without a price of the day before: they are not in `day_pnl`.")
    expired: int = Field(
        0, description="Positions in contracts that have ended and are not settled: see `expired` of each."
    )


class FundsSeen(ResponseModel):
    """Money at the broker."""

    available: Money
    used: Money
    total: Money


class BrokerState(ResponseModel):
    """Whether what the broker says is of now."""

    account_id: str
    broker: BrokerName
    reachable: bool
    as_of: datetime | None = Field(description="When the broker said what is shown of it; null if it never did.")
    problem: str | None = Field(description="Why it is not of now.")
    login_url: str | None = Field(description="Where to sign in again, where that is what it wants.")


class PositionList(ResponseModel):
    """Positions of the active account."""

    at: datetime
    account: BrokerState
    positions: list[Position]


class HoldingList(ResponseModel):
    """Holdings of the active account."""

    at: datetime
    account: BrokerState
    holdings: list[Holding]


class Dashboard(ResponseModel):
    """The active account in one answer."""

    at: datetime
    account: BrokerState
    funds: FundsSeen | None = Field(description="Null if the broker never told.")
    totals: Totals
    realised_pnl: Money
    unrealised_pnl: Money
    day_pnl: Money
    positions: list[Position]
    holdings: list[Holding]
    open_orders: list[OrderRow]
    latest_trades: list[Trade]


class PnlRow(ResponseModel):
    """A day's, or an instrument's."""

    day: date | None = None
    exchange: Exchange | None = None
    symbol: str | None = None
    product: Product | None = None
    trades: int
    bought: int | None = Field(None, description="Units.")
    sold: int | None = None
    turnover: Money
    realised_pnl: Money
    charges: Money
    interest: Money
    net_pnl: Money
    note: str | None = Field(None, description="What is not certain about the charges.")


class Pnl(ResponseModel):
    """What was realised in a stretch of days, first in, first out."""

    account_id: str
    start: date
    end: date
    trades: int
    turnover: Money
    realised_pnl: Money = Field(description="Before charges.")
    charges: dict[str, Money] = Field(description="By component, and `total`.")
    interest: Money
    net_pnl: Money
    rows: list[PnlRow] = Field(description="Newest day first; instruments by profit.")
