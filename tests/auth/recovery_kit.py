"""What the tests of recovery and of letters share: the feature put together, with a post that keeps everything."""

import secrets
from pathlib import Path
from typing import Any

from beanie import PydanticObjectId
from pydantic import SecretStr

from app.auth.digests import KeyedDigests
from app.auth.guard import SignInGuard
from app.auth.letters import Letters
from app.auth.mailed_tokens import MailedTokens, Purpose
from app.auth.models import UserDocument
from app.auth.notices import Notices
from app.auth.one_time import OneTimeSecrets
from app.auth.places import SignInPlaces
from app.auth.recovery import Recovery
from app.auth.schemas.accounts import TokenPair
from app.auth.schemas.recovery import PasswordChangeBody, PasswordResetBody
from app.auth.sessions import Client
from app.core.audit import Act, Outcome
from app.core.errors import UnauthorizedError
from app.core.mail import Letter, MailRequest
from app.core.rate_limit import RateLimiter
from app.core.security import Principal
from app.core.settings import Settings
from tests.auth.conftest import HERE, PASSWORD, Parts

NEW = "a quite different phrase"
ELSEWHERE = Client("198.51.100.9", "another browser 7.1")
LIMIT = 1000


class Post:
    """Keeps what is asked to be sent, and what is written down."""

    def __init__(self) -> None:
        self.available = True
        self.requests: list[MailRequest] = []
        self.acts: list[Act] = []

    async def request(self, request: MailRequest) -> None:
        self.requests.append(request)

    async def record(self, act: Act) -> None:
        self.acts.append(act)

    def sent(self, kind: str) -> list[MailRequest]:
        return [request for request in self.requests if request.kind == kind]

    def noted(self, action: str) -> list[tuple[PydanticObjectId | None, Outcome]]:
        return [(act.account_id, act.outcome) for act in self.acts if act.action == action]


class Kit:
    """The feature put together as the lifespan does it."""

    def __init__(self, parts: Parts, folder: Path, **settings: Any) -> None:
        limits = {"auth_rate_limit_per_minute": LIMIT, "auth_address_rate_limit_per_minute": LIMIT}
        self.parts, self.post, self.limiter = parts, Post(), RateLimiter()
        self.settings = Settings(
            _env_file=None, **({"data_dir": folder, "secret_key": secrets.token_hex(32)} | limits | settings)
        )
        digests = KeyedDigests.of(self.settings)
        self.places = SignInPlaces(clock=parts.clock, digests=digests)
        self.tokens = MailedTokens(OneTimeSecrets(clock=parts.clock, digests=digests))
        self.letters = Letters(clock=parts.clock, accounts=parts.accounts, tokens=self.tokens).composers()
        self.recovery = Recovery(
            settings=self.settings,
            clock=parts.clock,
            accounts=parts.accounts,
            sessions=parts.sessions,
            tokens=self.tokens,
            mails=self.post,
            notices=Notices(self.post),
            audit=self.post,
            guard=SignInGuard(clock=parts.clock, limiter=self.limiter, settings=self.settings, places=self.places),
            places=self.places,
            limiter=self.limiter,
        )

    async def letter(self, purpose: Purpose, email: str) -> Letter | None:
        """Ask for a mail, and make the letter as the outbox would."""
        ask = self.recovery.resend if purpose is Purpose.VERIFY_EMAIL else self.recovery.forgot
        await ask(email, HERE)
        return await self.letters[purpose](self.post.requests[-1])

    async def token(self, purpose: Purpose, user: UserDocument) -> str:
        letter = await self.letter(purpose, user.email)
        assert letter is not None
        token: str = letter.values["token"]
        return token

    async def reset(self, token: str, password: str = NEW) -> None:
        await self.recovery.reset(PasswordResetBody(token=token, new_password=SecretStr(password)), ELSEWHERE)

    async def change(self, caller: Principal, current: str = PASSWORD, new: str = NEW) -> TokenPair:
        body = PasswordChangeBody(current_password=SecretStr(current), new_password=SecretStr(new))
        return await self.recovery.change(caller, body, ELSEWHERE)

    async def has(self, user: UserDocument, password: str) -> bool:
        """Whether `password` is the account's at this moment."""
        return await self.parts.accounts.verify(await self.parts.accounts.get(user.id), password) is not None

    async def caller(self, pair: TokenPair) -> Principal:
        return await self.parts.authenticator.authenticate(pair.access_token)

    async def alive(self, *pairs: TokenPair) -> list[bool]:
        """Which of these sessions can still be used, and carried on."""
        found = []
        for pair in pairs:
            access = True
            try:
                await self.caller(pair)
            except UnauthorizedError:
                access = False
            try:
                await self.parts.sessions.refresh(pair.refresh_token, HERE)
                found.append(access)
            except UnauthorizedError:
                assert not access
                found.append(False)
        return found
