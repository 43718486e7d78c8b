"""The connection to a mail server: encrypted to somebody whose name is proven, and signed in, or not used at all."""

import asyncio
import socket
import ssl
from dataclasses import replace
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from app.core.settings import SettingsError
from app.mail.errors import DeferredError, RefusedError, ServerError
from app.mail.message import sender_of
from app.mail.smtp import SmtpTransport
from app.mail.transports import ConsoleTransport, transport_for
from tests.mail.conftest import QUICK, MakePost, mail_settings, until
from tests.support.certificates import Certificate, make_certificate
from tests.support.service import free_port
from tests.support.smtp_server import SmtpServer, TlsMode

MESSAGE = EmailMessage()
MESSAGE["From"], MESSAGE["To"], MESSAGE["Subject"] = "arrow@mail.test", "asha@example.com", "Hello"
MESSAGE.set_content("Hello\n.\n..\nFrom here\n")


def transport(folder: Path, server: SmtpServer, timeout: float = 60.0, **values: Any) -> SmtpTransport:
    made = transport_for(mail_settings(folder, server, **values), timeout=timeout)
    assert isinstance(made, SmtpTransport)
    return made


async def kind(sender: SmtpTransport) -> str:
    """Why it does not open."""
    with pytest.raises(ServerError) as caught:
        await sender.open()
    return caught.value.kind


@pytest.mark.parametrize("mode", ["starttls", "tls"])
async def test_mails_are_encrypted_to_a_server_that_proves_its_name(
    tmp_path: Path, certificate: Certificate, monkeypatch: pytest.MonkeyPatch, mode: TlsMode
):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.authority))
    with SmtpServer(tls=mode, certificate=certificate, users={"arrow": "pass word"}) as server:
        for host in ("127.0.0.1", "localhost"):
            sender = transport(
                tmp_path, server, smtp_host=host, smtp_tls=mode, smtp_username="arrow", smtp_password="pass word"
            )
            await sender.open()
            await sender.send(MESSAGE)
            await sender.close()
        assert [(mail.encrypted, mail.user) for mail in server.mails] == [(True, "arrow")] * 2
        assert server.mails[0].message.get_content().splitlines() == ["Hello", ".", "..", "From here"]


@pytest.mark.parametrize("mode", ["starttls", "tls"])
async def test_a_certificate_that_nobody_vouches_for_is_refused(
    tmp_path: Path, certificate: Certificate, monkeypatch: pytest.MonkeyPatch, mode: TlsMode
):
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    with SmtpServer(tls=mode, certificate=certificate, users={"arrow": "secret"}) as server:
        sender = transport(tmp_path, server, smtp_tls=mode, smtp_username="arrow", smtp_password="secret")
        assert (await kind(sender)).startswith("certificate not trusted (")
        assert server.sign_ins == []


@pytest.mark.parametrize("mode", ["starttls", "tls"])
async def test_a_certificate_of_somebody_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: TlsMode
):
    other = make_certificate(tmp_path / "other", host="mail.example.com")
    monkeypatch.setenv("SSL_CERT_FILE", str(other.authority))
    with SmtpServer(tls=mode, certificate=other) as server:
        reason = await kind(transport(tmp_path, server, smtp_tls=mode))
        assert reason.startswith("certificate not trusted (IP address mismatch")


async def test_a_server_that_does_not_offer_starttls_gets_nothing_in_the_clear(tmp_path: Path):
    with SmtpServer(users={"arrow": "secret"}) as server:
        sender = transport(tmp_path, server, smtp_tls="starttls", smtp_username="arrow", smtp_password="secret")
        assert await kind(sender) == "STARTTLS not offered"
        assert server.sign_ins == []


async def test_a_server_that_asks_for_starttls_takes_nothing_in_the_clear(tmp_path: Path, certificate: Certificate):
    with SmtpServer(tls="starttls", certificate=certificate) as server:
        sender = transport(tmp_path, server, smtp_tls="none")
        await sender.open()
        with pytest.raises(ServerError, match=r"sender refused \(530\)"):
            await sender.send(MESSAGE)
        await sender.close()


@pytest.mark.parametrize(
    ("mode", "offered", "expected"),
    [
        ("tls", "none", "TLS failed"),
        ("none", "tls", "timeout"),  # it waits for us to begin
    ],
)
async def test_the_wrong_mode_is_noticed(
    tmp_path: Path, certificate: Certificate, mode: TlsMode, offered: TlsMode, expected: str
):
    with SmtpServer(tls=offered, certificate=certificate) as server:
        seconds = 0.5 if expected == "timeout" else 60
        assert await kind(transport(tmp_path, server, timeout=seconds, smtp_tls=mode)) == expected


async def test_only_who_signs_in_may_send(tmp_path: Path):
    with SmtpServer(users={"arrow@mail.test": "päss"}) as server:
        good = transport(tmp_path, server, smtp_username="arrow@mail.test", smtp_password="päss")
        await good.open()
        await good.send(MESSAGE)
        await good.close()
        assert server.mails[0].user == "arrow@mail.test"
        wrong = transport(tmp_path, server, smtp_username="arrow@mail.test", smtp_password="wrong")
        assert await kind(wrong) == "sign-in refused (535 5.7.8)"
        stranger = transport(tmp_path, server)
        await stranger.open()
        with pytest.raises(ServerError, match=r"sender refused \(530 5.7.0\)"):
            await stranger.send(MESSAGE)
        await stranger.close()


