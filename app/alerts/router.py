"""Strategies, keys and stored alerts over HTTP."""

from collections.abc import Mapping
from enum import Enum
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from pydantic import ValidationError

from app.alerts.chart_service import AlertCharts, ChartFormat
from app.alerts.ingest import alerts_json
from app.alerts.keys import KeyDirectory, KeyService, looks_like_key
from app.alerts.rejected import RejectedDeliveries
from app.alerts.schemas import (
    Alert,
    AlertFilters,
    AlertInput,
    BindKey,
    BoundKey,
    ChartRequest,
    Contract,
    Figure,
    KeyInfo,
    KeyStrategy,
    Rejected,
    StrategyName,
    TradeTypeIn,
)
from app.alerts.service import AlertService
from app.core.deps import AlertReader, AlertWriter, NoStore, PublicLimit, StrategyReader, StrategyWriter, provided
from app.core.errors import FieldError, InvalidInputError, NotFoundError
from app.core.figures import Theme
from app.core.pagination import PAGED, PageRequest, page_request
from app.core.problem import field_errors, problem_responses, summary
from app.core.schemas import Moment, parse_id
from app.core.settings import Settings

router = APIRouter()

Alerts = Annotated[AlertService, provided(AlertService)]
Keys = Annotated[KeyService, provided(KeyService)]
Charts = Annotated[AlertCharts, provided(AlertCharts)]
RejectedRows = Annotated[RejectedDeliveries, provided(RejectedDeliveries)]
PageQuery = Annotated[PageRequest, Depends(page_request)]
ItemId = Annotated[str, Path(max_length=200, description="The alert's id.", examples=["6b02893a002b26997921d778"])]

STRATEGIES: list[str | Enum] = ["Strategies and keys"]
ALERTS: list[str | Enum] = ["Alerts"]


@router.post(
    "/alerts/bind_key",
    status_code=201,
    tags=STRATEGIES,
    summary="Bind a new key to a strategy",
    dependencies=[NoStore],
    responses=problem_responses(401, 409),
)
async def bind_key(
    body: BindKey,
    request: Request,
    user: StrategyWriter,
    keys: Keys,
    settings: Annotated[Settings, provided(Settings)],
) -> BoundKey:
    """Makes the strategy if there is none of this name, and a key whose secret is shown this once.

    Binding again issues a further key; the former ones keep working until they are revoked.
    """
    base = settings.public_base_url or str(request.base_url).rstrip("/")
    return await keys.bind(user, body.name, base)


@router.get("/alerts/strategy_names", tags=STRATEGIES, summary="Your strategies", responses=problem_responses(401))
async def strategy_names(user: StrategyReader, keys: Keys) -> list[str]:
    """The names of your strategies."""
    return await keys.strategy_names(user.user_id)


@router.get("/keys/", tags=STRATEGIES, summary="Your keys", responses={**PAGED, **problem_responses(401)})
async def list_keys(
    request: Request, response: Response, user: StrategyReader, keys: Keys, page: PageQuery
) -> list[KeyInfo]:
    """Newest first, revoked ones too; never the key itself."""
    return (await keys.keys(user.user_id, page)).announce(request, response)


@router.get(
    "/keys/{secret_key}",
    tags=STRATEGIES,
    summary="The strategy behind a key",
    dependencies=[PublicLimit],
    responses=problem_responses(404),
)
async def key_strategy(
    secret_key: Annotated[str, Path(max_length=200, description="A strategy's secret key.")],
    directory: Annotated[KeyDirectory, provided(KeyDirectory)],
) -> KeyStrategy:
    """Possession of the key is the credential; an unknown or revoked one is 404."""
    return KeyStrategy(name=await directory.strategy_name(secret_key))


@router.delete(
    "/keys/{key_id}", status_code=204, tags=STRATEGIES, summary="Revoke a key", responses=problem_responses(401, 404)
)
async def revoke_key(key_id: Annotated[str, Path(max_length=200)], user: StrategyWriter, keys: Keys) -> None:
    """The key stops working at once, in every process of the service."""
    await keys.revoke(user, parse_id(key_id, "key"))


@router.get(
    "/alerts/rejected", tags=ALERTS, summary="Refused deliveries", responses={**PAGED, **problem_responses(401)}
)
async def rejected(
    request: Request,
    response: Response,
    user: AlertReader,
    keys: Keys,
    rows: RejectedRows,
    page: PageQuery,
    strategy_name: Annotated[StrategyName | None, Query(description="Of this strategy only.")] = None,
) -> list[Rejected]:
    """What was sent to your webhooks and did not become an alert, and why; newest first, kept 30 days."""
    strategy_id = await keys.strategy_id(user.user_id, strategy_name) if strategy_name else None
    if strategy_name and strategy_id is None:
        return []
    return (await rows.page(user.user_id, page, strategy_id)).announce(request, response)


