"""Brokers' events over HTTP: proven ones are facts, the others reasons to look, and forged ones nothing."""

import hashlib
import hmac
import json
import time
from decimal import Decimal
from typing import Any

import httpx
import pytest
from beanie import PydanticObjectId
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from app.brokerage.accounts.models import BrokerAccountDocument
from app.brokerage.accounts.store import AccountStore
from app.brokerage.push.signatures import is_kites, kite_checksum, signed_by_one
from app.brokerage.words import BrokerName, OrderState
from app.core.errors import UnavailableError
from tests.brokerage.accounts.kit import WEBHOOK_SECRETS, Desk

Row = dict[str, Any]
URL = "/api/v1/brokerage/webhook/"


def signature(body: bytes, secret: str = WEBHOOK_SECRETS[0]) -> dict[str, str]:
    digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return {"X-Broker-Signature": digest, "X-Broker-Signature-Alg": "HMAC-SHA256"}


async def push(
    desk: Desk, broker: str, event: Row | bytes, headers: dict[str, Any] | None = None, *, signed: bool = False
) -> httpx.Response:
    body = event if isinstance(event, bytes) else json.dumps(event, default=str).encode()
    return await desk.client.post(URL + broker, content=body, headers=signature(body) if signed else headers or {})


def placed(desk: Desk) -> Any:
    """An order in the book of the simulated Kite."""
    terms: Row = {"product": "CNC", "price_type": "LIMIT", "price": Decimal(1000), "tag": "t1"}
    return desk.kite.book.place("NSE", "RELIANCE", "BUY", 10, **terms)


# Signed


@pytest.mark.parametrize("secret", WEBHOOK_SECRETS)
async def test_a_signed_event_is_a_fact_once(desk: Desk, secret: str) -> None:
    account, recorder = await desk.zerodha(), desk.recorder
    body = json.dumps({"account_id": account["id"], "order": desk.kite.postback(placed(desk))}, default=str).encode()
    answer = await push(desk, "zerodha", body, signature(body, secret))
    assert (answer.status_code, answer.json()) == (200, {"status": "accepted"})
    ((account_id, (order,)),) = recorder.observed
    assert account_id == account["id"]
    assert (order.symbol, order.quantity, order.tag) == ("RELIANCE", 10, "t1")
    assert order.state in {OrderState.OPEN, OrderState.COMPLETE}
    assert recorder.looked == [account["id"]]
    for _ in range(3):
        answer = await push(desk, "zerodha", body, signature(body, secret))
        assert (answer.status_code, answer.json()) == (200, {"status": "repeat"})
    assert len(recorder.observed) == len(recorder.looked) == 1


async def test_the_account_is_named_by_the_brokers_code_too_and_by_all_who_have_it(desk: Desk) -> None:
    accounts = {(await desk.zerodha(who))["id"] for who in ("ann", "bob")}
    event = desk.kite.postback(placed(desk))
    assert (await push(desk, "zerodha", event, signed=True)).json() == {"status": "accepted"}
    assert {account_id for account_id, _ in desk.recorder.observed} == accounts
    assert (await push(desk, "zerodha", event | {"user_id": "XX0000"}, signed=True)).json() == {"status": "ignored"}
    assert len(desk.recorder.observed) == 2


