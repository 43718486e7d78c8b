"""Stored predictions, newest first, and what became of those whose time has come."""

from collections import defaultdict
from typing import Any, Final

from app.core.cache import Cache
from app.core.pagination import MAX_LIMIT, Page, PageRequest, read_page
from app.predictions.rows import PredictionRows, Row
from app.predictions.scorecard import score_of
from app.predictions.service import CACHE
from app.predictions.service_ports import Symbols
from app.predictions.wire import encode

SCORECARD_SECONDS: Final = 60
_FIELDS: Final = (
    *("symbol", "seq", "timeframe", "model_used", "time_horizon", "created_at", "last_bar", "last_close", "unscored"),
    *("predicted_price", "interval", "evaluation.verdict", "predicted_return", "outcome", "look_at"),
)
_NEEDED: Final = dict.fromkeys(_FIELDS, 1)


class PredictionReading:
    """Reads what `Forecaster` stores."""

    def __init__(self, *, rows: PredictionRows, symbols: Symbols, cache: Cache, cache_seconds: int = 900) -> None:
        self._rows, self._symbols, self._cache = rows, symbols, cache
        self._seconds = min(cache_seconds, SCORECARD_SECONDS)

    async def page(
        self, symbol: str, timeframe: str | None, model: str | None, page: PageRequest, horizon_bars: int | None = None
    ) -> Page[Row]:
        """Predictions of what `symbol` means; of the likeliest meaning that has any.

        Raises `InvalidInputError` for what is no symbol; one that has no predictions has an empty page.
        """
        return (await self._found(symbol, timeframe, model, page, horizon_bars=horizon_bars))[1]

    async def scorecard(self, symbol: str, timeframe: str | None, model: str | None) -> bytes:
        """The scores of the newest predictions of `symbol` as JSON, at most a minute old; raises as `page` does."""

        async def make() -> bytes:
            name, found = await self._found(symbol, timeframe, model, PageRequest(MAX_LIMIT), _NEEDED)
            groups: dict[tuple[str, ...], list[Row]] = defaultdict(list)
            for row in found.rows:
                groups[row["timeframe"], row["model_used"], row["time_horizon"]].append(row)
            scores = [score_of(rows) for rows in groups.values()]
            return encode({"symbol": name, "considered": len(found.rows), "scores": scores})

        names = self._symbols.names(symbol)
        return await self._cache.get_or_make(CACHE, f"scorecard:{names[0]}:{timeframe}:{model}", self._seconds, make)

    async def _found(
        self,
        symbol: str,
        timeframe: str | None,
        model: str | None,
        page: PageRequest,
        projection: dict[str, int] | None = None,
        *,
        horizon_bars: int | None = None,
    ) -> tuple[str, Page[Row]]:
        names = self._symbols.names(symbol)
        for name in names:
            equality: dict[str, Any] = {"symbol": name}
            equality |= {"timeframe": str(timeframe)} if timeframe else {}
            equality |= {"model_used": str(model)} if model else {}
            equality |= {"horizon_bars": horizon_bars} if horizon_bars else {}
            found = await read_page(self._rows.newest(equality, page, projection), page)
            if found.rows:
                return name, found
        return names[0], Page([], None)
