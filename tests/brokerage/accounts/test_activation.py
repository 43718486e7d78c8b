"""Brokerages over HTTP: activated, listed, chosen, signed in again, removed."""

import asyncio
from typing import Any

import pytest
from beanie import PydanticObjectId
from pydantic import SecretStr

from app.brokerage.accounts.schemas import BrokerageView
from app.brokerage.adapters.angel_one.client import LOGIN
from app.brokerage.errors import BrokerSessionError, BrokerUnavailableError
from app.brokerage.ports import BrokerAccount
from app.brokerage.words import BrokerName
from app.core.encryption import Vault
from tests.brokerage.accounts.kit import SIX, Desk


async def test_the_body_of_the_documentation_opens_a_session(desk: Desk) -> None:
    body = {"api_url": desk.kite.base_url, **desk.kite.credentials()}
    made = await desk.zerodha(**body)
    assert BrokerageView.model_validate(made)
    assert (made["brokerage"], made["active"], made["credentials"]) == ("zerodha", True, ["api_key", "api_secret"])
    session = made["session"]
    assert (session["state"], session["expires_at"]) == ("valid", SIX.isoformat().replace("+00:00", "Z"))
    assert session["renews_itself"] is False
    assert await desk.ask("GET", f"/brokerages/{made['id']}") == made
    account, opened = await desk.here.sessions.open(made["id"])
    assert await desk.brokers[BrokerName.ZERODHA].funds(account, opened)
    assert await desk.here.sessions.active(str(desk.people.ids["ann"])) == made["id"]
    owners = [name for name, one in desk.people.ids.items() if await desk.here.sessions.owns(str(one), made["id"])]
    assert owners == ["ann"]
    assert "request_token" not in account.secrets
    assert desk.changes() == ["activated"]
    assert desk.recorder.told == ["brokerage.activate success"]


async def test_without_the_pages_token_the_answer_says_where_to_get_one(desk: Desk) -> None:
    made = await desk.zerodha(request_token=None)
    assert made["session"]["state"] == "none"
    assert made["session"]["login_url"] == f"{desk.kite.base_url}/connect/login?v=3&api_key={desk.kite.account.api_key}"
    where = f"/brokerages/{made['id']}/session"
    asked = await desk.ask("POST", where, status=409, json={})
    assert asked["login_url"] == made["session"]["login_url"]
    assert where in asked["detail"]
    desk.clock.move(seconds=2)
    done = await desk.ask("POST", where, json={"request_token": desk.kite.request_token()})
    assert done["session"]["state"] == "valid"
    assert desk.changes() == ["activated", "session"]
    await desk.ask("POST", where, status=409, json={"request_token": "spent"})
    assert (await desk.ask("GET", f"/brokerages/{made['id']}"))["session"]["state"] == "valid"


async def test_angel_one_is_signed_in_at_once_and_again_without_a_person(desk: Desk) -> None:
    made = await desk.angelone()
    assert (made["session"]["state"], made["session"]["renews_itself"]) == ("valid", True)
    before = await desk.row(made)
    desk.clock.move(seconds=40)
    again = await desk.ask("POST", f"/brokerages/{made['id']}/session", "writer", json={})
    assert again["session"]["made_at"] > made["session"]["made_at"]
    assert (await desk.row(made))["session"] != before["session"]
    refused = await desk.ask("POST", f"/brokerages/{made['id']}/session", status=422, json={"request_token": "x"})
    assert "hands over no token" in refused["detail"]


async def test_refused_credentials_are_not_stored_and_not_repeated(desk: Desk) -> None:
    refused = await desk.angelone(status=409, password="9999")
    assert refused["type"].endswith("broker-session-expired")
    asked = sum(desk.angel.calls.values())
    for _ in range(3):
        answer = await desk.angelone(status=409, password="9999")
        assert "could lock your account" in answer["detail"]
    assert sum(desk.angel.calls.values()) == asked
    assert await desk.db["broker_accounts"].count_documents({"broker": "angelone"}) == 0
    assert desk.recorder.told == ["brokerage.sign_in failure"] * 4
    desk.clock.move(seconds=61)
    await desk.angelone(status=409, password="9999")
    assert sum(desk.angel.calls.values()) == asked + 1
    answer = await desk.angelone(status=409, password="9999")
    assert "06:3" in answer["detail"]  # five minutes from now
    await desk.angelone()  # other credentials
    assert await desk.db["broker_refusals"].count_documents({}) == 0


async def test_no_more_than_five_refusals_an_hour_whatever_the_credentials(desk: Desk) -> None:
    for number in range(5):
        answer = await desk.angelone(status=409, password=f"999{number}")
        assert "could lock" not in answer["detail"]
    asked = sum(desk.angel.calls.values())
    answer = await desk.angelone(status=409)  # the right ones, this time
    assert "could lock your account" in answer["detail"]
    assert sum(desk.angel.calls.values()) == asked
    desk.clock.move(minutes=59, seconds=58)
    await desk.angelone()