async def test_a_code_is_still_known_after_a_change_of_secret_key(desk: Desk) -> None:
    account = await desk.zerodha()
    former = desk.settings.secret_key
    fresh = desk.settings.model_copy(update={"secret_key": SecretStr("k" * 64), "secret_key_previous": [former]})
    found = await AccountStore(fresh, desk.vault, desk.clock).named(BrokerName.ZERODHA, desk.kite.account.user_id)
    assert [str(row["_id"]) for row in found] == [account["id"]]
    lost = desk.settings.model_copy(update={"secret_key": SecretStr("k" * 64)})
    assert not await AccountStore(lost, desk.vault, desk.clock).named(BrokerName.ZERODHA, desk.kite.account.user_id)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Broker-Signature": ""},
        {"X-Broker-Signature": "0" * 64},
        {"X-Broker-Signature": b"\xe9" * 64},
        signature(b"another body"),
        signature(b"{}", "another secret that nobody knows"),
        signature(b"{}", ""),
        {**signature(b"{}"), "X-Broker-Signature-Alg": "HMAC-SHA1"},
        {**signature(b"{}"), "X-Broker-Signature-Alg": "none"},
    ],
)
async def test_what_is_not_signed_is_refused(desk: Desk, headers: dict[str, Any]) -> None:
    for broker in ("angelone", "groww", *(("zerodha", "upstox") if headers else ())):
        answer = await push(desk, broker, b"{}", headers)
        assert answer.status_code == 401, broker
        assert answer.headers["content-type"] == "application/problem+json"
    assert not desk.recorder.observed
    assert not desk.recorder.looked
    refusals = [act for act in desk.recorder.acts if act.action == "brokerage.push"]
    assert [act.account_id for act in refusals] == [None] * len(refusals) != []


async def test_refusals_are_not_all_written_down(desk: Desk) -> None:
    for _ in range(30):
        assert (await push(desk, "groww", b"{}")).status_code == 401
    assert len(desk.recorder.acts) == 5


def test_without_secrets_nothing_is_signed() -> None:
    empty = hmac.new(b"", b"{}", hashlib.sha256).hexdigest()
    assert not signed_by_one(b"{}", empty, "HMAC-SHA256", [])


@given(st.binary(max_size=300), st.text("abcXYZ019é-_", min_size=16, max_size=40), st.integers(0, 63), st.booleans())
def test_signatures_hold_for_one_body_and_one_secret(body: bytes, secret: str, at: int, upper: bool) -> None:
    right = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    shown = right.upper() if upper else right
    assert signed_by_one(body, shown, None, ["other" * 5, secret])
    assert not signed_by_one(body + b" ", shown, None, [secret])
    assert not signed_by_one(body, shown, None, [secret + "x"])
    spoilt = right[:at] + ("0" if right[at] != "0" else "1") + right[at + 1 :]
    assert not signed_by_one(body, spoilt, None, [secret])


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b"{", b'"x"', b"\xff\xfe", b"[" * 50_000, b"{}", b'{"user_id": {"$gt": ""}}']
)
async def test_a_signed_event_that_makes_no_sense(desk: Desk, body: bytes) -> None:
    answer = await push(desk, "angelone", body, signed=True)
    assert answer.status_code == 422
    assert "event" in answer.json()["detail"] or "JSON" in answer.json()["detail"]


async def test_a_signed_event_that_cannot_be_read_is_looked_after(desk: Desk) -> None:
    account = await desk.zerodha()
    event = {"account_id": account["id"], "order": {"order_id": 1, "status": "???"}}
    assert (await push(desk, "zerodha", event, signed=True)).json() == {"status": "accepted"}
    assert not desk.recorder.observed
    assert desk.recorder.looked == [account["id"]]


async def test_an_id_of_another_broker_or_of_nobody_is_ignored(desk: Desk) -> None:
    account = await desk.zerodha()
    for broker, account_id in (("groww", account["id"]), ("zerodha", str(PydanticObjectId())), ("zerodha", "x")):
        answer = await push(desk, broker, {"account_id": account_id}, signed=True)
        assert answer.json() == {"status": "ignored"}
    assert not desk.recorder.looked


async def test_what_was_not_stored_is_taken_when_it_comes_again(desk: Desk) -> None:
    await desk.zerodha()
    event = desk.kite.postback(placed(desk))
    desk.recorder.failing = UnavailableError("The database is away.")
    assert (await push(desk, "zerodha", event, signed=True)).status_code == 503
    desk.recorder.failing = None
    assert (await push(desk, "zerodha", event, signed=True)).json() == {"status": "accepted"}
    assert len(desk.recorder.observed) == 1


