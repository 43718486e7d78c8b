"""The rules on candles: no look-ahead, costs, what is planted and what is chance, and the books of the backtest."""

import math
import statistics
import subprocess
import sys
from datetime import date
from decimal import Decimal

import numpy as np
import pytest

from app.core.candles import CandleSeries, Timeframe
from app.core.charges import Exchange, Segment, Side, TradeForCharges
from app.signals.analysed import Call, shown
from app.signals.analysis import Track, analyse
from app.signals.backtest import CAPITAL
from app.signals.costs import terms_of
from app.signals.positions import Edge, Record
from app.signals.rules import RULES
from tests.signals.generated.kit import ENGINE, Candle, days, quarters, real, series, walk


def cut(whole: CandleSeries, end: int) -> CandleSeries:
    return whole._replace(
        **{name: getattr(whole, name)[:end] for name in ("start", "open", "high", "low", "close", "volume")}
    )


LONG = {
    "delivery": series(real("AAPL", 1200)),
    "index": series(real("MSFT", 1200), "^NSEI"),
    "intraday": series(walk(quarters(1200), keep=0.002), timeframe="15m"),
}


def recorded(track: Track, side: int, place: int) -> Edge:
    """What had been brought until the bar `place`."""
    return Record(track._all, track.costs).edge(side, place, track.days[place])


@pytest.mark.parametrize("kind", LONG)
def test_a_longer_history_says_the_same_of_each_bar(kind: str):
    whole = LONG[kind]
    track = Track(whole, ENGINE)
    ended = [trade.end + shift for trade in track._all[::7] for shift in (0, 1)]
    ends = [*range(300, 1200, 90), *ended, *[1 + int(place) for place in np.flatnonzero(np.diff(track.sides))[::9]]]
    for end in ends:
        part = Track(cut(whole, end), ENGINE)
        np.testing.assert_array_equal(part.score, track.score[:end])
        np.testing.assert_array_equal(part.asked, track.asked[:end])
        np.testing.assert_array_equal(part.sides, track.sides[:end])
        for rule, said in part.views.items():
            np.testing.assert_array_equal(said, track.views[rule][:end], rule.name)
        for side in (1, -1):
            assert recorded(part, side, end - 1) == recorded(track, side, end - 1), end
    assert len({*track.sides.tolist()}) > 1, "there has to be something to see"


def test_a_bar_of_the_future_changes_nothing_that_was_said():
    whole = LONG["index"]
    crash = [*whole.close[:1000], *[price / 10 for price in whole.close[1000:]]]
    low = [min(one, other) for one, other in zip(whole.low, crash, strict=True)]
    changed = Track(whole._replace(close=tuple(crash), low=tuple(low)), ENGINE)
    np.testing.assert_array_equal(changed.sides[:1000], Track(whole, ENGINE).sides[:1000])


def test_the_score_is_the_weighted_average_of_what_the_rules_say():
    track = Track(LONG["intraday"], ENGINE)
    said = {rule: column[-1] for rule, column in track.views.items()}
    assert set(said) == set(RULES)
    known = {rule: value for rule, value in said.items() if math.isfinite(value)}
    wanted = 100 * sum(rule.weight * value for rule, value in known.items()) / sum(rule.weight for rule in known)
    assert track.score[-1] == pytest.approx(wanted)
    for rule, column in track.views.items():
        assert np.nanmin(column) >= -1, rule
        assert np.nanmax(column) <= 1, rule


def by_hand(track: Track, place: int) -> dict[str, float]:
    """The rules once more, for one bar."""
    value = {name: float(column[place]) for name, column in track.values.items()}
    before = float(track.values["macd_histogram"][place - 1])
    close = float(track.bars.close[place])

    def sign(number: float) -> float:
        return float((number > 0) - (number < 0))

    side = sign(close - value["sma_200"])
    ordered = sign(close - value["sma_50"]) == sign(value["sma_50"] - value["sma_200"]) == side
    strength = min(max((value["adx_14"] - 20) / 20, 0), 1)
    rsi, band = value["rsi_14"], value["bollinger_percent_b"]
    obv = track.values["obv"][place - 19 : place + 1]
    return {
        "trend": side if ordered else side / 2,
        "direction": sign(value["plus_di_14"] - value["minus_di_14"]) * strength,
        "macd": 0.6 * sign(value["macd_histogram"]) + 0.4 * sign(value["macd_histogram"] - before),
        "rsi": min(max((30 - rsi) / 10, 0), 1) - min(max((rsi - 70) / 10, 0), 1),
        "bollinger": min(max(-4 * band, 0), 1) - min(max(4 * (band - 1), 0), 1),
        "momentum": min(max(value["momentum_10"] / (2 * value["atr_14"]), -1), 1),
        "volume": sign(float(obv[-1]) - statistics.fmean(obv.tolist())),
        "vwap": min(max((close - value["vwap"]) / value["atr_14"], -1), 1),
    }


