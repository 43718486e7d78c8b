"""A real SMTP server on loopback that keeps what it receives and can be told to misbehave.

    with SmtpServer() as server:
        service = make_service(SMTP_HOST="127.0.0.1", SMTP_PORT=str(server.port), SMTP_TLS="none")
        ...
        mail = await server.wait_for("asha@example.com")
        code = re.search(r"\\d{6}", mail.text)[0]

It runs in a thread with an event loop of its own. The fields of `Faults` may be set while it runs.
"""

import asyncio
import ssl
import threading
import time
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from types import TracebackType
from typing import Any, Literal, Self

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from tests.support.certificates import Certificate
from tests.support.service import free_port

PATIENCE = 30.0
TlsMode = Literal["none", "starttls", "tls"]


@dataclass(frozen=True)
class Received:
    """A mail that the server took."""

    sender: str
    to: list[str]
    raw: bytes
    connection: int
    """1 for the first connection that the server ever took, and so on."""
    encrypted: bool
    user: str | None
    at: float
    """`time.monotonic()` of its arrival."""

    @property
    def message(self) -> EmailMessage:
        parsed = message_from_bytes(self.raw, policy=policy.default)
        assert isinstance(parsed, EmailMessage)
        return parsed

    def __getitem__(self, header: str) -> str:
        return str(self.message[header])

    @property
    def subject(self) -> str:
        return self["Subject"]

    @property
    def text(self) -> str:
        return self._part("plain")

    @property
    def html(self) -> str:
        return self._part("html")

    def _part(self, kind: Literal["plain", "html"]) -> str:
        part = self.message.get_body((kind,))
        assert part is not None, f"the mail has no {kind} part"
        content: str = part.get_content()
        return content


@dataclass
class Faults:
    """How the server misbehaves. A reply is a line such as `450 4.2.1 Try later`."""

    greeting: bytes | None = None
    """Sent instead of `220 …`, followed by the end of a line."""
    mail_reply: str | None = None
    rcpt_reply: str | None = None
    rcpt_replies: dict[str, str] = field(default_factory=dict)
    """By address; before `rcpt_reply`."""
    data_reply: str | None = None
    """After the content, which is thrown away."""
    drops: int = 0
    """So many mails (-1: all) are thrown away with their connection, once their content has arrived."""
    lost_answers: int = 0
    """So many mails are kept, and the connection dropped before the answer."""
    delay: float = 0.0
    """Seconds before every reply."""
    hang: bool = False
    """No reply is sent any more."""
    mails_per_connection: int | None = None
    """The MAIL command after so many mails is answered 421 and the connection closed."""


class _Protocol(SMTP):
    """One connection."""

    def __init__(self, owner: "SmtpServer", **options: Any) -> None:
        super().__init__(owner, hostname="mail.test", **options)
        self.owner = owner
        self.number = 0
        self.mails = 0
        self.greeted = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not self.number:
            self.number = self.owner.note_connection(self)
        super().connection_made(transport)

    def eof_received(self) -> bool:
        # A client that leaves before the greeting would be kept otherwise.
        super().eof_received()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.owner.open_connections.discard(self)
        super().connection_lost(error)

    async def push(self, status: str | bytes) -> None:
        faults = self.owner.faults
        if not self.greeted:
            self.greeted = True
            status = faults.greeting or status
        if faults.delay:
            await asyncio.sleep(faults.delay)
        while faults.hang:
            await asyncio.sleep(0.02)
        await super().push(status)

    def drop(self) -> None:
        """End the connection without a word."""
        assert isinstance(self.transport, asyncio.Transport)
        self.transport.abort()


