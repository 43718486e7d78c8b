"""Tokens that travel by mail and are pasted back once: 43 URL-safe characters that say nothing to a reader.

The first 16 are a digest of the account: with the purpose they name the slot that the token lies in, so it is found
from the token alone, and an account has one slot for a purpose, so a newer token kills the older one. The other 27 are
160 random bits. What is stored is digests.
"""

import hashlib
import hmac
import secrets
from base64 import urlsafe_b64encode
from datetime import timedelta
from enum import StrEnum

import structlog
from beanie import PydanticObjectId

from app.auth.models import UserDocument
from app.auth.one_time import OneTimeSecrets
from app.core.mail import MailRequest

log = structlog.get_logger(__name__)

_SELECTOR_CHARS = 16
_RANDOM_BYTES = 20
REQUEST = "request"
"""The value of a `MailRequest` that tells it from others of its kind to the same address."""
_PROOF, _MAILS = "proof", "mails"
MAX_MAILS = 5
"""Tokens of one kind that an account is sent until the newest one has expired or was used: whoever asks for more gets
none, and the one that lies in the mailbox stays good."""


class Purpose(StrEnum):
    """What a token is for; one for another purpose is no token at all."""

    VERIFY_EMAIL = "verify_email"
    PASSWORD_RESET = "password_reset"  # noqa: S105 (a word, not a password)

    @property
    def lifetime(self) -> timedelta:
        """How long a token of this kind is good."""
        return timedelta(hours=24) if self is Purpose.VERIFY_EMAIL else timedelta(minutes=30)


def request_for(purpose: Purpose, email: str) -> MailRequest:
    """The wish that a token be sent to this (normalised) address; of several that wait one is kept."""
    return MailRequest(purpose, email, {REQUEST: secrets.token_hex(8)}, key=email)


class MailedTokens:
    """Issues them when a mail is made, and takes them back."""

    def __init__(self, one_time: OneTimeSecrets) -> None:
        self._one_time = one_time

    async def issue(self, purpose: Purpose, user: UserDocument, request: str) -> str | None:
        """A new token for the account; the one before it is dead from now on. None if it was sent enough of them.

        It is good as long as the account has the address that it is sent to now. `request` names the wish that is
        being fulfilled: a mail that is tried again counts once.
        """
        selector = _selector(user.id)
        before = await self._one_time.peek(_slot(purpose, selector))
        mails = int(before.details.get(_MAILS, "1")) if before else 0
        if before is None or before.details.get(REQUEST) != request:
            mails += 1
        if mails > MAX_MAILS:
            log.warning("too many mails were asked for; one account gets none for a while", purpose=purpose)
            return None
        token = selector + secrets.token_urlsafe(_RANDOM_BYTES)
        details = {_PROOF: _digest(token, user.email), REQUEST: request, _MAILS: str(mails)}
        await self._one_time.put(
            _slot(purpose, selector), token, user_id=user.id, lifetime=purpose.lifetime, details=details
        )
        return token

    async def owner(self, purpose: Purpose, token: str) -> UserDocument | None:
        """The account of a good token, without spending it; None if it is not good (any more)."""
        found = await self._one_time.peek(_slot(purpose, token[:_SELECTOR_CHARS]))
        user = await UserDocument.find_one({"_id": found.user_id}) if found else None
        if found is None or user is None:
            return None
        proven = hmac.compare_digest(found.details.get(_PROOF, ""), _digest(token, user.email))
        return user if proven else None

    async def redeem(self, purpose: Purpose, token: str) -> bool:
        """Spend a token that `owner` found good; True for exactly one caller.

        (Others never get here: wrong tries count, and an older token must not kill the newest one.)
        """
        slot = _slot(purpose, token[:_SELECTOR_CHARS])
        return await self._one_time.take(slot, token) is not None

    async def drop(self, purpose: Purpose, user_id: PydanticObjectId) -> None:
        """Kill the account's token, if there is one."""
        await self._one_time.drop(_slot(purpose, _selector(user_id)))


def _selector(user_id: PydanticObjectId) -> str:
    return urlsafe_b64encode(hashlib.sha256(f"mailed-token:{user_id}".encode()).digest()).decode()[:_SELECTOR_CHARS]


def _slot(purpose: Purpose, selector: str) -> str:
    return f"{purpose}:{selector}"


def _digest(token: str, email: str) -> str:
    return hashlib.sha256(f"{token}:{email}".encode()).hexdigest()
