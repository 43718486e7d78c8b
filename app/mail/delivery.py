"""One mail from its request to the transport: composed, rendered, built, handed over."""

import asyncio
import hashlib
import hmac
from collections.abc import Mapping
from email.message import EmailMessage
from typing import Any

import structlog
from pymongo.errors import ConnectionFailure

from app.core.clock import Clock
from app.core.mail import Composer, MailRequest
from app.core.settings import Settings
from app.mail.errors import DeferredError, RefusedError
from app.mail.message import AddressError, build, recipient, sender_of
from app.mail.rendering import Templates
from app.mail.transports import Transport

log = structlog.get_logger(__name__)


class Delivery:
    """Makes messages of requests and hands them to `transport`. `compose_seconds` bounds a composer's time."""

    def __init__(self, settings: Settings, clock: Clock, transport: Transport, compose_seconds: float) -> None:
        self._clock = clock
        self._transport = transport
        self._compose_seconds = compose_seconds
        self._templates = Templates(settings.app_name)
        self._sender = sender_of(settings)
        secret = settings.secret_key.get_secret_value().encode()
        self._id_key = hmac.digest(secret, b"mail: message ids", "sha256")
        self._composers: dict[str, Composer] = {}

    def add_composer(self, kind: str, composer: Composer) -> None:
        """Letters of this kind are made by `composer`."""
        if kind in self._composers:
            raise ValueError(f"there is a composer for {kind} already")
        self._composers[str(kind)] = composer

    async def deliver(self, row: Mapping[str, Any]) -> bool:
        """Send the mail that `row` asks for; False when its composer finds that there is nothing to send.

        The server is reached first: no code is made for a mail that cannot leave. Raises the errors of
        `app.mail.errors`, and `ConnectionFailure` when the composer does not reach the database.
        """
        await self._transport.open()
        message = await self._message(row)
        if message is None:
            return False
        await self._transport.send(message)
        return True

    async def _message(self, row: Mapping[str, Any]) -> EmailMessage | None:
        request = MailRequest(kind=row["kind"], to=row["to"], values=row["values"], key=row.get("key"))
        composer = self._composers.get(request.kind)
        if composer is None:  # during a rolling update a newer process may ask for mails that this one does not know
            raise DeferredError("no composer for this kind")
        try:
            async with asyncio.timeout(self._compose_seconds):
                letter = await composer(request)
            if letter is None:
                return None
            rendered = self._templates.render(letter)
            return build(
                rendered,
                sender=self._sender,
                to=recipient(letter.to),
                message_id=self._message_id(row["nonce"], rendered.text),
                now=self._clock.now(),
            )
        except AddressError as error:
            raise RefusedError(str(error)) from None
        except ConnectionFailure:
            raise
        except Exception as error:  # a fault in one kind of mail must not hold up the others
            log.exception("a mail could not be composed", kind=request.kind, mail=row["nonce"])
            raise DeferredError(f"composing failed ({type(error).__name__})") from None

    def _message_id(self, nonce: str, text: str) -> str:
        """The same whenever a mail is sent again as it was, so that mail programs show it once.

        With a new code in it, it is another mail: it must not be taken for a copy of the one whose code is dead. The
        digest is keyed, since a message id stands in the logs of every server on the way and must not tell the code.
        """
        tag = hmac.new(self._id_key, f"{nonce}\n{text}".encode(), hashlib.sha256).hexdigest()[:16]
        return f"<{nonce}.{tag}@{self._sender.domain}>"
