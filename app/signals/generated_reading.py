"""Stored signals of the rules, newest first."""

from datetime import UTC, datetime
from typing import Any, Final

from bson import ObjectId

from app.core.candles import Timeframe
from app.core.clock import Clock
from app.core.pagination import Page, PageRequest, newest_first, read_page
from app.signals.generated_models import TradingSignalDocument
from app.signals.generated_ports import SymbolNames
from app.signals.generated_wire import Row

_FIRST: Final = ObjectId.from_datetime(datetime(2026, 11, 1, tzinfo=UTC))
"""Before there was this feature: where lists end."""


class GeneratedSignals:
    """Reads what `SignalGenerator` stores."""

    def __init__(self, *, names: SymbolNames, clock: Clock) -> None:
        self._names, self._clock = names, clock

    async def page(self, symbol: str, timeframe: Timeframe | None, page: PageRequest) -> Page[Row]:
        """Signals of what `symbol` means; of the likeliest meaning that has any.

        Raises `InvalidInputError` for what is no symbol; one that has no signals has an empty page.
        """
        found: Page[Row] = Page([], None)
        for name in self._names(symbol):
            equality: dict[str, Any] = {"symbol": name}
            if timeframe is not None:
                equality["timeframe"] = timeframe.value
            rows = TradingSignalDocument.get_pymongo_collection()
            found = await read_page(newest_first(rows, equality, page=page, account=_FIRST, clock=self._clock), page)
            if found.rows:
                break
        return found
