"""The port of outgoing mail: features say what is to be sent to whom; the mail feature stores, renders and sends it."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Letter:
    """A mail about to be rendered and sent. `template` names a pair of templates; `values` fill them."""

    to: str
    template: str
    values: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """May hold secrets (a one-time code): they exist in memory alone, while the mail is being sent."""


@dataclass(frozen=True, slots=True)
class MailRequest:
    """The wish that a mail be sent, as it waits in the database: it must hold no secret.

    `kind` names the composer that makes the letter when its turn comes. Of several waiting requests with the same
    `kind` and `key` one is kept (an impatient person gets one code, not five); without a key all are.
    """

    kind: str
    to: str
    values: Mapping[str, str | int | bool | None] = field(default_factory=dict)
    key: str | None = None


Composer = Callable[[MailRequest], Awaitable[Letter | None]]
"""Makes the letter at the moment of sending, secrets included; None when there is nothing to send (any more)."""


class Mails(Protocol):
    """Takes requests for mails."""

    @property
    def available(self) -> bool:
        """Whether mails can be sent at all: `SMTP_HOST` is set, or the console stands in for it in development."""

    async def request(self, request: MailRequest) -> None:
        """Return when `request` is durably stored; it is sent soon, by whichever process sends mails.

        Raises `UnavailableError` where mails cannot be sent. Costs one write, whoever the addressee is.
        """
