"""How a message leaves: over SMTP, or printed to the console in development."""

import sys
from contextlib import suppress
from email.message import EmailMessage
from typing import Protocol

from app.core.settings import Settings
from app.mail.smtp import SmtpTransport

TIMEOUT = 15.0
"""Seconds that the server has for each reply."""
_FRAME = 78


class Transport(Protocol):
    """Takes messages, one at a time. Whatever goes wrong is one of `app.mail.errors`."""

    name: str

    async def open(self) -> None:
        """Be ready to send: connect and sign in, unless that is done. Raises `ServerError`."""

    async def send(self, message: EmailMessage) -> None:
        """Return when whoever is on the other side has taken the message. Raises any of `app.mail.errors`; only what
        came before the recipient was named is a `ServerError`."""

    async def close(self) -> None:
        """Leave, politely where that is possible; never raises. `open` may follow."""


class ConsoleTransport:
    """Prints the plain part to standard output: what a developer without a mail server wants to see.

    Not through the logs: they may be kept, and a mail may hold a code.
    """

    name = "console"

    async def open(self) -> None:
        """Standard output is there."""

    async def send(self, message: EmailMessage) -> None:
        """Print it between two lines, without what a terminal would act on."""
        part = message.get_body(("plain",))
        text = part.get_content() if part else ""
        head = f"To: {message['To']}\nSubject: {message['Subject']}"
        title = " MAIL, printed because SMTP_HOST is not set "
        lines = f"\n{title:=^{_FRAME}}\n{head}\n\n{text.rstrip()}\n{'=' * _FRAME}\n"
        safe = "".join(char for char in lines if char == "\n" or char.isprintable())
        with suppress(ValueError, OSError, AttributeError):  # closed or replaced: there is nobody to read it
            sys.stdout.buffer.write(safe.encode("utf-8", "replace"))
            sys.stdout.buffer.flush()

    async def close(self) -> None:
        """Nothing is held."""


def transport_for(settings: Settings, *, timeout: float = TIMEOUT) -> Transport | None:
    """The way that these settings choose; None when mails cannot be sent (no `SMTP_HOST` where people rely on them)."""
    if settings.smtp_host:
        return SmtpTransport(settings, timeout=timeout)
    return ConsoleTransport() if settings.environment in {"development", "test"} else None
