"""Sessions with brokers: valid, expiring, expired; renewed where that needs no person, and never so that it locks."""

import asyncio
from datetime import datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from app.brokerage.accounts.news import ENDED, EXPIRING, composers
from app.brokerage.accounts.session_state import NEXT, SessionState, state_of
from app.brokerage.errors import BrokerSessionError, BrokerUnavailableError
from app.brokerage.ports import BrokerSession
from app.brokerage.words import BrokerName
from app.core.cancelling import end
from app.core.errors import ConflictError, NotFoundError
from app.core.events import PeersChanged
from app.mail.rendering import Templates
from tests.brokerage.accounts.kit import NOON, SIX, Desk

HOUR = timedelta(hours=1)


@given(
    st.lists(st.sampled_from(["make", "end", "wait", "wait", "wait long"]), max_size=30),
    st.lists(st.integers(1, 6), min_size=30, max_size=30),
)
def test_no_path_leaves_the_machine(steps: list[str], lives: list[int]) -> None:
    """Whatever happens, one state follows another only as the machine says, or stays."""
    now, row = NOON, {"session_live": False}
    state = state_of(row, now, HOUR)
    assert state is SessionState.NONE
    for step, life in zip(steps, lives, strict=False):
        if step == "make":
            row = {"session_live": True, "session_made_at": now, "session_expires_at": now + life * HOUR}
        elif step == "end":
            row = {**row, "session_live": False}
        else:
            now += HOUR / 2 if step == "wait" else 7 * HOUR
        fresh = state_of(row, now, HOUR)
        between = {state} | NEXT[state] | {after for each in NEXT[state] for after in NEXT[each]}
        assert fresh in (NEXT[state] | {state} if step != "wait long" else between)
        assert fresh.open == (row["session_live"] and now < row["session_expires_at"])
        state = fresh


async def test_a_session_of_kite_is_announced_to_end_and_ends(desk: Desk) -> None:
    made = await desk.zerodha()
    sessions, keeper, mails = desk.here.sessions, desk.here.keeper, desk.recorder.mails
    await keeper.sweep()
    assert not mails
    assert keeper.health()["valid"] == 1
    desk.clock.moment = SIX - timedelta(minutes=59)
    for _ in range(3):
        await keeper.sweep()
    view = (await desk.ask("GET", f"/brokerages/{made['id']}"))["session"]
    assert (view["state"], view["expires_at"]) == ("expiring", "2026-11-24T00:30:00Z")
    assert [mail.kind for mail in mails] == [EXPIRING]
    await sessions.open(made["id"])  # it still works
    assert made["id"] in await sessions.all_open()
    desk.clock.moment = SIX
    # Whoever asks first need not wait for the keeper.
    with pytest.raises(BrokerSessionError, match="is over: open login_url") as over:
        await sessions.open(made["id"])
    assert over.value.login_url == made["session"]["login_url"]
    assert made["id"] not in await sessions.all_open()
    for _ in range(2):
        await keeper.sweep()
    view = (await desk.ask("GET", f"/brokerages/{made['id']}"))["session"]
    assert (view["state"], view["ended_because"]) == ("expired", "expired")
    assert desk.changes() == ["activated", "expiring", "ended"]
    assert (await desk.row(made)).get("session") is None
    assert [mail.kind for mail in mails] == [EXPIRING]
    text = await _rendered(desk)
    assert "Zerodha ends at 24 Nov 2026, 00:30 UTC (06:00 IST)" in text
    assert desk.kite.account.api_key not in text
    desk.clock.move(seconds=2)
    done = await desk.ask(
        "POST", f"/brokerages/{made['id']}/session", json={"request_token": desk.kite.request_token()}
    )
    assert done["session"]["state"] == "valid"


async def _rendered(desk: Desk) -> str:
    (request,) = desk.recorder.mails
    letter = await composers()[request.kind](request)
    assert letter is not None
    return Templates("Arrow").render(letter).text.replace("\n", " ")


