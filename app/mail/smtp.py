"""Messages over SMTP: TLS with verified certificates unless it is turned off, one connection for many mails."""

import asyncio
import re
import socket
import ssl
from email import policy
from email.message import EmailMessage

import structlog
from aiosmtplib import (
    SMTP,
    SMTPAuthenticationError,
    SMTPDataError,
    SMTPException,
    SMTPRecipientRefused,
    SMTPResponseException,
    SMTPSenderRefused,
    SMTPServerDisconnected,
)

from app.core.settings import Settings
from app.mail.errors import DeferredError, MailError, RefusedError, ServerError

log = structlog.get_logger(__name__)

_SHUTTING_DOWN = 421
# RFC 4954: that we have to sign in (otherwise) is mended in the settings; no mail is given up for it at once.
_SIGN_IN_CODES = {530, 534, 535, 538}
_ENHANCED = re.compile(r"[245]\.\d{1,3}\.\d{1,3}\b").match
_QUIT_SECONDS = 1.0
# No command but DATA takes a healthy server long; a whole mail may take this many times the timeout of one reply.
_WHOLE = 3


class SmtpTransport:
    """One connection to the server that `SMTP_*` names, made when it is needed.

    Certificates are checked against the system's authorities, or those in the file or folder that the environment's
    `SSL_CERT_FILE` or `SSL_CERT_DIR` names.
    """

    name = "smtp"

    def __init__(self, settings: Settings, *, timeout: float) -> None:
        self._settings = settings
        self._timeout = timeout
        self._client: SMTP | None = None
        self._used = False

    async def open(self) -> None:
        """See `Transport.open`."""
        if self._client is not None and self._client.is_connected:
            return
        client = SMTP(
            hostname=self._settings.smtp_host,
            port=self._settings.smtp_port,
            local_hostname=_own_name(),
            timeout=self._timeout,
            use_tls=self._settings.smtp_tls == "tls",
            start_tls=False,
        )
        try:
            async with asyncio.timeout(self._timeout * _WHOLE):
                await client.connect()
                await self._secure(client)
                await self._sign_in(client)
        except (SMTPException, OSError, TimeoutError) as error:
            client.close()
            raise _server_error(error) from None
        except BaseException:
            client.close()
            raise
        self._client, self._used = client, False

    async def _secure(self, client: SMTP) -> None:
        await client.ehlo()
        if self._settings.smtp_tls == "starttls":
            # Never in the clear instead: whoever sits on the line could have struck it out of the server's list.
            if not client.supports_extension("starttls"):
                raise ServerError("STARTTLS not offered")
            await client.starttls()
            await client.ehlo()

    async def _sign_in(self, client: SMTP) -> None:
        username, password = self._settings.smtp_username, self._settings.smtp_password
        if not username:
            return
        if not client.supported_auth_methods:
            raise ServerError("sign-in not offered")
        await client.login(username, password.get_secret_value() if password else "")

    async def send(self, message: EmailMessage) -> None:
        """See `Transport.send`."""
        while True:
            reused = self._used
            try:
                await self._hand_over(message)
                return
            except MailError as error:
                if not error.lost:
                    await self._reset()
                    raise
                await self.close()
                if not reused:
                    raise
            # Servers end connections after so many mails, faults or seconds: that says nothing about the next one.
            await self.open()

    async def _hand_over(self, message: EmailMessage) -> None:
        client = self._client
        if client is None:
            raise ServerError("not connected", lost=True)
        self._used = True
        sender, to = (message[header].addresses[0].addr_spec for header in ("From", "To"))
        try:
            async with asyncio.timeout(self._timeout):
                await client.mail(sender)
        except (SMTPException, OSError, TimeoutError) as error:
            raise _sender_error(error) from None
        try:
            async with asyncio.timeout(self._timeout * _WHOLE):
                await client.rcpt(to)
                await client.data(message.as_bytes(policy=policy.SMTP))
        except (SMTPException, OSError, TimeoutError, ValueError) as error:
            raise _mail_error(error) from None
        except Exception:  # whatever an address can make a server, and so the library, do: it holds up no other
            log.exception("a mail met a fault that is not foreseen")
            raise DeferredError("unforeseen fault", lost=True) from None

    async def _reset(self) -> None:
        """Have the server forget the mail that it refused; without that, the next one needs a new connection."""
        try:
            async with asyncio.timeout(_QUIT_SECONDS):
                if self._client is not None:
                    await self._client.rset()
        except (SMTPException, OSError, TimeoutError):
            await self.close()

    async def close(self) -> None:
        """See `Transport.close`."""
        client, self._client = self._client, None
        if client is None:
            return
        try:
            if client.is_connected:
                await client.quit(timeout=_QUIT_SECONDS)
        except (SMTPException, OSError, TimeoutError):
            pass  # it left first
        finally:
            client.close()


def _own_name() -> str:
    """How to introduce ourselves: a full name, else an address literal (RFC 5321, 4.1.3), without asking the DNS."""
    name = socket.gethostname()
    return name if re.fullmatch(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+", name) else "[127.0.0.1]"


def _reply(code: int, text: str) -> str:
    """`550 5.1.1`: what a reply says in numbers."""
    enhanced = _ENHANCED(text)
    return f"{code} {enhanced[0]}" if enhanced else str(code)


def _server_error(error: BaseException) -> ServerError:
    """What keeps any mail from being sent; the connection is of no more use."""
    if kind := _known_cause(error):
        return ServerError(kind, lost=True)
    if isinstance(error, SMTPResponseException):
        what = "sign-in refused" if isinstance(error, SMTPAuthenticationError) else "unexpected reply"
        return ServerError(f"{what} ({_reply(error.code, error.message)})", lost=True)
    if isinstance(error, TimeoutError):
        return ServerError("timeout", lost=True)
    if isinstance(error, SMTPServerDisconnected | ConnectionError):
        return ServerError("connection lost", lost=True)
    return ServerError("network error" if isinstance(error, OSError) else "protocol error", lost=True)


def _known_cause(error: BaseException) -> str | None:
    """What lies behind the library's error, if that says more than it."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    for link in chain:
        if isinstance(link, ssl.SSLCertVerificationError):
            return f"certificate not trusted ({link.verify_message.rstrip('.')})"
        if isinstance(link, ssl.SSLError):
            return "TLS failed"
        if isinstance(link, socket.gaierror):
            return "host not found"
        if isinstance(link, ConnectionRefusedError):
            return "connection refused"
    return None


def _sender_error(error: BaseException) -> ServerError:
    """Before the server hears of a recipient, nothing is of one mail; to fail all for `MAIL_FROM` would lose them."""
    if isinstance(error, SMTPSenderRefused):
        return ServerError(f"sender refused ({_reply(error.code, error.message)})", lost=True)
    return _server_error(error)


def _mail_error(error: BaseException) -> MailError:
    """Once the server has heard of the recipient, whatever it does may be because of them, and concerns this mail
    alone: anybody can have mails sent to an address whose server they run."""
    if isinstance(error, SMTPRecipientRefused | SMTPDataError):
        what = "recipient refused" if isinstance(error, SMTPRecipientRefused) else "content refused"
        kind = f"{what} ({_reply(error.code, error.message)})"
        if 500 <= error.code < 600 and error.code not in _SIGN_IN_CODES:
            return RefusedError(kind)
        return DeferredError(kind, lost=error.code == _SHUTTING_DOWN)
    if isinstance(error, ValueError) and not isinstance(error, ssl.SSLError):
        return RefusedError("address not supported")
    return DeferredError(_server_error(error).kind, lost=True)
