"""The OpenAPI document is complete, and what it shows works when it is pasted."""

import json
import re
import secrets
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

from tests.contract.conftest import Account
from tests.support.administrators import administrator
from tests.support.http import NO_TLS
from tests.support.people import PASSWORD
from tests.support.service import ServiceProcess

pytestmark = pytest.mark.timeout(180)
"""The first of them waits for the service and its providers to start."""

METHODS = {"get", "post", "put", "patch", "delete"}
CONTRACT = [
    ("GET", "/"),
    ("GET", "/health"),
    ("GET", "/health/live"),
    ("GET", "/health/ready"),
    ("GET", "/metrics"),
    ("POST", "/api/v1/auth/register"),
    ("POST", "/api/auth/register"),
    ("POST", "/api/v1/auth/signup"),
    ("POST", "/api/v1/auth/login"),
    ("POST", "/api/auth/login"),
    ("POST", "/api/v1/auth/signin"),
    ("GET", "/api/v1/auth/me"),
    ("GET", "/api/auth/me"),
    ("POST", "/api/v1/auth/refresh"),
    ("POST", "/api/v1/auth/logout"),
    ("POST", "/api/v1/auth/request-otp"),
    ("POST", "/api/v1/auth/otp-login"),
    ("POST", "/api/v1/auth/login/second-factor"),
    ("POST", "/api/v1/auth/verify-email"),
    ("POST", "/api/v1/auth/verify-email/resend"),
    ("POST", "/api/v1/auth/password/forgot"),
    ("POST", "/api/v1/auth/password/reset"),
    ("POST", "/api/v1/auth/password/change"),
    ("GET", "/api/v1/auth/sessions"),
    ("DELETE", "/api/v1/auth/sessions"),
    ("DELETE", "/api/v1/auth/sessions/{session_id}"),
    ("GET", "/api/v1/auth/tokens"),
    ("POST", "/api/v1/auth/tokens"),
    ("DELETE", "/api/v1/auth/tokens"),
    ("DELETE", "/api/v1/auth/tokens/{token_id}"),
    ("GET", "/api/v1/auth/2fa"),
    ("POST", "/api/v1/auth/2fa/enroll"),
    ("POST", "/api/v1/auth/2fa/confirm"),
    ("POST", "/api/v1/auth/2fa/recovery-codes"),
    ("POST", "/api/v1/auth/2fa/disable"),
    ("GET", "/api/v1/admin/users"),
    ("GET", "/api/v1/admin/users/{user_id}"),
    ("PATCH", "/api/v1/admin/users/{user_id}"),
    ("GET", "/api/v1/audit"),
    ("GET", "/api/v1/market-data/latest"),
    ("GET", "/api/v1/market-data/symbol/{symbol}"),
    ("GET", "/api/v1/market-data/filter"),
    ("GET", "/api/v1/market-data/statistics"),
    ("GET", "/api/v1/market-data/chart/{symbol}"),
    ("GET", "/api/v1/market-data/symbols"),
    ("GET", "/api/v1/market-data/candles/{symbol}"),
    ("GET", "/api/v1/market-data/quality"),
    ("GET", "/api/v1/market-data/market-status"),
    ("GET", "/api/v1/cryptocurrencies/"),
    ("GET", "/api/v1/cryptocurrencies/{symbol}"),
    ("GET", "/api/v1/cryptocurrencies/{symbol}/history"),
    ("GET", "/api/v1/cryptocurrencies/top/{category}"),
    ("POST", "/api/v1/cryptocurrencies/sync"),
    ("GET", "/api/v1/cryptocurrencies/{symbol}/chart"),
    ("GET", "/api/v1/cryptocurrencies/{symbol}/risk"),
    ("GET", "/api/v1/crypto-portfolio"),
    ("GET", "/api/market/quote/{symbol}"),
    ("GET", "/api/market/historical/{symbol}"),
    ("GET", "/api/market/multiple"),
    ("POST", "/api/market/sync/{symbol}"),
    ("GET", "/api/market/indicators/{symbol}"),
    ("POST", "/api/signals/generate/{symbol}"),
    ("GET", "/api/signals/{symbol}"),
    ("POST", "/api/predictions/generate/{symbol}"),
    ("GET", "/api/predictions/{symbol}"),
    ("GET", "/api/predictions/{symbol}/scorecard"),
    ("GET", "/api/predictions/{symbol}/chart"),
    ("POST", "/api/v1/signals/"),
    ("GET", "/api/v1/signals/"),
    ("GET", "/api/v1/signals/{signal_id}"),
    ("PATCH", "/api/v1/signals/{signal_id}"),
    ("DELETE", "/api/v1/signals/{signal_id}"),
    ("POST", "/api/v1/dashboard/activate-brokerage"),
    ("GET", "/api/v1/dashboard/brokerages"),
    ("DELETE", "/api/v1/dashboard/brokerages/{brokerage_id}"),
    ("GET", "/api/v1/dashboard/dashboard"),
    ("POST", "/api/v1/dashboard/order/buy"),
    ("POST", "/api/v1/dashboard/order/sell"),
    ("GET", "/api/v1/dashboard/orders"),
    ("GET", "/api/v1/dashboard/orders/{order_id}"),
    ("PATCH", "/api/v1/dashboard/orders/{order_id}"),
    ("DELETE", "/api/v1/dashboard/orders/{order_id}"),
    ("POST", "/api/v1/trade/trade"),
    ("GET", "/api/v1/trade/trades"),
    ("GET", "/api/v1/trade/trade/{trade_id}"),
    ("PUT", "/api/v1/trade/trade/{trade_id}"),
    ("POST", "/api/v1/brokerage/webhook/{brokerage}"),
    ("GET", "/api/v1/jobs"),
    ("GET", "/api/v1/jobs/{job_id}"),
    ("GET", "/api/v1/market-data/watchlist"),
    ("PUT", "/api/v1/market-data/watchlist"),
    ("GET", "/api/v1/market-data/instruments"),
    ("POST", "/alerts/bind_key"),
    ("GET", "/alerts/strategy_names"),
    ("GET", "/alerts/rejected"),
    ("POST", "/alerts/create/{secret_key}"),
    ("GET", "/keys/"),
    ("GET", "/keys/{secret_key}"),
    ("DELETE", "/keys/{key_id}"),
    ("GET", "/data/"),
    ("POST", "/data/"),
    ("POST", "/data/{secret_key}"),
    ("GET", "/data/{item_id}"),
    ("PUT", "/data/{item_id}"),
    ("DELETE", "/data/{item_id}"),
    ("POST", "/data/chart/filters"),
]
"""What clients rely on: it may grow, but nothing may go."""
PUBLIC = re.compile(
    r"/|/health.*|/metrics|/api(/v1)?/auth/(register|signup|login|signin|refresh|logout|request-otp|otp-login"
    r"|login/second-factor|verify-email(/resend)?|password/(forgot|reset))"
    r"|/api/v1/market-data/(?!watchlist).*|/api/v1/cryptocurrencies/(?!sync).*"
    r"|/api/v1/brokerage/webhook/.*|/api/market/(?!sync).*|/api/signals/(?!generate).*|/api/predictions/(?!generate).*"
)
UNFORESEEABLE = {
    "/api/v1/brokerage/webhook/{brokerage}",
    "/api/v1/dashboard/activate-brokerage",
    "/api/v1/dashboard/brokerages/{brokerage_id}/session",
    "/api/v1/auth/otp-login",
    "/api/v1/auth/login/second-factor",
    "/api/v1/auth/verify-email",
    "/api/v1/auth/password/reset",
    "/api/v1/auth/2fa/confirm",
    "/api/v1/auth/2fa/recovery-codes",
    "/api/v1/auth/2fa/disable",
}
"""Their examples hold codes and tokens that nobody knows beforehand; tests/auth and tests/system send real ones."""
OWN_PASSWORD = {"/api/v1/auth/2fa/enroll", "/api/v1/auth/password/change"}
"""Their examples hold the caller's password."""
PROBLEM = "application/problem+json"


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method in METHODS & set(item):
            yield method.upper(), path, item[method]


