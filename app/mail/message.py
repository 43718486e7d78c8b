"""From a rendered letter to the message that goes over the wire."""

from datetime import datetime
from email.errors import HeaderParseError
from email.headerregistry import Address, HeaderRegistry
from email.message import EmailMessage
from typing import Any

from email_validator import EmailNotValidError, validate_email

from app.core.settings import Settings, SettingsError
from app.mail.rendering import Rendered

FALLBACK_SENDER = "arrow@localhost"


class AddressError(ValueError):
    """No mail can be sent to this address."""


def sender_of(settings: Settings) -> Address:
    """Who the mails are from: `MAIL_FROM` (`arrow@example.com` or `Arrow <arrow@example.com>`), else the name that
    this service signs in with at the mail server, if that is an address.

    Raises `SettingsError` for a `MAIL_FROM` that is no single address.
    """
    if settings.mail_from:
        address = _parse(settings.mail_from)
        if address is None:
            raise SettingsError(
                "MAIL_FROM: is not one e-mail address; write arrow@example.com or Arrow <arrow@example.com>"
            )
    else:
        address = _parse(settings.smtp_username or "") or _parse(FALLBACK_SENDER)
        assert address is not None  # noqa: S101 (the fallback is an address)
    return Address(address.display_name or settings.app_name, addr_spec=address.addr_spec)


def _parse(text: str) -> Address | None:
    """The one address that `text` is, its domain in ASCII."""
    if not text.isprintable():
        return None
    try:
        header: Any = HeaderRegistry()("From", text)  # its types do not know that this header has addresses
        if header.defects or len(header.addresses) != 1:
            return None
        found: Address = header.addresses[0]
        domain = found.domain.encode("idna").decode()
    except (HeaderParseError, UnicodeError, IndexError):
        return None
    if not found.username.isascii() or not domain or not found.username:
        return None
    return Address(found.display_name, found.username, domain)


def recipient(address: str) -> Address:
    """`address` as mail servers take it: its domain in ASCII. Raises `AddressError` if it is none."""
    try:
        found = validate_email(address, check_deliverability=False, test_environment=True, allow_smtputf8=False)
        return Address(addr_spec=found.ascii_email or "")
    except (EmailNotValidError, HeaderParseError, ValueError, IndexError):
        raise AddressError("no e-mail address") from None


def build(letter: Rendered, *, sender: Address, to: Address, message_id: str, now: datetime) -> EmailMessage:
    """The message, in 7-bit ASCII; nothing in a header can begin another header (`ValueError` if it tried)."""
    message = EmailMessage()
    message["From"] = sender
    message["To"] = to
    message["Subject"] = letter.subject
    message["Date"] = now
    message["Message-ID"] = message_id
    # RFC 3834, and what Exchange heeds: no out-of-office answers to a machine.
    message["Auto-Submitted"] = "auto-generated"
    message["X-Auto-Response-Suppress"] = "All"
    message["Content-Language"] = "en"
    message.set_content(letter.text, cte="quoted-printable")
    message.add_alternative(letter.html, subtype="html", cte="quoted-printable")
    return message
