"""Whatever the mail server does: nothing is lost, no mail suffers for another, and it is tried at a sane pace."""

import asyncio
import time
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest
from pymongo.errors import PyMongoError

from app.core.mail import Letter, MailRequest
from app.mail.models import DOCUMENTS
from app.mail.outbox import Timings
from tests.mail.conftest import QUICK, MakePost, Post, until
from tests.support.mongodb import empty_database, server_port, through
from tests.support.smtp_server import SmtpServer
from tests.support.tcp_proxy import TcpProxy


async def reason(post: Post, expected: str) -> None:
    """Wait until this is what `/health` gives as the last error."""

    async def shown() -> bool:
        return (await post.outbox.health())["last_error"] == expected

    try:
        await until(shown)
    except AssertionError:
        raise AssertionError((await post.outbox.health())["last_error"]) from None


async def test_an_outage_loses_nothing_and_slows_no_request(make_post: MakePost, server: SmtpServer):
    post = make_post(server)
    server.stop()
    took = []
    for number in range(20):
        began = time.monotonic()
        await post.ask(f"p{number}@example.com")
        took.append(time.monotonic() - began)
    assert min(took) < 1
    await reason(post, "connection refused")
    assert post.codes == [], "no code is made for a mail that cannot leave"
    rows = await post.rows()
    assert {(row["state"], row["attempts"]) for row in rows} == {("waiting", 0)}
    server.start()
    for number in range(20):
        await server.wait_for(f"p{number}@example.com")
        await post.settled(f"p{number}@example.com", "sent")
    assert len(server.mails) == 20


async def test_tries_to_reach_a_server_that_is_away_become_rarer(make_post: MakePost, server: SmtpServer):
    server.faults.greeting = b"554 5.3.2 Not today"
    post = make_post(server, timings=Timings(look=0.05, first_backoff=0.1, last_backoff=60))
    await post.ask("asha@example.com")
    await reason(post, "unexpected reply (554 5.3.2)")

    async def often() -> bool:
        return len(server.connected_at) >= 5

    await until(often)
    # 0.1, 0.2, 0.4 and 0.8 s later, or a fifth less; how much more depends on the machine, too.
    pauses = [later - earlier for earlier, later in pairwise(server.connected_at)]
    assert [pause >= 0.08 * 2**number for number, pause in enumerate(pauses)] == [True] * len(pauses), pauses
    assert (await post.row("asha@example.com"))["attempts"] == 0


async def test_a_recipient_who_is_put_off_is_tried_again_and_others_are_not_held_up(
    make_post: MakePost, server: SmtpServer
):
    post = make_post(server)
    server.faults.rcpt_replies["busy@example.com"] = "451 4.7.1 Greylisted"
    await post.ask("busy@example.com")
    await post.ask("asha@example.com")
    await server.wait_for("asha@example.com")

    async def put_off() -> dict[str, Any] | None:
        row = await post.row("busy@example.com")
        return row if row["attempts"] else None

    row = await until(put_off)
    assert (row["state"], row["last_error"]) == ("waiting", "recipient refused (451 4.7.1)")
    assert (await post.outbox.health())["status"] == "ok", "one mailbox's trouble is not the service's"
    del server.faults.rcpt_replies["busy@example.com"]
    await server.wait_for("busy@example.com")
    assert (await post.settled("busy@example.com", "sent"))["attempts"] >= 2


# Poison: whoever runs the server of an address chooses what is answered to mails for it.
QUIET = Timings(look=60, first_backoff=60, first_retry=60)
"""With them nothing happens a second time within a test."""


@pytest.mark.parametrize(
    ("reply", "connections"),
    [("421 4.3.2 Going down", 2), ("454 4.7.0 Who are you?", 1), ("530 5.7.0 Who are you?", 1), ("200 Odd", 1)],
)
async def test_whatever_is_answered_for_one_address_the_others_go_on_at_once(
    make_post: MakePost, server: SmtpServer, reply: str, connections: int
):
    post = make_post(server, run=False, timings=QUIET)
    server.faults.rcpt_replies["poison@example.com"] = reply
    await post.ask("poison@example.com")
    await asyncio.sleep(0.01)
    await post.ask("asha@example.com")
    post.start()
    assert (await server.wait_for("asha@example.com")).connection == connections
    row = await post.row("poison@example.com")
    assert (row["state"], row["attempts"]) == ("waiting", 1)
    assert row["last_error"].startswith(f"recipient refused ({reply[:3]}")
    put_off = (row["next_try_at"] - row["created_at"]).total_seconds()
    assert 48 <= put_off <= 90
    health = await post.outbox.health()
    assert (health["status"], health["last_error"]) == ("ok", None)


