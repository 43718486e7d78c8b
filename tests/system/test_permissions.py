"""Who may call what: every route, what its signature says, and what it answers to each kind of caller."""

import json
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute, iter_route_contexts

from app.core.deps import Permission, permission_of
from app.core.security import Role, Scope
from app.core.settings import Settings
from app.main import create_app
from tests.support.http import NO_TLS
from tests.support.people import PASSWORD
from tests.support.scripts import run_script
from tests.support.service import ServiceProcess

PUBLIC = "anybody"
KEY = "whoever has the strategy's key"
PERSON = "a signed-in person"
ADMIN = "an administrator"
OPERATOR = f"an operator, with {Scope.MARKET_DATA_WRITE}"

WHO: dict[str, str] = {
    "POST /data/{secret_key}": KEY,
    "POST /data/{secret_key}/": KEY,
    "POST /alerts/create/{secret_key}": KEY,
    "POST /alerts/create/{secret_key}/": KEY,
    "GET /keys/{secret_key}": KEY,
    "POST /alerts/bind_key": Scope.STRATEGIES_WRITE,
    "GET /alerts/strategy_names": Scope.STRATEGIES_READ,
    "GET /keys/": Scope.STRATEGIES_READ,
    "DELETE /keys/{key_id}": Scope.STRATEGIES_WRITE,
    "GET /alerts/rejected": Scope.ALERTS_READ,
    "GET /data/": Scope.ALERTS_READ,
    "POST /data/": Scope.ALERTS_WRITE,
    "GET /data/{item_id}": Scope.ALERTS_READ,
    "PUT /data/{item_id}": Scope.ALERTS_WRITE,
    "DELETE /data/{item_id}": Scope.ALERTS_WRITE,
    "POST /data/chart/filters": Scope.ALERTS_READ,
    "POST /api/v1/auth/register": PUBLIC,
    "POST /api/auth/register": PUBLIC,
    "POST /api/v1/auth/signup": PUBLIC,
    "POST /api/v1/auth/login": PUBLIC,
    "POST /api/auth/login": PUBLIC,
    "POST /api/v1/auth/login/second-factor": PUBLIC,
    "POST /api/v1/auth/signin": PUBLIC,
    "POST /api/v1/auth/request-otp": PUBLIC,
    "POST /api/v1/auth/otp-login": PUBLIC,
    "POST /api/v1/auth/refresh": PUBLIC,
    "POST /api/v1/auth/logout": PUBLIC,
    "POST /api/v1/auth/verify-email": PUBLIC,
    "POST /api/v1/auth/verify-email/resend": PUBLIC,
    "POST /api/v1/auth/password/forgot": PUBLIC,
    "POST /api/v1/auth/password/reset": PUBLIC,
    "POST /api/v1/auth/password/change": PERSON,
    "GET /api/v1/auth/me": Scope.ACCOUNT_READ,
    "GET /api/auth/me": Scope.ACCOUNT_READ,
    "GET /api/v1/auth/sessions": PERSON,
    "DELETE /api/v1/auth/sessions": PERSON,
    "DELETE /api/v1/auth/sessions/{session_id}": PERSON,
    "GET /api/v1/auth/tokens": PERSON,
    "POST /api/v1/auth/tokens": PERSON,
    "DELETE /api/v1/auth/tokens": PERSON,
    "DELETE /api/v1/auth/tokens/{token_id}": PERSON,
    "GET /api/v1/auth/2fa": PERSON,
    "POST /api/v1/auth/2fa/enroll": PERSON,
    "POST /api/v1/auth/2fa/confirm": PERSON,
    "POST /api/v1/auth/2fa/disable": PERSON,
    "POST /api/v1/auth/2fa/recovery-codes": PERSON,
    "GET /api/v1/admin/users": ADMIN,
    "GET /api/v1/admin/users/{user_id}": ADMIN,
    "PATCH /api/v1/admin/users/{user_id}": ADMIN,
    "GET /api/v1/audit": Scope.AUDIT_READ,
    "GET /api/v1/market-data/latest": PUBLIC,
    "GET /api/v1/market-data/symbol/{symbol}": PUBLIC,
    "GET /api/v1/market-data/filter": PUBLIC,
    "GET /api/v1/market-data/candles/{symbol}": PUBLIC,
    "GET /api/v1/market-data/chart/{symbol}": PUBLIC,
    "GET /api/v1/market-data/symbols": PUBLIC,
    "GET /api/v1/market-data/statistics": PUBLIC,
    "GET /api/v1/market-data/quality": PUBLIC,
    "GET /api/v1/market-data/market-status": PUBLIC,
    "GET /api/v1/market-data/instruments": PUBLIC,
    "GET /api/v1/market-data/watchlist": OPERATOR,
    "PUT /api/v1/market-data/watchlist": OPERATOR,
    "DELETE /api/v1/market-data/watchlist": OPERATOR,
    "PUT /api/v1/market-data/watchlist/{exchange}/{token}": OPERATOR,
    "DELETE /api/v1/market-data/watchlist/{exchange}/{token}": OPERATOR,
    "GET /api/v1/jobs": Scope.JOBS_READ,
    "GET /api/v1/jobs/{job_id}": Scope.JOBS_READ,
    "GET /api/v1/cryptocurrencies/": PUBLIC,
    "GET /api/v1/cryptocurrencies/{symbol}": PUBLIC,
    "GET /api/v1/cryptocurrencies/top/{category}": PUBLIC,
    "GET /api/v1/cryptocurrencies/{symbol}/history": PUBLIC,
    "GET /api/v1/cryptocurrencies/{symbol}/chart": PUBLIC,
    "GET /api/v1/cryptocurrencies/{symbol}/risk": PUBLIC,
    "GET /api/v1/cryptocurrencies/correlation": PUBLIC,
    "POST /api/v1/cryptocurrencies/sync": Scope.CRYPTO_SYNC,
    "GET /api/v1/crypto-portfolio": Scope.PORTFOLIO_READ,
    "GET /api/v1/crypto-portfolio/risk": Scope.PORTFOLIO_READ,
    "GET /api/v1/crypto-portfolio/chart": Scope.PORTFOLIO_READ,
    "GET /api/v1/crypto-portfolio/holdings": Scope.PORTFOLIO_READ,
    "GET /api/v1/crypto-portfolio/holdings/{holding_id}": Scope.PORTFOLIO_READ,
    "GET /api/v1/crypto-portfolio/watchlists": Scope.PORTFOLIO_READ,
    "GET /api/v1/crypto-portfolio/watchlists/{list_id}": Scope.PORTFOLIO_READ,
    "POST /api/v1/crypto-portfolio/holdings": Scope.PORTFOLIO_WRITE,
    "POST /api/v1/crypto-portfolio/watchlists": Scope.PORTFOLIO_WRITE,
    "PUT /api/v1/crypto-portfolio/holdings/{holding_id}": Scope.PORTFOLIO_WRITE,
    "DELETE /api/v1/crypto-portfolio/holdings/{holding_id}": Scope.PORTFOLIO_WRITE,
    "PUT /api/v1/crypto-portfolio/watchlists/{list_id}": Scope.PORTFOLIO_WRITE,
    "DELETE /api/v1/crypto-portfolio/watchlists/{list_id}": Scope.PORTFOLIO_WRITE,
    "POST /api/v1/signals/": Scope.SIGNALS_WRITE,
    "GET /api/v1/signals/": Scope.SIGNALS_READ,
    "GET /api/v1/signals/{signal_id}": Scope.SIGNALS_READ,
    "PATCH /api/v1/signals/{signal_id}": Scope.SIGNALS_WRITE,
    "DELETE /api/v1/signals/{signal_id}": Scope.SIGNALS_WRITE,
    "GET /api/market/quote/{symbol}": PUBLIC,
    "GET /api/market/multiple": PUBLIC,
    "GET /api/market/historical/{symbol}": PUBLIC,
    "GET /api/market/indicators/{symbol}": PUBLIC,
    "POST /api/market/sync/{symbol}": Scope.MARKET_DATA_WRITE,
    "POST /api/signals/generate/{symbol}": Scope.SIGNALS_WRITE,
    "GET /api/signals/{symbol}": PUBLIC,
    "GET /api/signals/{symbol}/chart": PUBLIC,
    "GET /api/signals/{symbol}/equity": PUBLIC,
    "POST /api/predictions/generate/{symbol}": Scope.PREDICTIONS_WRITE,
    "GET /api/predictions/{symbol}": PUBLIC,
    "GET /api/predictions/{symbol}/scorecard": PUBLIC,
    "GET /api/predictions/{symbol}/chart": PUBLIC,
    "POST /api/v1/brokerage/webhook/{brokerage}": PUBLIC,
    "POST /api/v1/dashboard/activate-brokerage": PERSON,
    "GET /api/v1/dashboard/brokerages": Scope.ORDERS_READ,
    "GET /api/v1/dashboard/brokerages/{brokerage_id}": Scope.ORDERS_READ,
    "POST /api/v1/dashboard/brokerages/{brokerage_id}/active": PERSON,
    "POST /api/v1/dashboard/brokerages/{brokerage_id}/session": Scope.ORDERS_WRITE,
    "DELETE /api/v1/dashboard/brokerages/{brokerage_id}": PERSON,
    "POST /api/v1/dashboard/order/buy": Scope.ORDERS_WRITE,
    "POST /api/v1/dashboard/order/sell": Scope.ORDERS_WRITE,
    "GET /api/v1/dashboard/orders": Scope.ORDERS_READ,
    "GET /api/v1/dashboard/orders/{order_id}": Scope.ORDERS_READ,
    "PATCH /api/v1/dashboard/orders/{order_id}": Scope.ORDERS_WRITE,
    "DELETE /api/v1/dashboard/orders/{order_id}": Scope.ORDERS_WRITE,
    "GET /api/v1/dashboard/reconciliation": Scope.ORDERS_READ,
    "GET /api/v1/dashboard/dashboard": Scope.PORTFOLIO_READ,
    "GET /api/v1/dashboard/positions": Scope.PORTFOLIO_READ,
    "GET /api/v1/dashboard/holdings": Scope.PORTFOLIO_READ,
    "GET /api/v1/dashboard/pnl": Scope.PORTFOLIO_READ,
    "GET /api/v1/dashboard/equity-curve": Scope.PORTFOLIO_READ,
    "GET /api/v1/dashboard/exports/orders": Scope.PORTFOLIO_READ,
    "POST /api/v1/trade/trade": Scope.PORTFOLIO_WRITE,
    "GET /api/v1/trade/trades": Scope.PORTFOLIO_READ,
    "GET /api/v1/trade/trade/{trade_id}": Scope.PORTFOLIO_READ,
    "PUT /api/v1/trade/trade/{trade_id}": Scope.PORTFOLIO_WRITE,
    "DELETE /api/v1/trade/trade/{trade_id}": Scope.PORTFOLIO_WRITE,
    "GET /ws": PUBLIC,
    "GET /": PUBLIC,
    "GET /health": PUBLIC,
    "GET /health/live": PUBLIC,
    "GET /health/ready": PUBLIC,
    "GET /metrics": PUBLIC,
    "GET /docs": PUBLIC,
    "GET /docs/oauth2-redirect": PUBLIC,
    "GET /redoc": PUBLIC,
    "GET /openapi.json": PUBLIC,
    "GET /favicon.ico": PUBLIC,
    "GET /static/{name}": PUBLIC,
}
"""Every route there is. A new one has to be written down here, and then behaves so."""

