"""What becomes of an order's row when something is heard of it. Pure: rows in, changes out."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from app.brokerage.orders import acts
from app.brokerage.orders.transitions import Standing, heard, may_follow, news_is_newest
from app.brokerage.words import BookedOrder, OrderState, PriceType
from app.core.market_calendar import IST

Row = dict[str, Any]
Changes = dict[str, Any]

FIRST_KEPT: Final = 20
LAST_KEPT: Final = 40
"""Transitions of one order that are kept: the first and the last ones."""
MAX_REASON: Final = 500
MAX_TWINS: Final = 10


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """How long what may take. Seconds."""

    send_within: float = 5.0
    """From the stamp of `SENDING` to the call: what was stored too slowly is not sent any more."""
    call: float = 15.0
    """A broker's answer to placing, changing or cancelling."""
    settle: float = 45.0
    """After the stamp of `SENDING`: a book read later than this, without the order, counts as a sign that it never
    arrived. More than `send_within` and `call` together, what a broker needs to show what it took, and what the clocks
    of the service's machines differ by (20 seconds are left for these two)."""
    confirm: float = 5.0
    """From the first such reading to the one that decides."""
    stored: tuple[float, ...] = (0.0, 0.05, 0.2, 0.5, 1.0, 2.0)
    """Before each attempt to store a broker's answer while the database is away."""
    act: float = 30.0
    """After which a book that does not show a change or a cancellation means that it did not take effect."""


def transition(row: Mapping[str, Any], state: OrderState, at: datetime, cause: str, note: str | None = None) -> Changes:
    """Changes that append to the kept transitions; the oldest of the later ones make room."""
    entry: dict[str, Any] = {"state": state.value, "at": at, "cause": cause}
    if note:
        entry["note"] = note[:MAX_REASON]
    kept = [*row["transitions"], entry]
    out = row["transitions_left_out"]
    if len(kept) > FIRST_KEPT + LAST_KEPT:
        del kept[FIRST_KEPT]
        out += 1
    return {"transitions": kept, "transitions_left_out": out}


def moved(row: Row, state: OrderState, at: datetime, cause: str, note: str | None = None, **more: Any) -> Changes:
    """Changes that bring the row to `state`. Raises `ValueError` for what may not follow."""
    present = OrderState(row["state"])
    if not may_follow(present, state):
        raise ValueError(f"{present} cannot become {state}")
    changes: Changes = {"state": state.value, **more, **transition(row, state, at, cause, note)}
    if state.final:
        changes |= {"closed_at": row["closed_at"] or at, "act": None}
    return changes | {"watch": watched({**row, **changes})}


def watched(row: Mapping[str, Any]) -> bool:
    """Whether the broker is still to be asked: until an end is told, and every fill of it is in the trade book."""
    state = OrderState(row["state"])
    if not state.final:
        return True
    return bool(row["traded_quantity"] < row["filled_quantity"])


def standing_of(row: Mapping[str, Any]) -> Standing:
    """Where the row stands."""
    told = row["told_state"]
    return Standing(
        state=OrderState(row["state"]),
        filled=row["filled_quantity"],
        average=row["average_price"],
        told_state=OrderState(told) if told else None,
        told_at=row["told_at"],
        end_told=row["told_end"] is not None,
    )


def observed(row: Row, booked: BookedOrder, now: datetime, cause: str = "broker") -> Changes:
    """What changes with what a broker told of this order; nothing for what is known already."""
    if row["broker_order_id"] not in {None, booked.broker_order_id}:
        return _twin(row, booked)
    before = standing_of(row)
    after = heard(before, booked)
    wanted: Changes = {
        "broker_order_id": booked.broker_order_id,
        "filled_quantity": after.filled,
        "average_price": after.average,
        "told_state": after.told_state.value if after.told_state else None,
        "told_at": after.told_at,
        "absent_since": None,
    }
    if after.end_told:
        wanted["told_end"] = after.state.value
    if booked.exchange_order_id:
        wanted["exchange_order_id"] = booked.exchange_order_id
    if booked.reason and booked.state is after.state:
        wanted["reason"] = booked.reason[:MAX_REASON]
    if after.filled > before.filled:
        wanted["order_executed_at"] = booked.updated_at or now
    if news_is_newest(before, booked):
        wanted |= _terms(row, booked)
    changes = {name: value for name, value in wanted.items() if row.get(name) != value}
    if after.state is not before.state:
        note = None
        if before.state.final:
            changes |= {"closed_at": None, "certain": True}
            note = "The broker has it otherwise."
        changes |= moved({**row, **changes}, after.state, now, cause, note)
    elif changes:
        changes["watch"] = watched({**row, **changes})
    return changes


def _twin(row: Row, booked: BookedOrder) -> Changes:
    known = row["twins"]
    if booked.broker_order_id in known or len(known) >= MAX_TWINS:
        return {}
    return {"twins": [*known, booked.broker_order_id]}


def _terms(row: Row, booked: BookedOrder) -> Changes:
    """Quantity and prices as the broker has them, where no change of ours is under way that would explain others.

    A market order stays one, whatever limit the broker protects it with. At its end there is nothing under way any
    more: a change that nobody answered, and that is seen in the end only, happened all the same.
    """
    act = row["act"] if row["act"] and row["act"]["kind"] == acts.MODIFY else None
    if act is not None:
        if not booked.state.final:
            return {}
        if acts.is_shown(act, booked):
            return dict(act["wanted"])
        row = {**row, **act["was"]}
    terms: Changes = dict(act["was"]) if act else {}
    terms["quantity"] = booked.quantity
    if PriceType(row["price_type"]).has_limit:
        terms |= {"price_type": booked.price_type.value, "validity": booked.validity.value}
        if not booked.price_type.has_limit:
            terms["price"] = None
        elif booked.price is not None:
            terms["price"] = booked.price
        if booked.price_type.has_trigger and booked.trigger_price is not None:
            terms["trigger_price"] = booked.trigger_price
    elif booked.price_type.has_trigger and booked.trigger_price is not None:
        terms["trigger_price"] = booked.trigger_price
    return terms


