"""Requests become mails: once, soon, by one process at a time, and without a secret in the database."""

import asyncio
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.core.bus import Bus, NullTransport
from app.core.errors import UnavailableError
from app.core.mail import Letter, MailRequest
from app.mail.models import MailState
from app.mail.outbox import Timings
from tests.mail.conftest import QUICK, MakePost, no_row, nothing, until
from tests.support.mongodb import Db
from tests.support.smtp_server import SmtpServer


async def test_a_mail_goes_out_within_a_second_of_its_request(make_post: MakePost, server: SmtpServer):
    # Looks are a minute apart: what is sent is sent because it was announced.
    post = make_post(server, timings=Timings(look=60))
    await asyncio.sleep(0.1)  # it has looked, and waits
    began, asked_at = time.monotonic(), datetime.now(UTC)
    await post.ask("asha@example.com")
    mail = await server.wait_for("asha@example.com")
    assert mail.at - began < 30
    assert mail.sender == "arrow@mail.test"
    assert mail["From"] == "Arrow <arrow@mail.test>"
    assert mail["To"] == "asha@example.com"
    assert mail["Auto-Submitted"] == "auto-generated"
    sent = mail.message["Date"].datetime
    assert asked_at - timedelta(seconds=1) <= sent <= datetime.now(UTC)
    assert post.codes == [code for part in (mail.text, mail.html) for code in post.codes if code in part][:1]
    assert post.codes[0] in mail.html
    row = await post.settled("asha@example.com", "sent")
    assert row["expires_at"] - row["settled_at"] == QUICK.keep
    assert row["attempts"] == 1


async def test_what_was_asked_for_while_nobody_sent_is_sent_by_the_next_process(
    make_post: MakePost, server: SmtpServer
):
    before = make_post(server, run=False)
    for number in range(5):
        await before.ask(f"p{number}@example.com")
    after = make_post(server)
    for number in range(5):
        await server.wait_for(f"p{number}@example.com")
        await after.settled(f"p{number}@example.com", "sent")
    assert len(server.mails) == 5
    assert {mail.connection for mail in server.mails} == {1}, "one connection serves a batch"


async def test_no_secret_lies_in_the_database(make_post: MakePost, server: SmtpServer):
    post = make_post(server, run=False)
    server.faults.rcpt_replies["later@example.com"] = "450 4.2.1 Later"
    for to in ("asha@example.com", "later@example.com"):
        await post.ask(to, key=to)
    post.start()
    await server.wait_for("asha@example.com")

    async def tried() -> bool:
        return bool((await post.row("later@example.com")).get("attempts"))

    await until(tried)
    await post.settled("asha@example.com", "sent")
    assert len(post.codes) >= 2
    for row in await post.rows():
        shown = repr({name: value for name, value in row.items() if name not in {"_id", "nonce"}})
        assert not [code for code in post.codes if code in shown]


async def test_impatient_requests_become_one_mail(make_post: MakePost, server: SmtpServer):
    post = make_post(server, run=False)
    for _ in range(5):
        await post.ask("asha@example.com", key="asha@example.com")
    await asyncio.gather(*(post.ask("asha@example.com", key="asha@example.com") for _ in range(8)))
    await post.ask("asha@example.com", key="another")
    await post.ask("asha@example.com")
    await post.ask("asha@example.com")
    assert len(await post.rows(state="waiting")) == 4
    post.start()
    await server.wait_for("asha@example.com", count=4)
    await until(lambda: _nothing_waits(post.db))
    assert len(server.mails) == 4
    # A key is free again when its mail is sent.
    await post.ask("asha@example.com", key="asha@example.com")
    await server.wait_for("asha@example.com", count=5)


async def test_a_request_that_comes_while_its_predecessor_is_sent_leads_to_one_more_mail(
    make_post: MakePost, server: SmtpServer
):
    post = make_post(server)
    server.faults.hang = True
    await post.ask("asha@example.com", key="asha@example.com")
    deadline = time.monotonic() + 30
    while not server.connections:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    server.faults.delay, server.faults.hang = 0.05, False
    while not post.codes:
        await asyncio.sleep(0)
    # Its letter is made: these come too late for it, and are one.
    server.faults.hang = True
    await asyncio.gather(*(post.ask("asha@example.com", key="asha@example.com") for _ in range(3)))
    server.faults.hang = False
    await server.wait_for("asha@example.com", count=2)
    await post.settled("asha@example.com", "sent")
    assert len(server.mails) == 2
    assert server.mails[0]["Message-ID"] != server.mails[1]["Message-ID"]


async def test_a_new_request_does_not_wait_for_what_its_predecessor_was_put_off_for(
    make_post: MakePost, server: SmtpServer
):
    post = make_post(server, timings=Timings(first_retry=600))
    server.faults.rcpt_reply = "450 4.2.1 Later"
    await post.ask("asha@example.com", key="asha@example.com")

    async def put_off() -> bool:
        return bool((await post.row("asha@example.com")).get("last_error"))

    await until(put_off)
    assert (await post.row("asha@example.com"))["last_error"] == "recipient refused (450 4.2.1)"
    server.faults.rcpt_reply = None
    await post.ask("asha@example.com", key="asha@example.com")
    await server.wait_for("asha@example.com")
    row = await post.settled("asha@example.com", "sent")
    assert row["attempts"] == 1
    assert "last_error" not in row