GUARDED = {route: who for route, who in WHO.items() if who not in {PUBLIC, KEY}}


def declared(tmp_path: Path) -> dict[str, str]:
    """What the signatures of the endpoints say."""
    found: dict[str, str] = {}
    for context in iter_route_contexts(create_app(Settings.load(data_dir=tmp_path)).routes):
        route = context.original_route
        permission = permission_of(route.dependant) if isinstance(route, APIRoute) else None
        for method in (context.methods or set()) - {"HEAD"}:
            open_to = KEY if "{secret_key}" in str(context.path) else PUBLIC
            found[f"{method} {context.path}"] = _who(permission) if permission else open_to
    return found


def _who(permission: Permission) -> str:
    if permission.scope is None:
        return ADMIN if permission.role is Role.ADMIN else PERSON
    return permission.scope if permission.role is Role.USER else f"an {permission.role}, with {permission.scope}"


def test_every_route_says_in_its_signature_who_may_call_it(tmp_path: Path):
    assert declared(tmp_path) == WHO


class Callers:
    """One of each kind."""

    def __init__(self, service: ServiceProcess) -> None:
        self.http = httpx.Client(base_url=service.url, timeout=50, verify=NO_TLS)
        name = secrets.token_hex(6)
        made = run_script("create_user.py", service.env, f"{name}@example.com", "--admin", typed=PASSWORD)
        assert made.returncode == 0, made.stderr
        self.admin = self._tokens("/api/v1/auth/login", f"{name}@example.com")
        self.user = self.person()
        self.scoped = {scope: self._api_token([scope]) for scope in Scope}
        self.without = {scope: self._api_token([other for other in Scope if other is not scope]) for scope in Scope}
        self.all_scopes = self._api_token(list(Scope))

    def _tokens(self, path: str, email: str) -> str:
        answer = self.http.post(path, json={"email": email, "password": PASSWORD})
        assert answer.is_success, answer.text
        token: str = answer.json()["access_token"]
        return token

    def person(self) -> str:
        """The access token of somebody new."""
        return self._tokens("/api/v1/auth/signup", f"{secrets.token_hex(6)}@example.com")

    def _api_token(self, scopes: list[Scope]) -> str:
        answer = self.http.post(
            "/api/v1/auth/tokens", json={"name": "bot", "scopes": scopes}, headers=bearer(self.user)
        )
        assert answer.status_code == 201, answer.text
        token: str = answer.json()["token"]
        return token

    def call(self, route: str, token: str | None) -> int:
        """The status of a request with made-up ids and an empty body."""
        method, path = route.split()
        path = re.sub(r"\{\w+\}", secrets.token_hex(12), path)
        headers = bearer(token) if token else {}
        answer = self.http.request(
            method, path, json={} if method in {"POST", "PUT", "PATCH"} else None, headers=headers
        )
        return answer.status_code


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture(scope="module")
def callers(service: ServiceProcess) -> Iterator[Callers]:
    made = Callers(service)
    yield made
    made.http.close()


