"""Generated signals and indicators over the wire."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema

from app.core.candles import TIMEFRAMES, Timeframe
from app.core.schemas import RequestModel, ResponseModel
from app.signals.analysed import Call


def _timeframe(value: Any) -> Any:
    try:
        return Timeframe(value)
    except ValueError:
        raise ValueError(f"Input should be one of {', '.join(TIMEFRAMES)}") from None


TimeframeIn = Annotated[
    Timeframe, BeforeValidator(_timeframe), WithJsonSchema({"type": "string", "enum": list(TIMEFRAMES)})
]
"""In any case: `1h` is `1H`."""


class ChartFormat(StrEnum):
    """What a chart comes as."""

    JSON = "json"
    HTML = "html"


class GenerateIn(RequestModel):
    """What signal is wanted; the same as in the query."""

    timeframe: TimeframeIn | None = None


class RuleOut(ResponseModel):
    """What one rule sees."""

    rule: str = Field(examples=["trend"])
    weight: float = Field(examples=[25])
    score: float | None = Field(examples=[1], description="-1 for selling to 1 for buying; null: it cannot say.")
    text: str = Field(examples=["RSI is 27.3, under 30: oversold."])


class HoldingOut(ResponseModel):
    """Buying at the first opening and keeping it, net of charges."""

    net_return_percent: float = Field(examples=[88.1])
    max_drawdown_percent: float = Field(examples=[22.4])


class BacktestOut(ResponseModel):
    """The same rules on the same candles, one position at a time, net of charges."""

    bars: int = Field(examples=[1250], description="From the first score on.")
    trades: int = Field(examples=[43], description="That have ended.")
    hit_rate: float | None = Field(examples=[0.51], description="Share of them with a gain after charges.")
    net_return_percent: float = Field(examples=[45.8])
    gross_return_percent: float = Field(examples=[55.9], description="Without charges.")
    charges: float = Field(examples=[100_687])
    capital: float = Field(examples=[1_000_000], description="In the symbol's currency.")
    max_drawdown_percent: float = Field(examples=[17.5], description="By closes.")
    average_trade_percent: float | None = Field(examples=[0.99], description="Net of charges.")
    exposure: float = Field(examples=[0.37], description="Share of the bars with a position.")
    round_trip_cost_percent: float = Field(examples=[0.22])
    random_entry_percentile: float | None = Field(
        examples=[70.1],
        description="Share of 1,000 draws of as many random entries, with the same stops and targets, that did worse "
        "on average; about 50 is no better than chance (rules that follow trends come out somewhat lower on prices "
        "without any pattern). Null for fewer than five trades.",
    )
    buy_and_hold: HoldingOut
    segment: str | None = Field(examples=["delivery"], description="Whose charges; null where they are not India's.")
    note: str = Field(examples=["Delivery: bought, and sold again, never sold first; no brokerage, no slippage."])


_VALUES = {"rsi_14": 61.2, "macd": 7.6, "atr_14": 21.4, "sma_200": 1380.5, "vwap": None}
_SIGNAL = {
    "id": "6b02893a002b26997921d778",
    "symbol": "RELIANCE.NS",
    "timeframe": "1D",
    "signal_type": "BUY",
    "strength": 48.5,
    "score": 48.5,
    "price_target": 1496.7,
    "stop_loss": 1389.7,
    "support_level": 1395.1,
    "resistance_level": 1440.2,
    "reasoning": "BUY: the rules' weighted score is +48 of 100, and 47 past trades on this side brought …",
    "indicators": _VALUES,
}


class TradingSignal(ResponseModel):
    """What the rules say at the close of one candle."""

    id: str = Field(examples=[_SIGNAL["id"]])
    symbol: str = Field(examples=["RELIANCE.NS"], description="As the provider of candles calls it.")
    timeframe: Timeframe
    signal_type: Call = Field(
        description="HOLD too where what such signals brought before is under the costs. SELL of a share by candles of "
        "days or weeks is for who holds it: shares cannot be sold first and kept overnight."
    )
    strength: float = Field(
        examples=[48.5], description="From 0 to 100: how much of the rules' weight agrees. Not a probability."
    )
    score: float | None = Field(
        examples=[48.5], description="-100 to 100, from 30 on it asks for something; null: too little is known."
    )
    price: float = Field(examples=[1432.5], description="The close of the candle.")
    price_target: float | None = Field(
        examples=[1496.7], description="About: `target_distance` from `price`. Null for HOLD."
    )
    stop_loss: float | None = Field(examples=[1389.7], description="About: `stop_distance` from `price`.")
    target_distance: float | None = Field(examples=[64.2], description="3 average ranges, from the next opening.")
    stop_distance: float | None = Field(examples=[42.8], description="2 average ranges, from the next opening.")
    support_level: float | None = Field(examples=[1395.1], description="The nearest confirmed low below the price.")
    resistance_level: float | None = Field(examples=[1440.2], description="The nearest confirmed high above it.")
    reasoning: str = Field(examples=[_SIGNAL["reasoning"]])
    rules: list[RuleOut]
    indicators: dict[str, float | None] = Field(examples=[_VALUES])
    expected_edge_percent: float | None = Field(
        examples=[1.15],
        description="What a trade on this side brought before costs, on average, drawn towards nothing where there "
        "were few. Null where the score asks for none.",
    )
    round_trip_cost_percent: float = Field(examples=[0.22])
    backtest: BacktestOut
    candle_start: datetime
    candles: int = Field(examples=[1500], description="How many it was made of.")
    currency: str | None = Field(examples=["INR"])
    source: str = Field(examples=["yahoo"])
    stale: bool = Field(description="Whether newer candles should have existed then.")
    adjusted: bool = Field(
        examples=[True], description="False: the provider does not say what its prices are adjusted for."
    )
    created_at: datetime


class IndicatorRow(ResponseModel):
    """The values at the close of one candle."""

    model_config = ConfigDict(extra="allow")

    timestamp: datetime = Field(description="When the candle begins.")
    close: float = Field(examples=[1432.5])


class IndicatorInfo(ResponseModel):
    """What a column of values is."""

    name: str = Field(examples=["rsi_14"])
    unit: str = Field(examples=["index"], description="`price`, `percent`, `index`, `share` or `volume`.")
    needs: int = Field(examples=[250], description="Candles until it has a value.")
    meaning: str = Field(examples=["Wilder's relative strength."])


class IndicatorsOut(ResponseModel):
    """Indicators of a symbol, newest first. Null where there is no value: too few candles, no volume, no movement."""

    symbol: str = Field(examples=["RELIANCE.NS"], description="As the provider of candles calls it.")
    timeframe: Timeframe
    currency: str | None = Field(examples=["INR"])
    source: str = Field(examples=["yahoo"])
    fetched_at: datetime
    stale: bool = Field(description="Whether newer candles should exist, and no provider answered.")
    adjusted: bool = Field(
        examples=[True], description="False: the provider does not say what its prices are adjusted for."
    )
    latest: dict[str, float | None] = Field(
        examples=[_VALUES], description="At the close of the newest closed candle, whatever page this is."
    )
    indicators: list[IndicatorInfo]
    values: list[IndicatorRow] = Field(
        description="Each candle's values, by the indicators' names.",
        examples=[[{"timestamp": "2026-11-20T03:45:00Z", "close": 1432.5, **_VALUES}]],
    )


class PlotlyFigure(ResponseModel):
    """A figure in Plotly's JSON schema."""

    data: list[dict[str, Any]]
    layout: dict[str, Any]
