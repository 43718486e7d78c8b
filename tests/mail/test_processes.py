"""Several processes of one service share the outbox, whatever happens to one of them."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mail.conftest import MakePost, until
from tests.support.certificates import Certificate
from tests.support.mongodb import Db
from tests.support.service import ROOT
from tests.support.smtp_server import SmtpServer

Start = Callable[..., list["subprocess.Popen[str]"]]


@pytest.fixture
def start(mongodb_url: str, db: Db, tmp_path: Path) -> Iterator[Start]:
    """Starts processes that send through a server; they are killed after the test."""
    running: list[subprocess.Popen[str]] = []

    def workers(server: SmtpServer, count: int, **env: str) -> list["subprocess.Popen[str]"]:
        command = [sys.executable, "-m", "tests.mail.worker", mongodb_url, db.name, str(server.port), str(tmp_path)]
        environment = {"PATH": os.environ["PATH"], "SMTP_TLS": "none"} | env
        made = [
            subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
            for _ in range(count)
        ]
        running.extend(made)
        for process in made:
            assert process.stdout is not None
            assert process.stdout.readline() == "runs\n"
        return made

    yield workers
    for process in running:
        process.kill()
        process.wait(30)
        assert process.stdout is not None
        process.stdout.close()


async def test_processes_send_each_mail_once_and_outlive_one_another(
    start: Start, make_post: MakePost, server: SmtpServer, db: Db
):
    post = make_post(server, run=False)
    workers = start(server, 2)
    addresses = [f"p{number}@example.com" for number in range(20)]
    for address in addresses:
        await post.ask(address)
    await until(lambda: _nothing_waits(db))
    assert sorted(mail.to[0] for mail in server.mails) == sorted(addresses)

    # One of them is killed in the middle of a mail.
    server.faults.hang = True
    await post.ask("last@example.com")

    async def holder() -> int | None:
        lease = await db["leases"].find_one({"_id": "mail"})
        held = lease is not None and lease["expires_at"] > post.outbox._clock.now()
        return int(lease["holder"]) if held and lease and server.open_connections else None

    victim = await until(holder)
    assert victim in {worker.pid for worker in workers}
    os.kill(victim, signal.SIGKILL)
    server.faults.hang = False
    # As if the rest of its lease had passed, which nobody gives up.
    now = post.outbox._clock.now()
    await db["leases"].update_one({"_id": "mail", "holder": str(victim)}, {"$set": {"expires_at": now}})
    await server.wait_for("last@example.com")
    await post.settled("last@example.com", "sent")
    assert len(server.to("last@example.com")) == 1
    survivor = next(worker.pid for worker in workers if worker.pid != victim)
    assert f"{survivor:06}"[-6:] in server.to("last@example.com")[0].text


@pytest.mark.parametrize("mode", ["starttls", "tls"])
async def test_tls_on_the_event_loop_of_the_service(
    start: Start, make_post: MakePost, certificate: Certificate, mode: str
):
    with SmtpServer(tls=mode, certificate=certificate) as server:  # type: ignore[arg-type]
        start(server, 1, SMTP_TLS=mode, SSL_CERT_FILE=str(certificate.authority))
        post = make_post(server, run=False)
        await post.ask("asha@example.com")
        await post.ask("bela@example.com")
        assert (await server.wait_for("asha@example.com")).encrypted
        assert (await server.wait_for("bela@example.com")).encrypted


async def _nothing_waits(db: Db) -> bool:
    return await db["outbox"].find_one({"state": "waiting"}) is None
