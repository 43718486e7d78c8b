"""Signing in by a code that is sent by e-mail: asked for, made at the moment of sending, shown back once."""

import secrets
from datetime import timedelta

import structlog
from beanie import PydanticObjectId

from app.auth.accounts import Accounts
from app.auth.digests import KeyedDigests
from app.auth.mail_budgets import MailBudgets
from app.auth.one_time import OneTimeSecrets
from app.core.audit import SYSTEM, Act, AuditTrail
from app.core.clock import Clock
from app.core.errors import UnavailableError
from app.core.mail import Letter, MailRequest, Mails
from app.core.settings import Settings

log = structlog.get_logger(__name__)

KIND = "otp"
"""The kind of these mails, and the name of their template."""
DIGITS = 6
_REQUEST = "request"
MAILS_AT_ONCE = 5
MAILS_EACH = timedelta(minutes=10)
"""One address gets five codes at once and then one each ten minutes: ten in an hour, whoever asks for them."""


class OtpCodes:
    """Codes of six digits, by e-mail, for `OTP_EXPIRE_MINUTES`, at most one alive for an address.

    Whether an address has an account shows in nothing that can be asked for: a request is one waiting mail, written
    the same way for any address. What follows happens in the background; there an address without an account (or with
    one that is not active) gets a decoy instead of a mail, so that checking a code costs the same later on.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        clock: Clock,
        accounts: Accounts,
        secrets: OneTimeSecrets,
        mails: Mails,
        digests: KeyedDigests,
        audit: AuditTrail,
        mails_at_once: int = MAILS_AT_ONCE,
        mails_each: timedelta = MAILS_EACH,
    ) -> None:
        """An address gets `mails_at_once` codes in quick succession, and one more for each `mails_each` that passes."""
        self._lifetime = timedelta(minutes=settings.otp_expire_minutes)
        self._minutes = settings.otp_expire_minutes
        self._accounts = accounts
        self._secrets = secrets
        self._mails = mails
        self._digests = digests
        self._audit = audit
        self._budgets = MailBudgets(clock=clock, at_once=mails_at_once, each=mails_each)

    async def request(self, email: str) -> None:
        """Have a code sent to this (normalised) address, if it has an account.

        `UnavailableError` where no mails can be sent, whatever the address.
        """
        if not self._mails.available:
            raise UnavailableError(
                "This service cannot send e-mail, so there are no codes; sign in with your password.", retry_after=3600
            )
        # A name of its own: a request whose mail is tried again for hours counts as one.
        values = {_REQUEST: secrets.token_hex(8)}
        await self._mails.request(MailRequest(kind=KIND, to=email, key=email, values=values))

    async def compose(self, request: MailRequest) -> Letter | None:
        """The composer of these mails: a new code, which replaces the one before.

        None where there is nobody to send it to, or too many were sent lately (the one before stays good then).
        """
        email = request.to
        allowance = await self._budgets.ask(self._budget_slot(email), str(request.values.get(_REQUEST)))
        if not allowance.granted:
            log.warning("too many codes were asked for; one address gets none for a while")
            return None
        user = await self._accounts.find(email)
        receiver = user if user is not None and user.is_active else None
        if receiver and not allowance.counted:
            await self._audit.record(Act("auth.otp_sent", receiver.id, SYSTEM))
        await self._budgets.count(allowance)
        code = f"{secrets.randbelow(10**DIGITS):0{DIGITS}d}"
        user_id = receiver.id if receiver else None
        await self._secrets.put(self._slot(email), code, user_id=user_id, lifetime=self._lifetime)
        if receiver is None:
            return None
        return Letter(to=email, template=KIND, values={"code": code, "minutes": self._minutes, "name": receiver.name})

    async def check(self, email: str, code: str) -> PydanticObjectId | None:
        """Spend `code`; the account it was sent to, or None if it is not (any more) the one for this address.

        The code of one request is dead after five wrong tries. Who gets an id has proven to read this mailbox.
        """
        row = await self._secrets.take(self._slot(email), code)
        return row.user_id if row else None

    def _slot(self, email: str) -> str:
        """Named by a digest: the database need not know who asked. A new SECRET_KEY ends the codes on their way."""
        return f"otp:{self._digests.make('otp', email)}"

    def _budget_slot(self, email: str) -> str:
        return f"otp-mails:{self._digests.make('otp', email)}"
