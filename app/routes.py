"""The ordered list of routers. The webhook is first: a hot route behind many others costs several times as much."""

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.types import Scope

from app.alerts.router import router as alerts
from app.alerts.schemas import WebhookAlert
from app.alerts.webhook import WebhookLane, key_in_path
from app.alerts.webhook import router as webhook
from app.audit.router import router as audit
from app.auth.router import routers as auth
from app.auth.schemas.sign_in import SecondFactorRequired
from app.brokerage.accounts.router import router as broker_accounts
from app.brokerage.orders.router import router as orders
from app.brokerage.portfolio.router import dashboard_router, trade_router
from app.brokerage.push.router import router as broker_pushes
from app.core.deps import KnownQuery
from app.crypto.lane import ListingLane
from app.crypto.router import routers as crypto
from app.job_runs.router import router as jobs
from app.market_data.router import routers as market_data
from app.predictions.router import router as predictions
from app.quotes.router import router as quotes
from app.signals.router.generated import router as generated_signals
from app.signals.router.indicators import router as indicators
from app.signals.router.user_signals import router as user_signals
from app.stream.router import router as stream
from app.system.docs import docs_router
from app.system.router import router as system

UNREFERENCED: list[type[BaseModel]] = [WebhookAlert, SecondFactorRequired]
"""What endpoints read or answer by themselves: FastAPI cannot know these schemas."""


FAST_LANES: list[type[WebhookLane | ListingLane]] = [WebhookLane, ListingLane]
"""Middleware that answers hot paths before FastAPI's routing."""


def include_routes(app: FastAPI) -> None:
    """Add every route to `app`."""
    # TradingView's URLs carry what their owner writes into them, and monitors add parameters to probes. Early, since
    # FastAPI finishes all routes on the way to the one that is asked for: what asks after a start should not wait.
    for router in (webhook, broker_pushes, system, stream):
        app.include_router(router)
    trading = (orders, dashboard_router, trade_router, broker_accounts)
    listed = (quotes, indicators, generated_signals, predictions)
    for router in (alerts, *trading, *market_data, user_signals, *auth, audit, *crypto, *listed, jobs):
        app.include_router(router, dependencies=[KnownQuery])
    app.include_router(docs_router())


def limits_its_own_body(scope: Scope) -> bool:
    """The webhook reads its body by itself: what it refuses is recorded with its first KiB."""
    path: str = scope["path"]
    return scope["method"] == "POST" and key_in_path(path.removeprefix(scope.get("root_path", ""))) is not None
