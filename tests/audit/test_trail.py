"""Writing entries: one gapless chain whoever writes, nothing acknowledged that is not durable, no secret in it."""

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from beanie import PydanticObjectId

from app.audit.chain import GENESIS, canonical, digest
from app.audit.draft import draft
from app.audit.trail import ChainedAuditTrail
from app.audit.verification import verify
from app.core.audit import SYSTEM, Act, Actor, ActorKind, Outcome
from app.core.request_info import RequestInfo
from tests.audit.conftest import ACCOUNT, MakeTrail, act, check_chain, during, entries, head
from tests.support.clocks import StandingClock
from tests.support.mongodb import Db


async def test_an_entry_holds_all_that_is_known(db: Db, trail: ChainedAuditTrail, clock: StandingClock) -> None:
    user, credential = PydanticObjectId(), PydanticObjectId()
    given = Act(
        "auth.sign_in",
        user,
        Actor(ActorKind.API_TOKEN, user, credential),
        Outcome.FAILURE,
        ("session", "s1"),
        {"method": "password", "attempt": 3, "known": True, "reason": None},
    )
    await during(RequestInfo("req-1", "203.0.113.7", "Mozilla/5.0 (X11)"), trail.record(given))
    [row] = await entries(db)
    assert {name: value for name, value in row.items() if name not in {"_id", "hash", "seq"}} == {
        "schema_version": 1,
        "number": 1,
        "at": clock.now(),
        "action": "auth.sign_in",
        "outcome": "failure",
        "account_id": user,
        "actor": {"kind": "api_token", "user_id": user, "credential_id": credential},
        "target": {"kind": "session", "id": "s1"},
        "address": "203.0.113.7",
        "user_agent": "Mozilla/5.0 (X11)",
        "request_id": "req-1",
        "details": {"method": "password", "attempt": 3, "known": True, "reason": None},
        "previous_hash": GENESIS,
    }


async def test_outside_a_request_nothing_is_made_up(db: Db, trail: ChainedAuditTrail) -> None:
    await trail.record(Act("admin.user_update", None, SYSTEM))
    [row] = await entries(db)
    assert row["actor"] == {"kind": "system"}
    assert {"address", "user_agent", "request_id", "account_id", "target"}.isdisjoint(row)


def test_the_canonical_text_is_the_documented_one() -> None:
    row = {
        "_id": PydanticObjectId("6b02893a002b26997921d778"),
        "number": 7,
        "at": datetime(2026, 11, 20, 5, 30, 1, 123000, tzinfo=UTC),
        "details": {"é": True, "b": None},
        "hash": "not covered",
    }
    assert canonical(row) == (
        b'{"_id":{"$oid":"6b02893a002b26997921d778"},"at":{"$date":1795152601123},'
        b'"details":{"b":null,"\\u00e9":true},"number":7}'
    )
    # Computed by another program (sha256sum) from that text: the format must not drift.
    assert digest(row) == "2e909c207392143a9160487a77fe5af1f75631f55009c802d6e47f68a78fb551"


def test_no_secret_gets_into_an_entry() -> None:
    token = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.dBjftJeZ4CVPmB92K27uhbUJU1p1r"
    key = "k" * 43
    request = RequestInfo("r", "192.0.2.1", f"bot Bearer {token}")
    given: dict[str, str | int | bool | None] = {
        "password": "hunter2hunter2",
        "otp": 123456,
        "header": f"Bearer {token}",
        "note": f"key {key}",
        "method": "otp",
    }
    row = draft(Act("a.b", ACCOUNT, target=("strategy_key", key), details=given), request, datetime.now(UTC))
    text = json.dumps(row, default=str)
    for secret in ("hunter2", "123456", token, key):
        assert secret not in text
    assert row["details"]["method"] == "otp"


@pytest.mark.parametrize(
    "details",
    [
        {f"name{n}": "x " * 150 for n in range(50)},
        {"big": 2**70, "half": "\ud800", "nul": "a\0b", "$where": "1", "a.b": "c"},
        {"text": "é" * 5000},
    ],
)
async def test_whatever_the_details_are_they_fit(db: Db, trail: ChainedAuditTrail, details: dict[str, Any]) -> None:
    request = RequestInfo("r" * 1000, "a" * 1000, "u " * 2500)
    await during(request, trail.record(act(details=details, target=("k" * 1000, "\udfff" * 1000))))
    [row] = await check_chain(db, 1)
    assert len(json.dumps(row["details"], ensure_ascii=False).encode()) <= 1024
    assert len(row["user_agent"]) == 256
    assert all(not name.startswith("$") and "." not in name for name in row["details"])
    if len(details) > 10:
        assert row["details"]["cut"] is True


async def test_several_processes_write_one_chain(db: Db, make_trail: MakeTrail) -> None:
    trails = [make_trail() for _ in range(4)]
    acts = [act() for _ in range(200)]
    writing = asyncio.gather(*(trails[index % 4].record(each) for index, each in enumerate(acts)))
    while not writing.done():
        await asyncio.gather(*(trail.complete() for trail in trails))  # as the retention job does
    await writing
    rows = await check_chain(db, 200)
    assert sorted(row["details"]["n"] for row in rows) == sorted(each.details["n"] for each in acts)
    assert not (await verify(db)).defects


async def test_acts_that_come_together_share_a_write(db: Db, trail: ChainedAuditTrail) -> None:
    await trail.record(act())
    assert len((await head(db))["carried"]) == 1
    await asyncio.gather(*(trail.record(act()) for _ in range(100)))
    await check_chain(db, 101)
    # The first ones gather behind one turn of the event loop: 64 go, then 36, which the head carries still.
    assert len((await head(db))["carried"]) == 36


async def test_a_clock_that_is_behind_keeps_the_order(db: Db, trail: ChainedAuditTrail, clock: StandingClock) -> None:
    await trail.record(act())
    clock.move(minutes=-5)
    await trail.record(act())
    rows = await check_chain(db, 2)
    assert rows[1]["at"] < rows[0]["at"]


async def test_a_clock_that_was_far_ahead_does_not_hide_what_follows(
    db: Db, trail: ChainedAuditTrail, clock: StandingClock
) -> None:
    clock.move(days=400)
    await trail.record(act())
    clock.move(days=-400)
    await trail.record(act())
    first, second = await entries(db)
    assert second["seq"] < first["seq"]
    assert not (await verify(db)).defects