async def test_one_that_ended_while_nobody_looked_is_told_of_once(desk: Desk) -> None:
    await desk.zerodha()
    desk.clock.moment = SIX + 5 * HOUR
    for _ in range(3):
        await desk.here.keeper.sweep()
    assert [mail.kind for mail in desk.recorder.mails] == [ENDED]
    assert "Zerodha has ended" in await _rendered(desk)


async def test_angel_one_is_renewed_before_its_end_without_a_person(desk: Desk) -> None:
    made = await desk.angelone()
    ends = datetime.fromisoformat(made["session"]["expires_at"])
    desk.clock.moment = ends - timedelta(minutes=11)
    await desk.here.keeper.sweep()
    assert len(desk.angel.sessions.issued) == 1
    desk.clock.moment = ends - timedelta(minutes=9)
    await desk.here.keeper.sweep()
    assert len(desk.angel.sessions.issued) == 2
    assert not any(request.path.endswith("loginByPassword") for request in desk.angel.requests[-1:])  # by its token
    view = (await desk.ask("GET", f"/brokerages/{made['id']}"))["session"]
    assert (view["state"], datetime.fromisoformat(view["expires_at"]) > ends) == ("valid", True)
    # And after its end, by the authenticator's code.
    desk.clock.moment = datetime.fromisoformat(view["expires_at"]) + HOUR
    desk.angel.sessions.expire(refresh_too=True)
    account, session = await desk.here.sessions.open(made["id"])
    assert await desk.brokers[BrokerName.ANGEL_ONE].funds(account, session)
    assert not desk.recorder.mails


async def test_many_who_ask_sign_in_once(desk: Desk) -> None:
    made = await desk.groww_by_code()
    desk.clock.move(hours=13)
    other = desk.process()
    desk.groww.gate = asyncio.Event()
    asking = [
        asyncio.create_task(process.sessions.open(made["id"])) for process in (desk.here, other) for _ in range(10)
    ]
    await asyncio.sleep(0.3)
    assert not any(task.done() for task in asking)
    # Whoever hangs up takes the session from nobody.
    asking[0].cancel()
    asking[10].cancel()
    desk.groww.gate.set()
    done = await asyncio.gather(*asking, return_exceptions=True)
    tokens = {opened[1].access_token.get_secret_value() for opened in done if isinstance(opened, tuple)}
    assert len(tokens) == 1
    assert sum(isinstance(one, asyncio.CancelledError) for one in done) == 2
    assert desk.groww.sign_ins == 2  # the activation's, and one


async def test_a_process_that_was_killed_at_a_sign_in_holds_nobody_up_for_long(desk: Desk) -> None:
    made = await desk.groww_by_code()
    row = await desk.row(made)
    claim = {"claimed_by": "killed", "claimed_until": desk.clock.now() + timedelta(seconds=30)}
    await desk.db["broker_accounts"].update_one({"_id": row["_id"]}, {"$set": claim})
    await desk.here.sessions.expired(made["id"], (await desk.here.sessions.open(made["id"]))[1])
    desk.clock.move(seconds=31)
    await desk.here.sessions.open(made["id"])
    assert desk.groww.sign_ins == 2


async def test_what_the_broker_refuses_is_over_whatever_the_clock_says(desk: Desk) -> None:
    made = await desk.zerodha()
    sessions = desk.here.sessions
    account, session = await sessions.open(made["id"])
    desk.clock.move(hours=1)
    desk.kite.end_sessions()
    with pytest.raises(BrokerSessionError):
        await desk.brokers[BrokerName.ZERODHA].funds(account, session)
    await sessions.expired(made["id"], session)
    await sessions.expired(made["id"], session)
    with pytest.raises(BrokerSessionError):
        await sessions.open(made["id"])
    view = (await desk.ask("GET", f"/brokerages/{made['id']}"))["session"]
    assert (view["state"], view["ended_because"]) == ("expired", "refused")
    assert [mail.kind for mail in desk.recorder.mails] == [ENDED]
    assert desk.changes() == ["activated", "ended"]