async def test_a_request_that_there_is_nothing_to_send_for_leaves_nothing_behind(
    make_post: MakePost, server: SmtpServer
):
    post = make_post(server, run=False)
    post.outbox.add_composer("stale", nothing)
    await post.ask("stranger@example.com", kind="stale", key="stranger@example.com")
    post.start()
    await until(lambda: no_row(post.db))
    assert not server.mails


async def test_a_request_that_comes_while_there_is_nothing_to_send_for_its_predecessor_stays(
    make_post: MakePost, server: SmtpServer
):
    post = make_post(server, run=False)
    calls: list[str] = []

    async def later(request: MailRequest) -> Letter | None:
        calls.append(request.to)
        if len(calls) > 1:
            return await post.compose(request)
        await post.ask("asha@example.com", kind="later", key="asha@example.com")
        return None

    post.outbox.add_composer("later", later)
    await post.ask("asha@example.com", kind="later", key="asha@example.com")
    post.start()
    await server.wait_for("asha@example.com")
    assert len(calls) == 2


async def test_a_composer_that_fails_or_hangs_blocks_nobody_and_is_tried_again(make_post: MakePost, server: SmtpServer):
    post = make_post(server, run=False, timings=replace(QUICK, compose=0.2))
    calls: list[str] = []

    async def broken(request: MailRequest) -> Letter | None:
        calls.append("broken")
        if len(calls) < 3:
            raise RuntimeError("of asha@example.com")
        return await post.compose(request)

    async def hanging(_: MailRequest) -> Letter | None:
        await asyncio.sleep(60)
        return None

    async def incomplete(request: MailRequest) -> Letter:
        return Letter(request.to, "otp", {"name": None, "minutes": 5})

    for kind, composer in {"broken": broken, "hanging": hanging, "incomplete": incomplete}.items():
        post.outbox.add_composer(kind, composer)
        await post.ask(f"{kind}@example.com", kind=kind)
    await post.ask("unknown@example.com", kind="made up by a newer version")
    await post.ask("fine@example.com")
    post.start()
    await server.wait_for("fine@example.com")
    await server.wait_for("broken@example.com")
    await post.settled("broken@example.com", "sent")
    assert calls == ["broken"] * 3
    reasons = {
        "hanging@example.com": "composing failed (TimeoutError)",
        "incomplete@example.com": "composing failed (UndefinedError)",
        "unknown@example.com": "no composer for this kind",
    }
    for to, reason in reasons.items():
        row = await post.row(to)
        assert (row["state"], row["last_error"]) == ("waiting", reason)


async def test_a_letter_to_no_address_fails_for_good(make_post: MakePost, server: SmtpServer):
    post = make_post(server)
    hostile = ["x@example.com\r\nBcc: all@example.com", "no address", "a@example.com, b@example.com", "<a@example.com>"]
    for to in hostile:
        await post.ask(to)
    for to in hostile:
        assert (await post.settled(to, "failed"))["last_error"] == "no e-mail address"
    assert not server.mails


async def test_domains_of_other_scripts_are_sent_in_ascii(make_post: MakePost, server: SmtpServer):
    post = make_post(server)
    await post.ask("asha@भारत.test")
    await server.wait_for("asha@xn--h2brj9c.test")


async def test_two_senders_send_each_mail_once(make_post: MakePost, server: SmtpServer):
    bus = Bus(NullTransport())
    posts = [make_post(server, bus=bus) for _ in range(3)]
    for number in range(30):
        await posts[number % 3].ask(f"p{number}@example.com")
    await until(lambda: _nothing_waits(posts[0].db))
    assert sorted(mail.to[0] for mail in server.mails) == sorted(f"p{number}@example.com" for number in range(30))


async def test_a_sender_keeps_its_lease_however_long_a_mail_takes(make_post: MakePost, server: SmtpServer):
    server.faults.hang = True
    posts = [make_post(server) for _ in range(2)]
    await posts[0].ask("asha@example.com")
    ends = list[datetime]()

    async def renewed() -> bool:
        lease = await posts[0].db["leases"].find_one({"_id": "mail"})
        ends.extend([lease["expires_at"]] if lease else [])
        return bool(ends) and ends[-1] > ends[0]

    await until(renewed)
    assert server.connections == 1
    assert sorted([(await post.outbox.health())["sending"] for post in posts]) == [False, True]
    server.faults.hang = False
    await server.wait_for("asha@example.com")
    await posts[0].settled("asha@example.com", "sent")
    assert len(server.mails) == 1


