"""Predictions over the wire."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema

from app.core.candles import TIMEFRAMES, Timeframe
from app.core.scheduler import RunState
from app.core.schemas import NoControlCharacters, RequestModel, ResponseModel
from app.predictions.horizons import FORM
from app.predictions.ml.values import MAXIMUM_HORIZON, Verdict


class ModelName(StrEnum):
    """A kind of model; `ensemble` is the mean of the three others."""

    LSTM = "lstm"
    RANDOM_FOREST = "random_forest"
    SVR = "svr"
    ENSEMBLE = "ensemble"


def _timeframe(value: Any) -> Any:
    try:
        return Timeframe(value)
    except ValueError:
        raise ValueError(f"Input should be one of {', '.join(TIMEFRAMES)}") from None


def _model(value: Any) -> Any:
    return value.strip().lower().replace(" ", "_").replace("-", "_") if isinstance(value, str) else value


def _horizon(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


TimeframeIn = Annotated[
    Timeframe, BeforeValidator(_timeframe), WithJsonSchema({"type": "string", "enum": list(TIMEFRAMES)})
]
"""In any case: `1h` is `1H`."""
ModelIn = Annotated[
    ModelName, BeforeValidator(_model), WithJsonSchema({"type": "string", "enum": [str(name) for name in ModelName]})
]
"""In any case: `LSTM` is `lstm`, `Random Forest` is `random_forest`."""
HorizonIn = Annotated[
    str,
    BeforeValidator(_horizon),
    Field(min_length=1, max_length=16),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": 16, "pattern": FORM}),
    NoControlCharacters,
]
HORIZON = (
    f"How far ahead: a number of candles, 1 to {MAXIMUM_HORIZON} (`5`), or what comes to so many: minutes (`30m`), "
    "hours (`4h`), trading days (`5d`), weeks of five of them (`1w`)."
)


class ChartFormat(StrEnum):
    """What a chart comes as."""

    JSON = "json"
    HTML = "html"


class PredictIn(RequestModel):
    """What prediction is wanted; the same may be in the query."""

    model: ModelIn | None = Field(None, description="`ensemble` where nobody says.")
    timeframe: TimeframeIn | None = Field(None, description="How long a candle is; `1D` where nobody says.")
    time_horizon: HorizonIn | None = Field(None, description=f"{HORIZON} `5` where nobody says.")


class IntervalOut(ResponseModel):
    """Prices between which the close is to lie."""

    low: float = Field(examples=[1371.2])
    high: float = Field(examples=[1489.6])
    level: float = Field(examples=[0.8], description="With this probability.")
    observed_coverage: float = Field(
        examples=[0.79], description="The share of past outcomes that such intervals held."
    )


class EvaluationOut(ResponseModel):
    """How the model did on candles that it had not seen: walk-forward, each fold trained on what came before."""

    skill_vs_naive: float = Field(
        examples=[-0.012],
        description="1 − its mean squared error / that of the naive forecast, which says that the price stays as it "
        "is. Below 0: worse than that.",
    )
    p_value: float = Field(
        examples=[0.74], description="How often luck alone would look this good (Diebold–Mariano, one-sided)."
    )
    hit_rate: float = Field(examples=[0.51], description="The share of directions that it had right.")
    observed_coverage: float = Field(examples=[0.79])
    rmse: float = Field(examples=[0.0312], description="Root mean squared error of the logarithmic return.")
    naive_rmse: float = Field(examples=[0.0309], description="That of the naive forecast on the same candles.")
    folds: int = Field(examples=[5])
    samples: int = Field(examples=[480], description="Forecasts judged; neighbours overlap, so they tell less.")
    verdict: Verdict
    summary: str = Field(examples=["No demonstrated skill: over 480 forecasts of bars it had not seen, …"])


class CandlesOut(ResponseModel):
    """What the prediction is made of."""

    source: str = Field(examples=["yahoo"])
    fetched_at: datetime
    age_seconds: float = Field(examples=[12.4], description="When the prediction was made.")
    stale: bool = Field(description="Whether newer candles should have existed then, and no provider answered.")
    adjusted: bool = Field(
        examples=[True], description="False: their provider does not say what its prices are adjusted for."
    )
    count: int = Field(examples=[1260])


class ModelOut(ResponseModel):
    """The model that said it."""

    trained_through: datetime = Field(description="The last candle it was trained with.")
    trained_at: datetime
    reused: bool = Field(
        description="Whether it was trained for an earlier prediction; then `evaluation` is that of its training."
    )


class OutcomeOut(ResponseModel):
    """What became of a prediction, by the close of the candle that it is for."""

    model_config = ConfigDict(populate_by_name=True)

    price: float = Field(
        examples=[1442.1], description="That close; where there was a split or a dividend since, in prices of then."
    )
    at: datetime = Field(description="When that candle was over; outside India at the latest.")
    return_: float = Field(alias="return", examples=[0.0087], description="The logarithm of `price / last_close`.")
    error: float = Field(examples=[-9.6], description="`predicted_price − price`.")
    naive_error: float = Field(examples=[-12.5], description="That of the naive forecast: `last_close − price`.")
    hit: bool | None = Field(description="Whether the direction was right; null where the price did not move.")
    inside_interval: bool


class PredictionOut(ResponseModel):
    """What a model says of a price, what it is worth, and what became of it."""

    id: str = Field(examples=["6b02893a002b26997921d778"])
    symbol: str = Field(examples=["RELIANCE.NS"], description="As the provider of candles calls it.")
    predicted_price: float = Field(examples=[1432.5], description="The close of the candle at the horizon.")
    confidence_score: float = Field(
        examples=[0.52],
        description="The calibrated probability that the direction is right: 0.5 knows nothing, 0.50–0.55 is normal.",
    )
    time_horizon: str = Field(examples=["5d"])
    timeframe: Timeframe
    model_used: ModelName
    created_at: datetime
    verdict: Verdict = Field(
        description="Whether the model has ever been better than no model. Most have not: do not trade on these."
    )
    predicted_return: float = Field(examples=[0.0021], description="The logarithm of `predicted_price / last_close`.")
    interval: IntervalOut
    evaluation: EvaluationOut
    last_close: float = Field(examples=[1429.6])
    last_bar: datetime = Field(description="When the newest closed candle begins, from which it is made.")
    horizon_bars: int = Field(examples=[5])
    horizon_ends_at: datetime = Field(
        description="When the candle at the horizon is expected to be over: by the calendar for Indian symbols; "
        "elsewhere Monday to Friday, without holidays, at the latest."
    )
    currency: str | None = Field(examples=["INR"])
    candles: CandlesOut
    model: ModelOut
    outcome: OutcomeOut | None = Field(description="Null until the horizon has passed.")
    unscored: str | None = Field(
        description="Why nobody will know what became of it: its symbol is gone, for instance."
    )


class PredictionJob(ResponseModel):
    """A prediction that is being made."""

    job_id: str = Field(examples=["6b02893a002b26997921d778"])
    state: RunState
    progress_percent: int = Field(examples=[40])
    doing: str = Field(examples=["random_forest: fold 3 of 5"])
    status_url: str = Field(examples=["/api/v1/jobs/6b02893a002b26997921d778"])
    result_url: str = Field(
        examples=["/api/predictions/RELIANCE.NS?timeframe=1D&model=ensemble&horizon_bars=5&limit=1"]
    )
    symbol: str = Field(examples=["RELIANCE.NS"])
    timeframe: Timeframe
    model_used: ModelName
    time_horizon: str = Field(examples=["5d"])
    detail: str = Field(examples=["The model is being trained. Follow the job at status_url …"])


class ScoredOut(ResponseModel):
    """A prediction whose time has come."""

    id: str
    created_at: datetime
    last_bar: datetime
    last_close: float
    predicted_price: float
    low: float
    high: float
    outcome: OutcomeOut


class ScoreOut(ResponseModel):
    """What became of the predictions of one model over one horizon."""

    timeframe: Timeframe
    model_used: ModelName
    time_horizon: str = Field(examples=["5d"])
    scored: int = Field(examples=[31])
    pending: int = Field(examples=[5], description="Whose time has not come.")
    unscored: int = Field(examples=[0], description="Of which nobody will know.")
    hit_rate: float | None = Field(examples=[0.48], description="The share of directions that it had right.")
    mean_error_percent: float | None = Field(examples=[1.92], description="Of the price, without signs.")
    naive_mean_error_percent: float | None = Field(examples=[1.9], description="That of the naive forecast.")
    skill_vs_naive: float | None = Field(examples=[-0.02], description="As in evaluations, but of what was published.")
    observed_coverage: float | None = Field(examples=[0.81], description="The share of prices within the intervals.")
    promised_coverage: float = Field(examples=[0.8])
    verdict: Verdict = Field(description="Of the newest prediction's evaluation.")
    summary: str = Field(examples=["31 scored: 48 % of directions right, mean error 1.92 % (naive 1.90 %)."])
    latest: list[ScoredOut] = Field(description="The newest of those whose time has come.")


class ScorecardOut(ResponseModel):
    """What became of the predictions of a symbol."""

    symbol: str = Field(examples=["RELIANCE.NS"])
    considered: int = Field(examples=[120], description="The newest so many predictions; there may be more.")
    scores: list[ScoreOut]


class PlotlyFigure(ResponseModel):
    """A figure in Plotly's JSON schema."""

    data: list[dict[str, Any]]
    layout: dict[str, Any]
