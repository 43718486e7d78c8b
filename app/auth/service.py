"""The use cases of accounts, in terms of what clients send and get."""

from typing import NoReturn

from beanie import PydanticObjectId

from app.auth.accounts import Accounts, NewAccount, normalise_identifier
from app.auth.models import UserDocument
from app.auth.schemas import RegisterBody, SignupBody, TokenPair, User
from app.auth.sessions import Client, Sessions
from app.core.client_address import network_of
from app.core.errors import ForbiddenError, UnauthorizedError
from app.core.rate_limit import RateLimiter
from app.core.settings import Settings


class AuthService:
    """Sign-up, sign-in, refresh, sign-out."""

    def __init__(self, *, settings: Settings, accounts: Accounts, sessions: Sessions, limiter: RateLimiter) -> None:
        self._settings = settings
        self._accounts = accounts
        self._sessions = sessions
        self._limiter = limiter

    async def register(self, body: RegisterBody) -> User:
        """Make an account; `ConflictError` when the e-mail or username is taken."""
        new = NewAccount(
            email=body.email,
            password=body.password.get_secret_value(),
            name=body.name,
            username=body.username,
            mobile=body.mobile,
        )
        return _shown(await self._accounts.create(new))

    async def signup(self, body: SignupBody, client: Client) -> TokenPair:
        """Make an account and sign in at once; `ConflictError` when the e-mail is taken."""
        user = await self._accounts.create(NewAccount(body.email, body.password.get_secret_value()))
        return await self._sessions.open(user, client)

    async def login(self, identifier: str, password: str, client: Client) -> TokenPair:
        """Tokens for the right password of the account with this e-mail or username.

        Raises `UnauthorizedError` with the same text and after the same time for a wrong password and for an unknown
        account, `ForbiddenError` for an account that is not active (told only to who knows its password), and
        `RateLimitedError` after too many attempts, successful or not.
        """
        identifier = normalise_identifier(identifier)
        # The address first: who is over that limit must not use up the attempts of somebody else's account.
        network = network_of(client.address)
        await self._limiter.hit("auth-address", network, self._settings.auth_address_rate_limit_per_minute)
        # An account has two names but one limit.
        found = await self._accounts.find(identifier)
        account = str(found.id) if found else identifier
        await self._limiter.hit("auth-account", account, self._settings.auth_rate_limit_per_minute)
        user = await self._accounts.verify(found, password)
        if user is None:
            raise UnauthorizedError("The e-mail address (or username) and the password do not match an account.")
        if not user.is_active:
            raise ForbiddenError("This account is deactivated; ask the administrator.")
        return await self._sessions.open(user, client)

    async def refresh(self, refresh_token: str, client: Client) -> TokenPair:
        """See `Sessions.refresh`."""
        return await self._sessions.refresh(refresh_token, client)

    async def logout(self, refresh_token: str) -> None:
        """See `Sessions.end`."""
        await self._sessions.end(refresh_token)

    async def me(self, user_id: PydanticObjectId) -> User:
        """The caller's account; `UnauthorizedError` if it is gone."""
        return _shown(await self._accounts.get(user_id) or _gone())


def _gone() -> NoReturn:
    raise UnauthorizedError("This account does not exist any more.")


def _shown(user: UserDocument) -> User:
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