@pytest.mark.parametrize("reply", ["421 4.3.2 Going down", "454 4.7.0 Not now", "535 5.7.8 Who are you?"])
async def test_whatever_is_answered_to_one_content_the_others_go_on_at_once(
    make_post: MakePost, server: SmtpServer, reply: str
):
    post = make_post(server, timings=QUIET)
    server.faults.data_reply = reply
    await post.ask("poison@example.com")

    async def put_off() -> bool:
        return "last_error" in await post.row("poison@example.com")

    await until(put_off)
    server.faults.data_reply = None
    await post.ask("asha@example.com")
    await server.wait_for("asha@example.com")
    assert (await post.row("poison@example.com"))["last_error"].startswith(f"content refused ({reply[:3]}")


async def test_mails_that_break_connections_hold_up_no_other_however_many_they_are(
    make_post: MakePost, server: SmtpServer
):
    post = make_post(server, run=False, timings=QUIET)
    server.faults.drops = 5
    for number in range(5):
        await post.ask(f"poison{number}@example.com")
    await asyncio.sleep(0.01)
    await post.ask("asha@example.com")
    post.start()
    await server.wait_for("asha@example.com")
    await post.settled("asha@example.com", "sent")
    rows = await post.rows(state="waiting")
    assert [(row["last_error"], row["attempts"]) for row in rows] == [("connection lost", 1)] * 5


async def test_mails_that_were_never_tried_go_before_those_that_failed(make_post: MakePost, server: SmtpServer):
    post = make_post(server, run=False)
    for number in range(3):
        await post.ask(f"again{number}@example.com")
        await asyncio.sleep(0.01)
    await post.db["outbox"].update_many({}, {"$set": {"attempts": 2}})
    await post.ask("asha@example.com")
    post.start()
    for number in range(3):
        await server.wait_for(f"again{number}@example.com")
    assert [mail.to[0] for mail in server.mails] == ["asha@example.com", *(f"again{n}@example.com" for n in range(3))]


@pytest.mark.parametrize(
    ("faults", "expected"),
    [
        ({"data_reply": "452 4.3.1 No space"}, "content refused (452 4.3.1)"),
        ({"rcpt_reply": "421 4.3.2 Going down"}, "recipient refused (421 4.3.2)"),
    ],
)
async def test_a_mail_that_is_put_off_for_days_fails(
    make_post: MakePost, server: SmtpServer, faults: dict[str, str], expected: str
):
    post = make_post(server)
    for name, reply in faults.items():
        setattr(server.faults, name, reply)
    await post.ask("asha@example.com")

    async def tried() -> bool:
        return bool((await post.row("asha@example.com")).get("attempts"))

    await until(tried)
    long_ago = datetime.now(UTC) - QUICK.give_up
    await post.db["outbox"].update_one({"to": "asha@example.com"}, {"$set": {"created_at": long_ago}})
    row = await post.settled("asha@example.com", "failed")
    assert row["last_error"] == expected
    assert row["attempts"] >= 2
    assert row["expires_at"] - row["settled_at"] == QUICK.keep


@pytest.mark.parametrize(
    ("faults", "expected"),
    [
        ({"rcpt_reply": "550 5.1.1 No such user bogus@example.com"}, "recipient refused (550 5.1.1)"),
        ({"data_reply": "554 Looks like spam to bogus@example.com"}, "content refused (554)"),
    ],
)
async def test_a_mail_that_is_refused_fails_at_once(
    make_post: MakePost, server: SmtpServer, faults: dict[str, str], expected: str
):
    post = make_post(server)
    for name, reply in faults.items():
        setattr(server.faults, name, reply)
    await post.ask("bogus@example.com")
    row = await post.settled("bogus@example.com", "failed")
    assert (row["last_error"], row["attempts"]) == (expected, 1)
    for name in faults:
        setattr(server.faults, name, None)
    await post.ask("asha@example.com")
    await server.wait_for("asha@example.com")


async def test_a_refused_sender_is_a_setting_to_mend_and_fails_no_mail(make_post: MakePost, server: SmtpServer):
    post = make_post(server)
    server.faults.mail_reply = "553 5.7.1 arrow@mail.test is not yours"
    await post.ask("asha@example.com")
    await reason(post, "sender refused (553 5.7.1)")
    assert (await post.row("asha@example.com"))["state"] == "waiting"
    assert (await post.outbox.health())["status"] == "degraded"
    server.faults.mail_reply = None
    await server.wait_for("asha@example.com")