def json_response(content: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Alerts come out of the service encoded, with exact numbers."""
    return Response(content, status, headers, media_type="application/json")


async def alert_filters(
    contract: Annotated[Contract | None, Query(examples=["NIFTY"])] = None,
    trade_type: Annotated[TradeTypeIn | None, Query()] = None,
    strategy_name: Annotated[StrategyName | None, Query()] = None,
    start: Annotated[Moment | None, Query(description="Stored at or after this time (ISO 8601).")] = None,
    end: Annotated[Moment | None, Query(description="Stored at or before this time (ISO 8601).")] = None,
) -> AlertFilters:
    """The filters of a list, from the query."""
    try:
        return AlertFilters(contract=contract, trade_type=trade_type, strategy_name=strategy_name, start=start, end=end)
    except ValidationError as error:
        problems = [
            FieldError(("query", *problem.loc), problem.msg, problem.type) for problem in field_errors(error.errors())
        ]
        raise InvalidInputError(summary(problems), problems) from None


@router.get(
    "/data/",
    tags=ALERTS,
    summary="Your alerts",
    response_class=Response,
    responses={200: {"model": list[Alert], **PAGED[200]}, **problem_responses(401)},
)
async def list_alerts(
    request: Request,
    response: Response,
    user: AlertReader,
    alerts: Alerts,
    page: PageQuery,
    filters: Annotated[AlertFilters, Depends(alert_filters)],
) -> Response:
    """Newest first; all filters hold together."""
    found = await alerts.page(user.user_id, filters, page)
    return json_response(alerts_json(found.announce(request, response)), headers=response.headers)


@router.post(
    "/data/",
    status_code=201,
    tags=ALERTS,
    summary="Write an alert by hand",
    response_class=Response,
    responses={
        200: {"model": Alert, "description": "A repeat by `Idempotency-Key`: the first alert, nothing changed."},
        201: {"model": Alert, "description": "Durably stored."},
        **problem_responses(401, 413),
    },
)
async def create_alert(
    body: AlertInput,
    user: AlertWriter,
    alerts: Alerts,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255)] = None,
) -> Response:
    """For one of your strategies (422 if none has this name). With an `Idempotency-Key` a repeat changes nothing."""
    content, new = await alerts.create(user.user_id, body, idempotency_key)
    return json_response(content, 201 if new else 200)


async def _not_a_webhook(item_id: ItemId) -> None:
    """Everybody opens a new webhook address in a browser first: say what it is for, whether or not the key is right."""
    if looks_like_key(item_id):
        raise NotFoundError("If this is a webhook address: it takes POST, and needs no token.")


@router.get(
    "/data/{item_id}",
    tags=ALERTS,
    summary="One alert",
    response_class=Response,
    dependencies=[Depends(_not_a_webhook)],
    responses={200: {"model": Alert}, **problem_responses(401, 404)},
)
async def get_alert(item_id: ItemId, user: AlertReader, alerts: Alerts) -> Response:
    """404 for what does not exist or is not yours."""
    return json_response(await alerts.get(user.user_id, parse_id(item_id, "alert")))


@router.put(
    "/data/{item_id}",
    tags=ALERTS,
    summary="Replace an alert",
    response_class=Response,
    responses={200: {"model": Alert}, **problem_responses(401, 404, 413)},
)
async def replace_alert(item_id: ItemId, body: AlertInput, user: AlertWriter, alerts: Alerts) -> Response:
    """All that a person can give is replaced; `id`, `seq`, `created_at`, `source` and `raw` stay."""
    return json_response(await alerts.replace(user.user_id, parse_id(item_id, "alert"), body))


@router.delete(
    "/data/{item_id}", status_code=204, tags=ALERTS, summary="Delete an alert", responses=problem_responses(401, 404)
)
async def delete_alert(item_id: ItemId, user: AlertWriter, alerts: Alerts) -> None:
    """A repeat of its delivery does not bring it back."""
    await alerts.delete(user.user_id, parse_id(item_id, "alert"))


@router.post(
    "/data/chart/filters",
    tags=ALERTS,
    summary="Chart your alerts",
    response_class=Response,
    responses={
        200: {
            "model": Figure,
            "description": "A Plotly figure, or the page or picture that `format` asks for.",
            "content": {
                "text/html": {"schema": {"type": "string"}},
                "image/png": {"schema": {"type": "string", "format": "binary"}},
                "image/svg+xml": {"schema": {"type": "string"}},
            },
        },
        **problem_responses(401, 406, 413),
    },
)
async def chart(
    body: ChartRequest,
    request: Request,
    user: AlertReader,
    charts: Charts,
    settings: Annotated[Settings, provided(Settings)],
    format_: Annotated[
        ChartFormat, Query(alias="format", description="Pictures need the image extra.")
    ] = ChartFormat.JSON,
    theme: Annotated[Theme, Query()] = Theme.DARK,
) -> Response:
    """The newest alerts that match, at their time of arrival: prices, volume, counts by type, position, or P&L."""
    return await charts.render(user.user_id, body, format_, theme, settings.public_base_url or str(request.base_url))
