"""The auth endpoints, in each dialect by the same functions.

`/api/v1/auth` is the whole of it; `/api/auth` is the part that clients of that dialect know.
"""

import base64
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import unquote_plus

from fastapi import APIRouter, Form, Header, status
from pydantic import SecretStr

from app.auth.router.common import CallingClient
from app.auth.schemas.accounts import (
    MAX_CODE_CHARS,
    LoginBody,
    RefreshBody,
    RegisterBody,
    SigninForm,
    SignupBody,
    TokenPair,
    User,
)
from app.auth.schemas.sign_in import Accepted, OtpLoginBody, OtpRequestBody, SecondFactorBody, SecondFactorRequired
from app.auth.service import AuthService
from app.core.deps import AccountReader, NoStore, PublicLimit, provided
from app.core.problem import MEDIA_TYPE, problem_responses

Auth = Annotated[AuthService, provided(AuthService)]


async def register(body: RegisterBody, client: CallingClient, auth: Auth) -> User:
    """Make an account. `409` if the e-mail address or the username is taken."""
    return await auth.register(body, client)


async def signup(body: SignupBody, client: CallingClient, auth: Auth) -> TokenPair:
    """Make an account and get tokens at once. `409` if the e-mail address is taken."""
    return await auth.signup(body, client)


async def login(body: LoginBody, client: CallingClient, auth: Auth) -> TokenPair:
    """Tokens for an e-mail address or a username, and the password. Attempts are limited, right or wrong.

    An account with a second factor gets `401` with the type `second-factor-required` and a `challenge_token`: send it
    with a code to `POST /api/v1/auth/login/second-factor`, or send the code along as `code` at once.
    """
    return await auth.login(body.identifier, body.password.get_secret_value(), client, _text(body.code))


async def signin(
    form: Annotated[SigninForm, Form()],
    client: CallingClient,
    auth: Auth,
    authorization: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> TokenPair:
    """The OAuth2 password form: `username` takes an e-mail address or a username. *Authorize* in these docs uses it.

    With a second factor enrolled its code goes into `client_secret`, which people have no other use for: in the body,
    or in a Basic header, as Swagger UI sends it by default.
    """
    code = _text(form.client_secret) or client_secret_of(authorization)
    return await auth.login(form.username, form.password.get_secret_value(), client, code)


async def second_factor(body: SecondFactorBody, client: CallingClient, auth: Auth) -> TokenPair:
    """The second step of a sign-in: the code of the authenticator app, or a recovery code, for tokens."""
    return await auth.second_step(body.challenge_token, body.code.get_secret_value(), client)


async def request_otp(body: OtpRequestBody, client: CallingClient, auth: Auth) -> Accepted:
    """A code of six digits by e-mail, to sign in without a password. The answer is the same for unknown addresses.

    It works once, for `OTP_EXPIRE_MINUTES`; asking again makes the one before worthless. `503` if no mail can be sent.
    """
    await auth.request_otp(body.email, client)
    return Accepted()


async def otp_login(body: OtpLoginBody, client: CallingClient, auth: Auth) -> TokenPair:
    """Tokens for the code that came by e-mail. After five wrong tries it is dead: ask for another."""
    return await auth.otp_login(body.email, body.otp.get_secret_value(), client, _text(body.code))


def client_secret_of(authorization: str | None) -> str | None:
    """The client secret of a Basic header (RFC 6749, section 2.3.1); None where there is none."""
    scheme, _, value = (authorization or "")[:1024].partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        secret = base64.b64decode(value.strip(), validate=True).decode().partition(":")[2]
    except ValueError:
        return None
    return unquote_plus(secret)[:MAX_CODE_CHARS].strip() or None


def _text(code: SecretStr | None) -> str | None:
    return (code.get_secret_value().strip() or None) if code else None


async def me(caller: AccountReader, auth: Auth) -> User:
    """The account behind the access token."""
    return await auth.me(caller.user_id)


async def refresh(body: RefreshBody, client: CallingClient, auth: Auth) -> TokenPair:
    """New tokens for a refresh token, which is spent by this. A spent one that comes back ends its whole session."""
    return await auth.refresh(body.refresh_token, client)


async def logout(body: RefreshBody, auth: Auth) -> None:
    """End the session of a refresh token: its refresh and access tokens stop working at once, everywhere."""
    await auth.logout(body.refresh_token)


def sign_in_responses() -> dict[int | str, dict[str, Any]]:
    """The problems of a first step; its 401 may be the question for a second factor."""
    responses = problem_responses(401, 403, 413)
    content = responses[401]["content"][MEDIA_TYPE]
    content["schema"] = {
        "anyOf": [content["schema"], {"$ref": f"#/components/schemas/{SecondFactorRequired.__name__}"}]
    }
    responses[401]["description"] = (
        "Wrong credentials; or, with the type `second-factor-required`, a `challenge_token` for the second step."
    )
    return responses


def _dialect(prefix: str, name: str) -> APIRouter:
    """What both dialects have: register, login, me."""
    router = APIRouter(prefix=prefix, tags=["Accounts"], dependencies=[NoStore])
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
        responses=sign_in_responses(),
        dependencies=[PublicLimit],
    )
    router.add_api_route(
        "/me",
        me,
        methods=["GET"],
        operation_id=f"{name}_me",
        summary="My account",
        responses=problem_responses(401, 403),
    )
    return router


@dataclass(frozen=True)
class _Route:
    """A public POST under `/api/v1/auth`."""

    path: str
    endpoint: Callable[..., Any]
    name: str
    summary: str
    problems: tuple[int, ...] = ()
    status: int = status.HTTP_200_OK
    first_step: bool = False
    """Whether a second factor may be asked for after it."""


_ROUTES = (
    _Route("/signup", signup, "signup", "Make an account and sign in", (409, 413), status.HTTP_201_CREATED),
    _Route("/signin", signin, "signin", "Sign in with the OAuth2 form", first_step=True),
    _Route("/login/second-factor", second_factor, "second_factor", "Second step of a sign-in", (401, 403, 413)),
    _Route("/request-otp", request_otp, "request_otp", "Get a code by e-mail", (413,), status.HTTP_202_ACCEPTED),
    _Route("/otp-login", otp_login, "otp_login", "Sign in with the code", first_step=True),
    _Route("/refresh", refresh, "refresh", "Spend a refresh token for new tokens", (401, 413)),
    _Route("/logout", logout, "logout", "Sign out", (401, 413), status.HTTP_204_NO_CONTENT),
)


def _build() -> tuple[APIRouter, APIRouter]:
    v1 = _dialect("/api/v1/auth", "auth_v1")
    for route in _ROUTES:
        v1.add_api_route(
            route.path,
            route.endpoint,
            methods=["POST"],
            operation_id=f"auth_v1_{route.name}",
            summary=route.summary,
            status_code=route.status,
            responses=sign_in_responses() if route.first_step else problem_responses(*route.problems),
            dependencies=[PublicLimit],
        )
    return v1, _dialect("/api/auth", "auth")


routers = _build()
