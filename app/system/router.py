"""Root, health and metrics."""

import secrets
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Request, Response
from pydantic import Field

from app import __version__
from app.core.deps import PublicLimit, provided
from app.core.errors import UnauthorizedError, UnavailableError
from app.core.metrics import CONTENT_TYPE, Metrics
from app.core.problem import problem_responses
from app.core.schemas import ResponseModel
from app.core.settings import Settings
from app.system.health import HealthReport, HealthService

router = APIRouter(tags=["System"])

Health = Annotated[HealthService, provided(HealthService)]
Config = Annotated[Settings, provided(Settings)]


class About(ResponseModel):
    """Name, version, and where to go from here."""

    name: str
    version: str
    environment: str
    docs: str = Field(examples=["/docs"])
    redoc: str = Field(examples=["/redoc"])
    openapi: str = Field(examples=["/openapi.json"])
    health: str = Field(examples=["/health"])


class Probe(ResponseModel):
    """The answer of a probe."""

    status: Literal["ok"] = "ok"


@router.get("/", summary="What this is", dependencies=[PublicLimit], responses=problem_responses())
async def root(request: Request, settings: Config) -> About:
    """Name, version, environment, and links to the documentation and the state of health."""
    under = request.scope.get("root_path", "")
    return About(
        name=settings.app_name,
        version=__version__,
        environment=settings.environment,
        docs=f"{under}/docs",
        redoc=f"{under}/redoc",
        openapi=f"{under}/openapi.json",
        health=f"{under}/health",
    )


@router.get(
    "/health",
    summary="State of every component",
    responses={503: {"model": HealthReport, "description": "The service cannot do its job: the database is away."}},
)
async def health(service: Health, response: Response) -> HealthReport:
    """`ok`, `degraded` (something runs on its fallback) or `unavailable`, with a line for each component."""
    report = await service.report()
    response.status_code = 503 if report.status == "unavailable" else 200
    return report


@router.get("/health/live", summary="Is the process alive?")
async def live() -> Probe:
    """Never touches the database: an orchestrator restarts the process when this fails."""
    return Probe()


@router.get("/health/ready", summary="Can it take requests?", responses=problem_responses())
async def ready(service: Health) -> Probe:
    """Touches the database: an orchestrator sends no traffic while this answers 503."""
    if not await service.ready():
        raise UnavailableError("The database cannot be reached.", retry_after=2)
    return Probe()


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Prometheus' text format."},
        **problem_responses(401),
    },
)
async def metrics(
    metrics: Annotated[Metrics, provided(Metrics)],
    settings: Config,
    authorization: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> Response:
    """This process's counters; behind `Authorization: Bearer <METRICS_TOKEN>` when that is set."""
    if settings.metrics_token:
        expected = f"Bearer {settings.metrics_token.get_secret_value()}"
        if not secrets.compare_digest((authorization or "").encode(), expected.encode()):
            raise UnauthorizedError("Send the METRICS_TOKEN as a bearer token.")
    return Response(metrics.text(), media_type=CONTENT_TYPE)
