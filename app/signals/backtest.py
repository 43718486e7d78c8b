"""What following the rules would have brought on the same candles, net of charges, beside holding. Needs numpy."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Final, NamedTuple

import numpy as np

from app.core.indicators.compute import Columns, Floats
from app.signals.backtest_words import Backtest, Holding
from app.signals.costs import CAPITAL, Costs
from app.signals.exits import Exits
from app.signals.positions import Trade

DRAWS: Final = 1000
_SEED: Final = 20_261_122
FEW: Final = 5
"""Trades under which a comparison with chance says nothing."""


class Course(NamedTuple):
    """The capital at each bar's close, from `first` on, in per cent of what it was."""

    first: int
    rules: Floats
    held: Floats


class Ran(NamedTuple):
    """A backtest and what it consists of."""

    backtest: Backtest
    course: Course
    trades: list[Trade]


class Setting(NamedTuple):
    """What a backtest is run on."""

    bars: Columns
    days: Sequence[date]
    first: int
    """The first bar with a score."""
    costs: Costs
    holding: Costs
    """Of somebody who keeps what they bought."""


def run(setting: Setting, trades: Sequence[Trade], exits: Mapping[int, Exits], segment: str | None, note: str) -> Ran:
    """Put the capital into one trade after another."""
    bars, first, days = setting.bars, setting.first, setting.days
    count = len(bars)
    money, free = np.full(count, CAPITAL), CAPITAL
    gross = charged = 0.0
    nets: list[float] = []
    held_bars = 0
    done: list[Trade] = []
    for trade in trades:
        begin = trade.signal + 1
        quantity = int(free // trade.entry)
        if quantity < 1:
            break
        made = trade.side * quantity * (trade.exit - trade.entry)
        money[begin : trade.end] = free + trade.side * quantity * (bars.close[begin : trade.end] - trade.entry)
        cost = 0.0
        if trade.ended:
            cost = setting.costs.round_trip(
                trade.side, quantity, (trade.entry, days[begin]), (trade.exit, days[trade.end])
            )
            nets.append(100 * (made - cost) / (quantity * trade.entry))
        free, gross, charged = free + made - cost, gross + made, charged + cost
        money[trade.end :] = free
        held_bars += trade.end - begin + 1
        done.append(trade)
    held = _held(setting)
    spent = max(count - first, 1)
    backtest = Backtest(
        bars=count - first,
        trades=len(nets),
        hit_rate=round(sum(net > 0 for net in nets) / len(nets), 4) if nets else None,
        net_return_percent=_percent(float(money[-1]) / CAPITAL * 100 - 100),
        gross_return_percent=_percent(100 * gross / CAPITAL),
        charges=round(charged, 2),
        capital=CAPITAL,
        max_drawdown_percent=_drawdown(money[first:]),
        average_trade_percent=_percent(sum(nets) / len(nets)) if nets else None,
        exposure=round(min(held_bars / spent, 1.0), 4),
        round_trip_cost_percent=round(setting.costs.percent(days[-1]), 4) if count else 0.0,
        random_entry_percentile=_percentile(bars, first, done, exits),
        buy_and_hold=Holding(_percent(float(held[-1]) / CAPITAL * 100 - 100), _drawdown(held)),
        segment=segment,
        note=note,
    )
    return Ran(backtest, Course(first, money[first:] / CAPITAL * 100 - 100, held / CAPITAL * 100 - 100), done)


def _percent(value: float) -> float:
    return round(value, 4) + 0.0


def _held(setting: Setting) -> Floats:
    """The capital of somebody who buys at the opening after the first score, and sells at the last close."""
    bars, first, days = setting.bars, setting.first, setting.days
    money = np.full(max(len(bars) - first, 1), CAPITAL)
    if len(bars) - first < 2:
        return money
    entry, last = float(bars.open[first + 1]), float(bars.close[-1])
    quantity = int(CAPITAL // entry)
    if quantity:
        money[1:] += quantity * (bars.close[first + 1 :] - entry)
        money[-1] -= setting.holding.round_trip(1, quantity, (entry, days[first + 1]), (last, days[-1]))
    return money


def _drawdown(money: Floats) -> float:
    peak = np.maximum.accumulate(np.maximum(money, 1e-9))
    return round(float((1 - money / peak).max()) * 100, 4) + 0.0


def _percentile(bars: Columns, first: int, trades: Sequence[Trade], exits: Mapping[int, Exits]) -> float | None:
    """Costs are left out: as many trades pay as much, wherever they begin."""
    ended = [trade for trade in trades if trade.ended]
    if len(ended) < FEW:
        return None
    chance = np.random.default_rng(_SEED)
    total = np.zeros(DRAWS)
    for side, found in exits.items():
        count = sum(trade.side == side for trade in ended)
        places = np.flatnonzero(found.at >= 0)
        places = places[places >= first]
        if count and not len(places):
            return None
        if count:
            entry = bars.open[places + 1]
            results = 100 * side * (found.price[places] / entry - 1)
            total += chance.choice(results, (DRAWS, count)).sum(axis=1)
    own = sum(trade.gross for trade in ended)
    worse = float((total < own).mean() + (total == own).mean() / 2)
    return round(100 * worse, 1)
