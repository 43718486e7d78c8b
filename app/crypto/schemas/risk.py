"""Measures of risk over the wire. Each says how it is computed, from how much, and why it is missing if it is."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from app.core.schemas import ResponseModel
from app.crypto.risk import NEEDED
from app.crypto.schemas.listing import Exact, NamedCoin

MAX_COINS = 20
"""Of one correlation matrix."""
DaysIn = Annotated[int, Field(ge=2, le=3_650)]


class PortfolioChart(StrEnum):
    """What is drawn of a portfolio."""

    VALUE = "value"
    ALLOCATION = "allocation"


Reason = Annotated[str | None, Field(description="Why there is no figure; null where there is one.")]
Formula = Annotated[str, Field(description="How it is computed.")]
SourceText = Annotated[str, Field(description="Where the formula is from.")]


class RiskData(ResponseModel):
    """What the measures were made of."""

    interval: Literal["1d"] = Field("1d", description="The first point of each day, UTC.")
    asked_days: int = Field(description="How far back was asked for.")
    points: int = Field(description="Daily points.")
    returns: int = Field(description="Daily returns: of points that are 18 to 30 hours apart.")
    gaps: int = Field(description="Neighbouring points that are not, and give no return.")
    first: datetime | None = Field(description="The oldest point.")
    last: datetime | None


class RiskMeasure(ResponseModel):
    """A figure, or null and the reason."""

    value: float | None
    reason: Reason
    observations: int = Field(description="Daily returns that it was made of.")
    needed: int = Field(description="Daily returns that it takes.")
    formula: Formula
    source: SourceText


class DrawdownMeasure(ResponseModel):
    """The deepest fall from a peak; shares of the peak (0.25: a quarter was lost)."""

    value: float | None
    reason: Reason
    peak_at: datetime | None
    trough_at: datetime | None
    recovered_at: datetime | None = Field(description="When the peak was reached again; null if it has not been.")
    current: float | None = Field(description="How far the newest point is below the highest.")
    formula: Formula
    source: SourceText


class TailMeasure(RiskMeasure):
    """A loss over one day, as a share of the value; a negative one is a gain."""

    confidence: float = Field(examples=[0.95])
    horizon_days: Literal[1] = 1
    amount: Exact | None = Field(None, description="The same in US dollars, of a portfolio's value now.")


class RiskMeasures(ResponseModel):
    """What is measured of one series of daily values."""

    data: RiskData
    volatility: RiskMeasure = Field(description="Annualised; 0.6 is 60 % a year.")
    maximum_drawdown: DrawdownMeasure
    value_at_risk: list[TailMeasure] = Field(description="By historical simulation, at 95 and 99 %.")
    expected_shortfall: list[TailMeasure] = Field(description="The mean loss of the days beyond, at 95 and 99 %.")


class CoinRisk(RiskMeasures):
    """How risky a coin was."""

    coin: NamedCoin


class LeftOut(ResponseModel):
    """A coin that no figure includes."""

    slug: str
    symbol: str
    reason: str


class CorrelationMatrix(ResponseModel):
    """How daily returns went together: 1 alike, 0 apart, -1 opposite."""

    coins: list[NamedCoin] = Field(description="Of the rows and columns, in their order.")
    matrix: list[list[float | None]] | None = Field(description="Null members: a price that did not move.")
    reason: Reason
    observations: int = Field(description="Days on which all of the coins have a return.")
    needed: int = NEEDED
    first: datetime | None = Field(description="The end of the first of these days.")
    last: datetime | None
    left_out: list[LeftOut]
    formula: Formula
    source: SourceText


class Weight(NamedCoin):
    """A coin's share of a portfolio."""

    weight: float
    value: Exact = Field(description="US dollars.")


class PortfolioRisk(RiskMeasures):
    """How risky today's portfolio would have been."""

    at: datetime
    value: Exact = Field(description="Of the coins that are included, in US dollars.")
    covered: float | None = Field(description="Their share of all that has a price; below 0.8 nothing is computed.")
    weights: list[Weight] = Field(description="The largest first; they add up to 1.")
    left_out: list[LeftOut]
    correlation: CorrelationMatrix = Field(description=f"Of the {MAX_COINS} largest.")
    formula: Formula = Field(description="How the portfolio's returns are made.")
    source: SourceText