async def test_a_sender_that_lost_its_lease_stops_at_once(make_post: MakePost, server: SmtpServer, db: Db):
    post = make_post(server, timings=replace(QUICK, lease=0.6, finish=30, smtp=30))
    server.faults.hang = True
    await post.ask("asha@example.com")

    async def connected() -> bool:
        return bool(server.open_connections)

    await until(connected)
    # As after a pause of the process: the lease ran out, and another one has taken it.
    another = {"holder": "another", "expires_at": datetime.now(UTC) + timedelta(minutes=1)}
    await db["leases"].update_one({"_id": "mail"}, {"$set": another})

    async def stopped() -> bool:
        return not (await post.outbox.health())["sending"] and not server.open_connections

    await until(stopped)
    server.faults.hang = False
    lease = await db["leases"].find_one({"_id": "mail"})
    assert lease is not None
    assert lease["holder"] == "another"
    await asyncio.sleep(0.3)
    assert (server.connections, server.mails) == (1, []), "it is the other's turn"


async def test_a_mail_that_was_settled_since_it_was_found_due_is_left_alone(
    make_post: MakePost, server: SmtpServer, db: Db
):
    post = make_post(server, run=False)

    async def on_its_way(request: MailRequest) -> Letter:
        server.faults.hang = True
        return await post.compose(request)

    post.outbox.add_composer("held", on_its_way)
    await post.ask("asha@example.com", kind="held")
    await asyncio.sleep(0.01)
    await post.ask("bela@example.com")
    post.start()
    while not post.codes:
        await asyncio.sleep(0.005)
    await db["outbox"].update_one({"to": "bela@example.com"}, {"$set": {"state": "sent"}})
    server.faults.hang = False
    await post.settled("asha@example.com", "sent")

    async def idle() -> bool:
        return not (await post.outbox.health())["sending"]

    await until(idle)
    assert [mail.to for mail in server.mails] == [["asha@example.com"]]


async def test_stopping_finishes_the_mail_under_way(make_post: MakePost, server: SmtpServer):
    post = make_post(server, run=False, timings=replace(QUICK, finish=25, lease=90))

    async def on_its_way(request: MailRequest) -> Letter:
        server.faults.hang = True
        return await post.compose(request)

    post.outbox.add_composer("held", on_its_way)
    await post.ask("asha@example.com", kind="held")
    await post.ask("bela@example.com")
    post.start()
    while not post.codes:
        await asyncio.sleep(0.005)
    stopping = asyncio.create_task(post.stop())
    await asyncio.sleep(0.05)
    server.faults.hang = False
    await stopping
    states = sorted([(row["to"], row["state"]) for row in await post.rows()])
    assert states == [("asha@example.com", "sent"), ("bela@example.com", "waiting")]
    assert [mail.to for mail in server.mails] == [["asha@example.com"]]
    # The lease was given up: whoever comes next need not wait for its end, for which they would wait in vain here.
    make_post(server)
    await server.wait_for("bela@example.com")


async def test_too_many_waiting_mails_are_refused_until_some_are_sent(make_post: MakePost, server: SmtpServer):
    post = make_post(server, run=False, max_waiting=5)
    for number in range(5):
        await post.ask(f"p{number}@example.com")
    with pytest.raises(UnavailableError, match="Too many e-mails"):
        await post.ask("late@example.com")
    assert len(await post.rows()) == 5
    post.start()
    await server.wait_for("p4@example.com")
    await post.settled("p4@example.com", "sent")

    async def accepted() -> bool:
        try:
            await post.ask("late@example.com")
        except UnavailableError:
            return False
        return True

    await until(accepted)
    await server.wait_for("late@example.com")


async def test_without_a_mail_server_production_refuses(make_post: MakePost):
    for environment in ("staging", "production"):
        post = make_post(None, environment=environment, secret_key="0123456789abcdef" * 4)
        assert not post.outbox.available
        with pytest.raises(UnavailableError, match="SMTP_HOST") as caught:
            await post.ask("asha@example.com")
        assert caught.value.status == 503
        assert await post.rows() == []
        health = await post.outbox.health()
        assert (health["status"], health["transport"]) == ("off", None)
        assert post.task is not None
        await asyncio.wait_for(post.task, 30)  # there is nothing to run


async def test_the_console_stands_in_for_a_mail_server_in_development(
    make_post: MakePost, capfd: pytest.CaptureFixture[str]
):
    post = make_post(None, environment="development", run=False)
    await post.ask("asha@example.com")
    post.start()
    await post.settled("asha@example.com", "sent")
    printed = capfd.readouterr().out
    assert "To: asha@example.com\nSubject: Your Arrow sign-in code\n\nHello Asha,\n" in printed
    assert f"\n    {post.codes[0]}\n" in printed
    assert (await post.outbox.health())["transport"] == "console"


def test_states_are_what_the_readme_and_queries_say():
    assert [state.value for state in MailState] == ["waiting", "sent", "failed"]


async def _nothing_waits(db: Db) -> Any:
    return await db["outbox"].find_one({"state": "waiting"}) is None
