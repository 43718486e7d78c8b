"""Every error is a problem document that says what to do, and nothing that it should not."""

import json
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Literal
from uuid import UUID

import httpx
import pytest
import structlog
from fastapi import Body, FastAPI, Header, HTTPException, Path, Query
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import Field
from pymongo.errors import AutoReconnect, BulkWriteError, OperationFailure, ServerSelectionTimeoutError

from app.core.client_address import ClientAddressResolver
from app.core.errors import (
    ConflictError,
    DomainError,
    FieldError,
    ForbiddenError,
    InvalidInputError,
    NotAcceptableError,
    NotFoundError,
    PayloadTooLargeError,
    RateLimitedError,
    UnauthorizedError,
    UnavailableError,
)
from app.core.metrics import Metrics
from app.core.middleware import BodyLimitMiddleware, RequestContextMiddleware
from app.core.problem import MEDIA_TYPE, add_problem_handlers, problem_responses
from app.core.schemas import Amount, NoControlCharacters, PositiveAmount, RequestModel, ResponseModel
from tests.support.asgi import serving
from tests.support.http import NO_TLS

PASSWORD = "Pa55-w0rd-of-the-database"
KEY = "Kk0_" * 10 + "Kk-"
MAX_BODY = 64 * 1024


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Inner(RequestModel):
    count: int = Field(ge=0, le=10)
    tags: list[Annotated[str, Field(max_length=5)]] = Field([], max_length=3)


class Everything(RequestModel):
    """A field of each kind that endpoints of this service have."""

    text: Annotated[str, Field(min_length=1, max_length=20), NoControlCharacters]
    price: PositiveAmount
    amount: Amount | None = None
    number: int | None = None
    ratio: float | None = Field(None, allow_inf_nan=False)
    yes: bool | None = None
    colour: Colour | None = None
    word: Literal["a", "b"] | None = None
    at: datetime | None = None
    uuid: UUID | None = None
    inner: Inner | None = None
    counts: dict[str, int] | None = None
    anything: Any = None


class Taken(ResponseModel):
    text: str
    price: Amount


ERRORS: dict[str, Exception] = {
    "unauthorized": UnauthorizedError("Sign in."),
    "forbidden": ForbiddenError("Not for you."),
    "not-found": NotFoundError("There is none."),
    "not-acceptable": NotAcceptableError("Not this format."),
    "conflict": ConflictError("It is taken."),
    "payload-too-large": PayloadTooLargeError("Too big."),
    "invalid-input": InvalidInputError("body.x: wrong", [FieldError(("body", "x", 0), "wrong", "kind")]),
    "rate-limited": RateLimitedError("Slower.", retry_after=7.2, limit=60),
    "unavailable": UnavailableError("Later.", retry_after=0.2),
}


class OwnError(UnauthorizedError):
    """As features define them: a slug of its own, and members for programs."""

    title = "Show more"
    slug = "show-more"

    def __init__(self) -> None:
        super().__init__("Show the ticket.")
        own = {"ticket": "t-1", "expires_in": 300, "methods": ["a", "b"]}
        reserved = {"detail": "another", "status": 200, "type": "another", "request_id": "another"}
        self.extensions = {**own, **reserved}


DRIVER: dict[str, Exception] = {
    "AutoReconnect": AutoReconnect(f"mongodb://arrow:{PASSWORD}@db.internal:27017 closed"),
    "ServerSelectionTimeoutError": ServerSelectionTimeoutError("db.internal:27017: refused"),
    "OperationFailure": OperationFailure("not authorized on arrow to execute { find: 'users' }", 13),
    "BulkWriteError": BulkWriteError({"writeErrors": [{"errmsg": "db.internal"}]}),
}
HTTP: dict[str, HTTPException] = {
    "409": HTTPException(409, "said by a library"),
    "415": HTTPException(415, "Unsupported Media Type"),
    "418": HTTPException(418, "I'm a teapot", headers={"X-Tea": "green"}),
}
HIDDEN: dict[str, Exception] = {
    "ValueError": ValueError(f"password={PASSWORD}"),
    "KeyError": KeyError("db.internal"),
    "RecursionError": RecursionError("maximum recursion depth exceeded"),
    "ZeroDivisionError": ZeroDivisionError("division by zero"),
    "TimeoutError": TimeoutError(),
}