async def test_nor_when_many_are_tried_at_once_in_several_processes(desk: Desk) -> None:
    desk.groww.refuse = "groww-api-key"
    account = BrokerAccount(
        account_id=str(PydanticObjectId()),
        user_id=str(PydanticObjectId()),
        broker=BrokerName.GROWW,
        base_url="https://groww.example",
        secrets={"api_key": SecretStr("groww-api-key"), "totp_key": SecretStr("JBSWY3DPEHPK3PXP")},
    )
    processes = [desk.here, desk.process()]
    tries = [process.sign_ins.sign_in(account) for process in processes for _ in range(5)]
    answers = await asyncio.gather(*tries, return_exceptions=True)
    assert all(isinstance(answer, BrokerSessionError) for answer in answers)
    assert desk.groww.sign_ins == 1


async def test_a_refused_refresh_costs_one_sign_in_and_that_is_counted(desk: Desk) -> None:
    made = await desk.angelone()
    before = desk.angel.calls[f"POST {LOGIN}"]
    desk.angel.sessions.expire(refresh_too=True)
    desk.angel.fail("refused", times=9, on="/loginByPassword")
    row = await desk.row(made)
    with pytest.raises(BrokerSessionError):
        await desk.here.sign_ins.renewed(row)
    assert desk.angel.calls[f"POST {LOGIN}"] == before + 1
    assert (await desk.db["broker_refusals"].find_one({}))["times"] == 1


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"brokerage": "zerodha", "api_key": "k"}, "Zerodha wants api_secret, too"),
        (
            {"brokerage": "angelone", "api_key": "k", "client_id": "A1", "password": "1"},
            "Angel One wants totp_key, too",
        ),
        ({"brokerage": "groww", "api_key": "k"}, "Groww wants totp_key or api_secret, too"),
        ({"brokerage": "zerodha", "api_key": "k", "api_secret": "s", "totp_key": "JBSW"}, "Zerodha takes no totp_key"),
        ({"brokerage": "paper", "api_key": "k"}, "no credentials"),
        ({"brokerage": "paper", "api_url": "https://x.example"}, "no api_url"),
        ({"brokerage": "groww", "api_key": "k", "totp_key": "not base32!"}, "Base32"),
        ({"brokerage": "robinhood"}, "brokerage"),
        ({"brokerage": "zerodha", "api_key": "k\nx", "api_secret": "s"}, "api_key"),
        ({"brokerage": "zerodha", "api_key": "kéy", "api_secret": "s"}, "api_key"),
        ({"brokerage": "zerodha", "api_key": {"$gt": ""}, "api_secret": "s"}, "api_key"),
        ({"brokerage": "zerodha", "api_key": "k", "api_secret": "s", "user_id": "x"}, "user_id"),
        ({"brokerage": "upstox", "api_key": "k", "api_secret": "s"}, "redirect_uri"),
    ],
)
async def test_what_is_no_activation(desk: Desk, body: dict[str, Any], words: str) -> None:
    answer = await desk.activate(status=422, **body)
    assert words in answer["detail"] + str(answer["errors"])
    assert not desk.events
    assert await desk.db["broker_accounts"].count_documents({}) == 0


async def test_paper_is_always_there_and_stays(desk: Desk) -> None:
    user = str(desk.people.ids["ann"])
    account_id = await desk.here.sessions.active(user)
    (listed,) = await desk.ask("GET", "/brokerages")
    assert (listed["id"], listed["brokerage"], listed["active"]) == (account_id, "paper", True)
    assert (listed["session"]["state"], listed["session"]["expires_at"]) == ("valid", None)
    account, session = await desk.here.sessions.open(account_id)
    assert (account.broker, session.expires_at) == (BrokerName.PAPER, None)
    assert account_id in await desk.here.sessions.all_open()
    await desk.here.sessions.expired(account_id, session)
    assert (await desk.ask("POST", f"/brokerages/{account_id}/session", json={}))["session"]["state"] == "valid"
    answer = await desk.ask("DELETE", f"/brokerages/{account_id}", status=409)
    assert "cannot be removed" in answer["detail"]


