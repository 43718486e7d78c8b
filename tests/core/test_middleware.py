"""The layers around every request, on real sockets: ids, headers, HEAD, limits, logs, counts, and a failed start."""

import asyncio
import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from starlette.types import Message, Receive, Scope, Send

from app.core.client_address import ClientAddressResolver
from app.core.errors import NotFoundError, StartupError
from app.core.metrics import Metrics
from app.core.middleware import BodyLimitMiddleware, RequestContextMiddleware, StartupFailureMiddleware
from app.core.problem import add_problem_handlers
from app.core.settings import SettingsError
from tests.support.asgi import serving
from tests.support.http import NO_TLS

LIMIT = 8192
KEY = "Kk0_" * 10 + "Kk-"
HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-site",
}
METRICS = Metrics()
LET_GO = threading.Event()
"""What the slow endpoint waits for."""


def make_app(*, hsts: bool = False) -> FastAPI:
    """Endpoints that answer, and endpoints that take, in the same layers as the service's."""
    app = FastAPI()
    app.add_middleware(BodyLimitMiddleware, max_bytes=LIMIT, own_limit=lambda scope: scope["path"].startswith("/own/"))
    addresses = ClientAddressResolver([])
    app.add_middleware(RequestContextMiddleware, metrics=METRICS, addresses=addresses, hsts=hsts)
    add_problem_handlers(app)
    add_readers(app)
    add_takers(app)
    return app


def add_readers(app: FastAPI) -> None:
    @app.get("/text")
    async def text() -> str:
        return "x" * 1000

    @app.get("/framed")
    async def framed(response: Response) -> None:
        response.headers["X-Frame-Options"] = "SAMEORIGIN"

    @app.get("/data/{key}")
    async def data(key: str) -> str:
        if key == "none":
            raise NotFoundError("There is none.")
        return "known"

    @app.get("/health/live")
    async def live(fail: bool = False) -> None:
        if fail:
            raise ValueError(KEY)

    @app.get("/fail")
    @app.get("/crash/{key}")
    async def fail() -> None:
        raise ValueError("a defect")

    @app.get("/breaks")
    async def breaks() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            yield b"begun"
            await asyncio.sleep(0.05)
            raise ValueError(KEY)

        return StreamingResponse(parts())

    @app.get("/slow")
    async def slow() -> None:
        while not LET_GO.is_set():
            await asyncio.sleep(0.01)


def add_takers(app: FastAPI) -> None:
    @app.post("/json")
    async def take_json(body: dict[str, Any]) -> int:
        return len(body)

    @app.post("/bytes")
    @app.put("/own/{name}")
    async def take_bytes(request: Request) -> int:
        return len(await request.body())

    @app.post("/deaf")
    async def deaf() -> str:
        return "not read"

    @app.post("/stubborn")
    async def stubborn(request: Request) -> str:
        with contextlib.suppress(Exception):
            await request.body()
        return "whatever"