def make_app() -> FastAPI:
    """Endpoints that fail in every way, in the same layers as the service's."""
    app = FastAPI()
    app.add_middleware(BodyLimitMiddleware, max_bytes=MAX_BODY, own_limit=lambda _: False)
    addresses = ClientAddressResolver([])
    app.add_middleware(RequestContextMiddleware, metrics=Metrics(), addresses=addresses, hsts=False)
    add_problem_handlers(app)

    @app.get("/fail/{name}")
    async def fail(name: str) -> None:
        raise OwnError() if name == "own" else (ERRORS | DRIVER | HTTP | HIDDEN)[name]

    @app.get("/caused")
    async def caused() -> None:
        raise HTTPException(500, "a wrapper's words") from ConflictError("It is taken.")

    @app.post("/everything")
    async def everything(body: Everything) -> Taken:
        return Taken(text=body.text, price=body.price)

    @app.post("/object")
    async def any_object(body: dict[str, Any]) -> int:
        return len(body)

    @app.post("/any")
    async def anything(body: Annotated[Any, Body()]) -> bool:
        return body is not None

    @app.get("/query/{number}")
    async def query(
        number: Annotated[int, Path(ge=0)],
        colour: Colour | None = None,
        at: datetime | None = None,
        price: Annotated[Decimal | None, Query(gt=0)] = None,
        x_count: Annotated[int | None, Header()] = None,
    ) -> str:
        return f"{number} {colour} {at} {price} {x_count}"

    @app.put("/query/{number}")
    async def put(number: int) -> int:
        return number

    return app


@pytest.fixture(scope="module", autouse=True)
def plain_logs() -> Iterator[None]:
    """structlog's own default draws pictures of every frame, for seconds."""
    structlog.configure(processors=[structlog.processors.KeyValueRenderer()])
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with serving(make_app()) as url, httpx.Client(base_url=url, timeout=30, verify=NO_TLS) as made:
        yield made


