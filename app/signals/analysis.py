"""From a series of candles to a signal with all its reasons. Pure, and heavy: needs numpy and TA-Lib, runs in a thread.

Every step uses the bars up to its own alone, so that a longer history says the same of each bar of a shorter one.
"""

from collections.abc import Mapping
from datetime import UTC, date
from typing import Final

import numpy as np
from numpy.typing import NDArray

from app.core.candles import CandleSeries, Timeframe
from app.core.charges import ChargeEngine
from app.core.indicators import sessions_of
from app.core.indicators.compute import Columns, Floats, Values, columns, compute
from app.core.market_calendar import IST
from app.signals.analysed import THRESHOLD, Analysis, Call, ChartTrade, RuleReason, neat, priced
from app.signals.backtest import Ran, Setting, run
from app.signals.costs import Costs, Terms, terms_of
from app.signals.exits import Exits, exits
from app.signals.levels import STOP_ATR, TARGET_ATR, walls
from app.signals.positions import Edge, Record, positions, worthwhile
from app.signals.rules import INDICATORS, Rule, obv_average, views
from app.signals.scoring import Sides, scores, wanted
from app.signals.sentences import Seen, Verdict, levels, opening, sentence, tested

_CALLS: Final = {1: Call.BUY, -1: Call.SELL, 0: Call.HOLD}


class Track:
    """What the rules say of every bar of a series, and what came of it."""

    def __init__(self, series: CandleSeries, engine: ChargeEngine) -> None:
        self.timeframe = Timeframe(series.timeframe)
        self.bars = columns_of(series)
        self.days = days_of(series, self.timeframe)
        self.terms: Terms = terms_of(series.symbol, self.timeframe, series.currency)
        self.values: Values = compute(self.bars, INDICATORS)
        self.views: Mapping[Rule, Floats] = views(self.bars, self.values)
        self.score = scores(self.views)
        # Without a range there is neither stop nor target.
        self.score[~np.isfinite(self.values["atr_14"])] = np.nan
        asked = wanted(self.score)
        self.asked: Sides = np.where(_fits(self.bars.close, self.values["atr_14"], asked), asked, 0).astype(np.int8)
        self.too_wide = asked != self.asked
        """Where stop or target would be at nothing or below."""
        self.costs = Costs(engine, self.terms)
        self.holding = Costs(engine, self.terms.holding)
        both = {side: self._exits(side) for side in (1, -1)}
        # What both sides have brought is known even where one of them cannot be traded.
        self._all = positions(self.bars, self.asked, both)
        self.sides: Sides = worthwhile(self.asked, Record(self._all, self.costs), self.days)
        self._exits_traded = both if self.terms.shorts else {1: both[1]}

    def _exits(self, side: int) -> Exits:
        return exits(self.bars, self.values["atr_14"], side, overnight=self.terms.overnight)

    def edge(self) -> Edge:
        """Of what the last bar asks for."""
        last = len(self.bars) - 1
        record = Record(self._all, self.costs)
        return record.edge(int(self.asked[last]) or 1, last, self.days[last])

    def tested(self) -> Ran:
        """The backtest."""
        scored = np.flatnonzero(np.isfinite(self.score))
        first = int(scored[0]) if len(scored) else len(self.bars) - 1
        setting = Setting(self.bars, self.days, first, self.costs, self.holding)
        trades = positions(self.bars, self.sides, self._exits_traded)
        segment = None if self.terms.segment is None else self.terms.segment.value
        return run(setting, trades, self._exits_traded, segment, self.terms.note)


def _fits(close: Floats, atr: Floats, sides: Sides) -> NDArray[np.bool_]:
    """Whether the level below the price, a BUY's stop or a SELL's target, is a price at all."""
    below = np.where(sides > 0, STOP_ATR, TARGET_ATR) * atr
    fits: NDArray[np.bool_] = (sides == 0) | (below < close)
    return fits


def columns_of(series: CandleSeries) -> Columns:
    """The candles as columns; intraday with the sessions that they belong to."""
    intraday = Timeframe(series.timeframe).intraday
    session = sessions_of(series.start) if intraday else None
    return columns(series.open, series.high, series.low, series.close, series.volume, session)


def days_of(series: CandleSeries, timeframe: Timeframe) -> list[date]:
    """The day of each candle: charges go by it."""
    zone = IST if timeframe.intraday else UTC
    return [start.astimezone(zone).date() for start in series.start]