@pytest.mark.parametrize("broker", ["paper", "robinhood", "zerodha%00", "$where"])
async def test_brokers_that_push_nothing(desk: Desk, broker: str) -> None:
    answer = await push(desk, broker, b"{}", signed=True)
    assert answer.status_code == 404
    assert "angelone, zerodha, upstox, groww" in answer.json()["detail"]


# Kite's postback


async def test_kites_postback_makes_us_look_once(desk: Desk) -> None:
    mine, theirs = await desk.zerodha(), await desk.groww_by_code("bob")
    event = desk.kite.postback(placed(desk))
    assert (await push(desk, "zerodha", event)).json() == {"status": "noted"}
    assert (await push(desk, "zerodha", event)).json() == {"status": "repeat"}
    assert desk.recorder.looked == [mine["id"]]
    assert theirs["id"] not in desk.recorder.looked
    # The checksum covers the id and the time alone: whatever else it says is no fact.
    forged = event | {"status": "COMPLETE", "filled_quantity": 10, "average_price": 1}
    assert (await push(desk, "zerodha", forged)).json() == {"status": "noted"}
    assert not desk.recorder.observed


@pytest.mark.parametrize(
    "change",
    [
        {"checksum": "0" * 64},
        {"checksum": None},
        {"checksum": "é" * 64},
        {"order_id": "999"},
        {"order_timestamp": "2026-11-23 12:00:01"},
        {"user_id": "XX0000"},
        {"user_id": None},
        {"user_id": {"$ne": None}},
    ],
)
async def test_a_postback_that_is_not_kites(desk: Desk, change: Row) -> None:
    await desk.zerodha()
    answer = await push(desk, "zerodha", desk.kite.postback(placed(desk)) | change)
    assert answer.status_code == 401
    assert not desk.recorder.looked


def test_kites_checksum_is_the_documented_one() -> None:
    event = {"order_id": "220303000308932", "order_timestamp": "2022-03-03 09:24:25"}
    right = hashlib.sha256(b"2203030003089322022-03-03 09:24:25secret").hexdigest()
    assert kite_checksum(event["order_id"], event["order_timestamp"], "secret") == right
    assert is_kites(event | {"checksum": right}, "secret")
    assert not is_kites({"order_id": "", "order_timestamp": "", "checksum": kite_checksum("", "", "s")}, "s")


# Upstox


async def test_an_unsigned_push_of_upstox_is_a_hint_and_tells_nothing(desk: Desk) -> None:
    account_id = PydanticObjectId()
    row = {
        "_id": account_id,
        "user_id": desk.people.ids["ann"],
        "broker": "upstox",
        "identity": desk.here.store.identities(BrokerName.UPSTOX, "7PBKL3")[0],
        "revision": 1,
    }
    await BrokerAccountDocument.get_pymongo_collection().insert_one(row)
    answers = [await push(desk, "upstox", event) for event in ({"user_id": "7pbkl3"}, {"user_id": "other"}, {}, b"???")]
    assert {(answer.status_code, answer.text) for answer in answers} == {(200, '{"status":"noted"}')}
    assert desk.recorder.looked == [str(account_id)]
    began = time.monotonic()
    for _ in range(70):
        await push(desk, "upstox", {"user_id": "7PBKL3", "status": "complete", "filled_quantity": 10})
    more = 2 + time.monotonic() - began  # the minute slides: one a second
    assert 60 <= len(desk.recorder.looked) <= 60 + more
    assert not desk.recorder.observed


async def test_pushes_are_limited_by_network(desk: Desk) -> None:
    statuses: list[int] = []
    while len(statuses) < 3000 and 429 not in statuses:  # the window slides: it lets five more a second pass
        statuses.append((await push(desk, "upstox", b"{}")).status_code)
    assert set(statuses[:300]) == {200}
    assert statuses[-1] == 429