FORGED = (
    "nonsense",
    "arrow_" + "A" * 43,
    "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.eyJzdWIiOiI2YjAyODkzYTAwMmIyNjk5NzkyMWQ3NzgifQ.",
)


@pytest.mark.parametrize("route", GUARDED)
def test_nobody_comes_in_without_a_valid_token(callers: Callers, route: str):
    assert [callers.call(route, token) for token in (None, *FORGED)] == [401] * 4


@pytest.mark.parametrize("route", [route for route, who in WHO.items() if who == KEY])
def test_a_wrong_key_is_not_found(callers: Callers, route: str):
    assert callers.call(route, None) == 404


@pytest.mark.parametrize(("route", "who"), [(route, who) for route, who in GUARDED.items() if who in set(Scope)])
def test_an_api_token_needs_the_scope(callers: Callers, route: str, who: str):
    assert callers.call(route, callers.without[Scope(who)]) == 403
    assert callers.call(route, callers.scoped[Scope(who)]) not in {401, 403}
    assert callers.call(route, callers.user) not in {401, 403}


@pytest.mark.parametrize("route", [route for route, who in GUARDED.items() if who in {PERSON, ADMIN}])
def test_no_api_token_does_what_people_do(callers: Callers, route: str):
    assert callers.call(route, callers.all_scopes) == 403