async def test_a_late_refusal_ends_no_newer_session(desk: Desk) -> None:
    made = await desk.zerodha()
    _, old = await desk.here.sessions.open(made["id"])
    desk.clock.move(seconds=2)
    await desk.ask("POST", f"/brokerages/{made['id']}/session", json={"request_token": desk.kite.request_token()})
    await desk.here.sessions.expired(made["id"], old)
    await desk.here.sessions.expired(made["id"], BrokerSession(access_token=SecretStr("another"), expires_at=None))
    _, session = await desk.here.sessions.open(made["id"])
    assert session.access_token != old.access_token


async def test_sessions_that_die_at_birth_are_made_ever_more_rarely(desk: Desk) -> None:
    made = await desk.groww_by_code()
    sessions = desk.here.sessions
    made_at = []
    for _ in range(110):
        desk.clock.move(seconds=30)
        try:
            _, session = await sessions.open(made["id"])
        except BrokerSessionError as error:
            assert "as soon as they are made" in error.detail
            continue
        made_at.append(desk.clock.now())
        await sessions.expired(made["id"], session)
    waits = [(after - before).total_seconds() for before, after in pairwise(made_at)]
    assert waits == [30, 60, 120, 240, 480, 960, 1200]
    desk.clock.move(hours=1)
    _, session = await sessions.open(made["id"])
    desk.clock.move(hours=1)
    await sessions.expired(made["id"], session)  # an ordinary death
    await sessions.open(made["id"])


async def test_credentials_that_hold_no_more_are_tried_rarely_and_told_of_once(desk: Desk) -> None:
    made = await desk.groww_by_code()
    desk.groww.refuse = "groww-api-key"
    desk.clock.move(hours=13)
    before = desk.groww.sign_ins
    keeper = desk.here.keeper
    for _ in range(120):
        await keeper.sweep()
        with pytest.raises(BrokerSessionError):
            await desk.here.sessions.open(made["id"])
        desk.clock.move(seconds=30)
    assert desk.groww.sign_ins - before == 3  # at once, after one minute, after five more; then after an hour
    assert [mail.kind for mail in desk.recorder.mails] == [ENDED]
    view = (await desk.ask("GET", f"/brokerages/{made['id']}"))["session"]
    assert view["last_error"] == "Groww refused the sign-in."
    assert keeper.health()["refused"] == 1
    desk.groww.refuse = None
    fresh = await desk.groww_by_code(status=200, api_key="another-api-key")
    assert (fresh["session"]["state"], fresh["session"]["last_error"]) == ("valid", None)


async def test_a_broker_that_is_away_is_asked_again_and_nobody_is_told(desk: Desk) -> None:
    made = await desk.groww_by_code()
    desk.clock.move(hours=11, minutes=51)
    desk.groww.error = BrokerUnavailableError("away")
    for _ in range(10):
        await desk.here.keeper.sweep()
    assert desk.groww.sign_ins == 2
    desk.clock.move(seconds=30)
    desk.groww.error = None
    await desk.here.keeper.sweep()
    assert desk.groww.sign_ins == 3
    assert (await desk.row(made))["session_live"]
    assert not desk.recorder.mails


async def test_a_session_that_dies_at_six_however_new_is_renewed_once(desk: Desk) -> None:
    desk.groww.daily = True
    made = await desk.groww_by_code()
    desk.clock.moment = SIX - timedelta(minutes=12)
    while desk.clock.moment < SIX + timedelta(minutes=12):
        await desk.here.keeper.sweep()
        if desk.clock.moment < SIX:
            assert desk.groww.sign_ins == 1  # the activation's: another one would die with it
        desk.clock.move(seconds=30)
    assert desk.groww.sign_ins == 2
    row = await desk.row(made)
    assert row["session_live"]
    assert row["session_expires_at"] == SIX + timedelta(days=1)
    assert not desk.recorder.mails


