"""Analyses of symbols, one calculation for whoever asks while the last candle is the same."""

import asyncio
import hashlib
from typing import Final, NamedTuple

import msgspec

from app.core.cache import Cache
from app.core.candles import CandleHistory, CandleSeries
from app.core.charges import ChargeEngine
from app.core.clock import to_micros
from app.core.errors import NotFoundError
from app.signals.analysed import RULES_VERSION, Analysis

GROUP: Final = "signals"
CACHE_SECONDS: Final = 600
BARS: Final = 1500
"""Candles of an analysis: five years of days and the warm-up; fewer where there are no more."""
AT_ONCE: Final = 2
"""Calculations at one time: each keeps a core busy for some 20 ms, and a thread of the pool that others need too."""

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Analysis).decode


class Analysed(NamedTuple):
    """An analysis and the candles that it is of."""

    key: str
    series: CandleSeries
    analysis: Analysis


class Analyses:
    """Makes and keeps them."""

    def __init__(self, *, candles: CandleHistory, charges: ChargeEngine, cache: Cache) -> None:
        self._candles, self._charges, self._cache = candles, charges, cache
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def series(self, symbol: str, timeframe: str) -> CandleSeries:
        """The closed candles that an analysis is made of. Raises what `CandleHistory` raises, and `NotFoundError` where
        no candle is closed yet."""
        series = await self._candles.candles(symbol, timeframe, BARS)
        if not series.close:
            raise NotFoundError(f"There is no closed candle of {series.symbol} yet.")
        return series

    async def of(self, series: CandleSeries) -> Analysed:
        """The analysis of what `series` gave."""
        key = key_of(series)

        async def make() -> bytes:
            async with self._turns:
                return await asyncio.to_thread(_analysed, series, self._charges)

        kept = await self._cache.get_or_make(GROUP, f"analysis:{key}:{len(series.close)}", CACHE_SECONDS, make)
        return Analysed(key, series, _decode(kept))


def _analysed(series: CandleSeries, charges: ChargeEngine) -> bytes:
    # numpy and TA-Lib come with the first signal that somebody wants, here in the thread.
    from app.signals.analysis import analyse

    return _encode(analyse(series, charges))


def key_of(series: CandleSeries) -> str:
    """Names the last candle, what it says, and the rules: a candle that was corrected has another."""
    last = (series.open[-1], series.high[-1], series.low[-1], series.close[-1])
    digest = hashlib.blake2b(repr([float(f"{price:.6g}") for price in last]).encode(), digest_size=4).hexdigest()
    micros = to_micros(series.start[-1])
    # The newest closes are the same with and without adjustments; what was before a split is not.
    kind = "" if series.adjusted else "|unadjusted"
    return f"{series.symbol}|{series.timeframe}|{micros // 1000}|{digest}|{RULES_VERSION}{kind}"
