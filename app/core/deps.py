"""What endpoints ask for: services by their type, the caller, the caller's address."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Response
from fastapi.dependencies.models import Dependant
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, OAuth2PasswordBearer
from starlette.requests import HTTPConnection, Request

from app.core.audit import Act, Actor, AuditTrail, Outcome
from app.core.client_address import ClientAddressResolver, network_of
from app.core.errors import FieldError, ForbiddenError, InvalidInputError, RateLimitedError, UnauthorizedError
from app.core.problem import MAX_ERRORS, printable
from app.core.rate_limit import RateLimiter
from app.core.redaction import scrub_path
from app.core.security import Authenticator, Principal, Role, Scope
from app.core.settings import Settings

T = TypeVar("T")


class Registry:
    """The services of one application, each under the type by which endpoints ask for it."""

    def __init__(self) -> None:
        self._services: dict[type[Any], Any] = {}

    def provide(self, type_: type[T], instance: T) -> T:
        """Make `instance` what `get(type_)` gives."""
        self._services[type_] = instance
        return instance

    def get(self, type_: type[T]) -> T:
        """The service provided for `type_`; `KeyError` if the lifespan did not provide one."""
        service: T = self._services[type_]
        return service


def registry_of(connection: HTTPConnection) -> Registry:
    """The registry of the application that serves `connection`."""
    registry: Registry = connection.app.state.registry
    return registry


def provided(type_: Any) -> Any:
    """A FastAPI dependency that gives the service provided for `type_`.

    Usage: `Alerts = Annotated[AlertService, provided(AlertService)]`.
    """

    async def get(connection: HTTPConnection) -> Any:
        return registry_of(connection).get(type_)

    return Depends(get)


async def _client_address(connection: HTTPConnection, resolver: Annotated[Any, provided(ClientAddressResolver)]) -> str:
    address: str = resolver.of(connection.scope)
    return address


ClientAddress = Annotated[str, Depends(_client_address)]
"""The address of the client itself: behind trusted proxies the one that they report."""


async def _public_limit(
    address: ClientAddress,
    limiter: Annotated[RateLimiter, provided(RateLimiter)],
    settings: Annotated[Settings, provided(Settings)],
) -> None:
    await limiter.hit("public", network_of(address), settings.rate_limit_per_minute)


PublicLimit = Depends(_public_limit)
"""For public endpoints: `RATE_LIMIT_PER_MINUTE` per address."""

_password_flow = OAuth2PasswordBearer(
    tokenUrl="api/v1/auth/signin",
    auto_error=False,
    description="Sign in with your e-mail address (or username) and password. With a second factor enrolled, its code "
    "goes into `client_secret`; else leave the rest empty.",
)
_any_token = HTTPBearer(
    auto_error=False, scheme_name="Bearer", description="An access token, or an API token (`arrow_…`)."
)


async def _current_user(
    request: Request,
    token: Annotated[str | None, Depends(_password_flow)],
    _: Annotated[HTTPAuthorizationCredentials | None, Depends(_any_token)],  # the same header: shown in the docs
    authenticator: Annotated[Authenticator, provided(Authenticator)],
    limiter: Annotated[RateLimiter, provided(RateLimiter)],
    settings: Annotated[Settings, provided(Settings)],
    address: ClientAddress,
) -> Principal:
    try:
        if not token:
            raise UnauthorizedError("Send a token: Authorization: Bearer <access token or API token>.")
        principal = await authenticator.authenticate(token)
    except UnauthorizedError:
        # Guessing is limited like every other public request.
        await limiter.hit("public", network_of(address), settings.rate_limit_per_minute)
        raise
    await limiter.hit("user", str(principal.user_id), settings.user_rate_limit_per_minute)
    request.state.user_id = principal.user_id
    return principal


@dataclass(frozen=True, slots=True)
class Permission:
    """Who may call an endpoint; as a dependency it gives the caller, limited by `USER_RATE_LIMIT_PER_MINUTE`.

    A signed-in person needs `role`, an API token needs `scope` as well; without a scope no API token may call it.
    Raises `UnauthorizedError` without a valid token and `ForbiddenError` for one that does not suffice.
    """

    scope: Scope | None = None
    role: Role = Role.USER

    def __str__(self) -> str:
        """Who may, for the documentation."""
        person = "a signed-in person" if self.role is Role.USER else f"a signed-in person with the role `{self.role}`"
        return f"{person}, or an API token with the scope `{self.scope}`" if self.scope else f"{person}, no API token"

    async def __call__(
        self, connection: HTTPConnection, caller: Annotated[Principal, Depends(_current_user)]
    ) -> Principal:
        """The caller, if they may."""
        if caller.api_token and self.scope is None:
            raise ForbiddenError("API tokens cannot do this; sign in with a password or a code.")
        if self.scope is not None and self.scope not in caller.scopes:
            # RFC 6750, section 3.1
            raise ForbiddenError(
                f"This API token was not given the scope {self.scope}.",
                headers={"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{self.scope}"'},
            )
        if not caller.role.includes(self.role):
            await _note_refusal(connection, caller, self.role)
            raise ForbiddenError(f"This is for accounts with the role {self.role}.")
        return caller


async def _note_refusal(connection: HTTPConnection, caller: Principal, role: Role) -> None:
    """Write down that somebody tried what is for others; a few a minute, however often they try."""
    registry = registry_of(connection)
    with suppress(RateLimitedError):
        await registry.get(RateLimiter).hit("refusals", str(caller.user_id), REFUSALS_NOTED)
        target = ("path", scrub_path(connection.scope["path"]))
        details = {"method": connection.scope["method"], "role": caller.role, "needed": role}
        act = Act("access.refused", caller.user_id, Actor.of(caller), Outcome.REFUSED, target, details)
        await registry.get(AuditTrail).note(act)  # type: ignore[type-abstract]  # provided under its port


REFUSALS_NOTED = 5
"""Refusals of one account that are written down in a minute."""

AccountReader = Annotated[Principal, Depends(Permission(Scope.ACCOUNT_READ))]
StrategyReader = Annotated[Principal, Depends(Permission(Scope.STRATEGIES_READ))]
StrategyWriter = Annotated[Principal, Depends(Permission(Scope.STRATEGIES_WRITE))]
AlertReader = Annotated[Principal, Depends(Permission(Scope.ALERTS_READ))]
AlertWriter = Annotated[Principal, Depends(Permission(Scope.ALERTS_WRITE))]
AuditReader = Annotated[Principal, Depends(Permission(Scope.AUDIT_READ))]
MarketDataWriter = Annotated[Principal, Depends(Permission(Scope.MARKET_DATA_WRITE, Role.OPERATOR))]
CryptoSyncer = Annotated[Principal, Depends(Permission(Scope.CRYPTO_SYNC))]
PortfolioReader = Annotated[Principal, Depends(Permission(Scope.PORTFOLIO_READ))]
PortfolioWriter = Annotated[Principal, Depends(Permission(Scope.PORTFOLIO_WRITE))]
JobReader = Annotated[Principal, Depends(Permission(Scope.JOBS_READ))]
OrderReader = Annotated[Principal, Depends(Permission(Scope.ORDERS_READ))]
OrderWriter = Annotated[Principal, Depends(Permission(Scope.ORDERS_WRITE))]
SignalReader = Annotated[Principal, Depends(Permission(Scope.SIGNALS_READ))]
SignalWriter = Annotated[Principal, Depends(Permission(Scope.SIGNALS_WRITE))]
SignedIn = Annotated[Principal, Depends(Permission())]
"""A person: sessions, passwords, tokens and second factors are not for API tokens."""
Administrator = Annotated[Principal, Depends(Permission(role=Role.ADMIN))]


async def _no_store(response: Response) -> None:
    response.headers["Cache-Control"] = "no-store"


NoStore = Depends(_no_store)
"""Secrets and personal data are nobody's to keep (RFC 6749, section 5.1)."""