async def test_a_mail_that_breaks_the_connection_goes_behind_the_others(make_post: MakePost, server: SmtpServer):
    post = make_post(server, run=False)
    server.faults.drops = 1
    await post.ask("poison@example.com")
    await asyncio.sleep(0.01)
    await post.ask("asha@example.com")
    post.start()
    await server.wait_for("poison@example.com")
    assert (await post.settled("poison@example.com", "sent"))["attempts"] == 2
    assert [mail.to for mail in server.mails] == [["asha@example.com"], ["poison@example.com"]]


async def test_a_mail_whose_answer_was_lost_is_sent_again_under_the_same_id(make_post: MakePost, server: SmtpServer):
    post = make_post(server, run=False)

    async def same(request: MailRequest) -> Letter:
        return Letter(request.to, "password_reset", {"name": None, "token": "x" * 43, "minutes": 30})

    post.outbox.add_composer("same", same)
    server.faults.lost_answers = 2  # one for each: what was never tried goes before what has failed
    await post.ask("asha@example.com", kind="same")
    await post.ask("bela@example.com")
    post.start()
    first = await server.wait_for("asha@example.com")
    again = await server.wait_for("asha@example.com", count=2)
    assert first["Message-ID"] == again["Message-ID"]
    assert first["Message-ID"].endswith("@mail.test>")
    # With another code in it, it is another mail: mail programs must not hide it behind the first.
    first, again = [await server.wait_for("bela@example.com", count=count) for count in (1, 2)]
    assert first.text != again.text
    assert first["Message-ID"] != again["Message-ID"]
    assert not [code for code in post.codes if code in first["Message-ID"]]


async def test_a_server_that_ends_connections_between_mails_is_reached_anew(make_post: MakePost, server: SmtpServer):
    server.faults.mails_per_connection = 2
    post = make_post(server, run=False, timings=Timings(first_backoff=60))
    for number in range(5):
        await post.ask(f"p{number}@example.com")
    post.start()
    for number in range(5):
        await server.wait_for(f"p{number}@example.com")
    assert sorted(mail.connection for mail in server.mails) == [1, 1, 2, 2, 3]
    assert len(post.codes) == 5


async def test_slow_replies_are_waited_for(make_post: MakePost, server: SmtpServer):
    server.faults.delay = 0.1
    post = make_post(server)
    await post.ask("asha@example.com")
    await server.wait_for("asha@example.com")
    await post.settled("asha@example.com", "sent")
    assert len(server.mails) == 1


async def test_a_server_that_says_nothing_is_given_up(make_post: MakePost, server: SmtpServer):
    server.faults.hang = True
    post = make_post(server, timings=replace(QUICK, smtp=0.2))
    await post.ask("asha@example.com")
    await reason(post, "timeout")
    assert (await post.row("asha@example.com"))["attempts"] == 0
    server.faults.hang = False
    await server.wait_for("asha@example.com")


@pytest.mark.parametrize("greeting", [b"HTTP/1.1 400 Bad Request", b"\x00\xff\x16\x03", b"999 " + b"x" * 40_000])
async def test_something_that_is_no_mail_server_is_waited_for(make_post: MakePost, server: SmtpServer, greeting: bytes):
    server.faults.greeting = greeting
    post = make_post(server)
    await post.ask("asha@example.com")

    async def seen() -> bool:
        error = (await post.outbox.health())["last_error"]
        return error is not None and error.startswith("unexpected reply")

    await until(seen)
    server.faults.greeting = None
    await server.wait_for("asha@example.com")


async def test_a_database_that_is_away_for_a_moment_doubles_no_mail_and_ends_nothing(
    make_post: MakePost, server: SmtpServer, mongodb_url: str
):
    async with TcpProxy(server_port(mongodb_url)) as proxy:
        quick: dict[str, int] = {"serverSelectionTimeoutMS": 1000}
        async with empty_database(through(mongodb_url, proxy.port), DOCUMENTS, **quick) as db:
            post = make_post(server, at=db)
            server.faults.delay = 0.05
            await post.ask("asha@example.com")
            while not post.codes:
                await asyncio.sleep(0.005)
            await proxy.cut()  # the mail is on its way, and cannot be noted as sent
            await server.wait_for("asha@example.com")
            await asyncio.sleep(0.5)
            await proxy.mend()
            server.faults.delay = 0
            await post.settled("asha@example.com", "sent")
            assert len(server.mails) == 1
            # While nothing is sent, looks fail.
            await proxy.cut()

            async def noticed() -> bool:
                return (await post.outbox.health())["status"] == "degraded"

            await until(noticed)
            await proxy.mend()

            async def back() -> bool:  # the driver looks from time to time only whether it is
                with suppress(PyMongoError):
                    await db.command("ping")
                    return True
                return False

            await until(back)
            await post.ask("bela@example.com")
            await server.wait_for("bela@example.com")
            await post.stop()