@pytest.fixture(scope="module")
def log_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the log lines go, one JSON object each."""
    path = tmp_path_factory.mktemp("logs") / "log"
    with path.open("w") as file:
        structlog.configure(
            processors=[structlog.processors.format_exc_info, structlog.processors.JSONRenderer()],
            logger_factory=structlog.WriteLoggerFactory(file),
        )
        yield path
        structlog.reset_defaults()


@pytest.fixture(scope="module")
def url(log_path: Path) -> Iterator[str]:
    assert log_path.parent.is_dir()
    with serving(make_app()) as made:
        yield made


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=30, verify=NO_TLS) as made:
        yield made


def logged(path: Path, request_id: str) -> list[dict[str, Any]]:
    """The lines about a request; the last one is written after the answer."""
    deadline = time.monotonic() + 30
    while True:
        lines = [json.loads(line) for line in path.read_text().split("\n")[:-1]]  # the last one may be half written
        found = [line for line in lines if line.get("request_id") == request_id]
        if any(line["event"] == "request" for line in found) or time.monotonic() > deadline:
            return found
        time.sleep(0.01)


# ── ids ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("sent", ["a", "trace-1.2_3", "0123456789abcdef" * 2 + "ABCDEFGH"])
def test_a_sane_id_is_kept(client: httpx.Client, sent: str):
    assert client.get("/text", headers={"X-Request-ID": sent}).headers["X-Request-ID"] == sent
    assert client.get("/none", headers={"X-Request-ID": sent}).json()["request_id"] == sent


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(b"x" * 40)
@example(b"x" * 41)
@given(st.binary(max_size=60).map(lambda raw: bytes(byte for byte in raw if byte >= 32 and byte != 127).strip()))
def test_any_other_is_replaced(client: httpx.Client, sent: bytes):
    got = client.get("/text", headers={b"X-Request-ID": sent}).headers["X-Request-ID"]

    if re.fullmatch(rb"[A-Za-z0-9._-]{1,40}", sent):
        assert got == sent.decode()
    else:
        assert re.fullmatch(r"[A-Za-z0-9._-]{1,40}", got)
        assert got.encode() != sent


def test_ids_are_all_different(client: httpx.Client):
    assert len({client.get("/text").headers["X-Request-ID"] for _ in range(50)}) == 50


# ── headers of every answer ──────────────────────────────────────────────────────────────────────────────────────────

ANSWERS = {
    200: ("GET", "/text", b""),
    307: ("GET", "/text/", b""),
    404: ("GET", "/nothing/here", b""),
    405: ("DELETE", "/text", b""),
    413: ("POST", "/json", b"x" * (LIMIT + 1)),
    422: ("POST", "/json", b"x"),
    500: ("GET", "/fail", b""),
}


@pytest.mark.parametrize("status", ANSWERS)
@pytest.mark.parametrize("as_head", [False, True])
def test_every_answer_has_them(client: httpx.Client, status: int, as_head: bool):
    method, path, body = ANSWERS[status]
    if as_head and method != "GET":
        method, path, status = "HEAD", "/nothing", 404
    answer = client.request("HEAD" if as_head else method, path, content=body)

    assert answer.status_code == status
    assert {name: answer.headers.get_list(name) for name in HEADERS} == {name: [text] for name, text in HEADERS.items()}
    assert len(answer.headers.get_list("X-Request-ID")) == 1
    assert "Strict-Transport-Security" not in answer.headers


def test_what_an_endpoint_says_itself_stands(client: httpx.Client):
    assert client.get("/framed").headers.get_list("X-Frame-Options") == ["SAMEORIGIN"]


def test_strict_transport_security_where_it_is_wanted():
    with serving(make_app(hsts=True)) as url:
        for path in ("/text", "/none"):
            assert httpx.get(url + path, verify=NO_TLS).headers["Strict-Transport-Security"].startswith("max-age=")


# ── HEAD ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", ["/text", "/none", "/data/x", "/fail"])
def test_head_is_get_without_the_body(client: httpx.Client, path: str):
    identity = {"X-Request-ID": "same"}
    get, head = client.get(path, headers=identity), client.head(path, headers=identity)

    assert head.status_code == get.status_code
    assert head.content == b""
    skip = {"date"}
    assert {name: value for name, value in head.headers.items() if name not in skip} == {
        name: value for name, value in get.headers.items() if name not in skip
    }
    assert int(head.headers["Content-Length"]) == len(get.content) > 0


def test_head_of_what_takes_only_post(client: httpx.Client):
    answer = client.head("/json")

    assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")


def test_a_connection_stays_usable_after_head(url: str):
    with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1])), timeout=30) as raw:
        raw.sendall(b"HEAD /text HTTP/1.1\r\nHost: a\r\n\r\nGET /none HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        answers = b"".join(iter(lambda: raw.recv(65536), b""))

    first, second = answers.split(b"HTTP/1.1 ")[1:]
    assert first.startswith(b"200")
    assert first.endswith(b"\r\n\r\n")
    assert second.startswith(b"404")


# ── errors ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_unforeseen_error_is_logged_in_full_and_answered_without(client: httpx.Client, log_path: Path):
    answer = client.get("/fail")

    assert answer.status_code == 500
    assert "a defect" not in answer.text
    [error, line] = logged(log_path, answer.headers["X-Request-ID"])
    assert "ValueError" in error["exception"]
    assert "add_readers" not in answer.text
    assert (line["status"], line["route"]) == (500, "/fail")


def test_an_unforeseen_error_at_the_path_of_a_key_does_not_log_the_key(client: httpx.Client, log_path: Path):
    answer = client.get(f"/crash/{KEY}")

    lines = logged(log_path, answer.headers["X-Request-ID"])
    assert lines[0]["path"] == "/crash/***"
    assert KEY not in json.dumps(lines) + answer.text


def test_an_answer_that_breaks_is_not_taken_for_whole(client: httpx.Client):
    with pytest.raises(httpx.RemoteProtocolError):
        client.get("/breaks")
    assert client.get("/text").status_code == 200


# ── the body's limit ─────────────────────────────────────────────────────────────────────────────────────────────────


def in_pieces(size: int, piece: int = 1000) -> Iterator[bytes]:
    for start in range(0, size, piece):
        yield b"x" * min(piece, size - start)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [0, 1, LIMIT - 1, LIMIT, LIMIT + 1, 3 * LIMIT])
def test_up_to_the_limit_and_not_beyond(client: httpx.Client, size: int, chunked: bool):
    answer = client.post("/bytes", content=in_pieces(size) if chunked else b"x" * size)

    if size <= LIMIT:
        assert (answer.status_code, answer.json()) == (200, size)
    else:
        assert answer.status_code == 413
        assert answer.json()["detail"] == "The body may have at most 8 KiB."


@pytest.mark.parametrize("path", ["/json", "/stubborn", "/none"])
def test_whatever_the_endpoint_makes_of_it(client: httpx.Client, path: str):
    answer = client.post(path, content=in_pieces(4 * LIMIT))

    # Where nobody reads the body there is nothing to limit.
    assert answer.status_code == (404 if path == "/none" else 413)


def test_an_endpoint_that_reads_nothing_is_not_disturbed(client: httpx.Client):
    assert client.post("/deaf", content=in_pieces(LIMIT // 2)).json() == "not read"
    assert client.post("/deaf", content=b"x" * (LIMIT + 1)).status_code == 413  # it says so at once


def test_paths_with_a_limit_of_their_own(client: httpx.Client):
    assert client.put("/own/x", content=b"x" * (4 * LIMIT)).json() == 4 * LIMIT


def test_an_endless_body_is_answered_before_its_end(url: str):
    with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1])), timeout=30) as raw:
        raw.sendall(b"POST /bytes HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        for sent in range(0, 4 * LIMIT, 1000):
            raw.sendall(b"3e8\r\n" + b"x" * 1000 + b"\r\n")
            if sent == LIMIT // 1000 * 1000:
                break
        assert raw.recv(65536).startswith(b"HTTP/1.1 413")


def test_a_client_that_asks_first_need_not_send(url: str):
    port = int(url.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port), timeout=30) as raw:
        raw.sendall(b"POST /bytes HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 999999\r\n\r\n")
        assert raw.recv(65536).startswith(b"HTTP/1.1 413")


async def call(
    app: Any,
    headers: list[tuple[bytes, bytes]],
    pieces: int = 1,
    *,
    method: str = "POST",
    sent: list[Message] | None = None,
) -> list[Message]:
    """One request to an ASGI application, with headers that no HTTP library would send; what it answers."""
    sent = [] if sent is None else sent
    left = iter(range(pieces, 0, -1))

    async def receive() -> Message:
        number = next(left, 0)
        return {"type": "http.request", "body": b"x" * 1000 if number else b"", "more_body": number > 1}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: Scope = {"type": "http", "method": method, "path": "/x", "headers": headers}
    await app(scope, receive, send)
    return sent


@pytest.mark.parametrize(
    ("declared", "status"),
    [
        (b"9" * 5000, 413),
        (b"9" * 400, 413),
        (b"%d" % (LIMIT + 1), 413),
        (b"%d" % LIMIT, 200),
        (b"-1", 200),
        (b"abc", 200),
        (b"", 200),
        (b"\xb2", 200),
    ],
)
async def test_declared_lengths_that_are_none(declared: bytes, status: int):
    """Servers refuse most of them; another one may not."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await Response()(scope, receive, send)

    limited = BodyLimitMiddleware(app, max_bytes=LIMIT, own_limit=lambda _: False)

    assert (await call(limited, [(b"content-length", declared)]))[0]["status"] == status