def resolve(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """The schema behind a reference."""
    while "$ref" in schema:
        name = schema["$ref"].removeprefix("#/components/schemas/")
        schema = document["components"]["schemas"][name]
    return schema


def test_nothing_of_the_contract_is_missing(document: dict[str, Any]):
    assert set(CONTRACT) <= {(method, path) for method, path, _ in operations(document)}


def test_every_operation_is_described(document: dict[str, Any]):
    tags = {tag["name"] for tag in document["tags"]}
    for method, path, operation in operations(document):
        where = f"{method} {path}"
        assert operation.get("summary"), where
        assert operation.get("description"), where
        assert operation.get("tags"), where
        assert set(operation["tags"]) <= tags, f"{where}: a tag that the document does not describe"
        assert [status for status in operation["responses"] if status.startswith("2")], where
        for status, response in operation["responses"].items():
            assert response["description"] not in {"", "Successful Response"} or status.startswith("2"), where
        for parameter in operation.get("parameters", []):
            assert parameter["schema"], where


def test_operation_ids_are_unique(document: dict[str, Any]):
    ids = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(ids) == len(set(ids))
    assert all(re.fullmatch(r"\w+", name) for name in ids)


def test_every_error_is_a_problem_document(document: dict[str, Any]):
    for method, path, operation in operations(document):
        for status, response in operation["responses"].items():
            if int(status) < 400 or (path, status) == ("/health", "503"):
                continue
            content = response["content"]
            assert list(content) == [PROBLEM], f"{method} {path} {status}"
            schema = content[PROBLEM]["schema"]
            assert {"$ref": "#/components/schemas/Problem"} in schema.get("anyOf", [schema])


def test_security_says_who_needs_a_token(document: dict[str, Any]):
    for method, path, operation in operations(document):
        public = PUBLIC.fullmatch(path) or "{secret_key}" in path
        assert bool(operation.get("security")) != bool(public), f"{method} {path}"
        assert ("401" in operation["responses"]) >= bool(operation.get("security")), f"{method} {path}"
    assert set(document["components"]["securitySchemes"]) == {"OAuth2PasswordBearer", "Bearer"}


def test_every_reference_leads_somewhere(document: dict[str, Any]):
    names = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
    assert names <= set(document["components"]["schemas"])
    assert not {name for name in document["components"]["schemas"] if name.startswith("HTTPValidation")}


def schemas(part: Any) -> Iterator[dict[str, Any]]:
    """Everything in the document that says of which type it is, or of which types."""
    if isinstance(part, dict):
        if isinstance(part.get("type"), str) or "anyOf" in part:
            yield part
        part = list(part.values())
    if isinstance(part, list):
        for each in part:
            yield from schemas(each)


def test_bounds_are_those_of_json_schema(document: dict[str, Any]):
    found = list(schemas(document))
    assert len(found) > 1000
    assert not [schema for schema in found if {"ge", "gt", "le", "lt"} & set(schema)]
    amount = document["components"]["schemas"]["AlertInput"]["properties"]["quantity"]["anyOf"][0]
    assert amount == {"type": "number", "exclusiveMinimum": 0, "maximum": 10**15}


def bodies(document: dict[str, Any]) -> Iterator[tuple[str, str, str, Any]]:
    """Every example of a request body: method, path, media type, example."""
    for method, path, operation in operations(document):
        for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
            shown = [example["value"] for example in content.get("examples", {}).values()]
            shown += [content["example"]] if "example" in content else []
            shown += resolve(document, content.get("schema", {})).get("examples", [])
            for example in shown:
                yield method, path, media_type, example


def test_every_json_body_has_an_example(document: dict[str, Any]):
    shown = {(method, path) for method, path, _, _ in bodies(document)}
    for method, path, operation in operations(document):
        if "application/json" in operation.get("requestBody", {}).get("content", {}):
            assert (method, path) in shown, f"{method} {path}"


def somebody_with(client: httpx.Client, password: str) -> dict[str, str]:
    """What signs the requests of a new account with this password."""
    body = {"email": f"{secrets.token_hex(6)}@example.com", "password": password}
    return {"Authorization": f"Bearer {client.post('/api/v1/auth/signup', json=body).json()['access_token']}"}


async def test_examples_work_when_pasted(target: ServiceProcess, document: dict[str, Any], account: Account):
    """After a sign-up and with a key bound, every example of a body succeeds where it stands."""
    async with administrator(target) as admin:
        send_examples(target, document, account, admin.token)


FOR_ADMINISTRATORS = (
    "/api/v1/admin/users/{user_id}",
    "/api/v1/market-data/watchlist",
    "/api/v1/market-data/watchlist/{exchange}/{token}",
)


def coins_of(target: ServiceProcess, account: Account) -> dict[str, str]:
    """The ids of a holding and a watchlist of the account, whose coins no example has."""
    url = f"{target.url}/api/v1/crypto-portfolio"
    with httpx.Client(base_url=url, timeout=30, headers=account.headers, verify=NO_TLS) as client:
        holding = client.post("/holdings", json={"symbol": "C40", "quantity": 1})
        watchlist = client.post("/watchlists", json={"name": "Mine", "coins": [{"symbol": "C40"}]})
    assert (holding.status_code, watchlist.status_code) == (201, 201), holding.text + watchlist.text
    return {"holding_id": holding.json()["id"], "list_id": watchlist.json()["id"]}


def trading_of(target: ServiceProcess, account: Account) -> dict[str, str]:
    """The ids of an order on paper that waits, of a trade entered by hand, and of the account on paper."""
    with httpx.Client(base_url=f"{target.url}/api/v1", timeout=30, headers=account.headers) as client:
        order = client.post("/dashboard/order/buy", json={"stock_ticker": "RELIANCE", "quantity": 10, "price": 1000})
        trade = client.post(
            "/trade/trade", json={"stock_ticker": "TCS", "quantity": 1, "price": 1, "order_type": "buy"}
        )
        paper = client.get("/dashboard/brokerages")
    assert (order.status_code, trade.status_code) == (201, 201), order.text + trade.text
    return {
        "order_id": order.json()["id"],
        "trade_id": trade.json()["id"],
        "brokerage_id": paper.json()[0]["id"],
        "brokerage": "zerodha",
    }


def send_examples(target: ServiceProcess, document: dict[str, Any], account: Account, admin_token: str) -> None:
    sent: list[str] = []
    made = {"secret_key": account.key, "item_id": account.alert_id, "key_id": account.key_id}
    made |= {
        "exchange": "NSE",
        "token": "2885",
        "symbol": "RELIANCE",
        **coins_of(target, account),
        **trading_of(target, account),
    }
    with httpx.Client(base_url=target.url, timeout=30, verify=NO_TLS) as client:
        signs = {path: {"Authorization": f"Bearer {admin_token}"} for path in FOR_ADMINISTRATORS} | {
            path: somebody_with(client, body.get("current_password") or body["password"])
            for _, path, _, body in bodies(document)
            if path in OWN_PASSWORD
        }
        other = client.get("/api/v1/auth/me", headers=somebody_with(client, PASSWORD)).json()
        made["user_id"] = other["id"]
    with httpx.Client(base_url=target.url, timeout=30, headers=account.headers, verify=NO_TLS) as client:
        # The account of the examples themselves, for the bodies that sign in.
        registering = next(body for _, path, _, body in bodies(document) if path == "/api/v1/auth/register")
        assert client.post("/api/v1/auth/register", json=registering).status_code in {201, 409}
        for method, path, media_type, example in sorted(bodies(document), key=lambda shown: shown[1]):
            # Examples of making an account repeat one another's address, and tokens cannot be foreseen.
            if path in UNFORESEEABLE:
                continue
            body = dict(example) if isinstance(example, dict) else example
            if path.endswith(("/register", "/signup")):
                body |= {"email": f"asha{len(sent)}@example.com"} | (
                    {"username": f"asha{len(sent)}"} if "username" in body else {}
                )
            if (method, path) == ("PATCH", "/api/v1/dashboard/orders/{order_id}"):
                # Each change of an order waits for the broker to show the one before.
                made |= trading_of(target, account)
            if "{list_id}" in path:  # the name is that of the example that makes one
                body["name"] += " again"
            if "refresh_token" in body:
                login = client.post("/api/v1/auth/login", json={"email": account.email, "password": PASSWORD})
                body["refresh_token"] = login.json()["refresh_token"]
            content = urlencode(body) if "form" in media_type else body if isinstance(body, str) else json.dumps(body)
            headers = {"Content-Type": media_type, **signs.get(path, {})}

            answer = client.request(method, path.format(**made), content=content, headers=headers)

            assert answer.status_code < 300, f"{method} {path} {body}: {answer.text}"
            sent.append(path)
            if path == "/api/v1/signals/":
                made["signal_id"] = answer.json()["id"]
    assert len(set(sent)) >= 12


def test_examples_of_answers_have_the_form_of_answers(
    target: ServiceProcess, document: dict[str, Any], account: Account
):
    """What an example of an answer shows is there in a real one."""
    real = {
        "Alert": f"/data/{account.alert_id}",
        "User": "/api/v1/auth/me",
    }
    with httpx.Client(base_url=target.url, timeout=30, headers=account.headers, verify=NO_TLS) as client:
        for name, path in real.items():
            answer = client.get(path).json()
            for example in document["components"]["schemas"][name]["examples"]:
                assert set(example) <= set(answer), name
            for required in document["components"]["schemas"][name]["required"]:
                assert required in answer, name


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/none", 404),
        ("POST", "/none", 404),
        ("DELETE", "/data/", 405),
        ("PATCH", "/api/v1/auth/login", 405),
        ("POST", "/data/" + "k" * 43, 404),
        ("GET", "/data/", 401),
        ("GET", "/keys/?limit=0", 401),
        ("POST", "/api/v1/auth/login", 422),
        ("GET", "/static/none.js", 404),
    ],
)
def test_every_error_has_the_one_form(target: ServiceProcess, method: str, path: str, status: int):
    answer = httpx.request(method, target.url + path, headers={"X-Request-ID": "sane-1.2_3"}, timeout=30, verify=NO_TLS)

    assert answer.status_code == status
    assert answer.headers["content-type"] == PROBLEM
    assert answer.headers["X-Request-ID"] == "sane-1.2_3"
    problem = answer.json()
    assert {"type", "title", "status", "detail", "instance", "request_id"} <= set(problem)
    assert problem["status"] == status
    assert problem["request_id"] == "sane-1.2_3"
    assert isinstance(problem["detail"], str)
    assert len(problem["detail"]) > 10
    assert ("errors" in problem) == (status == 422)


