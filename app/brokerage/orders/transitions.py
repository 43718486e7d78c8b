"""The states of an order and how what is heard of it adds up. Pure: no clock, no I/O.

What a broker tells comes late, twice and in any order (polls, pushes, answers). So nothing here depends on the order in
which it is heard: fills only grow; an end beats whatever lives; of two live states the one with the broker's newer time
holds, without times the one further along. `heard` is commutative and idempotent; a property test holds it to that.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

import msgspec

from app.brokerage.words import AT_BROKER, FINAL_STATES, BookedOrder, OrderState

_S = OrderState
_TOLD: Final = AT_BROKER | (FINAL_STATES - {_S.NOT_SENT})

NEXT: Final[Mapping[OrderState, frozenset[OrderState]]] = {
    _S.INTENT: frozenset({_S.SENDING, _S.NOT_SENT}),
    _S.SENDING: frozenset({_S.UNKNOWN, _S.NOT_SENT}) | _TOLD,
    _S.UNKNOWN: frozenset({_S.NOT_SENT}) | _TOLD,
    **{state: _TOLD - {state} for state in AT_BROKER},
    # Concluded because a day's book was gone, answered to the placing, concluded from the book's silence: where the
    # broker has the order all the same, it is right.
    _S.EXPIRED: _TOLD - {_S.EXPIRED},
    _S.REJECTED: _TOLD - {_S.REJECTED},
    _S.NOT_SENT: _TOLD,
    _S.CANCELLED: frozenset({_S.REJECTED, _S.COMPLETE}),
    _S.COMPLETE: frozenset(),
}
"""What may follow each state. Of two ends that a broker tells the stronger holds."""

_LIVE: Final = {_S.PENDING: 1, _S.TRIGGER_PENDING: 2, _S.OPEN: 3, _S.PARTIALLY_FILLED: 4}
_ENDS: Final = {_S.EXPIRED: 1, _S.CANCELLED: 2, _S.REJECTED: 3, _S.COMPLETE: 4}
"""Fills are facts: `COMPLETE` beats a cancellation that was told, too."""
_NEVER: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """Where an order stands."""

    state: OrderState
    filled: int = 0
    average: Decimal | None = None
    told_state: OrderState | None = None
    """The newest live state that the broker told."""
    told_at: datetime | None = None
    end_told: bool = False
    """Whether its end is what the broker told of the order, and not our conclusion, or the answer to its placing."""


def may_follow(present: OrderState, wanted: OrderState) -> bool:
    """Whether `wanted` is the present state or may follow it."""
    return wanted is present or wanted in NEXT[present]


def heard(standing: Standing, booked: BookedOrder) -> Standing:
    """The standing after the broker told this of the order."""
    state = booked.state
    if state not in _TOLD:
        raise ValueError(f"{state} is no state that a broker tells")
    filled, average = _fills(standing, booked)
    told_state, told_at = standing.told_state, standing.told_at
    if state in _LIVE and _newer(state, booked.updated_at, told_state, told_at):
        told_state, told_at = state, booked.updated_at
    end = _end(standing, state)
    live = OrderState.PARTIALLY_FILLED if filled else told_state or state
    told = end is not None
    return Standing(
        state=end or live, filled=filled, average=average, told_state=told_state, told_at=told_at, end_told=told
    )


def news_is_newest(standing: Standing, booked: BookedOrder) -> bool:
    """Whether nothing newer than this was heard of the order: then its price and quantity are what it says, too."""
    if booked.state in _ENDS:
        return True
    if standing.end_told and standing.state in _ENDS:
        return False
    return _key(booked.state, booked.updated_at) >= _key(standing.told_state, standing.told_at)


def _end(standing: Standing, state: OrderState) -> OrderState | None:
    present = standing.state
    ends = [present] if present in _ENDS and standing.end_told else []
    ends += [state] if state in _ENDS else []
    return max(ends, key=_ENDS.__getitem__, default=None)


def _fills(standing: Standing, booked: BookedOrder) -> tuple[int, Decimal | None]:
    least = Decimal(-1)
    one = (standing.filled, least if standing.average is None else standing.average)
    other = (booked.filled_quantity, least if booked.average_price is None else booked.average_price)
    filled, average = max(one, other)
    return filled, None if average == least else average


def _key(state: OrderState | None, at: datetime | None) -> tuple[datetime, int]:
    return at or _NEVER, _LIVE.get(state, 0) if state else 0


def _newer(state: OrderState, at: datetime | None, known: OrderState | None, known_at: datetime | None) -> bool:
    return _key(state, at) > _key(known, known_at)
