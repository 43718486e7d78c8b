"""Users' signals over HTTP."""

import asyncio
import json
from decimal import Decimal
from typing import Any

import pytest

from app.core.clock import Sequence as Numbers
from app.core.errors import ConflictError
from app.core.pagination import PageRequest
from app.signals.price_names import price_name
from app.signals.status import NEXT, Status, check_change
from app.signals.user_models import SignalDocument
from app.signals.user_schemas import SignalFilters, SignalInput, UserSignal
from app.signals.user_signals import MAX_ACTIVE, UserSignals
from tests.signals.users.kit import PATH, Desk, given


async def test_a_signal_is_entered_and_read_back_exactly(desk: Desk) -> None:
    body = given(symbol=" nifty  50 ", signal_type="buy", entry_price=100.123456789, notes="First line\nsecond")
    made = await desk.ask("POST", status=201, json=body)
    assert made == await desk.read(made)
    assert UserSignal.model_validate(made)
    assert set(made) == set(UserSignal.model_fields)
    expected = {
        "symbol": "NIFTY 50",
        "signal_type": "BUY",
        "option_type": None,
        "entry_price": Decimal("100.123456789"),
        "target_price": 110,
        "quantity": 75,
        "status": "ACTIVE",
        "notes": "First line\nsecond",
        "followed_live": True,
        "outcome": None,
        "closed_at": None,
        "created_at": "2026-11-20T06:30:01Z",
        "user_id": str(desk.people.ids["ann"]),
    }
    assert {name: made[name] for name in expected} == expected
    assert desk.told() == [("created", made["id"])]
    data = json.loads(desk.events[0].body, parse_float=Decimal)
    assert data == {"kind": "user", "change": "created", **made}
    (act,) = desk.trail.acts
    assert (act.action, act.account_id, act.target) == ("signal.create", desk.people.ids["ann"], ("signal", made["id"]))


@pytest.mark.parametrize(
    ("values", "loc"),
    [
        ({"target_price": 100}, ["target_price"]),
        ({"target_price": 99}, ["target_price"]),
        ({"stop_loss": 100}, ["stop_loss"]),
        ({"target_price": 90, "stop_loss": 105}, ["target_price", "stop_loss"]),
        ({"signal_type": "SELL"}, ["target_price", "stop_loss"]),
        ({"signal_type": "SELL", "target_price": 90, "stop_loss": 100}, ["stop_loss"]),
        ({"entry_price": 0}, ["entry_price"]),
        ({"entry_price": -1}, ["entry_price"]),
        ({"entry_price": "NaN"}, ["entry_price"]),
        ({"quantity": 0}, ["quantity"]),
        ({"quantity": 1.5}, ["quantity"]),
        ({"quantity": True}, ["quantity"]),
        ({"quantity": 10**12}, ["quantity"]),
        ({"confidence": 101}, ["confidence"]),
        ({"confidence": -1}, ["confidence"]),
        ({"confidence": None}, ["confidence"]),
        ({"option_type": "XX"}, ["option_type"]),
        ({"status": "COMPLETED"}, ["status"]),
        ({"symbol": "   "}, ["symbol"]),
        ({"symbol": {"$gt": ""}}, ["symbol"]),
        ({"symbol": "A$B"}, ["symbol"]),
        ({"symbol": "A" * 65}, ["symbol"]),
        ({"notes": "x\u0000"}, ["notes"]),
        ({"notes": "x" * 2001}, ["notes"]),
        ({"surprise": 1}, ["surprise"]),
        ({"user_id": "6b02893a002b26997921d778"}, ["user_id"]),
        ({"symbol": "NIFTY24NOV2624500CE", "option_type": "PE"}, []),
    ],
)
async def test_what_is_no_signal(desk: Desk, values: dict[str, Any], loc: list[str]) -> None:
    answer = await desk.ask("POST", status=422, json=given(**values))
    assert [error["loc"] for error in answer["errors"]] == [["body", name] for name in loc] or not loc
    assert await desk.ask("GET") == []
    assert not desk.events


async def test_options(desk: Desk) -> None:
    contract = await desk.enter(symbol="nifty24nov2624500ce")
    underlying = await desk.enter(symbol="NIFTY 50", option_type="pe")
    assert [contract["option_type"], underlying["option_type"]] == ["CE", "PE"]
    assert [contract["followed_live"], underlying["followed_live"]] == [True, False]


