"""Candles to learn from: real ones, and invented ones of which is known what can be learnt."""

from typing import Any

import bokeh_sampledata.stocks
import msgspec
import numpy as np

from app.predictions.ml.values import Family, TrainRequest

KEY = b"a key that signs models in tests, 1"
FIVE_YEARS = 1258
DAY = 86_400
PATIENCE = 600.0
"""Seconds that a training may take: others use the machine, too."""
COLUMNS = ("open", "high", "low", "close", "volume")


def invented(
    *, momentum: float = 0.0, seed: int = 1, bars: int = FIVE_YEARS, horizon: int = 1, model: Family = "svr"
) -> TrainRequest:
    """A random walk; with `momentum`, each return carries on that share of the one before, which can be learnt."""
    chance = np.random.default_rng(seed)
    returns = chance.normal(0, 0.012, bars)
    for number in range(1, bars):
        returns[number] += momentum * returns[number - 1]
    close = 100 * np.exp(np.cumsum(returns))
    opened = np.concatenate(([100.0], close[:-1])) * np.exp(chance.normal(0, 0.002, bars))
    high = np.maximum(opened, close) * np.exp(np.abs(chance.normal(0, 0.004, bars)))
    low = np.minimum(opened, close) * np.exp(-np.abs(chance.normal(0, 0.004, bars)))
    arrays = (opened, high, low, close, chance.lognormal(14, 0.4, bars))
    return _request("INVENTED", dict(zip(COLUMNS, arrays, strict=True)), horizon, model)


def real(name: str = "AAPL", *, bars: int = FIVE_YEARS, horizon: int = 1, model: Family = "svr") -> TrainRequest:
    """The newest days of a real share, its prices adjusted."""
    sample: Any = getattr(bokeh_sampledata.stocks, name)
    adjustment = np.array(sample["adj_close"]) / np.array(sample["close"])
    arrays = {column: np.array(sample[column], dtype=float)[-bars:] for column in COLUMNS}
    arrays = {column: a * adjustment[-bars:] if column != "volume" else a for column, a in arrays.items()}
    return _request(name, arrays, horizon, model)


def changed(request: TrainRequest, **fields: Any) -> TrainRequest:
    """`request` with other values."""
    return msgspec.structs.replace(request, **fields)


def cut(request: TrainRequest, bars: int) -> TrainRequest:
    """`request` as it was when only its first `bars` candles had closed."""
    return changed(request, **{name: getattr(request, name)[:bars] for name in ("starts", *COLUMNS)})


def _request(symbol: str, columns: dict[str, Any], horizon: int, model: Family) -> TrainRequest:
    starts = [DAY * number for number in range(len(columns["close"]))]
    lists = {name: column.tolist() for name, column in columns.items()}
    return TrainRequest(
        symbol=symbol,
        timeframe="1D",
        horizon_bars=horizon,
        model=model,
        starts=starts,
        deadline_seconds=PATIENCE,
        **lists,
    )
