"""The auth endpoints, in each dialect by the same functions.

`/api/v1/auth` is the whole of it; `/api/auth` is the part that clients of that dialect know.
"""

from typing import Annotated

from fastapi import APIRouter, Depends, Form, Header, Response, status

from app.auth.schemas import LoginBody, RefreshBody, RegisterBody, SigninForm, SignupBody, TokenPair, User
from app.auth.service import AuthService
from app.auth.sessions import Client
from app.core.deps import ClientAddress, CurrentUser, PublicLimit, provided
from app.core.problem import problem_responses

Auth = Annotated[AuthService, provided(AuthService)]


async def _client(
    address: ClientAddress, user_agent: Annotated[str | None, Header(include_in_schema=False)] = None
) -> Client:
    printable = "".join(char for char in user_agent[:256] if char.isprintable()) if user_agent else None
    return Client(address, printable or None)


CallingClient = Annotated[Client, Depends(_client)]


async def _no_store(response: Response) -> None:
    """Tokens and personal data are nobody's to keep (RFC 6749, section 5.1)."""
    response.headers["Cache-Control"] = "no-store"


async def register(body: RegisterBody, auth: Auth) -> User:
    """Make an account. `409` if the e-mail address or the username is taken."""
    return await auth.register(body)


async def signup(body: SignupBody, client: CallingClient, auth: Auth) -> TokenPair:
    """Make an account and get tokens at once. `409` if the e-mail address is taken."""
    return await auth.signup(body, client)


async def login(body: LoginBody, client: CallingClient, auth: Auth) -> TokenPair:
    """Tokens for an e-mail address or a username, and the password. Attempts are limited, right or wrong."""
    return await auth.login(body.identifier, body.password.get_secret_value(), client)


async def signin(form: Annotated[SigninForm, Form()], client: CallingClient, auth: Auth) -> TokenPair:
    """The OAuth2 password form: `username` takes an e-mail address or a username. *Authorize* in these docs uses it."""
    return await auth.login(form.username, form.password.get_secret_value(), client)


async def me(caller: CurrentUser, auth: Auth) -> User:
    """The account behind the access token."""
    return await auth.me(caller.user_id)


async def refresh(body: RefreshBody, client: CallingClient, auth: Auth) -> TokenPair:
    """New tokens for a refresh token, which is spent by this. A spent one that comes back ends its whole session."""
    return await auth.refresh(body.refresh_token, client)


async def logout(body: RefreshBody, auth: Auth) -> None:
    """End the session of a refresh token: its refresh and access tokens stop working at once, everywhere."""
    await auth.logout(body.refresh_token)


def _dialect(prefix: str, name: str) -> APIRouter:
    """What both dialects have: register, login, me."""
    router = APIRouter(prefix=prefix, tags=["Accounts"], dependencies=[Depends(_no_store)])
    router.add_api_route(
        "/register",
        register,
        methods=["POST"],
        operation_id=f"{name}_register",
        summary="Make an account",
        status_code=status.HTTP_201_CREATED,
        responses=problem_responses(409, 413),
        dependencies=[PublicLimit],
    )
    router.add_api_route(
        "/login",
        login,
        methods=["POST"],
        operation_id=f"{name}_login",
        summary="Sign in with JSON",
        responses=problem_responses(401, 403, 413),
        dependencies=[PublicLimit],
    )
    router.add_api_route(
        "/me",
        me,
        methods=["GET"],
        operation_id=f"{name}_me",
        summary="My account",
        responses=problem_responses(401),
    )
    return router


def _build() -> APIRouter:
    v1 = _dialect("/api/v1/auth", "auth_v1")
    v1.add_api_route(
        "/signup",
        signup,
        methods=["POST"],
        operation_id="auth_v1_signup",
        summary="Make an account and sign in",
        status_code=status.HTTP_201_CREATED,
        responses=problem_responses(409, 413),
        dependencies=[PublicLimit],
    )
    v1.add_api_route(
        "/signin",
        signin,
        methods=["POST"],
        operation_id="auth_v1_signin",
        summary="Sign in with the OAuth2 form",
        responses=problem_responses(401, 403, 413),
        dependencies=[PublicLimit],
    )
    v1.add_api_route(
        "/refresh",
        refresh,
        methods=["POST"],
        operation_id="auth_v1_refresh",
        summary="Spend a refresh token for new tokens",
        responses=problem_responses(401, 413),
        dependencies=[PublicLimit],
    )
    v1.add_api_route(
        "/logout",
        logout,
        methods=["POST"],
        operation_id="auth_v1_logout",
        summary="Sign out",
        status_code=status.HTTP_204_NO_CONTENT,
        responses=problem_responses(401, 413),
        dependencies=[PublicLimit],
    )
    router = APIRouter()
    router.include_router(v1)
    router.include_router(_dialect("/api/auth", "auth"))
    return router


router = _build()
