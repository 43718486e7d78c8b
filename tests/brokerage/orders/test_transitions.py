"""How what is heard of an order adds up: whatever the order, the repeats and the gaps, the same truth."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.brokerage.orders import acts
from app.brokerage.orders.merging import (
    FIRST_KEPT,
    LAST_KEPT,
    Row,
    Timing,
    act_settled,
    moved,
    observed,
    settled_alone,
    settled_by_absence,
    traded,
    transition,
    watched,
)
from app.brokerage.orders.transitions import NEXT, Standing, heard, may_follow
from app.brokerage.words import (
    AT_BROKER,
    FINAL_STATES,
    UNSURE,
    BookedOrder,
    Exchange,
    OrderChange,
    OrderState,
    PriceType,
    Product,
    Side,
)

S = OrderState
NOON = datetime(2026, 11, 20, 6, 30, tzinfo=UTC)
TIMING = Timing()
TOLD = sorted(AT_BROKER | (FINAL_STATES - {S.NOT_SENT}))


def booked(state: OrderState, filled: int = 0, at: datetime | None = None, **values: Any) -> BookedOrder:
    known: dict[str, Any] = {
        "broker_order_id": "b1",
        "tag": "TAG",
        "exchange": Exchange.NSE,
        "symbol": "RELIANCE",
        "side": Side.BUY,
        "product": Product.CNC,
        "price_type": PriceType.LIMIT,
        "quantity": 10,
        "filled_quantity": filled,
        "state": state,
        "price": Decimal(1500),
        "average_price": Decimal(1499) if filled else None,
        "updated_at": at,
    }
    return BookedOrder(**(known | values))


def row(state: OrderState = S.SENDING, **values: Any) -> Row:
    empty = (
        "reason", "broker_order_id", "exchange_order_id", "average_price", "told_state", "told_at", "told_end",
        "absent_since", "act", "order_executed_at", "closed_at", "trigger_price",
    )  # fmt: skip
    return {
        **dict.fromkeys(empty),
        "tag": "TAG",
        "exchange": "NSE",
        "stock_symbol": "RELIANCE",
        "order_type": "buy",
        "quantity": 10,
        "price": Decimal(1500),
        "price_type": "LIMIT",
        "validity": "DAY",
        "state": state.value,
        "watch": True,
        "twins": [],
        "filled_quantity": 0,
        "traded_quantity": 0,
        "certain": True,
        "transitions": [],
        "transitions_left_out": 0,
        "created_at": NOON,
        "sent_at": NOON,
        **values,
    }


tellings = st.builds(
    booked,
    st.sampled_from(TOLD),
    st.integers(0, 10),
    st.none() | st.integers(0, 5).map(lambda seconds: NOON + timedelta(seconds=seconds)),
)


@given(st.lists(tellings, min_size=1, max_size=8), st.data())
def test_the_order_and_the_repeats_of_news_change_nothing(news: list[BookedOrder], data: st.DataObject):
    again = data.draw(st.permutations([*news, *data.draw(st.lists(st.sampled_from(news), max_size=4))]))
    standing = other = Standing(state=S.SENDING)
    for each in news:
        following = heard(standing, each)
        assert may_follow(standing.state, following.state), (standing.state, following.state)
        assert following.filled >= standing.filled
        standing = following
    for each in again:
        other = heard(other, each)

    assert standing == other
    assert all(heard(standing, each) == standing for each in news)


@given(st.lists(tellings, min_size=1, max_size=6), st.data())
def test_so_it_is_with_rows_and_an_end_stays(news: list[BookedOrder], data: st.DataObject):
    def after(all_: list[BookedOrder]) -> Row:
        present = row()
        for each in all_:
            present = {**present, **observed(present, each, NOON)}
        return present

    one, other = after(news), after(data.draw(st.permutations(news)))
    for name in ("state", "filled_quantity", "average_price", "watch", "broker_order_id"):
        assert one[name] == other[name], name
    assert observed(one, news[0], NOON) == {}
    late = observed(one, booked(S.OPEN, at=NOON + timedelta(days=1)), NOON)
    if OrderState(one["state"]).final:
        assert "state" not in late


@pytest.mark.parametrize("state", TOLD)
def test_a_late_open_after_the_end_changes_nothing(state: OrderState):
    if state not in FINAL_STATES:
        return
    done = {**row(), **observed(row(), booked(state, 10), NOON)}

    assert observed(done, booked(S.OPEN, at=NOON + timedelta(minutes=1)), NOON).get("state") is None
    assert done["closed_at"] == NOON


def test_fills_are_facts():
    cancelled = {**row(), **observed(row(), booked(S.CANCELLED, 4), NOON)}
    complete = {**cancelled, **observed(cancelled, booked(S.COMPLETE, 10), NOON)}

    assert (complete["state"], complete["filled_quantity"]) == ("COMPLETE", 10)
    assert "state" not in observed(complete, booked(S.CANCELLED, 4), NOON)


def test_every_state_has_its_followers():
    assert NEXT.keys() == set(S)
    assert NEXT[S.COMPLETE] == frozenset()
    for state in S:
        assert state not in NEXT[state]
        assert S.INTENT not in NEXT[state], "nothing becomes an intent again"
        assert state is S.INTENT or S.SENDING not in NEXT[state], "nothing is sent again"
    for state in AT_BROKER | FINAL_STATES - {S.NOT_SENT}:
        assert not NEXT[state] & {S.NOT_SENT, S.UNKNOWN}
    with pytest.raises(ValueError, match="cannot become"):
        moved(row(S.COMPLETE), S.OPEN, NOON, "broker")
    with pytest.raises(ValueError, match="no state that a broker tells"):
        heard(Standing(state=S.SENDING), booked(S.UNKNOWN))


def test_transitions_are_bounded():
    present = row()
    for number in range(500):
        present |= transition(present, S.OPEN, NOON, "broker", f"{number}")

    notes = [step["note"] for step in present["transitions"]]
    assert len(notes) == FIRST_KEPT + LAST_KEPT
    assert (notes[0], notes[-1], present["transitions_left_out"]) == ("0", "499", 500 - len(notes))


def test_it_is_followed_until_its_fills_are_in_the_trade_book():
    done = {**row(), **observed(row(), booked(S.COMPLETE, 10), NOON)}
    half = {**done, **traded(done, 4)}
    whole = {**half, **traded(half, 10)}

    assert (done["watch"], half["watch"], whole["watch"]) == (True, True, False)
    assert traded(whole, 4) == {}
    assert not watched(row(S.NOT_SENT))
    assert watched(row(S.INTENT))


# Concluding


@given(st.sampled_from(list(S)), st.integers(-600, 6000), st.booleans(), st.booleans(), st.integers(0, 2))
def test_only_an_unknown_order_and_a_late_book_of_its_day_mean_that_it_never_arrived(
    state: OrderState, seconds: int, before: bool, sending: bool, doubts: int
):
    began = NOON + timedelta(seconds=seconds)
    present = row(state, absent_since=NOON + timedelta(seconds=46) if before else None)

    changes = settled_by_absence(present, doubts, began, began, TIMING, sending=sending)

    if changes.get("state") == S.NOT_SENT:
        assert state is S.UNKNOWN
        assert before
        assert not sending
        assert not doubts
        assert seconds >= 46 + TIMING.confirm
    if sending or state in FINAL_STATES | {S.INTENT, S.SENDING} | AT_BROKER:
        assert changes == {}


@pytest.mark.parametrize(("state", "becomes"), [(S.UNKNOWN, "UNKNOWN"), (S.OPEN, "EXPIRED"), (S.SENDING, "SENDING")])
def test_of_another_day_the_book_says_nothing(state: OrderState, becomes: str):
    tomorrow = NOON + timedelta(days=1)
    present = row(state)
    after = {**present, **settled_by_absence(present, 0, tomorrow, tomorrow, TIMING)}

    assert after["state"] == becomes
    if state is not S.SENDING:
        assert (after["certain"], after["watch"]) == (False, False)
        assert after["reason"]
        assert settled_by_absence(after, 0, tomorrow, tomorrow, TIMING) == {}
    # A book that was read before midnight, of an order after it, says nothing at all.
    late = row(state, sent_at=tomorrow)
    assert settled_by_absence(late, 0, NOON, tomorrow, TIMING) == {}


def test_an_assumed_end_gives_way_to_what_the_broker_tells():
    tomorrow = NOON + timedelta(days=3)
    assumed = row(S.OPEN, told_state="OPEN", told_at=NOON, broker_order_id="b1")
    assumed |= settled_by_absence(assumed, 0, tomorrow, tomorrow, TIMING)
    alive = {**assumed, **observed(assumed, booked(S.OPEN, at=tomorrow), tomorrow)}

    assert (assumed["state"], alive["state"]) == ("EXPIRED", "OPEN")
    assert (alive["certain"], alive["watch"], alive["closed_at"]) == (True, True, None)


@pytest.mark.parametrize("state", list(S))
def test_what_was_left_in_the_middle_is_taken_on(state: OrderState):
    early, late = NOON + timedelta(seconds=10), NOON + timedelta(minutes=5)

    assert settled_alone(row(state), early, TIMING) == {}
    assert settled_alone(row(state), late, TIMING, sending=True) == {}
    after = settled_alone(row(state), late, TIMING).get("state")
    assert after == {S.SENDING: "UNKNOWN"}.get(state)
    assert state not in UNSURE or TIMING.settle > TIMING.send_within + TIMING.call


# Acts


def changing(**wanted: Any) -> Row:
    present = row(S.OPEN, broker_order_id="b1", told_state="OPEN")
    change = OrderChange(**({"quantity": 10, "price_type": PriceType.LIMIT, "price": Decimal(1510)} | wanted))
    return present | {"act": acts.new_act(acts.MODIFY, present, NOON, change)}


def test_a_change_is_done_when_the_book_shows_it():
    present = changing()
    early, late = NOON + timedelta(seconds=1), NOON + timedelta(minutes=1)
    old, new = booked(S.OPEN), booked(S.OPEN, price=Decimal(1510))

    assert act_settled(present, old, early, early, TIMING) == {}
    assert act_settled(present, old, None, late, TIMING) == {}, "a push may be older than the change"
    done = act_settled(present, new, None, early, TIMING)
    assert (done["act"], done["price"]) == (None, Decimal(1510))
    assert done["transitions"][-1]["note"] == "Changed: price 1500 → 1510."
    undone = act_settled(present, old, late, late, TIMING)
    assert (undone["act"], undone["price"]) == (None, Decimal(1500))
    assert "did not take effect" in undone["transitions"][-1]["note"]
    # Until then the book's old prices are not taken for news.
    assert "price" not in observed({**present, "price": Decimal(1510)}, old, early)


def test_a_limit_that_protects_a_market_order_is_no_other_order():
    market = row(S.OPEN, price_type="MARKET", price=None, broker_order_id="b1")
    shown = booked(S.OPEN, price_type=PriceType.LIMIT, price=Decimal(1545))
    assert observed(market, shown, NOON).keys().isdisjoint({"price", "price_type"})
    present = changing(price_type=PriceType.MARKET, price=None)
    assert act_settled(present, booked(S.OPEN, price_type=PriceType.MARKET), None, NOON, TIMING)["act"] is None