def traded(row: Row, quantity: int) -> Changes:
    """The trade book has had `quantity` of it, and it is stored."""
    if quantity <= row["traded_quantity"]:
        return {}
    changes: Changes = {"traded_quantity": quantity}
    return changes | {"watch": watched({**row, **changes})}


def act_settled(row: Row, booked: BookedOrder, began: datetime | None, now: datetime, timing: Timing) -> Changes:
    """What the broker's book says of a change or cancellation that is under way.

    `began`: when the reading of the book began; None for news that may be older than the act.
    """
    act = row["act"]
    if act is None or booked.broker_order_id != row["broker_order_id"]:
        return {}
    state = OrderState(row["state"])
    late = began is not None and began - act["at"] >= timedelta(seconds=timing.act)
    if act["kind"] == acts.MODIFY and acts.is_shown(act, booked):
        note = f"Changed: {acts.summary(act['wanted'], act['was'])}."
        done: Changes = {"act": None, **act["wanted"], **transition(row, state, now, "broker", note)}
        return done
    if not late:
        return {}
    if act["kind"] == acts.MODIFY:
        note = "The change did not take effect."
        # The broker's answer to the request may have been taken for the change: the terms are those from before it.
        was = {**act["was"], "act": None}
        return {**was, **_terms({**row, **was}, booked), **transition(row, state, now, "reconciled", note)}
    note = "The cancellation did not take effect."
    return {"act": None, **transition(row, state, now, "reconciled", note)}


def settled_alone(row: Row, now: datetime, timing: Timing, *, sending: bool = False) -> Changes:
    """What can be concluded without the broker. `sending`: this process is at it just now."""
    state = OrderState(row["state"])
    if sending:
        return {}
    if state is OrderState.SENDING and now - row["sent_at"] > timedelta(seconds=timing.send_within + timing.call):
        return moved(row, OrderState.UNKNOWN, now, "clock", "No answer of the broker was stored.")
    return {}


def settled_by_absence(
    row: Row, suspects: int, began: datetime, now: datetime, timing: Timing, *, sending: bool = False
) -> Changes:
    """What follows from a whole book without this order, the reading of which began at `began`.

    `suspects`: orders in that book that might be this one but carry no tag. While there are any, nothing is concluded.
    """
    state = OrderState(row["state"])
    if state.final or sending:
        return {}
    since = row["sent_at"] or row["created_at"]
    if began <= since:
        return {}
    if not same_day(since, began):
        return _of_another_day(row, state, now)
    if state is not OrderState.UNKNOWN or suspects or began - since < timedelta(seconds=timing.settle):
        return {}
    if row["absent_since"] is None:
        return {"absent_since": began}
    if began - row["absent_since"] < timedelta(seconds=timing.confirm):
        return {}
    note = "The broker's order book does not have it: it never arrived."
    return moved(row, OrderState.NOT_SENT, now, "reconciled", note, reason=note)


def _of_another_day(row: Row, state: OrderState, now: datetime) -> Changes:
    """Books are of one day. An order that was open lasted a day; of one that may never have come nothing is known."""
    if state is OrderState.UNKNOWN:
        if not row["certain"]:
            return {}
        note = "The broker's order book of that day is gone: look at its contract notes."
        return {"certain": False, "watch": False, "reason": note, **transition(row, state, now, "reconciled", note)}
    if state is OrderState.SENDING:
        return {}  # it becomes UNKNOWN first
    note = "The day ended, and the broker's order book of that day was not seen: taken for expired."
    return moved(row, OrderState.EXPIRED, now, "reconciled", note, reason=note, certain=False) | {"watch": False}


def fills_given_up(row: Row, began: datetime) -> Changes:
    """An end of another day whose fills the trade book never showed: nobody can be asked any more."""
    ended = OrderState(row["state"]).final and row["closed_at"] is not None
    if not ended or not row["watch"] or same_day(row["closed_at"], began):
        return {}
    return {"watch": False, "certain": False}


def same_day(one: datetime, other: datetime) -> bool:
    """Whether both are of one day in India."""
    return one.astimezone(IST).date() == other.astimezone(IST).date()


def suspects(row: Row, untagged: list[BookedOrder]) -> int:
    """How many of these orders without a tag could be this one."""
    earliest = row["sent_at"] - timedelta(minutes=1) if row["sent_at"] else None
    return sum(
        1
        for booked in untagged
        if booked.exchange.value == row["exchange"]
        and same_symbol(booked.symbol, row)
        and booked.side.value == row["order_type"]
        and booked.quantity == row["quantity"]
        and (booked.placed_at is None or earliest is None or booked.placed_at >= earliest)
    )


def same_symbol(symbol: str, row: Mapping[str, Any]) -> bool:
    """`RELIANCE-EQ` and `RELIANCE` are the same."""
    return symbol.removesuffix("-EQ") == str(row["stock_symbol"]).removesuffix("-EQ")


def acknowledged(row: Row, broker_order_id: str, now: datetime) -> Changes:
    """The broker took it, and calls it this. The book may have been quicker."""
    if row["broker_order_id"] is not None:
        return {} if row["broker_order_id"] == broker_order_id else {"twins": [*row["twins"], broker_order_id]}
    named: Changes = {"broker_order_id": broker_order_id, "absent_since": None}
    return named | moved({**row, **named}, OrderState.PENDING, now, "answer", closed_at=None, certain=True)
