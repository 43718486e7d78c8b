"""Messages over SMTP: TLS with verified certificates unless it is turned off, one connection for many mails."""

import asyncio
import re
import socket
import ssl
from email.message import EmailMessage

from aiosmtplib import (
    SMTP,
    SMTPAuthenticationError,
    SMTPDataError,
    SMTPException,
    SMTPNotSupported,
    SMTPRecipientsRefused,
    SMTPResponseException,
    SMTPSenderRefused,
    SMTPServerDisconnected,
)

from app.core.settings import Settings
from app.mail.errors import DeferredError, MailError, RefusedError, ServerError

_SHUTTING_DOWN = 421
# RFC 4954: they concern who we are, not this mail, at whatever command they come.
_SIGN_IN_CODES = {454, 530, 534, 535, 538}
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
        reused = self._used
        try:
            await self._hand_over(message)
        except ServerError as error:
            await self.close()
            if not (reused and error.lost):
                raise
            # Servers end connections after so many mails or seconds: that says nothing about the next connection.
            await self.open()
            await self._hand_over(message)

    async def _hand_over(self, message: EmailMessage) -> None:
        if self._client is None:
            raise ServerError("not connected", lost=True)
        self._used = True
        try:
            async with asyncio.timeout(self._timeout * _WHOLE):
                await self._client.send_message(message)
        except (SMTPException, OSError, TimeoutError, ValueError) as error:
            raise _mail_error(error) from None

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


def _server_error(error: BaseException, *, in_mail: bool = False) -> ServerError:
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    for link in chain:
        if isinstance(link, ssl.SSLCertVerificationError):
            return ServerError(f"certificate not trusted ({link.verify_message.rstrip('.')})")
        if isinstance(link, ssl.SSLError):
            return ServerError("TLS failed", lost=in_mail, in_mail=in_mail)
        if isinstance(link, socket.gaierror):
            return ServerError("host not found")
        if isinstance(link, ConnectionRefusedError):
            return ServerError("connection refused")
    if isinstance(error, SMTPResponseException):
        what = "sign-in refused" if isinstance(error, SMTPAuthenticationError) else "unexpected reply"
        lost = error.code == _SHUTTING_DOWN
        return ServerError(f"{what} ({_reply(error.code, error.message)})", in_mail=in_mail and not lost, lost=lost)
    if isinstance(error, TimeoutError):
        return ServerError("timeout", in_mail=in_mail)
    if isinstance(error, SMTPServerDisconnected | ConnectionError):
        return ServerError("connection lost", in_mail=in_mail, lost=True)
    return ServerError("network error" if isinstance(error, OSError) else "protocol error", in_mail=in_mail)


def _mail_error(error: BaseException) -> MailError:
    """Whose fault it was: the server's, this mail's for now, or this mail's for ever."""
    if isinstance(error, SMTPRecipientsRefused):
        refused = error.recipients[0]
        return _refusal("recipient refused", refused.code, refused.message)
    if isinstance(error, SMTPDataError):
        return _refusal("content refused", error.code, error.message)
    if isinstance(error, SMTPSenderRefused):
        # MAIL_FROM is the same for every mail: to fail them all for it would lose them.
        lost = error.code == _SHUTTING_DOWN
        return ServerError(f"sender refused ({_reply(error.code, error.message)})", lost=lost)
    if isinstance(error, SMTPNotSupported | ValueError):
        return RefusedError("address not supported")
    return _server_error(error, in_mail=True)


def _refusal(what: str, code: int, text: str) -> MailError:
    kind = f"{what} ({_reply(code, text)})"
    if code == _SHUTTING_DOWN:
        return ServerError(kind, lost=True)
    if code in _SIGN_IN_CODES:
        return ServerError(kind)
    if 400 <= code < 500:
        return DeferredError(kind)
    if 500 <= code < 600:
        return RefusedError(kind)
    return ServerError(kind, in_mail=True)