def problem(
    answer: httpx.Response, status: int, slug: str | None = None, extensions: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """The document of an answer that has to be a problem of this status, with these further members and no others."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == MEDIA_TYPE
    content: dict[str, Any] = answer.json()
    expected = {"type", "title", "status", "detail", "instance", "request_id"}
    assert set(content) - {"errors"} == expected | extensions
    assert content["status"] == status
    assert content["request_id"] == answer.headers["X-Request-ID"]
    assert all(isinstance(content[name], str) and content[name] for name in expected - {"status"})
    for error in content.get("errors", ()):
        assert set(error) == {"loc", "msg", "type"}
        assert all(isinstance(part, str | int) for part in error["loc"])
    if slug is not None:
        assert content["type"] == f"urn:arrow:problem:{slug}"
    return content


@pytest.mark.parametrize("name", ERRORS)
def test_what_services_raise(client: httpx.Client, name: str):
    error = ERRORS[name]
    assert isinstance(error, DomainError)
    answer = client.get(f"/fail/{name}")

    content = problem(answer, error.status, name)
    assert (content["title"], content["detail"], content["instance"]) == (error.title, error.detail, f"/fail/{name}")
    assert error.headers.items() <= {key: answer.headers.get(key) for key in error.headers}.items()


def test_headers_that_go_with_errors(client: httpx.Client):
    assert client.get("/fail/unauthorized").headers["WWW-Authenticate"] == "Bearer"
    limited = client.get("/fail/rate-limited").headers
    names = ("Retry-After", "RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset")
    assert [limited[name] for name in names] == ["8", "60", "0", "8"]  # rounded up: not before it is true
    assert client.get("/fail/unavailable").headers["Retry-After"] == "1"
    assert client.get("/fail/invalid-input").json()["errors"] == [
        {"loc": ["body", "x", 0], "msg": "wrong", "type": "kind"}
    ]


def test_further_members_stand_beside_the_standard_ones_and_never_in_their_place(client: httpx.Client):
    answer = client.get("/fail/own")

    content = problem(answer, 401, "show-more", frozenset({"ticket", "expires_in", "methods"}))
    assert (content["ticket"], content["expires_in"], content["methods"]) == ("t-1", 300, ["a", "b"])
    assert (content["title"], content["detail"]) == ("Show more", "Show the ticket.")
    assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_one_error_s_members_are_not_those_of_the_next(client: httpx.Client):
    client.get("/fail/own")
    assert ConflictError("It is taken.").extensions == {}
    problem(client.get("/fail/unauthorized"), 401, "unauthorized")


@pytest.mark.parametrize("name", DRIVER)
def test_the_database_is_away_without_its_words(client: httpx.Client, name: str):
    answer = client.get(f"/fail/{name}")

    problem(answer, 503, "unavailable")
    assert int(answer.headers["Retry-After"]) > 0
    for word in ("internal", PASSWORD, "find", "authorized", name):
        assert word not in answer.text.replace(f"/fail/{name}", "")


@pytest.mark.parametrize("name", HIDDEN)
def test_what_nobody_foresaw_is_500_without_a_detail_of_it(client: httpx.Client, name: str):
    answer = client.get(f"/fail/{name}")

    content = problem(answer, 500, "internal-error")
    for word in (PASSWORD, "internal:", "Traceback", ".py", "recursion", "division"):
        assert word not in answer.text
    assert "request_id" in content["detail"]


@pytest.mark.parametrize("name", HTTP)
def test_errors_of_the_framework(client: httpx.Client, name: str):
    answer = client.get(f"/fail/{name}")

    content = problem(answer, int(name))
    assert content["detail"] == HTTP[name].detail
    assert name != "418" or answer.headers["X-Tea"] == "green"
    assert name != "409" or content["type"] == "urn:arrow:problem:conflict"


def test_an_error_that_another_caused_is_the_other(client: httpx.Client):
    assert problem(client.get("/caused"), 409, "conflict")["detail"] == "It is taken."


def test_paths_and_methods(client: httpx.Client):
    missing = problem(client.get("/none/at/all"), 404, "not-found")
    assert "/docs" in missing["detail"]
    answer = client.delete("/query/1")
    assert "DELETE" in problem(answer, 405)["detail"]
    assert sorted(answer.headers["Allow"].split(", ")) == ["GET", "HEAD", "PUT"]
    assert client.request("TRACE", "/object").headers["Allow"] == "POST"


def test_the_path_of_a_secret_key_is_not_repeated(client: httpx.Client):
    answer = client.get(f"/data/{KEY}")

    assert problem(answer, 404)["instance"] == "/data/***"
    assert KEY not in answer.text


JSON = {"Content-Type": "application/json"}
GOOD = {"text": "a", "price": 1}
INNER = b'{"text": "a", "price": 1, "inner": '
BODIES: dict[str, tuple[bytes, list[list[Any]]]] = {
    "empty": (b"", [["body"]]),
    "not JSON": (b"text=a", [["body"]]),
    "cut off": (b'{"text": "a"', [["body"]]),
    "two objects": (b'{"text": "a"} {}', [["body"]]),
    "a list": (b"[]", [["body"]]),
    "a text": (b'"a"', [["body"]]),
    "null": (b"null", [["body"]]),
    "not UTF-8": (b'{"text": "\xff"}', [["body"]]),
    "UTF-16": ('{"text": "a"}'.encode("utf-16"), [["body", "price"]]),
    "nested": (b"[" * 30_000 + b"]" * 30_000, [["body"]]),
    "nested objects": (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, [["body"]]),
    "NaN": (b'{"text": "a", "price": NaN}', [["body", "price"]]),
    "Infinity": (b'{"text": "a", "price": 1, "ratio": -Infinity}', [["body", "ratio"]]),
    "1e999": (b'{"text": "a", "price": 1e999}', [["body", "price"]]),
    "huge": (b'{"text": "a", "price": ' + b"9" * 4000 + b"}", [["body", "price"]]),
    "beyond what Python reads": (b'{"text": "a", "price": ' + b"9" * 5000 + b"}", [["body"]]),
    "a huge count": (INNER + b'{"count": ' + b"9" * 4000 + b"}}", [["body", "inner", "count"]]),
    "half a pair": (rb'{"text": "\ud800", "price": 1}', [["body", "text"]]),
    "half a pair for a name": (rb'{"text": "a", "price": 1, "\ud800": 1}', [["body"]]),
    "NUL": (rb'{"text": "a\u0000", "price": 1}', [["body", "text"]]),
    "an operator": (b'{"text": {"$ne": ""}, "price": {"$gt": 0}}', [["body", "text"], ["body", "price"]]),
    "an unknown name": (b'{"text": "a", "price": 1, "$where": "1"}', [["body", "$where"]]),
    "many unknown names": (
        json.dumps(GOOD | {f"n{n}": n for n in range(500)}).encode(),
        [["body", f"n{n}"] for n in range(50)],
    ),
    "a long unknown name": (json.dumps(GOOD | {"n" * 5000: 1}).encode(), [["body", "n" * 100]]),
    "a line break in a name": (json.dumps(GOOD | {"a\r\nb": 1}).encode(), [["body", "a��b"]]),
    "many tags": (INNER + b'{"count": 1, "tags": ["", "", "", ""]}}', [["body", "inner", "tags"]]),
    "the second tag": (INNER + b'{"count": 1, "tags": ["a", "bbbbbb"]}}', [["body", "inner", "tags", 1]]),
}


@pytest.mark.parametrize("name", BODIES)
def test_bodies_that_are_wrong(client: httpx.Client, name: str):
    body, locs = BODIES[name]
    answer = client.post("/everything", content=body, headers=JSON)

    content = problem(answer, 422, "invalid-input")
    assert [error["loc"] for error in content["errors"]] == locs
    assert content["detail"].startswith(".".join(str(part) for part in locs[0]))
    assert len(content["detail"]) < 1500


def test_of_many_errors_the_first_are_in_the_sentence(client: httpx.Client):
    answer = client.post("/everything", json={"text": "", "price": -1, "number": "x", "ratio": "y", "yes": "z"})

    content = problem(answer, 422)
    assert [error["loc"][-1] for error in content["errors"]] == ["text", "price", "number", "ratio", "yes"]
    assert content["detail"].endswith("(and 2 more)")
    assert "body.price: Input should be greater than 0" in content["detail"]


def test_of_two_values_of_one_name_the_last_counts(client: httpx.Client):
    """As every parser in wide use has it (RFC 8259, section 4)."""
    body = b'{"text": "first", "text": "last", "price": 1}'

    assert client.post("/everything", content=body, headers=JSON).json() == {"text": "last", "price": 1}


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "nonsense", ""])
def test_json_under_another_name(client: httpx.Client, content_type: str):
    answer = client.post("/everything", content=json.dumps(GOOD), headers={"Content-Type": content_type})

    assert "application/json" in problem(answer, 422)["detail"]


@pytest.mark.parametrize(
    ("query", "headers", "loc"),
    [
        ("/query/abc", {}, ["path", "number"]),
        ("/query/-1", {}, ["path", "number"]),
        ("/query/" + "9" * 5000, {}, ["path", "number"]),
        ("/query/1?colour=green", {}, ["query", "colour"]),
        ("/query/1?at=yesterday", {}, ["query", "at"]),
        ("/query/1?at=99999-01-01T00:00:00Z", {}, ["query", "at"]),
        ("/query/1?price=NaN", {}, ["query", "price"]),
        ("/query/1?price=%00", {}, ["query", "price"]),
        ("/query/1?price=%ff%fe", {}, ["query", "price"]),
        ("/query/1?price=0", {}, ["query", "price"]),
        ("/query/1", {"X-Count": "many"}, ["header", "x-count"]),
    ],
)
def test_parameters_that_are_wrong(client: httpx.Client, query: str, headers: dict[str, str], loc: list[str]):
    content = problem(client.get(query, headers=headers), 422)

    assert [error["loc"] for error in content["errors"]] == [loc]


# What no endpoint may answer with 5xx, whatever its model.
ODD_NUMBERS = st.sampled_from(
    ["NaN", "-Infinity", "1e999", "-0", "1e-999", "9" * 400, "9" * 4400, "0.1", "1E5", "01", "+1"]
)
ODD_TEXTS = st.sampled_from([r'"\ud800"', r'"\udc00x"', r'"\u0000"', '"\x01"', r'"\x"', '"', "'a'", '"$gt"', r'"\u"'])
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
JSON_TEXT = st.recursive(
    PLAIN.map(json.dumps) | ODD_NUMBERS | ODD_TEXTS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(lambda items: f"[{','.join(items)}]"),
        st.lists(st.tuples(st.text(max_size=5).map(json.dumps) | ODD_TEXTS, inner), max_size=4).map(
            lambda pairs: "{" + ",".join(f"{name}:{value}" for name, value in pairs) + "}"
        ),
    ),
    max_leaves=12,
)
FIELDS = st.sampled_from([*Everything.model_fields, "count", "tags", "$where", "other"])
ALMOST = st.dictionaries(FIELDS, JSON_TEXT, max_size=6).map(
    lambda fields: "{" + ",".join(f'"{name}":{value}' for name, value in fields.items()) + "}"
)
ODD_BODIES = st.one_of(
    st.binary(max_size=60),
    JSON_TEXT.map(lambda text: text.encode("utf-8", "replace")),
    ALMOST.map(lambda text: text.encode("utf-8", "replace")),
    st.builds(lambda text, cut: text.encode("utf-8", "replace")[:cut], ALMOST, st.integers(0, 60)),
    st.integers(1, 20_000).map(lambda depth: b"[" * depth),
    st.integers(1, 6_000).map(lambda depth: b'{"a":' * depth + b"1" + b"}" * depth),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=ODD_BODIES, path=st.sampled_from(["/everything", "/object", "/any"]))
def test_no_body_is_too_odd(client: httpx.Client, body: bytes, path: str):
    answer = client.post(path, content=body, headers=JSON)

    assert answer.status_code in {200, 422}
    if answer.status_code == 422:
        assert problem(answer, 422)["errors"]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=30), place=st.sampled_from(["path", "query", "header"]))
def test_no_parameter_is_too_odd(client: httpx.Client, text: str, place: str):
    raw = text.encode("utf-8", "surrogatepass")
    if place == "header":
        value = bytes(byte for byte in raw if byte >= 32 and byte != 127).strip()
        answer = client.get("/query/1", headers={b"X-Count": value})
    else:
        escaped = "".join(f"%{byte:02x}" for byte in raw)
        answer = client.get(f"/query/{escaped}" if place == "path" else f"/query/1?price={escaped}&at={escaped}")

    assert answer.status_code in {200, 307, 404, 405, 422}


SECRETS = st.text(st.sampled_from("abcdefghijkmnpqrstuvwxyzABCDEFGH23456789"), min_size=12, max_size=16)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    secret=SECRETS,
    wrap=st.sampled_from(
        [
            *(lambda value: value, lambda value: [value], lambda value: {"a": value}, lambda value: {"count": value}),
            *(lambda value: {"count": 1, "tags": [value]}, lambda value: f"{value}\x00", lambda value: value * 100),
        ]
    ),
    fields=st.sets(FIELDS, min_size=1, max_size=5),
    whole=st.booleans(),
)
def test_a_wrong_value_is_never_repeated(client: httpx.Client, secret: str, wrap: Any, fields: set[str], whole: bool):
    """Somebody pasted a password into the wrong field."""
    body = wrap(secret) if whole else {name: wrap(secret) for name in fields}
    answers = [
        client.post("/everything", json=body),
        client.post("/everything", content=json.dumps(body)[:-2]),
        client.post("/everything", content=secret.encode()),
        client.get(f"/query/1?colour={secret}&at={secret}&price={secret}", headers={"X-Count": secret}),
    ]

    for answer in answers:
        problem(answer, 422)
        assert secret not in answer.text


def test_every_documented_status_is_one_that_exists():
    statuses = sorted({error.status for error in ERRORS.values() if isinstance(error, DomainError)})
    documented = problem_responses(*statuses)

    assert sorted(map(int, documented)) == statuses
    for status, response in documented.items():
        example = response["content"][MEDIA_TYPE].get("example")
        assert example is None or example["status"] == status