async def read_all(receive: Receive) -> None:
    while (await receive()).get("more_body"):
        pass


async def test_an_application_interrupted_in_one_of_its_tasks():
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(read_all(receive))
        await Response()(scope, receive, send)

    limited = BodyLimitMiddleware(app, max_bytes=LIMIT, own_limit=lambda _: False)

    assert (await call(limited, [], pieces=8))[0]["status"] == 200
    assert [message.get("status") for message in await call(limited, [], pieces=9)] == [413, None]


async def test_an_answer_that_has_begun_is_left_unfinished():
    """It cannot become another one; servers then break the connection off, so that nobody takes it for whole."""

    async def app(_: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await read_all(receive)
        await send({"type": "http.response.body", "body": b"all of it"})

    limited = BodyLimitMiddleware(app, max_bytes=LIMIT, own_limit=lambda _: False)

    assert [message["type"] for message in await call(limited, [], pieces=9)] == ["http.response.start"]


async def test_another_error_of_the_application_goes_on_its_way():
    async def app(_: Scope, receive: Receive, __: Send) -> None:
        await receive()
        raise ValueError("a defect")

    with pytest.raises(ValueError, match="a defect"):
        await call(BodyLimitMiddleware(app, max_bytes=LIMIT, own_limit=lambda _: False), [])


def in_context(app: Any) -> RequestContextMiddleware:
    return RequestContextMiddleware(app, metrics=Metrics(), addresses=ClientAddressResolver([]), hsts=False)


async def test_head_has_no_body_whatever_the_server_does():
    sent = await call(in_context(Response("a body")), [], method="HEAD")

    assert [message.get("body") for message in sent] == [None, b""]
    assert (b"content-length", b"6") in sent[0]["headers"]


async def test_an_error_after_the_answer_began_is_left_to_the_server():
    async def app(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ValueError("a defect")

    sent: list[Message] = []
    with pytest.raises(ValueError, match="a defect"):
        await call(in_context(app), [], sent=sent)
    assert [message["type"] for message in sent] == ["http.response.start"]


# ── logs and counts ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_one_line_for_a_request_with_the_route_and_no_secret(client: httpx.Client, log_path: Path):
    answer = client.get(f"/data/{KEY}?token={KEY}", headers={"Authorization": f"Bearer {KEY}"})

    [line] = logged(log_path, answer.headers["X-Request-ID"])
    assert {"method": "GET", "route": "/data/{key}", "status": 200, "client": "127.0.0.1"}.items() <= line.items()
    assert 0 < line["ms"] < 5000
    assert KEY not in log_path.read_text().split(answer.headers["X-Request-ID"])[1]
    assert KEY not in json.dumps(line)


def test_probes_are_silent_while_they_are_well(client: httpx.Client, log_path: Path):
    well, ill = client.get("/health/live"), client.get("/health/live?fail=true")

    assert [line["event"] for line in logged(log_path, ill.headers["X-Request-ID"])][-1] == "request"
    assert well.headers["X-Request-ID"] not in log_path.read_text()


def count(method: str, route: str, status: str) -> float:
    """How many of these requests were counted."""
    found = re.search(
        rf'^arrow_http_requests_total{{method="{method}",route="{re.escape(route)}",status="{status}"}} (.+)$',
        METRICS.text().decode(),
        re.MULTILINE,
    )
    return float(found[1]) if found else 0


@pytest.mark.parametrize(
    ("method", "path", "route", "status"),
    [
        ("GET", "/text", "/text", "200"),
        ("HEAD", "/text", "/text", "200"),
        ("GET", f"/data/{KEY}", "/data/{key}", "200"),
        ("GET", "/data/none", "/data/{key}", "404"),
        ("GET", "/fail", "/fail", "500"),
        ("GET", "/nothing/" + "x" * 50, "unmatched", "404"),
        ("POST", "/json", "/json", "422"),
        ("TRACE", "/nothing", "OTHER", "404"),
    ],
)
def test_requests_are_counted_by_route(client: httpx.Client, method: str, path: str, route: str, status: str):
    """By the route's template: paths are without number, and hold keys."""
    labels = ("OTHER", "unmatched", status) if route == "OTHER" else (method, route, status)
    until_under_way(0)  # the request of the test before is counted after its answer
    before = count(*labels)
    client.request(method, path)
    deadline = time.monotonic() + 30
    while count(*labels) == before and time.monotonic() < deadline:
        time.sleep(0.01)

    assert count(*labels) == before + 1
    assert KEY not in METRICS.text().decode()


def until_under_way(number: int) -> None:
    """Wait until so many requests are under way."""
    deadline = time.monotonic() + 30
    while f"\narrow_http_requests_in_progress {number}.0\n" not in METRICS.text().decode():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_requests_under_way_are_counted_too(client: httpx.Client, url: str):
    until_under_way(0)
    with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1])), timeout=30) as raw:
        raw.sendall(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        until_under_way(1)
    LET_GO.set()
    client.get("/text")
    until_under_way(0)  # whoever goes away in the middle is not counted for ever


# ── the start ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def start(error: BaseException | None) -> tuple[list[Message], BaseException | None]:
    """What a server is told when the application's start ends like this, and what is raised."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if error:
            raise error
        yield

    app = FastAPI(lifespan=lifespan)
    app.add_middleware(StartupFailureMiddleware)
    told: list[Message] = []
    asked = iter(["lifespan.startup", "lifespan.shutdown"])

    async def receive() -> Message:
        return {"type": next(asked)}

    async def send(message: Message) -> None:
        told.append(message)

    try:
        await app({"type": "lifespan", "app": app, "state": {}}, receive, send)
    except BaseException as raised:  # noqa: BLE001 (it is looked at)
        return told, raised
    return told, None


@pytest.mark.parametrize("error", [StartupError("The database is away."), SettingsError("MONGODB_URL: is wrong")])
async def test_a_start_that_fails_for_a_known_reason_says_it_in_one_line(error: Exception):
    told, raised = await start(error)

    assert told == [{"type": "lifespan.startup.failed", "message": f"Arrow cannot start: {error}"}]
    assert raised is None


@pytest.mark.parametrize("error", [ValueError("a defect"), KeyboardInterrupt()])
async def test_a_start_that_fails_otherwise_shows_where(error: BaseException):
    told, raised = await start(error)

    assert raised is error
    assert [message["type"] for message in told] == ["lifespan.startup.failed"]
    assert "Traceback" in told[0]["message"]


async def test_a_start_that_succeeds_is_left_alone():
    told, raised = await start(None)

    assert raised is None
    assert [message["type"] for message in told] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
