"""Settings of generated signals."""

from typing import Annotated, Any

from pydantic import field_validator
from pydantic_settings import BaseSettings, NoDecode

from app.core.candles import TIMEFRAMES, Timeframe
from app.core.settings.values import split


class SignalSettings(BaseSettings):
    """Part of `Settings`."""

    signals_timeframes: Annotated[list[Timeframe], NoDecode] = [Timeframe.M15, Timeframe.H1, Timeframe.D1]
    """Candles at whose close signals are made for what is followed; none: only on request."""

    @field_validator("signals_timeframes", mode="before")
    @classmethod
    def _timeframes(cls, value: Any) -> Any:
        try:
            return list(dict.fromkeys(Timeframe(each) for each in split(value)))
        except (TypeError, ValueError):
            raise ValueError(f"must be of {', '.join(TIMEFRAMES)}, as JSON or comma-separated") from None