async def test_pages_and_filters(desk: Desk) -> None:
    ids = []
    for number in range(7):
        made = await desk.enter(symbol="RELIANCE" if number % 2 else "TCS")
        ids.append(made["id"])
        desk.clock.move(minutes=number * 60)
    await desk.ask("PATCH", ids[1], json={"status": "CANCELLED"})

    async def listed(**query: Any) -> list[str]:
        return [row["id"] for row in await desk.ask("GET", params=query)]

    assert await listed() == ids[::-1]
    assert await listed(symbol="reliance") == [ids[5], ids[3], ids[1]]
    assert await listed(status="active", symbol="RELIANCE") == [ids[5], ids[3]]
    assert await listed(status="CANCELLED") == [ids[1]]
    pages, cursor = [], None
    while True:
        query = {"limit": 3} | ({"cursor": cursor} if cursor else {})
        answer = await desk.client.get(PATH, params=query, headers={"Authorization": "Bearer ann"})
        pages.append([row["id"] for row in answer.json()])
        cursor = answer.headers.get("X-Next-Cursor")
        if cursor is None:
            break
    assert pages == [ids[:3:-1], ids[3:0:-1], [ids[0]]]
    for query in ({"status": "OPEN"}, {"limit": 0}, {"surprise": 1}, {"cursor": "x"}, {"symbol": "$"}):
        await desk.ask("GET", status=422, params=query)


async def test_changes(desk: Desk) -> None:
    made = await desk.enter(notes="hm")
    desk.clock.move(minutes=5)
    after = await desk.ask("PATCH", made["id"], json={"target_price": 120, "confidence": 80, "notes": None})
    assert after == made | {
        "target_price": 120,
        "confidence": 80,
        "notes": None,
        "updated_at": "2026-11-20T06:35:01Z",
    }
    # The stop may follow the price beyond the entry, but not the target.
    await desk.ask("PATCH", made["id"], json={"stop_loss": 110})
    for change in ({"stop_loss": 120}, {"target_price": 105}, {"target_price": 99}, {"entry_price": 125}):
        await desk.ask("PATCH", made["id"], status=422, json=change)
    assert desk.told() == [("created", made["id"]), ("changed", made["id"]), ("changed", made["id"])]
    # What changes nothing is told to nobody.
    await desk.ask("PATCH", made["id"], json={"stop_loss": 110, "status": "ACTIVE"})
    assert len(desk.events) == 3


async def test_changes_at_one_time_are_all_kept(desk: Desk) -> None:
    made = await desk.enter()
    changes = ({"target_price": 120}, {"quantity": 3}, {"confidence": 9}, {"notes": "all"})
    await asyncio.gather(*(desk.ask("PATCH", made["id"], json=change) for change in changes))
    after = await desk.read(made)
    assert {name: after[name] for change in changes for name in change} == {
        "target_price": 120,
        "quantity": 3,
        "confidence": 9,
        "notes": "all",
    }


async def test_closed_at_one_time_in_two_ways(desk: Desk) -> None:
    made = await desk.enter()
    headers = {"Authorization": "Bearer ann"}
    answers = await asyncio.gather(
        *(
            desk.client.patch(PATH + made["id"], json={"status": status}, headers=headers)
            for status in ("COMPLETED", "CANCELLED") * 3
        )
    )
    after = await desk.read(made)
    kept = [answer.json()["status"] for answer in answers if answer.status_code == 200]
    assert kept == [after["status"]] * 3
    assert {answer.status_code for answer in answers} == {200, 409}
    assert len(desk.events) == 2


@pytest.mark.parametrize(
    "body", [{}, {"quantity": None}, {"status": None}, {"symbol": "TCS"}, {"status": "DONE"}, {"confidence": 101}, []]
)
async def test_what_is_no_change(desk: Desk, body: Any) -> None:
    made = await desk.enter()
    await desk.ask("PATCH", made["id"], status=422, json=body)
    assert await desk.read(made) == made


@pytest.mark.parametrize("final", ["COMPLETED", "CANCELLED"])
async def test_what_is_closed_stays_closed(desk: Desk, final: str) -> None:
    made = await desk.enter()
    closed = await desk.ask("PATCH", made["id"], json={"status": final.lower()})
    assert (closed["status"], closed["outcome"], closed["closed_at"]) == (final, None, "2026-11-20T06:30:01Z")
    assert closed["followed_live"] is False
    other = {"COMPLETED": "CANCELLED", "CANCELLED": "COMPLETED"}[final]
    for change in ({"status": other}, {"status": "ACTIVE"}, {"target_price": 111}, {"quantity": 1, "notes": "x"}):
        await desk.ask("PATCH", made["id"], status=409, json=change)
    assert await desk.read(made) == closed
    noted = await desk.ask("PATCH", made["id"], json={"notes": "A lesson", "status": final})
    assert noted == closed | {"notes": "A lesson"}
    assert [change for change, _ in desk.told()] == ["created", final.lower(), "changed"]
    word = {"COMPLETED": "signal.complete", "CANCELLED": "signal.cancel"}[final]
    assert [act.action for act in desk.trail.acts] == ["signal.create", word, "signal.change"]


