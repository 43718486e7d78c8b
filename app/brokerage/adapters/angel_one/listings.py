"""Angel One's instruments as listings. The file is read by `app.integrations.angel_one`, for market data and for us."""

from datetime import date
from decimal import Decimal
from typing import Final

from app.brokerage.adapters.angel_one.mapping import key_of
from app.brokerage.adapters.angel_one.words import SHARES, exchange_of, plain_symbol
from app.brokerage.words import Exchange, Listing
from app.integrations.angel_one.instruments import MasterRow

_INDEX: Final = "AMXIDX"


class ListingReader:
    """Takes rows one by one; what it finds is in `listings`."""

    def __init__(self) -> None:
        self._found: dict[tuple[Exchange, str], Listing] = {}
        self.rejected = 0
        """Rows without a tick or a lot: no order could be checked against them."""

    @property
    def listings(self) -> list[Listing]:
        """What was sound so far, one for each symbol."""
        return list(self._found.values())

    def take(self, row: MasterRow) -> None:
        """One more."""
        exchange = exchange_of(row.exchange)
        # NSE's cash segment has a series behind every share; what has none is an index by another name.
        if exchange is None or row.kind == _INDEX or (exchange is Exchange.NSE and "-" not in row.symbol):
            return
        if row.tick is None or row.lot is None:
            self.rejected += 1
            return
        made = _listing(row, exchange, Decimal(row.tick) / 100, row.lot)
        key = (exchange, made.symbol)
        # Of two series of one share `EQ` is the usual one.
        if key not in self._found or row.symbol.endswith("-EQ"):
            self._found[key] = made


def _listing(row: MasterRow, exchange: Exchange, tick: Decimal, lot: int) -> Listing:
    symbol, key = plain_symbol(row.symbol, exchange), key_of(row.symbol, row.token)
    if exchange in SHARES:
        return Listing(exchange, symbol, key, tick, lot)
    kind = "FUT" if row.kind.startswith("FUT") else row.symbol[-2:]
    strike = Decimal(row.strike) / 100 if row.strike else None
    expiry = date.fromisoformat(row.expiry) if row.expiry else None
    return Listing(exchange, symbol, key, tick, lot, kind=kind, expiry=expiry, strike=strike)
