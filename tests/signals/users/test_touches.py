"""When a price ends a signal, and that what every tick is held against finds the same."""

from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.signals.followed import Followed, FollowedSignals
from app.signals.price_names import price_name
from app.signals.status import SignalType
from app.signals.touches import Levels, OutcomeKind, touched_by_bar, touched_by_price
from tests.signals.users.kit import NOON, bar

BUY = Levels.of(SignalType.BUY, Decimal(110), Decimal(95))
SELL = Levels.of(SignalType.SELL, Decimal(95), Decimal(110))


@pytest.mark.parametrize(
    ("levels", "price", "kind"),
    [
        (BUY, "110", "target"),
        (BUY, "130", "target"),
        (BUY, "109.99", None),
        (BUY, "95.01", None),
        (BUY, "95", "stop"),
        (BUY, "1", "stop"),
        (SELL, "95", "target"),
        (SELL, "94.9", "target"),
        (SELL, "100", None),
        (SELL, "110", "stop"),
    ],
)
def test_a_tick(levels: Levels, price: str, kind: str | None) -> None:
    outcome = touched_by_price(levels, Decimal(price), NOON)
    assert (outcome and outcome.kind) == kind
    if outcome:
        assert (outcome.price, outcome.at, outcome.seen_in, outcome.certain) == (Decimal(price), NOON, "tick", True)


@pytest.mark.parametrize(
    ("levels", "prices", "expected"),
    [
        (BUY, ("100", "109.9", "95.1"), None),
        (BUY, ("100", "110", "99"), ("target", "110", True)),
        (BUY, ("100", "101", "94"), ("stop", "95", True)),
        # It opened beyond a level: whoever had to sell got the opening, not the level.
        (BUY, ("90", "120", "80"), ("stop", "90", True)),
        (BUY, ("115", "120", "80"), ("target", "115", True)),
        # Both within one candle: the worse is assumed, and said to be.
        (BUY, ("100", "120", "90"), ("stop", "95", False)),
        (SELL, ("100", "120", "90"), ("stop", "110", False)),
        (SELL, ("100", "105", "95"), ("target", "95", True)),
    ],
)
def test_a_candle(levels: Levels, prices: tuple[str, str, str], expected: tuple[str, str, bool] | None) -> None:
    outcome = touched_by_bar(levels, bar(NOON, *prices))
    if expected is None:
        assert outcome is None
    else:
        assert outcome is not None
        assert (outcome.kind, outcome.price, outcome.certain) == (expected[0], Decimal(expected[1]), expected[2])
        assert (outcome.at, outcome.seen_in) == (NOON, "candle")


cents = st.integers(1, 400).map(lambda value: Decimal(value) / 4)


@st.composite
def signals(draw: st.DrawFn) -> list[Followed]:
    found = []
    for number in range(draw(st.integers(0, 6))):
        lower, upper = sorted(draw(st.lists(cents, min_size=2, max_size=2, unique=True)))
        since = NOON + timedelta(seconds=draw(st.integers(0, 20)))
        levels = Levels(lower, upper, draw(st.booleans()))
        found.append(Followed(f"{number}", draw(st.sampled_from("AB")), 1, levels, since))
    return found


@given(signals(), st.lists(st.tuples(st.sampled_from("ABC"), cents), max_size=12), st.integers(0, 5))
def test_every_tick_finds_what_a_plain_search_finds(
    entered: list[Followed], ticks: list[tuple[str, Decimal]], gone: int
) -> None:
    quick = FollowedSignals()
    quick.put(entered)
    quick.drop(str(gone))
    left = [signal for signal in entered if signal.id != str(gone)]
    for second, (symbol, price) in enumerate(ticks):
        at = NOON + timedelta(seconds=second * 2)
        plain = [
            signal
            for signal in left
            if signal.symbol == symbol and at >= signal.since and not signal.levels.lower < price < signal.levels.upper
        ]
        found = quick.touched(symbol, price, at)
        assert [touch.signal for touch in found] == plain
        assert all((touch.outcome.kind is OutcomeKind.TARGET) is _gain(touch.signal, price) for touch in found)
        left = [signal for signal in left if signal not in plain]
    assert len(quick) == len(left)
    assert sorted(quick.symbols) == sorted({signal.symbol for signal in left})
    assert sorted(one for symbol in quick.symbols for one in quick.on(symbol)) == sorted(left)


def _gain(signal: Followed, price: Decimal) -> bool:
    return (price >= signal.levels.upper) is signal.levels.target_is_upper


def test_an_older_state_of_a_signal_does_not_come_back() -> None:
    quick = FollowedSignals()
    new = Followed("1", "A", 3, BUY, NOON)
    quick.put([new])
    quick.put([new._replace(revision=2, levels=SELL)])
    assert quick.on("A") == [new]
    assert "A" in quick
    assert "B" not in quick
    quick.clear()
    assert not quick.symbols
    assert quick.touched("A", Decimal(1), NOON) == []


@pytest.mark.parametrize(
    ("symbol", "known", "expected"),
    [
        ("NIFTY 50", {"NIFTY 50"}, "NIFTY 50"),
        ("NIFTY50", {"NIFTY 50", "NIFTY50-EQ"}, "NIFTY 50"),
        ("NIFTY BANK", {"BANKNIFTY"}, "BANKNIFTY"),
        ("^BSESN", {"SENSEX"}, "SENSEX"),
        ("BSE:SENSEX", {"SENSEX"}, "SENSEX"),
        ("SENSEX", {"SENSEX"}, "SENSEX"),
        # BSE's share has the bare name.
        ("RELIANCE", {"RELIANCE", "RELIANCE-EQ"}, "RELIANCE-EQ"),
        ("RELIANCE", {"RELIANCE"}, "RELIANCE"),
        ("RELIANCE.NS", {"RELIANCE"}, None),
        ("NSE:RELIANCE", {"RELIANCE"}, None),
        ("RELIANCE-EQ", {"RELIANCE", "RELIANCE-EQ"}, "RELIANCE-EQ"),
        ("RELIANCE-EQ", {"RELIANCE"}, None),
        ("RELIANCE.BO", {"RELIANCE", "RELIANCE-EQ"}, "RELIANCE"),
        ("BSE:RELIANCE", {"RELIANCE-EQ"}, None),
        ("NIFTY24NOV2624500CE", {"NIFTY24NOV2624500CE", "NIFTY 50"}, "NIFTY24NOV2624500CE"),
        ("NFO:NIFTY24NOV2624500CE", {"NIFTY24NOV2624500CE"}, "NIFTY24NOV2624500CE"),
        ("NSE:RELIANCE-EQ", {"RELIANCE-EQ"}, "RELIANCE-EQ"),
        ("TCS", {"NIFTY 50"}, None),
    ],
)
def test_what_live_prices_call_it(symbol: str, known: set[str], expected: str | None) -> None:
    assert price_name(symbol, known) == expected