def test_the_state_machine() -> None:
    for present in Status:
        for wanted in Status:
            if wanted is present or wanted in NEXT[present]:
                check_change(present, wanted)
            else:
                with pytest.raises(ConflictError, match="final"):
                    check_change(present, wanted)
    assert {state: set(following) for state, following in NEXT.items() if following} == {
        Status.ACTIVE: {Status.COMPLETED, Status.CANCELLED}
    }


async def test_nobody_sees_anybody_elses(desk: Desk) -> None:
    made = await desk.enter()
    assert await desk.ask("GET", who="bob") == []
    await desk.ask("GET", made["id"], "bob", 404)
    await desk.ask("PATCH", made["id"], "bob", 404, json={"status": "CANCELLED"})
    await desk.ask("DELETE", made["id"], "bob", 404)
    await desk.ask("GET", "6b02893a002b26997921d778", status=404)
    await desk.ask("GET", "nonsense", status=404)
    assert await desk.read(made) == made
    assert {event.user_id for event in desk.events} == {made["user_id"]}


async def test_who_may(desk: Desk) -> None:
    made = await desk.enter()
    for method, path, body in (
        ("GET", "", None),
        ("POST", "", given()),
        ("GET", made["id"], None),
        ("PATCH", made["id"], {"confidence": 1}),
        ("DELETE", made["id"], None),
    ):
        options = {"json": body} if body else {}
        await desk.ask(method, path, None, 401, **options)
        if method == "GET":
            await desk.ask(method, path, "reader")
            await desk.ask(method, path, "alerts", 403)
        else:
            await desk.ask(method, path, "reader", 403, **options)


async def test_deleting(desk: Desk) -> None:
    made = await desk.enter()
    assert await desk.ask("DELETE", made["id"], status=204) is None
    await desk.ask("GET", made["id"], status=404)
    await desk.ask("DELETE", made["id"], status=404)
    assert desk.told() == [("created", made["id"]), ("deleted", made["id"])]
    assert desk.events[-1].deleted
    assert desk.trail.acts[-1].action == "signal.delete"


async def test_the_limit_is_of_active_ones(desk: Desk) -> None:
    first = await desk.enter()
    row = await desk.db["signals"].find_one({})
    assert row is not None
    await desk.db["signals"].insert_many([{**row, "_id": number} for number in range(MAX_ACTIVE - 1)])
    answer = await desk.ask("POST", status=409, json=given())
    assert str(MAX_ACTIVE) in answer["detail"]
    await desk.enter("bob")
    await desk.ask("PATCH", first["id"], json={"status": "CANCELLED"})
    await desk.enter()


async def test_the_indexes_have_the_contracts_names(desk: Desk) -> None:
    indexes = await desk.db["signals"].index_information()
    contract = {"_id_", "user_id_1", "symbol_1", "status_1", "created_at_-1", "user_id_1_status_1"}
    assert contract | {"symbol_1_created_at_-1"} <= set(indexes)
    assert indexes["created_at_-1"]["key"] == [("created_at", -1)]
    assert SignalDocument.Settings.name == "signals"


async def test_what_no_feed_brings_is_not_said_to_be_followed(desk: Desk) -> None:
    """A typing error, and a share that the feed does not follow, have no price that would complete them."""
    signals = UserSignals(
        bus=desk.bus,
        clock=desk.clock,
        sequence=Numbers(desk.clock),
        audit=desk.trail,
        names=lambda symbol: price_name(symbol, {"NIFTY 50"}),
    )
    ann = await desk.people.authenticate("ann")
    made = [json.loads(await signals.create(ann, SignalInput(**given(symbol=each)))) for each in ("NIFTY50", "TYPO")]
    assert [each["followed_live"] for each in made] == [True, False]
    page = await signals.page(ann.user_id, SignalFilters(), PageRequest(5))
    assert [each["followed_live"] for each in json.loads(signals.json(page.rows))] == [False, True]
    assert [json.loads(event.body)["followed_live"] for event in desk.events] == [True, False]


async def test_a_state_that_a_new_signal_cannot_have_is_refused_in_words(desk: Desk) -> None:
    answer = await desk.ask("POST", status=422, json=given(status="COMPLETED"))
    assert answer["detail"] == "body.status: Input should be 'ACTIVE'"