@pytest.mark.parametrize("kind", ["index", "intraday"])
def test_rules_say_what_they_say_by_hand(kind: str):
    track = Track(LONG[kind], ENGINE)
    for place in range(260, 1200, 47):
        wanted = by_hand(track, place)
        for rule, column in track.views.items():
            assert column[place] == pytest.approx(wanted[rule.name], abs=1e-9, nan_ok=True), (rule.name, place)


# What it says


def test_a_trend_that_lasts_is_found_and_pays():
    found = analyse(LONG["intraday"], ENGINE)
    test = found.backtest
    assert test.segment == "intraday"
    assert test.trades > 30
    assert test.net_return_percent > test.buy_and_hold.net_return_percent + 50
    assert (test.hit_rate or 0) > 0.55
    assert (test.random_entry_percentile or 0) > 99
    calls = {Track(cut(LONG["intraday"], end), ENGINE).sides[-1].item() for end in range(600, 1200, 25)}
    assert {1, -1} <= calls


def test_chance_is_told_from_skill():
    percentiles, calls = [], []
    for seed in range(14):
        found = analyse(series(walk(days(900), seed=seed), "^NSEI"), ENGINE)
        if found.backtest.random_entry_percentile is not None:
            percentiles.append(found.backtest.random_entry_percentile)
        calls.append(found.call)
    assert len(percentiles) > 6
    assert 15 < statistics.fmean(percentiles) < 85
    assert sum(percentile > 97.5 for percentile in percentiles) <= 2


def test_a_signal_that_would_not_pay_for_its_costs_is_none():
    whole = LONG["delivery"]
    track = Track(whole, ENGINE)
    seen = set()
    for place in np.flatnonzero(track.asked).tolist():
        edge = recorded(track, int(track.asked[place]), place)
        assert bool(track.sides[place]) is (edge.percent > edge.cost)
        seen.add((edge.percent > 0, edge.percent > edge.cost))
    assert seen == {(False, False), (True, False), (True, True)}
    for end in (1 + int(place) for place in np.flatnonzero(track.asked)[::40]):
        found = analyse(cut(whole, end), ENGINE)
        assert (found.call is Call.HOLD) is ((found.edge_percent or 0) <= found.cost_percent)
        if found.call is Call.HOLD:
            assert found.price_target is found.stop_loss is found.stop_distance is None
            assert found.headline.startswith("HOLD: ")
            assert "costs" in found.headline


def test_the_edge_is_the_mean_drawn_towards_nothing():
    track = Track(LONG["index"], ENGINE)
    for side in (1, -1):
        made = [trade.gross for trade in track._all if trade.ended and trade.side == side]
        edge = recorded(track, side, 1199)
        assert edge.trades == len(made) > 5
        assert edge.percent == pytest.approx(sum(made) / (len(made) + 10))


def test_selling_first_is_compared_with_selling_first_at_random():
    # It falls all the time, so one sale is as good as another.
    rows = [
        (start, *(price * 0.997**place for price in (1000, 1002, 990, 997)), 1e6)
        for place, start in enumerate(days(700))
    ]
    shaken = [
        (start, opens * shake, high * shake, low * shake, close * shake, volume)
        for (start, opens, high, low, close, volume), (*_, shake, _) in zip(
            rows, walk(days(700), price=1.0, seed=3), strict=True
        )
        if shake
    ]
    found = analyse(series(shaken, "^NSEI"), ENGINE)
    assert {trade.side for trade in found.trades} == {-1}
    assert found.backtest.net_return_percent > 20
    assert 2 < (found.backtest.random_entry_percentile or 0) < 98


