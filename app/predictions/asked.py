"""What somebody wants to know, in the words by which it is told apart from everything else."""

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple

from app.core.candles import CandleSeries, Timeframe
from app.core.clock import from_micros, to_micros
from app.core.errors import InvalidInputError
from app.predictions.horizons import horizon_text
from app.predictions.ml.values import Family, TrainRequest, minimum_bars

BARS: Final = 1260
"""Candles to learn from: five years of days, fewer where there are no more."""


class Asked(NamedTuple):
    """A forecast of `symbol` by `model` over `horizon` candles of `timeframe`, from the candle that begins at `last`.

    The same question has one answer and one training, whoever asks, in whichever process. `close` is part of it: a
    candle that its provider corrected afterwards asks anew.
    """

    symbol: str
    """As the provider of candles calls it."""
    timeframe: str
    model: Family
    horizon: int
    last: datetime
    close: str
    """A digest of the last candle's close, of the digits that providers agree on."""

    @classmethod
    def of(cls, series: CandleSeries, model: Family, horizon: int) -> "Asked":
        """The question about the newest candle of `series`."""
        digest = hashlib.blake2b(f"{series.close[-1]:.6g}".encode(), digest_size=4).hexdigest()
        return cls(series.symbol, series.timeframe, model, horizon, series.start[-1], digest)

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> "Asked":
        """What `arguments` gave."""
        last = from_micros(int(arguments["last_ms"]) * 1000)
        words = (arguments["symbol"], arguments["timeframe"], arguments["model"])
        return cls(*words, int(arguments["horizon_bars"]), last, arguments["close"])

    def arguments(self) -> dict[str, Any]:
        """The same for a run of a job: what two runs have in common that must not be under way at the same time."""
        return {
            "symbol": self.symbol,
            "timeframe": self.timeframe,
            "model": self.model,
            "horizon_bars": self.horizon,
            "last_ms": to_micros(self.last) // 1000,
            "close": self.close,
        }

    @property
    def series_key(self) -> str:
        """Names what a model is trained for, whatever the newest candle."""
        return f"{self.symbol}|{self.timeframe}|{self.model}|{self.horizon}"

    @property
    def key(self) -> str:
        """Names the question."""
        return f"{self.series_key}|{to_micros(self.last) // 1000}|{self.close}"


def check_usable(series: CandleSeries, horizon: int) -> None:
    """Raise `InvalidInputError` where nothing can be learnt from `series`, before a process is troubled with it."""
    count, needed = len(series.close), minimum_bars(horizon)
    if count < needed:
        raise InvalidInputError(
            f"{series.symbol} has {count:,} closed candles of {series.timeframe}; a forecast over "
            f"{horizon_text(horizon, Timeframe(series.timeframe))} that can be judged needs {needed:,}. Ask for "
            f"{'a shorter time_horizon or ' if count >= minimum_bars(1) else ''}another timeframe."
        )
    still = sum(after == before for before, after in zip(series.close, series.close[1:], strict=False))
    if 2 * still > count:
        raise InvalidInputError(
            f"The price of {series.symbol} did not change in most of its candles of {series.timeframe}: there is "
            "nothing to learn from."
        )


def request_of(series: CandleSeries, model: Family, horizon: int, deadline_seconds: float) -> TrainRequest:
    """What a `Trainer` gets."""
    return TrainRequest(
        symbol=series.symbol,
        timeframe=series.timeframe,
        horizon_bars=horizon,
        model=model,
        starts=[int(start.timestamp()) for start in series.start],
        open=list(series.open),
        high=list(series.high),
        low=list(series.low),
        close=list(series.close),
        volume=list(series.volume),
        deadline_seconds=deadline_seconds,
    )
