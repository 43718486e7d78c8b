"""The OpenAPI document: FastAPI's own, with the schema of errors and what FastAPI cannot know."""

from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute, iter_route_contexts
from pydantic import BaseModel

from app.core.deps import permission_of
from app.core.problem import Problem

TAGS = [
    {
        "name": "Accounts",
        "description": "Sign up, sign in by password or mailed code, recover, sign out.",
    },
    {"name": "Sessions", "description": "Where an account is signed in; end one, or all."},
    {"name": "Second factor", "description": "An authenticator app and recovery codes: sign-in in two steps."},
    {"name": "API tokens", "description": "For programs: named, limited to scopes, expiring, revocable."},
    {"name": "Administration", "description": "Accounts of others, for administrators."},
    {"name": "Audit", "description": "Who did what: append-only, and chained so that no entry can vanish unseen."},
    {
        "name": "Strategies and keys",
        "description": "A strategy's secret key is what TradingView's webhook URL carries.",
    },
    {
        "name": "Webhook",
        "description": "Where TradingView posts to. Possession of the key in the path is the credential.",
    },
    {"name": "Alerts", "description": "What arrived: list, read, correct, delete, chart."},
    {"name": "Orders", "description": "Buy, sell, change, cancel: through your broker, or on paper, exactly once."},
    {"name": "Brokerages", "description": "Your accounts at brokers, their sessions, and what brokers push."},
    {"name": "Trades and portfolio", "description": "Fills, positions, holdings, profit and loss after charges."},
    {
        "name": "Market data",
        "description": "Live prices of Indian indices and shares: ticks, candles, charts, market hours, data quality.",
    },
    {
        "name": "Quotes and candles",
        "description": "Listed shares and indices by Yahoo and Angel One: newest prices, history, fetched on demand.",
    },
    {"name": "Signals", "description": "Indicators, and what rules make of them: BUY, SELL or HOLD, with a backtest."},
    {
        "name": "Predictions",
        "description": "What models expect of a price, how they did on data they had not seen, and what became of it.",
    },
    {"name": "Your signals", "description": "Trading ideas with target and stop, completed by live prices."},
    {
        "name": "Cryptocurrencies",
        "description": "Coins by CoinGecko and CoinMarketCap: listing, top lists, history, charts, risk.",
    },
    {"name": "Crypto portfolio", "description": "Your holdings and watchlists: valued, measured, drawn."},
    {"name": "Jobs", "description": "What the service does by the clock and on request, run by run."},
    {"name": "System", "description": "What runs here and how it is."},
]

DESCRIPTION = """
A trading backend of your own: TradingView alerts in, stored durably, streamed and charted.

**Start here**: sign up at `POST /api/v1/auth/signup`, press *Authorize* and sign in, bind a key at
`POST /alerts/bind_key`, and give the `webhook_url` of its answer to TradingView.

**Live events** come over `WS /ws`. Send

```
{"action": "auth", "token": "<access token>"}
{"action": "subscribe", "channel": "alerts"}
```

and messages arrive as `{"type", "channel", "seq", "ts", "data"}`. After a reconnection subscribe with
`"since": <last seq>`: what was missed comes first (it may repeat; tell repeats by `data.id`).

**Errors** are RFC 9457 `application/problem+json`. **Lists** are newest first; `X-Next-Cursor` (and `Link`) lead to
the next page. **Times** are UTC, ISO 8601.
"""


def install_openapi(app: FastAPI, models: Iterable[type[BaseModel]]) -> None:
    """Make `app.openapi()` give the finished document (made once), with the schemas of `models` beside those in use."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(
                title=app.title,
                version=app.version,
                summary=app.summary,
                description=app.description,
                routes=app.routes,
                tags=app.openapi_tags,
                license_info=app.license_info,
            )
            _name_permissions(app, document)
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            shown: list[type[BaseModel]] = [Problem, *models]
            for model in shown:
                schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
                schemas.update(schema.pop("$defs", {}))
                schemas[model.__name__] = schema
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend the document


def _name_permissions(app: FastAPI, document: dict[str, Any]) -> None:
    """Say under each operation who may call it."""
    for context in iter_route_contexts(app.routes):
        route = context.original_route
        permission = permission_of(route.dependant) if isinstance(route, APIRoute) else None
        for method in (context.methods or ()) if permission else ():
            operation = document["paths"].get(context.path, {}).get(method.lower())
            if operation:
                operation["description"] = f"{operation.get('description', '')}\n\n**For** {permission}.".strip()
