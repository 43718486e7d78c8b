"""MongoDB operators and other tricks in every field, parameter and header that the documentation names."""

import json
import re
import secrets
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.support.http import NO_TLS
from tests.support.people import PASSWORD
from tests.support.service import ServiceProcess

pytestmark = pytest.mark.timeout(180)  # a thousand requests each

OPERATORS: tuple[Any, ...] = ({"$gt": ""}, {"$ne": None}, [{"$where": "sleep(1000)"}], {"$regex": ".*"})
TEXTS = ('{"$gt": ""}', "$where", "' || '1'=='1", "a\x00b", "../../etc/passwd", "x" * 5000, "\u202e", "%00")
Operation = tuple[str, str, dict[str, Any]]


@pytest.fixture(scope="module")
def http(service: ServiceProcess) -> Iterator[httpx.Client]:
    """Somebody who is signed in, and does not mind being signed out."""
    with httpx.Client(base_url=service.url, timeout=50, verify=NO_TLS) as client:
        yield client


@pytest.fixture(scope="module")
def document(http: httpx.Client) -> dict[str, Any]:
    found: dict[str, Any] = http.get("/openapi.json").json()
    return found


def sign_up(http: httpx.Client) -> None:
    body = {"email": f"{secrets.token_hex(6)}@example.com", "password": PASSWORD}
    http.headers["Authorization"] = f"Bearer {http.post('/api/v1/auth/signup', json=body).json()['access_token']}"


def operations(document: dict[str, Any]) -> Iterator[Operation]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield method.upper(), path, operation


def filled(path: str, value: str = "") -> str:
    return re.sub(r"\{\w+\}", value or secrets.token_hex(12), path)


def resolved(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in schema:
        found: dict[str, Any] = document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[-1]]
        return found
    return schema


def bodies(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every JSON body that is checked strictly; webhooks keep what they do not know, or know nobody unsigned."""
    for method, path, operation in operations(document):
        content = operation.get("requestBody", {}).get("content", {})
        if "application/json" in content and "{secret_key}" not in path and "/webhook/" not in path:
            yield method, path, resolved(document, content["application/json"]["schema"])


def test_no_field_takes_an_operator(http: httpx.Client, document: dict[str, Any]):
    sign_up(http)
    tried = 0
    for method, path, schema in bodies(document):
        sample = (schema.get("examples") or [{}])[0]
        for field in schema.get("properties", {}):
            for operator in OPERATORS:
                answer = http.request(method, filled(path), json={**sample, field: operator})
                tried += 1
                # 403: for administrators; a refused caller never gets to the body.
                assert answer.status_code in {422, 403}, (method, path, field, operator, answer.text)
    assert tried > 100


def test_no_body_takes_another_field(http: httpx.Client, document: dict[str, Any]):
    sign_up(http)
    for method, path, schema in bodies(document):
        sample = (schema.get("examples") or [{}])[0]
        for extra in ({"$set": {"role": "admin"}}, {"role": "admin", "is_admin": True, "user_id": "x"}, {"a.b": 1}):
            if set(extra) & set(schema.get("properties", {})):
                continue
            answer = http.request(method, filled(path), json={**sample, **extra})
            assert answer.status_code in {422, 403}, (method, path, extra, answer.text)


def lacks_a_provider(answer: httpx.Response) -> bool:
    """Whether there is nothing to search in: no provider is asked here. tests/contract fuzzes with all of them."""
    of_a_provider = answer.request.url.path.startswith(("/api/v1/market-data/instruments", "/api/v1/cryptocurrencies/"))
    return of_a_provider and answer.status_code == 503 and answer.json()["type"] == "urn:arrow:problem:unavailable"


def test_no_parameter_or_path_breaks_anything(http: httpx.Client, document: dict[str, Any]):
    sign_up(http)
    for method, path, operation in operations(document):
        if method != "GET" or path in {"/metrics", "/static/{name}"}:
            continue
        for text in TEXTS:
            for parameter in operation.get("parameters", []):
                if parameter["in"] == "query":
                    names = (parameter["name"], f"{parameter['name']}[$ne]")
                    for name in names:
                        answer = http.get(filled(path), params={name: text})
                        assert answer.status_code < 500 or lacks_a_provider(answer), (path, name, text, answer.text)
            if "{" in path:
                answer = http.get(filled(path, quote(text, safe="")))
                refused = answer.status_code in {401, 403, 404, 414, 422}
                assert refused or lacks_a_provider(answer), (path, text, answer.text)


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-For": "127.0.0.1", "X-Real-IP": "127.0.0.1", "Forwarded": "for=127.0.0.1"},
        {"X-Original-URL": "/api/v1/admin/users", "X-Rewrite-URL": "/api/v1/admin/users"},
        {"X-HTTP-Method-Override": "GET", "X-Method-Override": "GET"},
        {"X-User-Id": "1", "X-Role": "admin", "Remote-User": "admin"},
        {"Cookie": "session=admin; role=admin"},
    ],
    ids=lambda headers: next(iter(headers)),
)
def test_no_header_makes_an_administrator(http: httpx.Client, headers: dict[str, str]):
    sign_up(http)

    assert http.get("/api/v1/admin/users", headers=headers).status_code == 403
    assert http.get("/api/v1/auth/me", headers=headers).json()["role"] == "user"


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/admin/users/",
        "/api/v1//admin/users",
        "/api/v1/admin/users/..",
        "/api/v1/auth/../admin/users",
        "/api/v1/auth/%2e%2e/admin/users",
        "/api/v1/admin%2fusers",
        "/API/V1/ADMIN/USERS",
        "/api/v1/admin/users;role=admin",
        "/static/%2e%2e/%2e%2e/app/main.py",
        "/static/..%2f..%2f.env",
    ],
)
def test_no_spelling_of_a_path_leads_around_a_permission(http: httpx.Client, path: str):
    sign_up(http)
    request = http.build_request("GET", "/")
    request.url = request.url.copy_with(raw_path=path.encode())  # as written: clients tidy paths up

    assert http.send(request).status_code in {307, 403, 404}


@pytest.mark.parametrize("depth", [1_000, 15_000])
def test_deeply_nested_json_is_refused(http: httpx.Client, document: dict[str, Any], depth: int):
    sign_up(http)
    nested = b'{"email": ' + b"[" * depth + b"]" * depth + b"}"
    for method, path, _ in bodies(document):
        answer = http.request(method, filled(path), content=nested, headers={"Content-Type": "application/json"})
        assert answer.status_code in {422, 403}, (path, answer.text)


def test_no_body_over_the_limit_is_read(http: httpx.Client, document: dict[str, Any]):
    sign_up(http)
    body = json.dumps({"password": "x" * 1_000_000}).encode()
    for method, path, _ in bodies(document):
        answer = http.request(method, filled(path), content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 413, (path, answer.text)