class SmtpServer:
    """Listens on `port` (a free one by default) from `start` to `stop`, and again on the same one.

    `users`: names and passwords; with any, whoever has not signed in is answered 530. `certificate` is needed for the
    modes `starttls` (which then refuses mails in the clear) and `tls`; with `none` STARTTLS is not offered.
    """

    def __init__(
        self,
        *,
        port: int | None = None,
        tls: TlsMode = "none",
        certificate: Certificate | None = None,
        users: dict[str, str] | None = None,
    ) -> None:
        self.port = port or free_port()
        self.faults = Faults()
        self.mails: list[Received] = []
        self.connections = 0
        self.connected_at: list[float] = []
        """`time.monotonic()` of each of them."""
        self.sign_ins: list[str] = []
        """Names that were tried, right or wrong."""
        self.open_connections: set[_Protocol] = set()
        self._users = users or {}
        self._tls = tls
        self._context: ssl.SSLContext | None = certificate.server_context() if certificate else None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending: asyncio.Event | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # --- for tests

    def start(self) -> None:
        """Listen; returns when connections are taken."""
        assert self._thread is None, "it runs already"
        started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(started)), name="smtp", daemon=True)
        self._thread.start()
        assert started.wait(PATIENCE), "the SMTP server did not start"

    def stop(self) -> None:
        """Break all connections and refuse new ones, until `start`. What was received stays."""
        if self._thread is None:
            return
        assert self._loop is not None
        assert self._ending is not None
        self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the SMTP server did not end"
        self._thread = None

    def to(self, address: str) -> list[Received]:
        """What arrived for `address` so far, oldest first."""
        return [mail for mail in list(self.mails) if address in mail.to]

    async def wait_for(self, to: str, *, count: int = 1, seconds: float = PATIENCE) -> Received:
        """The `count`-th mail for this address, as soon as it is there."""
        deadline = time.monotonic() + seconds
        while len(found := self.to(to)) < count:
            assert time.monotonic() < deadline, f"{len(found)} of {count} mails for {to} came within {seconds} s"
            await asyncio.sleep(0.005)
        return found[count - 1]

    # --- the server's thread

    async def _serve(self, started: threading.Event) -> None:
        self._loop, self._ending = asyncio.get_running_loop(), asyncio.Event()
        context = self._context if self._tls == "tls" else None
        server = await self._loop.create_server(self._protocol, "127.0.0.1", self.port, ssl=context)
        started.set()
        try:
            await self._ending.wait()
        finally:
            server.close()
            for connection in list(self.open_connections):
                connection.drop()
            deadline = time.monotonic() + 2
            while self.open_connections and time.monotonic() < deadline:
                await asyncio.sleep(0.005)

    def _protocol(self) -> _Protocol:
        return _Protocol(
            self,
            loop=self._loop,
            tls_context=self._context if self._tls == "starttls" else None,
            require_starttls=self._tls == "starttls",
            auth_require_tls=self._tls == "starttls",
            auth_exclude_mechanism=None if self._users else ["LOGIN", "PLAIN"],
            authenticator=self._authenticate,
        )

    def note_connection(self, connection: _Protocol) -> int:
        """Remember it, and give it its number."""
        self.open_connections.add(connection)
        self.connected_at.append(time.monotonic())
        self.connections += 1
        return self.connections

    def _authenticate(
        self, _server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, data: LoginPassword
    ) -> AuthResult:
        name = data.login.decode()
        self.sign_ins.append(name)
        good = self._users.get(name) == data.password.decode()
        return AuthResult(success=good, handled=False, auth_data=name if good else None)

    async def handle_MAIL(  # noqa: N802 (aiosmtpd looks for these names)
        self, server: _Protocol, session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if self._users and not session.authenticated:
            return "530 5.7.0 Sign in first"
        limit = self.faults.mails_per_connection
        if limit is not None and server.mails >= limit:
            await server.push("421 4.7.0 Enough for one connection")
            server.drop()
            return "421"
        if self.faults.mail_reply:
            return self.faults.mail_reply
        envelope.mail_from = address
        return "250 OK"

    async def handle_RCPT(  # noqa: N802
        self, _server: _Protocol, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if reply := self.faults.rcpt_replies.get(address, self.faults.rcpt_reply):
            return reply
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: _Protocol, session: Session, envelope: Envelope) -> str:  # noqa: N802
        if self.faults.drops:
            self.faults.drops -= 1
            server.drop()
            return "451"
        if self.faults.data_reply:
            return self.faults.data_reply
        assert isinstance(envelope.content, bytes)
        assert server.transport is not None
        self.mails.append(
            Received(
                sender=envelope.mail_from or "",
                to=list(envelope.rcpt_tos),
                raw=envelope.content,
                connection=server.number,
                encrypted=server.transport.get_extra_info("sslcontext") is not None,
                user=str(session.auth_data) if session.authenticated else None,
                at=time.monotonic(),
            )
        )
        server.mails += 1
        if self.faults.lost_answers:
            self.faults.lost_answers -= 1
            server.drop()
        return "250 Taken"
