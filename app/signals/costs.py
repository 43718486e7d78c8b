"""What following a signal costs, by what is traded where; and what can be done there at all."""

from datetime import date
from decimal import Decimal
from typing import Final, NamedTuple

from app.core.candles import Timeframe
from app.core.charges import ChargeEngine, Exchange, Segment, Side, TradeForCharges

CAPITAL: Final = 1_000_000.0
"""What a backtest begins with, and the size of a trade by which costs are judged; in the symbol's currency."""
ASSUMED_PERCENT: Final = 0.1
"""A side, where the charges are not India's."""
_LEAST: Final = Decimal("0.0001")
_PRICE: Final = 1000.0


class Terms(NamedTuple):
    """How a symbol is traded in a backtest."""

    segment: Segment | None
    """None: not in India."""
    exchange: Exchange | None
    shorts: bool
    """Whether one can sell first."""
    overnight: bool
    """Whether a position outlasts the session."""
    note: str

    @property
    def holding(self) -> "Terms":
        """For somebody who buys and keeps."""
        return self._replace(segment=Segment.DELIVERY) if self.segment is Segment.INTRADAY else self


def terms_of(symbol: str, timeframe: Timeframe, currency: str | None) -> Terms:
    """The terms of a symbol as the provider calls it: `RELIANCE.NS`, `^NSEI`."""
    intraday = timeframe.intraday
    if symbol.endswith((".NS", ".BO")):
        exchange = Exchange.BSE if symbol.endswith(".BO") else Exchange.NSE
        if intraday:
            note = "Intraday on either side, closed before the session ends; no brokerage, no slippage."
            return Terms(Segment.INTRADAY, exchange, shorts=True, overnight=False, note=note)
        note = "Delivery: bought, and sold again, never sold first; no brokerage, no slippage."
        return Terms(Segment.DELIVERY, exchange, shorts=False, overnight=True, note=note)
    if symbol.startswith("^") and currency == "INR":
        exchange = Exchange.BSE if symbol == "^BSESN" else Exchange.NSE
        note = "As a future at the index's own price, on either side, in any quantity; no brokerage, no slippage."
        return Terms(Segment.FUTURES, exchange, shorts=True, overnight=not intraday, note=note)
    note = f"Not traded in India: {ASSUMED_PERCENT:g} % a side is assumed for costs; never sold first."
    return Terms(None, None, shorts=False, overnight=True, note=note)


class Costs:
    """The costs of positions on the same terms; remembers, so it is for one calculation."""

    def __init__(self, engine: ChargeEngine, terms: Terms) -> None:
        self._engine, self._terms = engine, terms
        self._percent: dict[date, float] = {}

    def round_trip(self, side: int, quantity: int, entry: tuple[float, date], exit_: tuple[float, date]) -> float:
        """What beginning and ending a position costs, in money; prices with their days."""
        terms = self._terms
        if terms.segment is None or terms.exchange is None:
            return quantity * (entry[0] + exit_[0]) * ASSUMED_PERCENT / 100
        first = TradeForCharges(
            terms.exchange, terms.segment, Side.BUY if side > 0 else Side.SELL, quantity, _exact(entry[0]), entry[1]
        )
        return float(self._engine.round_trip(first, _exact(exit_[0]), exit_[1]).charges.total)

    def percent(self, day: date) -> float:
        """The costs of a position of `CAPITAL` that ends where it began, in per cent of it; by the month's first day.

        Shares of a price, so the price does not matter.
        """
        month = day.replace(day=1)
        if month not in self._percent:
            cost = self.round_trip(1, int(CAPITAL // _PRICE), (_PRICE, month), (_PRICE, month))
            self._percent[month] = 100 * cost / CAPITAL
        return self._percent[month]


def _exact(price: float) -> Decimal:
    return max(Decimal(repr(round(price, 4))), _LEAST)
