"""The reasoning of a signal as sentences that name their values. Pure, without numpy."""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from app.core.indicators import WARM_UP
from app.signals.analysed import Call, shown
from app.signals.backtest_words import Backtest


class Seen(NamedTuple):
    """The values of the last bar; None for what has none."""

    close: float
    values: Mapping[str, float | None]
    before: Mapping[str, float | None]
    """Those of the bar before."""
    obv_average: float | None
    weekly_or_daily: bool

    def known(self, *names: str) -> list[float] | None:
        """These values, if all are known."""
        found = [value for name in names if (value := self.values.get(name)) is not None]
        return found if len(found) == len(names) else None


def _trend(seen: Seen) -> str | None:
    if (found := seen.known("sma_50", "sma_200")) is None:
        return None
    short, long = found
    text = f"The close of {shown(seen.close)} is {_side(seen.close, short)} its 50-bar average ({shown(short)}), which"
    text += f" is {_side(short, long)} the 200-bar average ({shown(long)})"
    if seen.close > short > long:
        return f"{text}: an upward trend."
    return f"{text}: a downward trend." if seen.close < short < long else f"{text}: no clear trend."


def _direction(seen: Seen) -> str | None:
    if (found := seen.known("adx_14", "plus_di_14", "minus_di_14")) is None:
        return None
    strength, plus, minus = found
    which = "upward" if plus > minus else "downward"
    much = "too weak to count" if strength < 20 else "strong" if strength >= 40 else "moderate"
    return (
        f"Directional movement is {which} (+DI {plus:.1f}, -DI {minus:.1f}), and with an ADX of {strength:.1f} {much}."
    )


def _macd(seen: Seen) -> str | None:
    before = seen.before.get("macd_histogram")
    if (found := seen.known("macd", "macd_signal", "macd_histogram")) is None or before is None:
        return None
    line, signal, histogram = found
    course = "rising" if histogram > before else "falling" if histogram < before else "unchanged"
    crossed = " It has just crossed." if before * histogram < 0 else ""
    text = f"MACD ({shown(line)}) is {_side(line, signal)} its signal line ({shown(signal)}), its histogram {course}."
    return text + crossed


def _rsi(seen: Seen) -> str | None:
    if (found := seen.known("rsi_14")) is None:
        return None
    value = found[0]
    if value < 30:
        return f"RSI is {value:.1f}, under 30: oversold."
    return (
        f"RSI is {value:.1f}, over 70: overbought."
        if value > 70
        else f"RSI is {value:.1f}, neither over 70 nor under 30."
    )


def _bollinger(seen: Seen) -> str | None:
    if (found := seen.known("bollinger_lower", "bollinger_upper", "bollinger_percent_b")) is None:
        return None
    lower, upper, place = found
    where = "below the lower" if place < 0 else "above the upper" if place > 1 else "between the"
    bands = {
        "below the lower": f"Bollinger band ({shown(lower)})",
        "above the upper": f"Bollinger band ({shown(upper)})",
    }
    return f"The close is {where} {bands.get(where, f'Bollinger bands ({shown(lower)} and {shown(upper)})')}."


def _momentum(seen: Seen) -> str | None:
    if (found := seen.known("momentum_10", "roc_10", "atr_14")) is None:
        return None
    change, percent, atr = found
    ranges = f"{abs(change) / atr:.1f} average ranges of {shown(atr)}" if atr > 0 else "no range at all"
    return f"Over 10 bars the price {_moved(percent)}, which is {ranges}."


def _volume(seen: Seen) -> str | None:
    average = seen.obv_average
    if (found := seen.known("obv")) is None or average is None:
        return None
    where = _side(found[0], average)
    return f"On-balance volume ({shown(found[0])}) is {where} its 20-bar average ({shown(average)})."


def _vwap(seen: Seen) -> str | None:
    if (found := seen.known("vwap")) is None:
        return None
    return f"The close is {_side(seen.close, found[0])} the session's average price by volume ({shown(found[0])})."


SENTENCES: Final[Mapping[str, Callable[[Seen], str | None]]] = {
    "trend": _trend,
    "direction": _direction,
    "macd": _macd,
    "rsi": _rsi,
    "bollinger": _bollinger,
    "momentum": _momentum,
    "volume": _volume,
    "vwap": _vwap,
}
NOTHING: Final[Mapping[str, str]] = {
    "trend": "There are too few bars for an average of 200.",
    "rsi": "There is no RSI: too few bars, or a price that stands still.",
    "volume": "No volume is reported.",
    "vwap": "There is no average price of this session yet, or no volume is reported.",
}


