"""What `/health` says of mails: how the outbox is, and nothing of whom mails are for."""

import asyncio
import time
from dataclasses import replace

from app.mail.outbox import Timings
from tests.mail.conftest import QUICK, MakePost, no_row, nothing, until
from tests.support.mongodb import Db
from tests.support.smtp_server import SmtpServer


async def test_health_tells_how_the_outbox_is(make_post: MakePost, server: SmtpServer):
    post = make_post(server, run=False, timings=Timings(look=0.1, first_backoff=0.05, last_backoff=0.1, overdue=0.3))
    fresh = await post.outbox.health()
    assert fresh == {
        "status": "ok",
        "transport": "smtp",
        "sending": False,
        "waiting": 0,
        "oldest_seconds": None,
        "settled": 0,
        "last_error": None,
    }
    asked_at = time.monotonic()
    await post.ask("asha@example.com")

    async def overdue() -> bool:
        return (await post.outbox.health())["status"] == "degraded"

    await until(overdue)  # nobody sends
    health = await post.outbox.health()
    assert health["waiting"] == 1
    assert 0.3 <= health["oldest_seconds"] <= time.monotonic() - asked_at + 0.1
    server.stop()
    post.start()

    async def refused() -> bool:
        return (await post.outbox.health())["last_error"] == "connection refused"

    await until(refused)
    assert (await post.outbox.health())["status"] == "degraded"
    server.start()
    await server.wait_for("asha@example.com")

    async def well() -> bool:
        health = await post.outbox.health()
        return [health[name] for name in ("status", "waiting", "settled", "last_error")] == ["ok", 0, 1, None]

    await until(well)


async def test_health_does_not_fail_with_the_database(make_post: MakePost, server: SmtpServer, db: Db):
    post = make_post(server, run=False)
    await db.client.close()
    assert (await post.outbox.health())["status"] == "degraded"


async def test_health_does_not_tell_what_came_of_a_mail(make_post: MakePost, server: SmtpServer):
    """Anybody may read it: else they could ask for codes, and see which addresses have accounts."""
    post = make_post(server, timings=replace(QUICK, first_retry=600, last_retry=600))
    post.outbox.add_composer("nobody", nothing)
    server.faults.rcpt_replies |= {"refused@example.com": "550 5.1.1 No", "busy@example.com": "450 4.2.1 Busy"}
    before = await post.outbox.health()
    asked = [("asha", "otp"), ("stranger", "nobody"), ("refused", "otp"), ("busy", "otp")]
    for number, (name, kind) in enumerate(asked, 1):
        await post.ask(f"{name}@example.com", kind=kind)

        async def done(count: int = number) -> bool:
            line = await post.outbox.health()
            return not line["sending"] and line["settled"] == count

        await until(done)
        # What waits is looked at once a second; an outbox of another process looks now.
        line = await make_post(server, run=False).outbox.health()
        assert (line["status"], line["waiting"], line["oldest_seconds"]) == ("ok", 0, None), name
        assert await post.outbox.health() | {"waiting": 0, "oldest_seconds": None} == before | {"settled": number}
    assert {row["to"]: row["state"] for row in await post.rows()} == {
        "asha@example.com": "sent",
        "refused@example.com": "failed",
        "busy@example.com": "waiting",
    }


async def test_nothing_to_send_takes_as_long_as_a_mail(make_post: MakePost, server: SmtpServer):
    post = make_post(server, run=False)
    post.outbox.add_composer("nobody", nothing)
    server.faults.delay = 0.1
    for number in range(2):
        await post.ask(f"p{number}@example.com")
    await asyncio.sleep(0.01)
    await post.ask("stranger@example.com", kind="nobody")
    post.start()
    began = (await server.wait_for("p1@example.com")).at
    await until(lambda: no_row(post.db, to="stranger@example.com"))
    # A mail has four answers to wait for; the first one also had those of a new connection.
    assert time.monotonic() - began > 0.25