async def test_nobody_signs_in_for_people_who_are_gone(desk: Desk) -> None:
    await desk.groww_by_code()
    desk.recorder.gone.add(desk.people.ids["ann"])
    desk.clock.move(hours=13)
    await desk.here.keeper.sweep()
    assert desk.groww.sign_ins == 1
    assert not desk.recorder.mails


async def test_the_keeper_goes_on_after_changes_and_ends_when_told(desk: Desk) -> None:
    task = asyncio.create_task(desk.here.keeper.run())
    await desk.zerodha()
    async with asyncio.timeout(30):
        while not desk.here.keeper.health().get("valid"):
            await asyncio.sleep(0.01)
    await end([task])
    assert task.cancelled()


async def test_what_other_processes_change_is_believed_at_once_when_heard_and_soon_when_not(desk: Desk) -> None:
    made = await desk.zerodha()
    deaf, user = desk.process(), str(desk.people.ids["ann"])
    hearing = desk.process(desk.here.bus)
    for process in (deaf, hearing):
        assert await process.sessions.active(user) == made["id"]
        await process.sessions.open(made["id"])
    await desk.ask("DELETE", f"/brokerages/{made['id']}", status=204)
    assert await hearing.sessions.active(user) != made["id"]
    with pytest.raises(NotFoundError):
        await hearing.sessions.open(made["id"])
    desk.clock.move(seconds=6)
    assert await deaf.sessions.active(user) != made["id"]
    for read in (deaf.sessions.open, hearing.sessions.broker_of):
        with pytest.raises(NotFoundError):
            await read(made["id"])


async def test_peers_that_were_lost_empty_what_is_remembered(desk: Desk) -> None:
    made = await desk.zerodha()
    other = desk.process()
    await other.sessions.open(made["id"])
    await desk.db["broker_accounts"].delete_one({"_id": (await desk.row(made))["_id"]})
    await other.sessions.open(made["id"])  # remembered
    other.bus.announce(PeersChanged("reconnected"))
    with pytest.raises(NotFoundError):
        await other.sessions.open(made["id"])


async def test_two_activations_at_once_leave_one_account(desk: Desk) -> None:
    desk.groww.gate = asyncio.Event()

    async def activate() -> int:
        body = {"brokerage": "groww", "api_key": "groww-api-key", "totp_key": "JBSWY3DPEHPK3PXP"}
        headers = {"Authorization": "Bearer ann"}
        answer = await desk.client.post("/api/v1/dashboard/activate-brokerage", headers=headers, json=body)
        return answer.status_code

    both = [asyncio.create_task(activate()) for _ in range(2)]
    while not desk.groww.sign_ins:
        await asyncio.sleep(0.01)
    desk.groww.gate.set()
    # The same credentials are tried one after the other; the second finds an account, or that one has just been made.
    assert sorted(await asyncio.gather(*both)) in ([201, 409], [200, 201])
    assert await desk.db["broker_accounts"].count_documents({}) == 1


async def test_a_session_for_credentials_that_were_replaced_meanwhile_is_not_kept(desk: Desk) -> None:
    made = await desk.groww_by_code()
    desk.clock.move(hours=13)
    late = desk.groww.gate = asyncio.Event()
    opening = asyncio.create_task(desk.here.sessions.open(made["id"]))
    while desk.groww.sign_ins < 2:
        await asyncio.sleep(0.01)
    desk.groww.gate = None
    await desk.groww_by_code(status=200, api_key="new-api-key")
    stored = (await desk.row(made))["session"]
    late.set()
    with pytest.raises(ConflictError):
        await opening
    assert (await desk.row(made))["session"] == stored