async def test_a_server_without_sign_in_gets_no_password(tmp_path: Path, server: SmtpServer):
    sender = transport(tmp_path, server, smtp_username="arrow", smtp_password="secret")
    assert await kind(sender) == "sign-in not offered"


async def test_a_wrong_password_loses_no_mail(make_post: MakePost):
    with SmtpServer(users={"arrow": "right"}) as server:
        post = make_post(server, smtp_username="arrow", smtp_password="wrong")
        await post.ask("asha@example.com")

        async def refused() -> bool:
            health = await post.outbox.health()
            return [health["status"], health["last_error"]] == ["degraded", "sign-in refused (535 5.7.8)"]

        await until(refused)
        assert (await post.row("asha@example.com"))["state"] == "waiting"
        await post.stop()
        make_post(server, smtp_username="arrow", smtp_password="right", timings=replace(QUICK, look=60))
        await server.wait_for("asha@example.com")


async def test_hosts_that_are_not_there(tmp_path: Path, server: SmtpServer):
    assert await kind(transport(tmp_path, server, smtp_port=free_port())) == "connection refused"
    assert await kind(transport(tmp_path, server, smtp_host="mail.invalid")) == "host not found"
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it takes connections and never says a word
        port = silent.getsockname()[1]
        assert await kind(transport(tmp_path, server, timeout=0.3, smtp_port=port)) == "timeout"


@pytest.mark.parametrize(
    ("reply", "expected", "text"),
    [
        ("450 4.2.1 Busy", DeferredError, "recipient refused (450 4.2.1)"),
        ("550 No", RefusedError, "recipient refused (550)"),
        ("421 4.3.2 Going down", DeferredError, "recipient refused (421 4.3.2)"),
        ("454 4.7.0 Not now", DeferredError, "recipient refused (454 4.7.0)"),
        ("530 5.7.0 Who are you?", DeferredError, "recipient refused (530 5.7.0)"),
        ("200 Odd", DeferredError, "recipient refused (200)"),
    ],
)
async def test_replies_are_understood(
    tmp_path: Path, server: SmtpServer, reply: str, expected: type[Exception], text: str
):
    server.faults.rcpt_reply = reply
    sender = transport(tmp_path, server)
    await sender.open()
    with pytest.raises(expected) as caught:
        await sender.send(MESSAGE)
    assert str(caught.value) == text
    # What one mail met is over with the next.
    server.faults.rcpt_reply = None
    await sender.open()
    await sender.send(MESSAGE)
    await sender.close()
    assert len(server.mails) == 1


async def test_closing_ends_a_connection_whatever_it_waits_for(tmp_path: Path, server: SmtpServer):
    sender = transport(tmp_path, server)
    await sender.open()
    server.faults.hang = True
    sending = asyncio.create_task(sender.send(MESSAGE))
    await asyncio.sleep(0.05)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    async with asyncio.timeout(30):  # less than it waits for an answer
        await sender.close()
    server.faults.hang = False

    async def gone() -> bool:
        return not server.open_connections

    await until(gone)
    assert server.mails == []


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"mail_from": "no-reply@example.com"}, "Arrow <no-reply@example.com>"),
        ({"mail_from": "Pfeil & Söhne <no-reply@example.com>"}, "Pfeil & Söhne <no-reply@example.com>"),
        ({"mail_from": '"A, B" <no-reply@भारत.test>'}, '"A, B" <no-reply@xn--h2brj9c.test>'),
        ({"mail_from": None, "smtp_username": "arrow@example.com", "smtp_password": "x"}, "Arrow <arrow@example.com>"),
        ({"mail_from": None, "smtp_username": "apikey", "smtp_password": "x"}, "Arrow <arrow@localhost>"),
        ({"mail_from": None, "app_name": "My Desk"}, "My Desk <arrow@localhost>"),
    ],
)
def test_who_mails_are_from(tmp_path: Path, values: dict[str, Any], expected: str):
    assert str(sender_of(mail_settings(tmp_path, None, **values))) == expected


@pytest.mark.parametrize(
    "mail_from",
    [
        "nobody",
        "a@example.com, b@example.com",
        "a@example.com\nBcc: b@example.com",
        "Arrow <>",
        "@example.com",
        "a b@x",
    ],
)
def test_a_wrong_sender_stops_the_start(tmp_path: Path, mail_from: str):
    with pytest.raises(SettingsError, match="MAIL_FROM"):
        sender_of(mail_settings(tmp_path, None, mail_from=mail_from))


@pytest.mark.parametrize(
    ("environment", "host", "expected"),
    [
        ("development", None, ConsoleTransport),
        ("test", None, ConsoleTransport),
        ("development", "mail.test", SmtpTransport),
        ("production", "mail.test", SmtpTransport),
        ("production", None, None),
        ("staging", None, None),
    ],
)
def test_which_way_mails_go(tmp_path: Path, environment: str, host: str | None, expected: type | None):
    settings = mail_settings(tmp_path, None, environment=environment, smtp_host=host, secret_key="0123456789abcdef" * 4)
    chosen = transport_for(settings)
    assert chosen is None if expected is None else type(chosen) is expected


def test_the_certificates_of_the_tests_are_good(certificate: Certificate):
    """Else the refusals above would say nothing."""
    context = ssl.create_default_context(cafile=str(certificate.authority))
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert len(context.get_ca_certs()) == 1