async def _known_query(request: Request) -> None:
    if not request.query_params:
        return
    known = _query_names(request.scope["route"].dependant)
    unknown = [printable(name) for name in islice(_unknown(request, known), MAX_ERRORS)]
    if unknown:
        # This comes before the endpoint's own limits.
        registry = registry_of(request)
        network = network_of(registry.get(ClientAddressResolver).of(request.scope))
        await registry.get(RateLimiter).hit("public", network, registry.get(Settings).rate_limit_per_minute)
        faults = [
            FieldError(("query", name), "This parameter is not known here", "extra_forbidden") for name in unknown
        ]
        rest = f"; known are {', '.join(sorted(known))}" if known else ""
        raise InvalidInputError(f"query.{unknown[0]}: This parameter is not known here{rest}.", faults)


def _unknown(request: Request, known: set[str]) -> Iterator[str]:
    return (name for name in request.query_params if name not in known)


KnownQuery = Depends(_known_query)
"""Refuses parameters that an endpoint does not have: a filter that is ignored gives a wrong answer."""


def _query_names(dependant: Dependant) -> set[str]:
    names = {parameter.alias for parameter in dependant.query_params}
    return names.union(*map(_query_names, dependant.dependencies))


def permission_of(dependant: Dependant) -> Permission | None:
    """The permission that an endpoint's signature asks for; None if it asks for none (public, or by a key)."""
    if isinstance(dependant.call, Permission):
        return dependant.call
    return next(filter(None, map(permission_of, dependant.dependencies)), None)
