"""The application: `uvicorn app.main:app`. Nothing imports this module."""
# ruff: noqa: E402 (the imports are what is to be done without collections)

import gc
import sys

# What is imported stays: to look for garbage in it meanwhile is a sixth of a start's time.
gc.disable()

from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from starlette.types import Receive, Scope, Send
from uvicorn.config import STARTUP_FAILURE

from app import __version__
from app.core.client_address import ClientAddressResolver, note_peer
from app.core.deps import Registry
from app.core.logging import configure_logging
from app.core.metrics import Metrics
from app.core.middleware import BodyLimitMiddleware, RequestContextMiddleware, StartupFailureMiddleware
from app.core.openapi import DESCRIPTION, TAGS, install_openapi
from app.core.problem import add_problem_handlers
from app.core.settings import Settings, SettingsError
from app.lifespan import lifespan
from app.routes import FAST_LANES, UNREFERENCED, include_routes, limits_its_own_body
from app.stream.wire import TransportMiddleware

# Nor later: a collection that goes through all of it holds every request up for a tenth of a second.
gc.freeze()
gc.enable()

if TYPE_CHECKING:
    app: FastAPI


EXPOSED_HEADERS = [
    "X-Request-ID",
    "X-Next-Cursor",
    "Link",
    "Location",
    "ETag",
    "X-Category-As-Of",
    "Retry-After",
    "WWW-Authenticate",
    "RateLimit-Limit",
    "RateLimit-Remaining",
    "RateLimit-Reset",
]
"""What scripts of other origins may read of an answer."""


class Application(FastAPI):
    """FastAPI that notes the connection's true peer before any layer can rewrite it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        note_peer(scope, send)
        await super().__call__(scope, receive, send)


def create_app(settings: Settings) -> FastAPI:
    """The application for `settings`; what it needs while it runs is made by `app.lifespan`."""
    configure_logging(settings)
    application = Application(
        title=settings.app_name,
        version=__version__,
        summary="Self-hosted trading backend",
        description=DESCRIPTION,
        openapi_tags=TAGS,
        license_info={"name": "MIT", "identifier": "MIT"},
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        separate_input_output_schemas=False,
    )
    metrics = Metrics()
    addresses = ClientAddressResolver(settings.trusted_proxies)
    registry = application.state.registry = Registry()
    registry.provide(Settings, settings)
    registry.provide(Metrics, metrics)
    registry.provide(ClientAddressResolver, addresses)

    # The last one added is the outermost.
    application.add_middleware(BodyLimitMiddleware, max_bytes=settings.max_body_bytes, own_limit=limits_its_own_body)
    for lane in FAST_LANES:
        application.add_middleware(lane)
    if settings.allowed_origins:
        application.add_middleware(
            CORSMiddleware,
            allow_origins=settings.allowed_origins,
            allow_credentials="*" not in settings.allowed_origins,
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "X-Request-ID"],
            expose_headers=EXPOSED_HEADERS,
            max_age=600,
        )
    application.add_middleware(RequestContextMiddleware, metrics=metrics, addresses=addresses, hsts=settings.production)
    application.add_middleware(StartupFailureMiddleware)
    application.add_middleware(TransportMiddleware)
    add_problem_handlers(application)
    include_routes(application)
    install_openapi(application, UNREFERENCED)
    return application


def __getattr__(name: str) -> Any:
    """`app` is made when the server asks for it, so that importing this module does no work."""
    if name != "app":
        raise AttributeError(name)
    try:
        application = create_app(Settings.load())
    except SettingsError as error:
        sys.stderr.write(f"arrow: {error}\n")
        # uvicorn's own status for a start that failed: with several workers any other means "try again", for ever.
        raise SystemExit(STARTUP_FAILURE) from None
    globals()["app"] = application
    return application
