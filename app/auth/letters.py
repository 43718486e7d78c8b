"""The letters of accounts: each made at the moment of sending from the request that waited, tokens included."""

import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import structlog

from app.auth.accounts import Accounts
from app.auth.devices import device_in_mail
from app.auth.mail_budgets import MailBudgets
from app.auth.mailed_tokens import REQUEST, MailedTokens, Purpose
from app.auth.models import ApiTokenDocument, UserDocument
from app.core.client_address import parse_address
from app.core.clock import Clock
from app.core.mail import Composer, Letter, MailRequest
from app.core.security import Scope

log = structlog.get_logger(__name__)

NOTICES: Mapping[str, tuple[str, ...]] = {
    "new_sign_in": ("when", "address", "device", "method"),
    "token_reuse": ("when", "address", "device"),
    "password_changed": ("when", "address", "api_tokens_ended", "strategy_keys_ended"),
    "second_factor_changed": ("when", "address", "enabled"),
    "api_token_created": ("when", "address", "token_name", "scopes"),
}
"""Kinds that tell the owner what happened, and which values a request has: `when` as ISO 8601 text, `device` a
`User-Agent` or its name, `scopes` with commas between them; what is not known may be missing or None (`when` must not).
Others are left out of the letter, and none is passed on as whoever caused it wrote it."""
AT_ONCE, EACH = 5, timedelta(hours=1)
"""An account gets five notices of one kind at once, then one an hour: at most five in any hour, whatever happens."""


class Letters:
    """Composers for the kinds that are not one-time codes (those are `OtpCodes`')."""

    def __init__(self, *, clock: Clock, accounts: Accounts, tokens: MailedTokens) -> None:
        self._clock = clock
        self._accounts = accounts
        self._tokens = tokens
        self._budgets = MailBudgets(clock=clock, at_once=AT_ONCE, each=EACH)

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
        allowance = await self._budgets.ask(f"notices:{request.kind}:{user.id}", _name_of(request))
        if not allowance.granted:
            log.warning("too much happened; one account gets no notice of it for a while", kind=request.kind)
            return None
        values = {name: _FACTS[name](request.values.get(name)) for name in NOTICES[request.kind]}
        if request.kind == "password_changed":
            values["api_tokens"] = await self._live_api_tokens(user)
        await self._budgets.count(allowance)
        return _letter(request, user, values)

    async def _live_api_tokens(self, user: UserDocument) -> int:
        """How many work at this moment: a new password does not end them, and the notice says so."""
        now = self._clock.now()
        found = ApiTokenDocument.get_pymongo_collection().find({"user_id": user.id, "live": True}, {"expires_at": 1})
        return sum([token["expires_at"] > now async for token in found])


def _address(value: object) -> str | None:
    """An IP address; what a proxy puts in place of one is not repeated."""
    found = parse_address(str(value))
    return str(found) if found else None


def _scopes(value: object) -> list[str]:
    words = str(value).replace(",", " ").split()
    return [scope.value for scope in Scope if scope in words]


_FACTS: Mapping[str, Callable[[Any], Any]] = {
    "when": lambda value: datetime.fromisoformat(str(value)),
    "address": _address,
    "device": device_in_mail,
    "method": str,
    "api_tokens_ended": lambda value: int(value or 0),
    "strategy_keys_ended": lambda value: int(value or 0),
    "enabled": bool,
    "token_name": lambda value: value,
    "scopes": _scopes,
}
"""What becomes of the values of a request. (Names, of people and of tokens, are looked at where mails are rendered.)"""


def _name_of(request: MailRequest) -> str:
    """Tells requests apart and stays the same when one is tried again."""
    told = "\n".join(f"{name}={value}" for name, value in sorted(request.values.items()))
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _letter(request: MailRequest, user: UserDocument, values: dict[str, Any]) -> Letter:
    return Letter(request.to, request.kind, {"name": user.name, **values})
