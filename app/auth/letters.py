"""The letters of accounts: each made at the moment of sending from the request that waited, tokens included."""

from datetime import datetime
from typing import Any

from app.auth.accounts import Accounts
from app.auth.mailed_tokens import REQUEST, MailedTokens, Purpose
from app.auth.models import ApiTokenDocument, UserDocument
from app.core.clock import Clock
from app.core.mail import Composer, Letter, MailRequest

NOTICES = ("new_sign_in", "token_reuse", "password_changed", "second_factor_changed")
"""Kinds that tell the owner what happened. The request's values are the template's, its `when` as ISO 8601 text."""


class Letters:
    """Composers for the kinds that are not one-time codes (those are `OtpCodes`')."""

    def __init__(self, *, clock: Clock, accounts: Accounts, tokens: MailedTokens) -> None:
        self._clock = clock
        self._accounts = accounts
        self._tokens = tokens

    def composers(self) -> dict[str, Composer]:
        """What the outbox has to know, by kind."""
        tokens: dict[str, Composer] = {
            Purpose.VERIFY_EMAIL: self._verify_email,
            Purpose.PASSWORD_RESET: self._password_reset,
        }
        return tokens | dict.fromkeys(NOTICES, self._notice)

    async def _verify_email(self, request: MailRequest) -> Letter | None:
        user = await self._accounts.find(request.to)
        if user is None or not user.is_active or user.is_verified:
            return None
        token = await self._tokens.issue(Purpose.VERIFY_EMAIL, user, str(request.values.get(REQUEST)))
        if token is None:
            return None
        hours = int(Purpose.VERIFY_EMAIL.lifetime.total_seconds()) // 3600
        return _letter(request, user, {"token": token, "hours": hours})

    async def _password_reset(self, request: MailRequest) -> Letter | None:
        user = await self._accounts.find(request.to)
        if user is None or not user.is_active:
            return None
        token = await self._tokens.issue(Purpose.PASSWORD_RESET, user, str(request.values.get(REQUEST)))
        if token is None:
            return None
        minutes = int(Purpose.PASSWORD_RESET.lifetime.total_seconds()) // 60
        return _letter(request, user, {"token": token, "minutes": minutes})

    async def _notice(self, request: MailRequest) -> Letter | None:
        user = await self._accounts.find(request.to)
        if user is None:
            return None
        values: dict[str, Any] = {**request.values, "when": datetime.fromisoformat(str(request.values["when"]))}
        if request.kind == "password_changed":
            values["api_tokens"] = await self._live_api_tokens(user)
        return _letter(request, user, values)

    async def _live_api_tokens(self, user: UserDocument) -> int:
        """How many work at this moment: a new password does not end them, and the notice says so."""
        now = self._clock.now()
        found = ApiTokenDocument.get_pymongo_collection().find({"user_id": user.id, "live": True}, {"expires_at": 1})
        return sum([token["expires_at"] > now async for token in found])


def _letter(request: MailRequest, user: UserDocument, values: dict[str, Any]) -> Letter:
    return Letter(request.to, request.kind, {"name": user.name, **values})
