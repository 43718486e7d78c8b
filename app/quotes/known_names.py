"""What names without an exchange were found to mean: `AAPL` is no share of NSE's. Never for long, and never against
what is stored: on a bad day an answer may lack what there is, and the other company's price is in another currency."""

from typing import Final

import structlog
from cachetools import TTLCache
from pymongo.errors import PyMongoError

from app.core.clock import Clock
from app.quotes.errors import NoSuchSymbolError, SourceError
from app.quotes.naming import elsewhere
from app.quotes.ports import Symbol
from app.quotes.store import CandleStore

log = structlog.get_logger(__name__)

BELIEVED_SECONDS: Final = 600
_MOST: Final = 10_000


class KnownNames:
    """Remembers, for one process."""

    def __init__(self, store: CandleStore, clock: Clock) -> None:
        self._store = store
        self._found: TTLCache[str, Symbol] = TTLCache(_MOST, BELIEVED_SECONDS, timer=clock.monotonic)

    def meant(self, symbol: Symbol) -> Symbol:
        """What was found lately, or `symbol` itself."""
        return self._found.get(symbol.name, symbol)

    def found(self, symbol: Symbol, other: Symbol) -> None:
        """It means `other`."""
        self._found[symbol.name] = other

    async def otherwise(self, symbol: Symbol, error: SourceError) -> Symbol | None:
        """What else to try after `error`: nothing for what was ever known by its first meaning, and when no provider
        answers only what was ever known by its second one."""
        other = elsewhere(symbol)
        if other is None:
            return None
        try:
            if await self._store.knows(symbol.name):
                return None
            return other if isinstance(error, NoSuchSymbolError) or await self._store.knows(other.name) else None
        except PyMongoError as failure:
            log.warning("known names cannot be read", error=type(failure).__name__)
            return None