def test_levels_are_ranges_from_the_price_and_reasons_name_values():
    whole = LONG["intraday"]
    found = next(
        made for end in range(1200, 300, -1) if (made := analyse(cut(whole, end), ENGINE)).call is not Call.HOLD
    )
    side, atr = (1 if found.call is Call.BUY else -1), found.indicators["atr_14"]
    assert atr
    assert found.stop_distance == pytest.approx(2 * atr)
    assert found.target_distance == pytest.approx(3 * atr)
    assert found.price_target == pytest.approx(found.close + side * 3 * atr, abs=0.006)
    assert found.stop_loss == pytest.approx(found.close - side * 2 * atr, abs=0.006)
    assert (found.support_level or 0) < found.close < (found.resistance_level or math.inf)
    assert (found.edge_percent or 0) > found.cost_percent > 0
    assert shown(found.close) in " ".join(reason.text for reason in found.reasons)
    assert f"{found.indicators['rsi_14']:.1f}" in next(one.text for one in found.reasons if one.rule == "rsi")
    assert all(one.text.endswith(".") for one in found.reasons)
    assert found.reasoning.startswith(f"{found.call}: ")
    assert shown(found.stop_loss or 0) in found.reasoning


@pytest.mark.parametrize("count", [1, 2, 30, 200, 250])
def test_too_few_candles_are_no_reason_for_anything(count: int):
    found = analyse(series(walk(days(count), keep=0.01)), ENGINE)
    assert (found.call, found.score, found.backtest.trades) == (Call.HOLD, None, 0)
    assert "too few" in found.headline
    assert found.backtest.net_return_percent == 0


def test_no_candle_is_refused():
    with pytest.raises(ValueError, match="no candle"):
        analyse(series([]), ENGINE)


def test_a_price_that_stands_still_asks_for_nothing():
    still: list[Candle] = [(start, 50.0, 50.0, 50.0, 50.0, 0.0) for start in days(400)]
    found = analyse(series(still), ENGINE)
    assert found.call is Call.HOLD
    assert found.indicators["rsi_14"] is None
    assert not found.score


def test_an_index_without_volume_is_judged_without_it():
    rows = [(*row[:5], 0.0) for row in walk(days(600), keep=0.003)]
    found = analyse(series(rows, "^NSEI"), ENGINE)
    reason = next(one for one in found.reasons if one.rule == "volume")
    assert (reason.score, reason.text) == (None, "No volume is reported.")
    assert found.score is not None


# Money


def test_what_can_be_traded_how():
    assert terms_of("TCS.NS", Timeframe.D1, "INR")[:4] == (Segment.DELIVERY, Exchange.NSE, False, True)
    assert terms_of("500325.BO", Timeframe.M5, "INR")[:4] == (Segment.INTRADAY, Exchange.BSE, True, False)
    assert terms_of("^NSEI", Timeframe.D1, "INR")[:4] == (Segment.FUTURES, Exchange.NSE, True, True)
    assert terms_of("^BSESN", Timeframe.H1, "INR")[:4] == (Segment.FUTURES, Exchange.BSE, True, False)
    assert terms_of("AAPL", Timeframe.D1, "USD")[:4] == (None, None, False, True)
    assert terms_of("^GSPC", Timeframe.D1, "USD").segment is None