async def test_orders_go_where_the_owner_chose_last(desk: Desk) -> None:
    user, sessions = str(desk.people.ids["ann"]), desk.here.sessions
    zerodha = await desk.zerodha()
    groww = await desk.groww_by_code()
    assert await sessions.active(user) == groww["id"]
    listed = await desk.ask("GET", "/brokerages")
    assert [one["brokerage"] for one in listed if one["brokerage"] != "paper"] == ["groww", "zerodha"]
    assert [one["brokerage"] for one in listed if one["active"]] == ["groww"]
    desk.clock.move(seconds=1)
    await desk.ask("POST", f"/brokerages/{zerodha['id']}/active")
    assert await sessions.active(user) == zerodha["id"]
    desk.clock.move(seconds=1)
    await desk.ask("DELETE", f"/brokerages/{zerodha['id']}", status=204)
    # Not to another broker's real money.
    assert await sessions.broker_of(await sessions.active(user)) is BrokerName.PAPER
    desk.clock.move(seconds=1)
    paper = await desk.activate(status=200, brokerage="Paper")
    assert paper["active"] is True
    assert desk.changes() == ["activated", "activated", "chosen", "removed", "chosen"]


async def test_an_account_with_open_orders_is_not_removed(desk: Desk) -> None:
    made = await desk.zerodha()
    desk.recorder.open_orders[made["id"]] = 2
    answer = await desk.ask("DELETE", f"/brokerages/{made['id']}", status=409)
    assert "2 of your orders there are not settled" in answer["detail"]
    desk.recorder.open_orders.clear()
    await desk.ask("DELETE", f"/brokerages/{made['id']}", status=204)
    assert await desk.db["broker_accounts"].count_documents({"broker": "zerodha"}) == 0
    await desk.ask("DELETE", f"/brokerages/{made['id']}", status=404)


async def test_activated_again_it_keeps_its_id_unless_it_is_another_client(desk: Desk) -> None:
    made = await desk.zerodha()
    fresh = await desk.zerodha(status=200)
    assert (fresh["id"], fresh["created_at"]) == (made["id"], made["created_at"])
    without = await desk.zerodha(status=200, request_token=None)
    # Credentials were replaced, so what they had opened is closed.
    assert (without["session"]["state"], without["session"]["ended_because"]) == ("expired", "replaced")
    object.__setattr__(desk.kite.account, "user_id", "ZZ9999")
    answer = await desk.zerodha(status=409)
    assert "another client of Zerodha" in answer["detail"]
    assert (await desk.ask("GET", f"/brokerages/{made['id']}"))["session"]["state"] == "expired"


async def test_a_broker_that_is_away_stores_nothing(desk: Desk) -> None:
    desk.groww.error = BrokerUnavailableError("Groww cannot be used right now.")
    await desk.groww_by_code(status=503)
    desk.kite.fail("reset", times=1)
    await desk.zerodha(status=503)
    assert await desk.db["broker_accounts"].count_documents({}) == 0
    assert desk.recorder.told == ["brokerage.sign_in failure"] * 2


async def test_nobody_sees_or_uses_what_is_anothers(desk: Desk) -> None:
    made = await desk.zerodha()
    one = f"/brokerages/{made['id']}"
    for method, path in (("GET", one), ("DELETE", one), ("POST", f"{one}/active")):
        await desk.ask(method, path, "bob", 404)
    await desk.ask("POST", f"{one}/session", "bob", 404, json={"request_token": "x"})
    assert [account["brokerage"] for account in await desk.ask("GET", "/brokerages", "bob")] == ["paper"]
    await desk.ask("GET", "/brokerages/nonsense", status=404)
    await desk.ask("GET", "/brokerages", None, 401)


async def test_api_tokens_read_and_renew_and_no_more(desk: Desk) -> None:
    made = await desk.zerodha()
    one = f"/brokerages/{made['id']}"
    for token in ("reader", "writer"):
        await desk.ask("GET", one, token)
        await desk.ask("DELETE", one, token, 403)
        await desk.ask("POST", f"{one}/active", token, 403)
        await desk.ask("POST", "/activate-brokerage", token, 403, json={"brokerage": "paper"})
    await desk.ask("POST", f"{one}/session", "reader", 403, json={"request_token": desk.kite.request_token()})
    desk.clock.move(seconds=2)
    await desk.ask("POST", f"{one}/session", "writer", json={"request_token": desk.kite.request_token()})


async def test_without_encryption_keys_nothing_is_taken(desk: Desk) -> None:
    desk.here.store._vault = Vault([])
    answer = await desk.zerodha(status=503)
    assert "ENCRYPTION_KEYS" in answer["detail"]
    assert await desk.db["broker_accounts"].count_documents({}) == 0


async def test_a_row_copied_over_anothers_opens_nothing(desk: Desk) -> None:
    mine = await desk.zerodha()
    theirs = await desk.zerodha("bob")
    row = await desk.row(mine)
    stolen = {"secrets": row["secrets"], "session": row["session"]}
    await desk.db["broker_accounts"].update_one({"_id": (await desk.row(theirs))["_id"]}, {"$set": stolen})
    desk.clock.move(seconds=10)
    listed = await desk.ask("GET", "/brokerages", "bob")
    assert listed[0]["session"]["login_url"] is None
    with pytest.raises(Exception, match="cannot be opened"):
        await desk.here.sessions.open(theirs["id"])
