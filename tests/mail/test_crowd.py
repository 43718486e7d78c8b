"""Strangers who ask for codes for addresses without accounts: they hold up nobody's mail for long."""

import itertools
import statistics
import time
from dataclasses import replace

from app.core.mail import MailRequest
from tests.mail.conftest import QUICK, MakePost, nothing, until
from tests.support.smtp_server import SmtpServer

CROWD = 120
USUAL = 0.1
"""What a mail needs about, in seconds: four answers of the server."""


def gaps(moments: list[float]) -> list[float]:
    """Seconds between one and the next."""
    return [later - earlier for earlier, later in itertools.pairwise(moments)]


async def test_a_mail_behind_a_crowd_of_requests_without_one_comes_soon(make_post: MakePost, server: SmtpServer):
    post = make_post(server, run=False)
    asked: list[float] = []

    async def nobody(request: MailRequest) -> None:
        asked.append(time.monotonic())
        await nothing(request)

    post.outbox.add_composer("nobody", nobody)
    server.faults.delay = USUAL / 4
    for number in range(6):  # so that it knows what a mail needs
        await post.ask(f"p{number}@example.com")
    post.start()
    await server.wait_for("p5@example.com")
    await post.stop()
    post.start()
    for number in range(CROWD):
        await post.ask(f"x{number}@example.com", kind="nobody", key=f"x{number}")

    await post.ask("owner@example.com")
    await server.wait_for("owner@example.com")

    async def settled() -> bool:
        return (await post.outbox.health())["settled"] == CROWD + 7

    await until(settled)
    # With a pause for each, all of them. What a mail takes on this machine, as busy as it is, is taken from the first.
    a_mail = statistics.median(gaps([mail.at for mail in server.mails[:6]]))
    assert a_mail > USUAL
    assert len([gap for gap in gaps(asked) if gap > a_mail * 0.8]) < CROWD / 2
    assert [row["to"] for row in await post.rows(kind="nobody")] == []


async def test_in_a_crowd_some_take_as_long_as_mails_and_the_order_is_drawn(make_post: MakePost, server: SmtpServer):
    # Whatever is under way at a stop is done first: it would be one more of the next crowd.
    post = make_post(server, run=False, timings=replace(QUICK, finish=25))
    asked: list[tuple[float, str]] = []

    async def noting(request: MailRequest) -> None:
        asked.append((time.monotonic(), request.to))

    post.outbox.add_composer("noting", noting)

    async def crowd(size: int) -> list[float]:
        """Seconds between one and the next of so many, who all ask before anything is sent."""
        asked.clear()
        for number in range(size):
            await post.ask(f"x{number:02}@example.com", kind="noting", key=str(number))
        post.start()

        async def done() -> bool:
            return len(asked) == size

        await until(done)
        await post.stop()
        return gaps([moment for moment, _ in asked])

    # Of each crowd about five, 0.2 s each: what a mail needs while none was sent. More where the machine is busy.
    long_ones = [len([gap for gap in await crowd(31) if gap > 0.15]) for _ in range(3)]
    # One crowd in 200 has none, as the lots fall.
    assert max(long_ones) > 0, long_ones
    assert min(long_ones) < 28, long_ones
    addresses = [to for _, to in asked]
    assert addresses != sorted(addresses)
    assert len(set(addresses)) == 31
    # Few are no crowd.
    assert min(await crowd(4)) > 0.15
    assert [to for _, to in asked] == sorted(to for _, to in asked)
