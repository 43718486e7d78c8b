"""What a backtest says. No numpy."""

import msgspec


class Holding(msgspec.Struct, frozen=True):
    """Buying at the first opening and keeping it."""

    net_return_percent: float
    max_drawdown_percent: float


class Backtest(msgspec.Struct, frozen=True, kw_only=True):
    """What the rules have brought; money in the symbol's currency."""

    bars: int
    """From the first score on."""
    trades: int
    """That have ended."""
    hit_rate: float | None
    """Share of them with a gain after charges; null without any."""
    net_return_percent: float
    """Of the capital, a position that is still open at its last price."""
    gross_return_percent: float
    """The same without charges."""
    charges: float
    capital: float
    max_drawdown_percent: float
    """The deepest fall of the capital below its highest before, by closes."""
    average_trade_percent: float | None
    """Net of charges."""
    exposure: float
    """Share of the bars with a position."""
    round_trip_cost_percent: float
    """Now."""
    random_entry_percentile: float | None
    """Share of 1,000 draws of as many entries at random, with the same stops and targets, that did worse on average;
    null for fewer than five trades."""
    buy_and_hold: Holding
    segment: str | None
    """What the charges are those of; null where they are not India's."""
    note: str
