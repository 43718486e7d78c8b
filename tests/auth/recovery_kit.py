"""What the tests of recovery and of letters share: the feature put together, with a post that keeps everything."""

import secrets
from pathlib import Path
from typing import Any

from beanie import PydanticObjectId
from pydantic import SecretStr
from pymongo.errors import AutoReconnect

from app.auth.challenges import Challenges
from app.auth.digests import KeyedDigests
from app.auth.guard import SignInGuard
from app.auth.letters import Letters
from app.auth.mail_limits import MailLimits
from app.auth.mailed_tokens import MailedTokens, Purpose
from app.auth.models import UserDocument
from app.auth.notices import Notices
from app.auth.one_time import OneTimeSecrets
from app.auth.otp import OtpCodes
from app.auth.places import SignInPlaces
from app.auth.recovery import Recovery
from app.auth.schemas.accounts import TokenPair
from app.auth.schemas.api_tokens import ApiTokenBody
from app.auth.schemas.recovery import PasswordChangeBody, PasswordResetBody
from app.auth.second_factor import SecondFactors
from app.auth.service import AuthService
from app.auth.sessions import Client, Sessions
from app.auth.take_over import TakeOvers
from app.core.audit import Act, Outcome
from app.core.encryption import Vault
from app.core.encryption_keys import new_key
from app.core.errors import UnauthorizedError
from app.core.mail import Letter, MailRequest
from app.core.rate_limit import RateLimiter
from app.core.security import Principal, Scope
from app.core.settings import Settings
from tests.auth.conftest import HERE, PASSWORD, Parts

NEW = "a quite different phrase"
ELSEWHERE = Client("198.51.100.9", "another browser 7.1")
LIMIT = 1000


class Keys:
    """Fills the port `StrategyKeys`: remembers whose keys were ended."""

    def __init__(self) -> None:
        self.ended: list[PydanticObjectId] = []
        self.away = False

    async def revoke_all(self, user_id: PydanticObjectId) -> int:
        if self.away:
            raise AutoReconnect("the database restarts")
        if user_id in self.ended:
            return 0
        self.ended.append(user_id)
        return 2


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

    async def note(self, act: Act) -> None:
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
        self.guard = SignInGuard(clock=parts.clock, limiter=self.limiter, settings=self.settings, places=self.places)
        self.one_time = OneTimeSecrets(clock=parts.clock, digests=digests)
        self.tokens = MailedTokens(self.one_time)
        self.keys, self.notices = Keys(), Notices(self.post)
        self.factors = SecondFactors(
            app_name="Arrow",
            clock=parts.clock,
            vault=Vault([new_key()]),
            accounts=parts.accounts,
            guard=self.guard,
            audit=self.post,
            notices=self.notices,
        )
        self.take_overs = TakeOvers(
            clock=parts.clock,
            accounts=parts.accounts,
            sessions=parts.sessions,
            api_tokens=parts.api_tokens,
            keys=self.keys,
            second_factors=self.factors,
            places=self.places,
            notices=self.notices,
            audit=self.post,
        )
        self.mail_limits = MailLimits(self.limiter, self.settings)
        self.letters = Letters(clock=parts.clock, accounts=parts.accounts, tokens=self.tokens).composers()
        self.recovery = self.recovery_with(parts.sessions)
        self.otp = OtpCodes(
            settings=self.settings,
            clock=parts.clock,
            accounts=parts.accounts,
            secrets=self.one_time,
            mails=self.post,
            digests=digests,
            audit=self.post,
        )
        self.service = self.service_with(self.otp)

    def service_with(self, otp: OtpCodes) -> AuthService:
        return AuthService(
            clock=self.parts.clock,
            accounts=self.parts.accounts,
            sessions=self.parts.sessions,
            guard=self.guard,
            places=self.places,
            otp=otp,
            second_factors=self.factors,
            challenges=Challenges(clock=self.parts.clock, one_time=self.one_time, factors=self.factors),
            take_overs=self.take_overs,
            mail_limits=self.mail_limits,
            notices=self.notices,
            audit=self.post,
        )

    async def code(self, email: str, client: Client = HERE) -> str:
        """Ask for a code to sign in with, and read it in the letter."""
        await self.service.request_otp(email, client)
        letter = await self.otp.compose(self.post.requests[-1])
        assert letter is not None
        code: str = letter.values["code"]
        return code

    def recovery_with(self, sessions: Sessions) -> Recovery:
        return Recovery(
            clock=self.parts.clock,
            accounts=self.parts.accounts,
            sessions=sessions,
            api_tokens=self.parts.api_tokens,
            tokens=self.tokens,
            mails=self.post,
            notices=self.notices,
            audit=self.post,
            guard=self.guard,
            places=self.places,
            take_overs=self.take_overs,
            mail_limits=self.mail_limits,
        )

    async def api_token(self, caller: Principal) -> str:
        body = ApiTokenBody(name="bot", scopes=[Scope.ALERTS_READ])
        return (await self.parts.api_tokens.create(caller, body, HERE)).token

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

    async def reset(self, token: str, password: str = NEW, client: Client = ELSEWHERE) -> None:
        await self.recovery.reset(PasswordResetBody(token=token, new_password=SecretStr(password)), client)

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
