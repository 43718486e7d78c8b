"""How many mails of one kind somebody is sent, whoever asks for them or causes them."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from pymongo.errors import DuplicateKeyError

from app.auth.models import OneTimeSecretDocument
from app.core.clock import Clock, from_micros, to_micros

_REMEMBERED = 20
"""Names of requests that were counted: their mails may be tried again for hours, and count once."""
_PAID_OFF, _REQUESTS = "paid_off", "requests"
_NOTHING = "0" * 64
"""The digest of no secret: nothing can be taken from the row of a budget."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """The answer for one request: whether its mail may be sent, and whether it was counted before."""

    slot: str
    request: str
    granted: bool
    counted: bool
    paid_off: datetime
    """When the mails so far will be paid off: each costs some time, and nobody owes more than a few of them."""
    requests: tuple[str, ...] = ()


class MailBudgets:
    """Budgets of `at_once` mails in quick succession, and one more for each `each` that passes, by slot.

    They lie among the one-time secrets, in slots of their own. One process at a time makes mails, so a budget is read
    and written by one; should two meet, a mail too many is sent.
    """

    def __init__(self, *, clock: Clock, at_once: int, each: timedelta) -> None:
        self._clock = clock
        self._at_once = at_once
        self._each = each

    async def ask(self, slot: str, request: str) -> Allowance:
        """Whether the mail of `request` (a name of its own, without spaces) may be sent; counts nothing yet."""
        now = self._clock.now()
        row = await OneTimeSecretDocument.find_one({"_id": slot})
        if row is None or row.expires_at <= now:
            return Allowance(slot, request, granted=True, counted=False, paid_off=now)
        paid_off, requests = from_micros(int(row.details[_PAID_OFF])), tuple(row.details[_REQUESTS].split())
        counted = request in requests
        granted = counted or paid_off - now <= self._each * (self._at_once - 1)
        return Allowance(slot, request, granted, counted, paid_off, requests)

    async def count(self, allowance: Allowance) -> None:
        """Write down that a mail which was granted is made; once, however often it is tried."""
        if allowance.counted or not allowance.granted:
            return
        now = self._clock.now()
        paid_off = max(allowance.paid_off, now) + self._each
        requests = " ".join((*allowance.requests, allowance.request)[-_REMEMBERED:])
        row = OneTimeSecretDocument(
            id=allowance.slot,
            nonce=allowance.request,
            digest=_NOTHING,
            details={_PAID_OFF: str(to_micros(paid_off)), _REQUESTS: requests},
            created_at=now,
            # When it is paid off there is nothing to remember, but for mails that are tried again.
            expires_at=max(paid_off, now + timedelta(days=1)),
        )
        rows, document = (
            OneTimeSecretDocument.get_pymongo_collection(),
            row.model_dump(by_alias=True, exclude_none=True),
        )
        try:
            await rows.replace_one({"_id": row.id}, document, upsert=True)
        except DuplicateKeyError:  # another process made the row between the server's two steps
            await rows.replace_one({"_id": row.id}, document, upsert=True)