@pytest.mark.parametrize(("kind", "segment"), [("delivery", Segment.DELIVERY), ("index", Segment.FUTURES)])
def test_the_books_balance(kind: str, segment: Segment):
    """The trades of the backtest, once more with the charges engine alone."""
    whole = LONG[kind]
    found = analyse(whole, ENGINE)
    money, charges, nets = CAPITAL, 0.0, []
    for trade in found.trades:
        quantity = int(money // trade.entry)
        made = trade.side * quantity * (trade.exit - trade.entry)
        if trade.reason != "still_open":
            orders = [
                (Side.BUY if trade.side > 0 else Side.SELL, trade.entry, whole.start[trade.begin].date()),
                (Side.SELL if trade.side > 0 else Side.BUY, trade.exit, whole.start[trade.end].date()),
            ]
            cost = float(sum(ENGINE.of(_order(segment, quantity, *order)).total for order in orders))
            charges, made = charges + cost, made - cost
            nets.append(100 * made / (quantity * trade.entry))
        money += made
    test = found.backtest
    assert test.trades == len(nets) > 5
    assert test.net_return_percent == pytest.approx(100 * money / CAPITAL - 100, abs=0.01)
    assert test.charges == pytest.approx(charges, rel=1e-3)
    assert test.gross_return_percent - test.net_return_percent == pytest.approx(100 * charges / CAPITAL, abs=0.01)
    assert test.hit_rate == pytest.approx(sum(net > 0 for net in nets) / len(nets), abs=1e-4)
    assert test.average_trade_percent == pytest.approx(statistics.fmean(nets), abs=0.01)
    assert found.course[-1] == pytest.approx(test.net_return_percent, abs=0.01)
    assert {trade.side for trade in found.trades} == ({1} if segment is Segment.DELIVERY else {1, -1})
    falls = [
        1 - (100 + one) / max(100.0, *(100 + before for before in found.course[: place + 1]))
        for place, one in enumerate(found.course)
    ]
    assert test.max_drawdown_percent == pytest.approx(100 * max(falls), abs=0.01)
    for before, after in zip(found.trades, found.trades[1:], strict=False):
        assert before.end <= after.begin


def _order(segment: Segment, quantity: int, side: Side, price: float, day: date) -> TradeForCharges:
    return TradeForCharges(Exchange.NSE, segment, side, quantity, Decimal(repr(round(price, 4))), day)


def test_buying_and_holding_is_one_purchase_and_one_sale():
    whole = LONG["delivery"]
    found = analyse(whole, ENGINE)
    first = found.course_first + 1
    assert first == 251
    quantity = int(CAPITAL // whole.open[first])
    orders = [(Side.BUY, whole.open[first], first), (Side.SELL, whole.close[-1], -1)]
    cost = sum(
        ENGINE.of(_order(Segment.DELIVERY, quantity, side, price, whole.start[place].date())).total
        for side, price, place in orders
    )
    made = quantity * (whole.close[-1] - whole.open[first]) - float(cost)
    assert found.backtest.buy_and_hold.net_return_percent == pytest.approx(100 * made / CAPITAL, abs=0.001)


def test_intraday_positions_end_with_their_session():
    whole = LONG["intraday"]
    found = analyse(whole, ENGINE)
    assert any(trade.reason == "session" for trade in found.trades)
    for trade in found.trades:
        assert whole.start[trade.begin].date() == whole.start[trade.end].date()


def test_routers_load_nothing_heavy():
    code = "import sys, app.signals.router.generated, app.signals.router.indicators, app.signals.at_close"
    code += "; print([name for name in ('numpy', 'talib') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=50)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("symbol", ["YESBANK.NS", "^NSEI"])
def test_no_level_is_below_nothing(symbol: str):
    """After a crash the average range is still that of higher prices: twice or three times it may be all there is."""
    rows: list[Candle] = [
        (row[0], *(price * 0.85 ** max(place - 560, 0) for price in row[1:5]), row[5])
        for place, row in enumerate(walk(days(600), seed=3))
    ]
    calls, too_wide = set(), 0
    for end in range(555, 600, 2):
        found = analyse(series(rows[:end], symbol), ENGINE)
        calls.add(found.call)
        assert all(level is None or level > 0 for level in (found.price_target, found.stop_loss)), found.reasoning
        if "below nothing" in found.headline:
            too_wide += 1
            assert (found.call, found.asked, found.edge_percent) == (Call.HOLD, Call.HOLD, None)
    assert Call.SELL in calls
    assert too_wide > 3


def test_a_position_that_is_still_open_is_not_said_to_be_none():
    rows = walk(days(600), seed=5, keep=0.004)
    for end in range(252, 600):
        found = analyse(series(rows[:end]), ENGINE)
        if found.trades:
            break
    assert [trade.reason for trade in found.trades] == ["still_open"]
    assert (found.backtest.trades, found.backtest.exposure > 0) == (0, True)
    assert "began one position, which is still open at " in found.reasoning
    assert "made no trade" not in found.reasoning
    assert "made no trade" in analyse(series(rows[: end - 1]), ENGINE).reasoning


def test_a_sale_of_shares_is_for_who_holds_them():
    rows = walk(days(600), seed=3)
    fall = [
        (row[0], *(price * 0.99 ** max(place - 540, 0) for price in row[1:5]), row[5]) for place, row in enumerate(rows)
    ]
    told = [analyse(series(fall, symbol), ENGINE) for symbol in ("TCS.NS", "^NSEI")]
    assert [found.call for found in told] == [Call.SELL, Call.SELL]
    assert ["for whoever holds it" in found.reasoning for found in told] == [True, False]