@pytest.mark.parametrize("route", [route for route, who in GUARDED.items() if who == PERSON])
def test_a_person_may(callers: Callers, route: str):
    token = callers.person() if route.startswith("DELETE") else callers.user  # it may end their session
    assert callers.call(route, token) not in {401, 403}


@pytest.mark.parametrize("route", [route for route, who in GUARDED.items() if who == ADMIN])
def test_only_an_administrator_may(callers: Callers, route: str):
    assert callers.call(route, callers.user) == 403
    assert callers.call(route, callers.admin) not in {401, 403}


@pytest.mark.parametrize("route", [route for route, who in GUARDED.items() if who == OPERATOR])
def test_only_an_operator_may_and_a_token_of_theirs_with_the_scope(callers: Callers, route: str):
    assert [callers.call(route, token) for token in (callers.user, callers.all_scopes)] == [403, 403]
    assert callers.call(route, callers.admin) not in {401, 403}


def test_the_documentation_says_who(callers: Callers):
    document: dict[str, Any] = json.loads(callers.http.get("/openapi.json").text)

    for route, who in GUARDED.items():
        method, path = route.split()
        operation = document["paths"][path][method.lower()]
        assert operation["security"], route
        words = {
            ADMIN: "`admin`",
            PERSON: "no API token",
            OPERATOR: f"`operator`, or an API token with the scope `{Scope.MARKET_DATA_WRITE}`",
        }
        expected = words.get(who, f"`{who}`")
        assert expected in operation["description"], route
