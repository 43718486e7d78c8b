"""The use cases of signing up, in and out, in terms of what clients send and get."""

from typing import NoReturn

from beanie import PydanticObjectId

from app.auth.accounts import Accounts, NewAccount, normalise_identifier
from app.auth.challenges import Challenges, WrongSecondFactorError
from app.auth.guard import SignInGuard
from app.auth.mail_limits import MailLimits
from app.auth.models import UserDocument
from app.auth.notices import Notices
from app.auth.otp import KIND as OTP
from app.auth.otp import OtpCodes
from app.auth.places import SignInPlaces
from app.auth.schemas.accounts import RegisterBody, SignupBody, TokenPair, User
from app.auth.second_factor import SecondFactors
from app.auth.sessions import Client, Sessions
from app.auth.take_over import TakeOvers
from app.core.audit import Act, Actor, ActorKind, AuditTrail, Outcome
from app.core.clock import Clock
from app.core.errors import ForbiddenError, UnauthorizedError, WrongCredentialsError
from app.core.mail import MailRequest


class AuthService:
    """Sign-up, sign-in in one or two steps, refresh, sign-out."""

    def __init__(
        self,
        *,
        clock: Clock,
        accounts: Accounts,
        sessions: Sessions,
        guard: SignInGuard,
        places: SignInPlaces,
        otp: OtpCodes,
        second_factors: SecondFactors,
        challenges: Challenges,
        take_overs: TakeOvers,
        mail_limits: MailLimits,
        notices: Notices,
        audit: AuditTrail,
    ) -> None:
        self._clock = clock
        self._accounts = accounts
        self._sessions = sessions
        self._guard = guard
        self._places = places
        self._otp = otp
        self._second_factors = second_factors
        self._challenges = challenges
        self._take_overs = take_overs
        self._mail_limits = mail_limits
        self._notices = notices
        self._audit = audit

    async def register(self, body: RegisterBody, client: Client) -> User:
        """Make an account; `ConflictError` when the e-mail or username is taken."""
        new = NewAccount(
            email=body.email,
            password=body.password.get_secret_value(),
            name=body.name,
            username=body.username,
            mobile=body.mobile,
        )
        user = await self._sign_up(new, client)
        # Who chose the password is there: a proof of the mailbox from the same place takes the account from nobody.
        await self._places.note(user.id, client)
        return shown(user)

    async def signup(self, body: SignupBody, client: Client) -> TokenPair:
        """Make an account and sign in at once; `ConflictError` when the e-mail is taken."""
        user = await self._sign_up(NewAccount(body.email, body.password.get_secret_value()), client)
        return await self._open(user, client, "password")

    async def _sign_up(self, new: NewAccount, client: Client) -> UserDocument:
        user = await self._accounts.create(new)
        await self._audit.note(Act("auth.sign_up", user.id, Actor(ActorKind.NOBODY, user.id)))
        # Sign-ups must not be a way to mail strangers without end; the mail can be asked for later.
        if await self._mail_limits.room(client):
            await self._notices.send(MailRequest("verify_email", user.email, key=user.email))
        return user

    async def login(self, identifier: str, password: str, client: Client, code: str | None = None) -> TokenPair:
        """Tokens for the right password of the account with this e-mail or username.

        Raises `WrongCredentialsError` with the same text and after the same time for a wrong password and for an
        unknown account, `ForbiddenError` for an account that is not active (told only to who knows its password),
        `SecondFactorRequiredError` (with a challenge) where a second factor is enrolled and no `code` came along, and
        `RateLimitedError` after too many attempts.
        """
        identifier = normalise_identifier(identifier)
        found = await self._accounts.find(identifier)
        # An account has two names but one limit.
        attempt = await self._guard.admit("password", found.id if found else identifier, client)
        user = await self._accounts.verify(found, password)
        if user is None:
            await self._guard.failed(attempt)
            await self._denied(found, "password", "wrong password" if found else "unknown account")
            raise WrongCredentialsError("The e-mail address (or username) and the password do not match an account.")
        await self._guard.succeeded(attempt)
        return await self._admit(user, client, "password", code)

    async def request_otp(self, email: str, client: Client) -> None:
        """Have a code sent to `email`, if it has an account; see `OtpCodes.request`. Raises `RateLimitedError`."""
        await self._mail_limits.ask(OTP, email, client)
        await self._otp.request(email)

    async def otp_login(self, email: str, otp: str, client: Client, code: str | None = None) -> TokenPair:
        """Tokens for the code that was sent to `email`; errors as in `login`, one text for whatever was wrong."""
        found = await self._accounts.find(email)
        attempt = await self._guard.admit("otp", found.id if found else email, client)
        user_id = await self._otp.check(email, otp)
        if found is None or user_id != found.id:
            await self._guard.failed(attempt)
            await self._denied(found, "otp", "wrong or expired code")
            raise WrongCredentialsError("The code is wrong, was used, or has expired; ask for a new one.")
        await self._guard.succeeded(attempt)
        # As the account was before the code was checked: if all its sessions were ended since, none must begin.
        user = await self._proven(found, client) if found.is_active else found
        return await self._admit(user, client, "otp", code)

    async def _proven(self, user: UserDocument, client: Client) -> UserDocument:
        """The account of somebody who has just proven to read its mail. A second factor is not asked for before this:
        whoever made the account for somebody else's address may have planted one."""
        if user.is_verified and user.owner_proven:
            return user
        proven = user
        if await self._take_overs.due(user, client):
            proven = await self._take_overs.by_code(user, client) or _gone()
        await self._accounts.mark_verified(user.id, user.email)
        return proven

    async def _admit(self, user: UserDocument, client: Client, method: str, code: str | None) -> TokenPair:
        """Whoever is past the first factor: tokens, or what is still missing."""
        if not user.is_active:
            await self._denied(user, method, "deactivated", Outcome.REFUSED)
            raise _deactivated()
        if code is None:
            await self._challenges.ask(user.id, method, user.session_epoch)
            return await self._open(user, client, method)
        if not await self._second_factors.enrolled(user.id):
            return await self._open(user, client, method)
        factor = await self._second_factors.attempt(user.id, code, client)
        if factor is None:
            await self._denied(user, method, "wrong second factor")
            raise WrongCredentialsError("The code of the second factor is wrong or was used already.")
        return await self._open(user, client, f"{method}+{factor}")

    async def second_step(self, challenge_token: str, code: str, client: Client) -> TokenPair:
        """Tokens for the challenge of a first step and a code; errors as in `Challenges.redeem`."""
        try:
            step = await self._challenges.redeem(challenge_token, code, client)
        except WrongSecondFactorError as error:
            await self._denied(await self._accounts.get(error.user_id), error.method, "wrong second factor")
            raise
        user = await self._accounts.get(step.user_id) or _gone()
        if not user.is_active:
            await self._denied(user, step.method, "deactivated", Outcome.REFUSED)
            raise _deactivated()
        # As the account was at the first step: if all its sessions were ended since, this one must not begin.
        user.session_epoch = step.session_epoch
        return await self._open(user, client, step.method)

    async def _open(self, user: UserDocument, client: Client, method: str) -> TokenPair:
        tokens = await self._sessions.open(user, client, method)
        if await self._places.note(user.id, client):
            values = {
                "when": self._clock.now().isoformat(),
                "address": client.address,
                "device": client.user_agent,
                "method": method,
            }
            await self._notices.send(MailRequest("new_sign_in", user.email, values))
        return tokens

    async def _denied(
        self, user: UserDocument | None, method: str, reason: str, outcome: Outcome = Outcome.FAILURE
    ) -> None:
        details = {"method": method, "reason": reason}
        await self._audit.note(Act("auth.sign_in", user.id if user else None, outcome=outcome, details=details))

    async def refresh(self, refresh_token: str, client: Client) -> TokenPair:
        """See `Sessions.refresh`."""
        return await self._sessions.refresh(refresh_token, client)

    async def logout(self, refresh_token: str) -> None:
        """See `Sessions.end`. It is written down once: the same token could fill the trail else."""
        ended = await self._sessions.end(refresh_token)
        if ended is not None:
            actor = Actor(ActorKind.SESSION, ended.user_id, ended.session_id)
            target = ("session", str(ended.session_id))
            await self._audit.note(Act("auth.sign_out", ended.user_id, actor, target=target))

    async def me(self, user_id: PydanticObjectId) -> User:
        """The caller's account; `UnauthorizedError` if it is gone."""
        return shown(await self._accounts.get(user_id) or _gone())


def _deactivated() -> ForbiddenError:
    return ForbiddenError("This account is deactivated; ask the administrator.")


def _gone() -> NoReturn:
    raise UnauthorizedError("This account does not exist any more.")


def shown(user: UserDocument) -> User:
    """An account as its owner and administrators see it."""
    return User(
        id=str(user.id),
        email=user.email,
        username=user.username,
        name=user.name,
        mobile=user.mobile,
        role=user.role,
        is_active=user.is_active,
        is_verified=user.is_verified,
        created_at=user.created_at,
        updated_at=user.updated_at,
    )
