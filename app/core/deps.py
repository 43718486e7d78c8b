"""What endpoints ask for: services by their type, the caller, the caller's address."""

from typing import Annotated, Any, TypeVar

from fastapi import Depends
from fastapi.security import OAuth2PasswordBearer
from starlette.requests import HTTPConnection, Request

from app.core.client_address import ClientAddressResolver, network_of
from app.core.errors import UnauthorizedError
from app.core.rate_limit import RateLimiter
from app.core.security import Authenticator, Principal
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

_bearer = OAuth2PasswordBearer(
    tokenUrl="api/v1/auth/signin",
    auto_error=False,
    description="Sign in with your e-mail address (or username) and password; leave the rest empty.",
)


async def _current_user(
    request: Request,
    token: Annotated[str | None, Depends(_bearer)],
    authenticator: Annotated[Authenticator, provided(Authenticator)],
    limiter: Annotated[RateLimiter, provided(RateLimiter)],
    settings: Annotated[Settings, provided(Settings)],
    address: ClientAddress,
) -> Principal:
    try:
        if not token:
            raise UnauthorizedError("Send an access token: Authorization: Bearer <access token>.")
        principal = await authenticator.authenticate(token)
    except UnauthorizedError:
        # Guessing is limited like every other public request.
        await limiter.hit("public", network_of(address), settings.rate_limit_per_minute)
        raise
    await limiter.hit("user", str(principal.user_id), settings.user_rate_limit_per_minute)
    request.state.user_id = principal.user_id
    return principal


CurrentUser = Annotated[Principal, Depends(_current_user)]
"""The caller of an endpoint that needs an access token; limited by `USER_RATE_LIMIT_PER_MINUTE`."""