def analyse(series: CandleSeries, engine: ChargeEngine) -> Analysis:
    """What `series` says at the close of its last candle. Raises `ValueError` for a series without candles."""
    if not series.close:
        raise ValueError("there is no candle")
    track = Track(series, engine)
    last = len(track.bars) - 1
    close, atr = float(track.bars.close[last]), _known(track.values["atr_14"], last)
    asked, side = int(track.asked[last]), int(track.sides[last])
    score = _known(track.score, last)
    edge, ran, wall = track.edge(), track.tested(), walls(track.bars)
    stop, target = _distances(atr) if side else (None, None)
    verdict = Verdict(
        call=_CALLS[side],
        asked=_CALLS[asked],
        score=score,
        threshold=THRESHOLD,
        bars=last + 1,
        edge_trades=edge.trades,
        edge_percent=edge.percent,
        cost_percent=edge.cost,
        price_target=None if target is None else priced(close + side * target),
        stop_loss=None if stop is None else priced(close - side * stop),
        support=None if wall.support is None else priced(wall.support),
        resistance=None if wall.resistance is None else priced(wall.resistance),
        too_wide=bool(track.too_wide[last]),
        shorts=track.terms.shorts,
    )
    reasons = _reasons(track, last)
    said = [reason.text for reason in sorted(reasons, key=_weight) if reason.score]
    parts = [opening(verdict), *said, levels(verdict, atr), tested(ran.backtest)]
    return _analysis(track, verdict, ran, edge, reasons, " ".join(filter(None, parts)))


def _analysis(
    track: Track, verdict: Verdict, ran: Ran, edge: Edge, reasons: list[RuleReason], reasoning: str
) -> Analysis:
    last = len(track.bars) - 1
    stop, target = _distances(_known(track.values["atr_14"], last)) if verdict.call is not Call.HOLD else (None, None)
    values = {name: _known(column, last) for name, column in track.values.items()}
    return Analysis(
        bars=last + 1,
        close=neat(float(track.bars.close[last])),
        call=verdict.call,
        score=None if verdict.score is None else round(verdict.score, 2),
        asked=verdict.asked,
        price_target=verdict.price_target,
        stop_loss=verdict.stop_loss,
        target_distance=None if target is None else neat(target, 8),
        stop_distance=None if stop is None else neat(stop, 8),
        support_level=verdict.support,
        resistance_level=verdict.resistance,
        edge_trades=edge.trades,
        edge_percent=None if verdict.asked is Call.HOLD else round(edge.percent, 4),
        cost_percent=round(edge.cost, 4),
        reasons=reasons,
        headline=opening(verdict),
        reasoning=reasoning,
        indicators={name: None if value is None else neat(value) for name, value in values.items()},
        backtest=ran.backtest,
        course_first=ran.course.first,
        course=_rounded(ran.course.rules),
        held_course=_rounded(ran.course.held),
        scores=[None if value != value else round(value, 2) for value in track.score.tolist()],
        trades=[
            ChartTrade(
                trade.signal + 1,
                trade.end,
                trade.side,
                neat(trade.entry),
                neat(trade.exit),
                trade.reason.name.lower(),
                round(trade.gross - ran.backtest.round_trip_cost_percent, 4),
            )
            for trade in ran.trades
        ],
    )


def _weight(reason: RuleReason) -> float:
    """What counts most comes first."""
    return -reason.weight * abs(reason.score or 0.0)


def _reasons(track: Track, last: int) -> list[RuleReason]:
    obv = track.values["obv"]
    seen = Seen(
        float(track.bars.close[last]),
        {name: _known(column, last) for name, column in track.values.items()},
        {name: _known(column, last - 1) if last else None for name, column in track.values.items()},
        _number(obv_average(obv)),
        track.bars.session is None,
    )
    return [
        RuleReason(rule.name, rule.weight, _rounded_or_none(_known(said, last)), sentence(rule.name, seen))
        for rule, said in track.views.items()
    ]


def _distances(atr: float | None) -> tuple[float | None, float | None]:
    return (None, None) if atr is None else (STOP_ATR * atr, TARGET_ATR * atr)


def _known(column: Floats, place: int) -> float | None:
    return _number(float(column[place]))


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _rounded_or_none(value: float | None) -> float | None:
    return None if value is None else round(value, 4) + 0.0


def _rounded(values: Floats) -> list[float]:
    return [round(value, 4) for value in values.tolist()]