@pytest.mark.parametrize("sent", ["", "a b", "x" * 41, "é", "<script>", '"', "a;b"])
def test_an_insane_request_id_is_replaced(target: ServiceProcess, sent: str):
    headers = {"X-Request-ID": sent.encode("latin-1")}
    answer = httpx.get(f"{target.url}/none", headers=headers, timeout=30, verify=NO_TLS)  # type: ignore[arg-type]  # bytes are fine

    assert re.fullmatch(r"[0-9a-f-]{8,40}", answer.headers["X-Request-ID"])
    assert answer.headers["X-Request-ID"] != sent
    assert answer.json()["request_id"] == answer.headers["X-Request-ID"]


def test_methods_that_a_path_does_not_take_are_told(target: ServiceProcess, document: dict[str, Any]):
    """RFC 9110, section 15.5.6: `Allow` lists what the path does take, also where several operations share it."""
    by_path: dict[str, set[str]] = {}
    for method, path, _ in operations(document):
        by_path.setdefault(path, set()).add(method)
    # Names in braces take whatever stands there: `/coins/{symbol}` answers for `/coins/sync`, too.
    shapes = {path: re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path))).fullmatch for path in by_path}
    for path in by_path:
        methods = set().union(*(by_path[other] for other, fits in shapes.items() if fits(path)))
        answer = httpx.request("TRACE", target.url + path, timeout=30, verify=NO_TLS)
        allowed = {name.strip() for name in answer.headers["Allow"].split(",")}
        assert answer.status_code == 405, path
        assert allowed - {"HEAD", "OPTIONS"} == methods, path
