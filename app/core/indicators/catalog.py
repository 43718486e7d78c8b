"""Which indicators there are, and what they say."""

from typing import Final, NamedTuple

WARM_UP: Final = 250
"""Bars after which the value of a recursive indicator does not depend on where the series happens to begin: an average
of 50 bars has forgotten its beginning to 0.005 %, Wilder's averages of 14 bars to a hundred-millionth."""


class Indicator(NamedTuple):
    """One column of values, a value for each bar."""

    name: str
    unit: str
    """`price`, `percent`, `index` (0 to 100), `share` or `volume`."""
    needs: int
    """Bars until it has a value."""
    meaning: str


CATALOG: Final = (
    Indicator("sma_20", "price", 20, "Average of 20 closes."),
    Indicator("sma_50", "price", 50, "Average of 50 closes."),
    Indicator("sma_200", "price", 200, "Average of 200 closes."),
    Indicator("ema_20", "price", WARM_UP, "Exponential average, 2 / 21 of which is the newest close."),
    Indicator("ema_50", "price", WARM_UP, "Exponential average, 2 / 51 of which is the newest close."),
    Indicator("rsi_14", "index", WARM_UP, "Wilder's relative strength; null where the close stood still for 14 bars."),
    Indicator("macd", "price", WARM_UP, "Exponential average of 12 closes less that of 26."),
    Indicator("macd_signal", "price", WARM_UP, "Exponential average of 9 values of `macd`."),
    Indicator("macd_histogram", "price", WARM_UP, "`macd` less `macd_signal`."),
    Indicator("bollinger_upper", "price", 20, "`sma_20` and two standard deviations of these closes."),
    Indicator("bollinger_middle", "price", 20, "`sma_20`."),
    Indicator("bollinger_lower", "price", 20, "`sma_20` less two standard deviations."),
    Indicator("bollinger_percent_b", "share", 20, "Where the close is: 0 at the lower band, 1 at the upper."),
    Indicator("atr_14", "price", WARM_UP, "Wilder's average of 14 true ranges."),
    Indicator("adx_14", "index", WARM_UP, "Wilder's strength of the trend, up or down."),
    Indicator("plus_di_14", "index", WARM_UP, "Share of upward movement in the true range."),
    Indicator("minus_di_14", "index", WARM_UP, "Share of downward movement in the true range."),
    Indicator("momentum_10", "price", 11, "The close less that of 10 bars before."),
    Indicator("roc_10", "percent", 11, "The same in per cent of the close of 10 bars before."),
    Indicator(
        "obv",
        "volume",
        1,
        "Volume of rising bars less that of falling ones since the first bar read: its course counts, not its level.",
    ),
    Indicator("vwap", "price", 1, "Average price by volume: of the session so far; of days and weeks, of 20 bars."),
)
NAMES: Final = tuple(indicator.name for indicator in CATALOG)
