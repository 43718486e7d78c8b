"""Makes signals by the rules: on request, and at the close of candles. One for each last candle, whoever asks."""

from datetime import timedelta
from typing import Any, Final, NamedTuple

import msgspec
from beanie import PydanticObjectId
from pymongo.errors import DuplicateKeyError

from app.core.bus import Bus
from app.core.cache import Cache
from app.core.candles import CandleSeries
from app.core.clock import Clock, Sequence
from app.core.events import SignalMade
from app.signals.analysed import Analysis
from app.signals.analyses import CACHE_SECONDS, GROUP, Analyses, key_of
from app.signals.generated_models import TradingSignalDocument
from app.signals.generated_wire import Row, signal_json

KEPT: Final = {"1m": timedelta(days=30), "5m": timedelta(days=60), "15m": timedelta(days=90), "1H": timedelta(days=400)}
"""How long stored signals of less than a day are kept; those of days and weeks stay."""


class Made(NamedTuple):
    """A signal, and whether it is new."""

    body: bytes
    """JSON."""
    new: bool


class SignalGenerator:
    """Answers from the cache for ten minutes, then from what is stored; what is new is calculated, stored and told."""

    def __init__(self, *, analyses: Analyses, cache: Cache, bus: Bus, clock: Clock, sequence: Sequence) -> None:
        self._analyses, self._cache = analyses, cache
        self._bus, self._clock, self._sequence = bus, clock, sequence

    async def generate(self, symbol: str, timeframe: str) -> bytes:
        """The signal of the newest closed candle as JSON.

        Raises `NotFoundError` for an unknown symbol or one without candles, `InvalidInputError` for what is none, and
        `UnavailableError` where there are no candles to be had.
        """
        return (await self.of(await self._analyses.series(symbol, timeframe))).body

    async def of(self, series: CandleSeries) -> Made:
        """The same of candles that are at hand."""
        key = key_of(series)
        new = False

        async def make() -> bytes:
            nonlocal new
            row = await _stored(key)
            if row is None:
                row, new = await self._make(key, series)
            return signal_json(row)

        return Made(await self._cache.get_or_make(GROUP, f"made:{key}", CACHE_SECONDS, make), new)

    async def _make(self, key: str, series: CandleSeries) -> tuple[Row, bool]:
        analysed = await self._analyses.of(series)
        row = self._row(key, series, analysed.analysis)
        try:
            await TradingSignalDocument.get_pymongo_collection().insert_one(row)
        except DuplicateKeyError:
            # Another process was faster.
            stored = await _stored(key)
            if stored is None:
                raise
            return stored, False
        self._bus.announce(
            SignalMade(
                symbol=row["symbol"],
                timeframe=row["timeframe"],
                seq=row["seq"],
                body=signal_json(row, kind="generated"),
            )
        )
        return row, True

    def _row(self, key: str, series: CandleSeries, analysis: Analysis) -> Row:
        levels = {
            name: value
            for name in ("price_target", "stop_loss", "support_level", "resistance_level")
            if (value := getattr(analysis, name)) is not None
        }
        rest: dict[str, Any] = {
            "score": analysis.score,
            "price": analysis.close,
            "target_distance": analysis.target_distance,
            "stop_distance": analysis.stop_distance,
            "rules": msgspec.to_builtins(analysis.reasons),
            "indicators": analysis.indicators,
            "expected_edge_percent": analysis.edge_percent,
            "round_trip_cost_percent": analysis.cost_percent,
            "backtest": msgspec.to_builtins(analysis.backtest),
            "candles": analysis.bars,
            "currency": series.currency,
            "source": series.source,
            "stale": series.stale,
            "adjusted": series.adjusted,
        }
        return {
            "_id": PydanticObjectId(),
            "schema_version": 1,
            "key": key,
            "seq": self._sequence.next(),
            "symbol": series.symbol,
            "timeframe": series.timeframe,
            "signal_type": analysis.call.value,
            "strength": abs(analysis.score or 0.0),
            **levels,
            "reasoning": analysis.reasoning,
            "candle_start": series.start[-1],
            "analysis": rest,
            "created_at": self._clock.now(),
        }

    async def expire(self) -> dict[str, int]:
        """Delete stored signals of minutes and hours that are too old to be of use. For a job."""
        rows, now = TradingSignalDocument.get_pymongo_collection(), self._clock.now()
        deleted = 0
        for timeframe, kept in KEPT.items():
            match = {"timeframe": timeframe, "created_at": {"$lt": now - kept}}
            deleted += (await rows.delete_many(match)).deleted_count
        return {"deleted": deleted}


async def _stored(key: str) -> Row | None:
    row: Row | None = await TradingSignalDocument.get_pymongo_collection().find_one({"key": key})
    return row
