"""What the routers of generated signals and indicators share."""

from typing import Annotated

from fastapi import Path, Query

from app.core.candles import Timeframe
from app.core.schemas import PlainText
from app.signals.generated_schemas import TimeframeIn

SymbolPath = Annotated[
    PlainText,
    Path(
        max_length=32,
        description="`RELIANCE` is `RELIANCE.NS`, `NIFTY50` is `^NSEI`, `SENSEX` is `^BSESN`.",
        examples=["RELIANCE"],
    ),
]
TimeframeQuery = Annotated[
    TimeframeIn, Query(description="How long a candle is; case does not matter.", examples=[Timeframe.D1.value])
]