def sentence(rule: str, seen: Seen) -> str:
    """What a rule sees."""
    return SENTENCES[rule](seen) or NOTHING.get(rule) or f"There are too few bars for {rule}."


def _side(one: float, other: float) -> str:
    return "above" if one > other else "below" if one < other else "at"


def _moved(percent: float) -> str:
    if not percent:
        return "did not move"
    return f"{'rose' if percent > 0 else 'fell'} by {abs(percent):.2f} %"


# The whole


class Verdict(NamedTuple):
    """What the sentences before and after the rules' are made of."""

    call: Call
    asked: Call
    score: float | None
    threshold: float
    bars: int
    edge_trades: int
    edge_percent: float | None
    cost_percent: float
    price_target: float | None
    stop_loss: float | None
    support: float | None
    resistance: float | None
    too_wide: bool = False
    """Whether stop or target would be at nothing or below."""
    shorts: bool = True
    """Whether one can sell first."""


def opening(verdict: Verdict) -> str:
    """The signal, and why it is none where the score alone would be."""
    if verdict.score is None:
        return f"HOLD: {verdict.bars:,} closed candles are too few, the indicators need {WARM_UP}, or nothing moved."
    score = f"the rules' weighted score is {verdict.score:+.0f} of 100"
    brought = f"{_trades(verdict)} brought {verdict.edge_percent or 0:.2f} % each before costs (cautiously counted)"
    cost = f"{verdict.cost_percent:.2f} %"
    if verdict.call is not Call.HOLD:
        return f"{verdict.call}: {score}, and {brought}, more than the {cost} that a round trip costs."
    if verdict.too_wide:
        return f"HOLD: {score}, but prices move so much that a stop or a target would be below nothing."
    if verdict.asked is Call.HOLD:
        return f"HOLD: {score}, and it takes {verdict.threshold:.0f} either way."
    if not verdict.edge_trades:
        return f"HOLD: {score}, but on this side the rules have no past trade here that would pay for the costs."
    return (
        f"HOLD: {score}, which asks for {verdict.asked}, but {brought}: not more than the {cost} that a round trip"
        " costs."
    )


def _trades(verdict: Verdict) -> str:
    count = verdict.edge_trades
    return f"{count} past trade{'s' if count != 1 else ''} on this side"


def levels(verdict: Verdict, atr: float | None) -> str:
    """Stop, target, and where the price has turned before."""
    parts = []
    if verdict.stop_loss is not None and verdict.price_target is not None and atr is not None:
        parts.append(
            f"From the next opening the stop is 2 and the target 3 average ranges ({shown(atr)}) away: about"
            f" {shown(verdict.stop_loss)} and {shown(verdict.price_target)}."
        )
    if verdict.call is Call.SELL and not verdict.shorts:
        parts.append("This is for whoever holds it: it cannot be sold first and kept beyond the day.")
    walls = [
        f"{name} at {shown(value)}"
        for name, value in (("support", verdict.support), ("resistance", verdict.resistance))
        if value is not None
    ]
    if walls:
        parts.append(f"Confirmed turning points: {' and '.join(walls)}.")
    return " ".join(parts)


def tested(backtest: Backtest) -> str:
    """How the rules did before."""
    if not backtest.trades:
        made = "made no trade that was expected to pay"
        if backtest.exposure:
            made = f"began one position, which is still open at {backtest.net_return_percent:+.1f} %"
        return (
            f"In {backtest.bars:,} bars these rules {made}; buying and holding brought"
            f" {backtest.buy_and_hold.net_return_percent:+.1f} %."
        )
    hits = "" if backtest.hit_rate is None else f", {100 * backtest.hit_rate:.0f} % of them with a gain"
    text = (
        f"In {backtest.bars:,} bars {backtest.trades} trades{hits} brought {backtest.net_return_percent:+.1f} % after"
        f" charges with a drawdown of {backtest.max_drawdown_percent:.1f} %; buying and holding"
        f" {backtest.buy_and_hold.net_return_percent:+.1f} % with {backtest.buy_and_hold.max_drawdown_percent:.1f} %."
    )
    if backtest.random_entry_percentile is not None:
        text += f" Entries at random did worse in {backtest.random_entry_percentile:.0f} of 100 draws."
    return text
