"""Requests to the feed keep within the vendor's limits, whatever is wanted."""

import json
from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.integrations.angel_one.frames import Exchange, Mode
from app.integrations.angel_one.subscriptions import (
    Action,
    FeedLimits,
    Instrument,
    Subscription,
    SubscriptionError,
    plan,
    requests,
    share_out,
)

INSTRUMENTS = st.builds(Instrument, st.sampled_from(Exchange), st.integers(1, 10**8).map(str))
SUBSCRIPTIONS = st.builds(Subscription, st.sampled_from([Mode.LTP, Mode.QUOTE, Mode.SNAP_QUOTE]), INSTRUMENTS)
DEEP = st.builds(
    Subscription, st.just(Mode.DEPTH), st.builds(Instrument, st.just(Exchange.NSE_CM), st.integers(1, 10**8).map(str))
)
WANTED = st.lists(SUBSCRIPTIONS | DEEP, max_size=120)
SMALL = FeedLimits(connections=3, per_connection=20, depth=3, per_request=7)


@settings(max_examples=60, deadline=None)
@given(WANTED)
def test_a_plan_holds_everything_once_within_the_limits_or_is_refused(wanted: list[Subscription]):
    try:
        connections = plan(wanted, SMALL)
    except SubscriptionError as error:
        distinct = set(wanted)
        deep = sum(subscription.mode is Mode.DEPTH for subscription in distinct)
        # First fit can leave room only where depth is what no connection has room for.
        assert len(distinct) > 60 or deep > 9 or len(distinct) - deep > 60 - 9
        assert "Angel One streams at most 60" in str(error)
        return
    assert len(connections) <= SMALL.connections
    assert Counter(s for held in connections for s in held) == Counter(dict.fromkeys(wanted, 1))
    for held in connections:
        assert 0 < len(held) <= SMALL.per_connection
        assert sum(subscription.mode is Mode.DEPTH for subscription in held) <= SMALL.depth


def test_what_is_wanted_first_shares_the_first_connection():
    wanted = [Subscription(Mode.QUOTE, Instrument(Exchange.NSE_CM, str(number))) for number in range(2500)]

    assert plan(wanted) == [wanted[:1000], wanted[1000:2000], wanted[2000:]]
    with pytest.raises(SubscriptionError, match="at most 3,000"):
        plan([Subscription(Mode.LTP, Instrument(Exchange.NSE_CM, str(number))) for number in range(3001)])
    assert plan([]) == []


@settings(max_examples=60, deadline=None)
@given(WANTED, WANTED, st.randoms(use_true_random=False))
def test_a_change_leaves_every_connection_what_it_had(
    before: list[Subscription], new: list[Subscription], random: Random
):
    held = share_out(before, (), SMALL).connections
    wanted = [s for s in before if random.random() < 0.7] + new
    random.shuffle(wanted)
    after, left_out = share_out(wanted, [set(share) for share in held], SMALL)

    assert held == [list(dict.fromkeys(share)) for share in held]
    assert len(held) <= len(after) <= SMALL.connections
    for old, share in zip(held, after, strict=False):
        assert set(old) & set(wanted) <= set(share)
    assert Counter(s for share in after for s in share) + Counter(left_out) == Counter(dict.fromkeys(wanted, 1))
    for share in after:
        assert len(share) <= SMALL.per_connection
        assert sum(s.mode is Mode.DEPTH for s in share) <= SMALL.depth
    if any(s.mode is not Mode.DEPTH for s in left_out):
        assert all(len(share) == SMALL.per_connection for share in after)


def test_depth_is_for_the_cash_segment_of_nse():
    with pytest.raises(SubscriptionError, match="only NSE's cash segment"):
        plan([Subscription(Mode.DEPTH, Instrument(Exchange.BSE_CM, "1"))])


@settings(max_examples=60, deadline=None)
@given(WANTED, st.sampled_from(Action), st.integers(1, 2**40))
def test_requests_carry_everything_once_in_the_vendors_words(wanted: list[Subscription], action: Action, first: int):
    made = list(requests(action, wanted, first_id=first, limits=SMALL))

    carried: Counter[Subscription] = Counter()
    for request in made:
        body = json.loads(request.text())
        assert body.keys() == {"correlationID", "action", "params"}
        assert 0 < len(body["correlationID"]) <= 10
        assert body["correlationID"] == request.correlation_id
        assert body["action"] == action
        groups = body["params"]["tokenList"]
        assert len({group["exchangeType"] for group in groups}) == len(groups)
        members = [
            Subscription(Mode(body["params"]["mode"]), Instrument(Exchange(group["exchangeType"]), token))
            for group in groups
            for token in group["tokens"]
        ]
        assert 0 < len(members) <= SMALL.per_request
        assert sorted(members) == sorted(request.subscriptions)
        carried.update(members)
    assert carried == Counter(dict.fromkeys(wanted, 1))
    assert len({request.correlation_id for request in made}) == len(made)


def test_a_request_as_the_vendor_documents_it():
    wanted = [Subscription(Mode.SNAP_QUOTE, Instrument(Exchange.NSE_CM, "99926000"))]

    (request,) = requests(Action.SUBSCRIBE, wanted)
    assert json.loads(request.text()) == {
        "correlationID": "s1",
        "action": 1,
        "params": {"mode": 3, "tokenList": [{"exchangeType": 1, "tokens": ["99926000"]}]},
    }
