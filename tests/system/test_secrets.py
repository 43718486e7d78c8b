"""Recognisable secrets are sent through every path; afterwards no log, no file and no error answer has any of them."""

import asyncio
import base64
import json
import secrets
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from bson import json_util
from pymongo import MongoClient
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.support.http import NO_TLS
from tests.support.people import alert
from tests.support.service import ServiceProcess, free_port


def _marked(what: str) -> str:
    return f"{what}-{secrets.token_hex(9)}"


@dataclass
class Exercise:
    """A service, the secrets that were sent to it, and the errors that it answered."""

    service: ServiceProcess
    secrets: dict[str, str] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)
    """Texts that a webhook body held: the database keeps those by design, logs and errors must not."""
    errors: list[httpx.Response] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    """Further answers that no secret may stand in: metrics, health, WebSocket errors."""

    def secret(self, name: str, value: str | None = None) -> str:
        """Remember a secret."""
        self.secrets[name] = value or _marked(name.replace(" ", "-"))
        return self.secrets[name]


def traces(value: str) -> list[str]:
    """What of a secret must be found nowhere: itself, its usual encodings, and parts that still give it away."""
    encoded = base64.b64encode(value.encode()).decode()
    found = [value, quote(value, safe=""), encoded.rstrip("="), value[-20:]]
    if value.startswith("eyJ"):
        _, payload, signature = value.split(".")
        found += [payload, payload[:40], signature]
    elif len(value) == 43:
        found += [value[6:26], value[:16]]  # the first six characters are shown to tell keys apart
    return found


pytestmark = pytest.mark.timeout(180)  # all is sent before the first test
LOGS = [{"LOG_FORMAT": "json"}, {"LOG_FORMAT": "console", "ENVIRONMENT": "development"}]


@pytest.fixture(scope="module", params=LOGS, ids=["json", "console"])
def exercise(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exercise]:
    """Everything was sent, and the service has ended (so that all is written)."""
    folder = tmp_path_factory.mktemp("secrets")
    secret_key, metrics_token = secrets.token_hex(32), _marked("metrics")
    service = ServiceProcess(
        folder,
        LOG_LEVEL="DEBUG",
        LOG_FILE=str(folder / "data" / "logs" / "app.log"),
        SECRET_KEY=secret_key,
        METRICS_TOKEN=metrics_token,
        MAX_BODY_BYTES="4096",
        **request.param,
    )
    done = Exercise(service)
    done.secret("SECRET_KEY", secret_key)
    done.secret("METRICS_TOKEN", metrics_token)
    try:
        service.start()
        asyncio.run(send_everything(done))
        service.stop()
        yield done
    finally:
        service.close()


async def send_everything(done: Exercise) -> None:
    url = done.service.url
    async with httpx.AsyncClient(base_url=url, timeout=30, verify=NO_TLS) as client:

        async def send(method: str, path: str, **options: Any) -> httpx.Response:
            answer = await client.request(method, path, **options)
            if answer.status_code >= 400:
                done.errors.append(answer)
            return answer

        await accounts(done, send)
        await keys_in_urls(done, send)
        await tokens_everywhere(done, send)
        await metrics(done, send)
        await websockets(done)
        await asyncio.to_thread(no_http, done)
        # At last the session ends by its spent refresh token, and everything is presented once more.
        for token in ("first refresh", "refresh", "first refresh"):
            await send("POST", "/api/v1/auth/refresh", json={"refresh_token": done.secrets[token]})
            await send("POST", "/api/v1/auth/logout", json={"refresh_token": done.secrets[token]})
        await send("GET", "/data/", headers={"Authorization": f"Bearer {done.secrets['access']}"})


Send = Callable[..., Any]


async def accounts(done: Exercise, send: Send) -> None:
    """Passwords, right, wrong and misplaced, in JSON and in forms; refresh tokens."""
    email = "asha@example.com"
    password, wrong = done.secret("password"), done.secret("wrong password")
    short, long = "Ab1!x9Q", done.secret("long password", "L0ng" * 300)
    done.secrets["short password"] = short
    v1 = "/api/v1/auth"
    signed_up = (await send("POST", f"{v1}/signup", json={"email": email, "password": password})).json()
    done.secret("first refresh", signed_up["refresh_token"])
    done.secret("first access", signed_up["access_token"])
    renewed = await send("POST", f"{v1}/refresh", json={"refresh_token": signed_up["refresh_token"]})
    for name in ("access", "refresh"):
        done.secret(name, renewed.json()[f"{name}_token"])

    for text in (password, wrong, short, long):
        for path in (f"{v1}/register", "/api/auth/register", f"{v1}/signup"):
            await send("POST", path, json={"email": email, "password": text})
            await send("POST", path, json={"email": "not an address", "password": text, "admin": True})
            await send("POST", path, json={"email": text, "password": [text], "name": {"x": text}})
        for path in (f"{v1}/login", "/api/auth/login"):
            await send("POST", path, json={"email": email, "password": text + "x"})
            await send("POST", path, json={"username": text, "password": text, "email": text})
            await send("POST", path, content=f'{{"email": "{email}", "password": "{text}"')
            await send("POST", path, data={"username": email, "password": text})
            await send("POST", path, json=[text])
            await send("POST", path, json=text)
        await send("POST", f"{v1}/signin", data={"username": email, "password": text + "x", "client_secret": text})
        await send("POST", f"{v1}/signin", data={"username": text, "password": text})
        await send("POST", f"{v1}/signin", json={"username": email, "password": text})
        await send("POST", f"{v1}/signin", data={"password": text})
        await send("GET", f"{v1}/login", params={"email": email, "password": text[:200]})
        await send("POST", f"{v1}/none", params={"password": text[:200]}, json={"password": text})
    client_secret = done.secret("client secret")
    right = {"username": email, "password": password, "client_id": "x", "client_secret": client_secret}
    for_form = await send("POST", f"{v1}/signin", data=right)
    done.secret("form access", for_form.json()["access_token"])
    done.secret("form refresh", for_form.json()["refresh_token"])


async def keys_in_urls(done: Exercise, send: Send) -> None:
    """A strategy's key in every form of URL, with right and wrong methods, bodies and neighbours."""
    signed_in = {"Authorization": f"Bearer {done.secrets['access']}"}
    bound = [(await send("POST", "/alerts/bind_key", json={"name": "S"}, headers=signed_in)).json() for _ in range(2)]
    key = done.secret("key", bound[0]["secret_key"])
    revoked = done.secret("revoked key", bound[1]["secret_key"])
    await send("POST", f"/data/{revoked}", json=alert())
    await send("DELETE", f"/keys/{bound[1]['id']}", headers=signed_in)
    unknown = done.secret("unknown key", secrets.token_urlsafe(32))
    in_body = _marked("passphrase")
    done.kept["passphrase in a webhook body"] = in_body

    for text in (key, revoked, unknown):
        for path in (
            f"/data/{text}",
            f"/data/{text}/",
            f"/alerts/create/{text}",
            f"/alerts/create/{text}/",
            f"/keys/{text}",
            f"/keys/{text}/",
        ):
            for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "TRACE", "BREW"):
                await send(method, path, headers=signed_in)
            await send("POST", path, json=alert(comment=path[:9], passphrase=in_body))
            await send("POST", path, json=alert(price=-1, passphrase=in_body, key={"$ne": in_body}))
            await send("POST", path, content=f"password={in_body}")
            await send("POST", path, json=alert(comment="x" * 9000, passphrase=in_body))
            await send("POST", path, json=alert(), headers={"Idempotency-Key": text * 9})
            await send("POST", path, json=alert(), params={"key": text, "token": text})
        for path in (
            f"//data/{text}",
            f"/data//{text}",
            f"/data/{text}/x",
            f"/DATA/{text}",
            f"/{text}",
            f"/data/{text}%0a",
        ):
            for method in ("GET", "POST"):
                await send(method, path, json=alert())
        for path in (f"/data/?key={text}", f"/keys/?cursor={text}", f"/static/{text}", f"/docs/{text}", f"/x?{text}"):
            await send("GET", path, headers=signed_in)
        await send("DELETE", f"/keys/{text}", headers={**signed_in, "Referer": f"http://x/data/{text}"})
        await send("GET", "/none", headers={"User-Agent": text, "X-Request-ID": text, "Cookie": f"key={text}"})
        await send("POST", f"/data/{text[:-1]}", json=alert())


async def tokens_everywhere(done: Exercise, send: Send) -> None:
    """Tokens and passwords in queries and headers, where they belong and where they do not."""
    password = done.secrets["password"]
    for name in ("access", "refresh", "first access", "first refresh", "form access", "form refresh"):
        token = done.secrets[name]
        basic = base64.b64encode(f"asha@example.com:{token}".encode()).decode()
        for authorization in (f"Bearer {token}", f"bearer {token}x", f"Token {token}", token, f"Basic {basic}"):
            headers = {"Authorization": authorization, "X-Api-Key": token, "Cookie": f"token={token}"}
            for path in ("/data/", "/api/v1/auth/me", f"/data/{token[:190]}", "/none", "/metrics"):
                await send("GET", f"{path}?token={token}&access_token={token}", headers=headers)
        await send("POST", "/alerts/bind_key", json={"name": token}, headers={"Authorization": f"Bearer {token}y"})
        await send("GET", "/data/", params={"contract": token, "limit": token, "cursor": token})
        await send("POST", "/api/v1/auth/logout", json={"refresh_token": token + "z", "token": token})
        await send("POST", "/api/v1/auth/refresh", json={"token": token})
        await send("POST", "/api/v1/auth/refresh", json={"refresh_token": [token]})
    basic = base64.b64encode(f"asha@example.com:{password}".encode()).decode()
    done.secret("Basic credential", basic)
    for path in ("/data/", "/api/v1/auth/me", "/metrics", "/none"):
        await send("GET", path, headers={"Authorization": f"Basic {basic}"})
        await send("GET", f"{path}?password={password}", auth=("asha@example.com", password))


async def metrics(done: Exercise, send: Send) -> None:
    token = done.secrets["METRICS_TOKEN"]
    for authorization in (f"Bearer {token}x", token, f"Basic {token}"):
        await send("GET", f"/metrics?token={token}", headers={"Authorization": authorization})
    answer = await send("GET", "/metrics", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 200
    for text in (answer, await send("GET", "/health"), await send("GET", "/openapi.json")):
        done.texts.append(text.text)


async def websockets(done: Exercise) -> None:
    """Tokens in the query and in messages, whole, cut off, and in messages that are none."""
    url = done.service.ws_url
    key, access = done.secrets["key"], done.secrets["access"]
    for query in (f"?token={access}", f"?token={access}x", f"?token={key}", f"?key={key}", "?token=", f"/{access}"):
        try:
            async with connect(url + query) as socket_:
                await chat(done, socket_, access)
        except (InvalidStatus, ConnectionClosed):
            continue
    async with connect(url, additional_headers={"Authorization": f"Bearer {access}"}) as socket_:
        await chat(done, socket_, key)


async def chat(done: Exercise, socket_: Any, token: str) -> None:
    messages = [
        {"action": "auth", "token": token},
        {"action": "auth", "token": token + "x"},
        {"action": "auth", "password": done.secrets["password"]},
        {"action": token},
        {"action": "subscribe", "channel": token},
        {"action": "subscribe", "channel": "ticks", "symbols": [token[:60]], "token": token},
        {"action": "subscribe", "channel": "alerts"},
    ]
    for message in messages:
        await socket_.send(json.dumps(message))
    await socket_.send(token)
    await socket_.send(f'{{"action": "auth", "token": "{token}"')
    await socket_.send(token.encode())
    await socket_.send(json.dumps({"action": "ping"}))
    while True:
        message = json.loads(await asyncio.wait_for(socket_.recv(), 30))
        if message["type"] == "error":
            done.texts.append(json.dumps(message))
        if message["type"] == "pong":
            return


def no_http(done: Exercise) -> None:
    """Requests that the server's parser refuses, and a connection that breaks off in the middle."""
    key, password = done.secrets["key"], done.secrets["password"]
    for request in (
        f"GET /data/{key}\r\n\r\n",
        f"POST /data/{key} HTTP/9.9\r\n\r\n",
        f"NOT HTTP {key} {password}\r\n\r\n",
        f"POST /data/{key} HTTP/1.1\r\nHost: x\r\nContent-Length: abc\r\nX: {password}\r\n\r\n",
        f"POST /data/{key} HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{password}",
        f"GET /ws?token={key} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        f"GET /x HTTP/1.1\r\nHost: x\r\nAuthorization: {'a' * 70_000}{key}\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", done.service.port), timeout=30) as raw:
            raw.sendall(request.encode())
            raw.settimeout(0.2)
            try:
                done.texts.append(raw.recv(65_536).decode("latin-1"))
            except (TimeoutError, ConnectionError):
                continue


def leaks(text: bytes, wanted: dict[str, str]) -> list[str]:
    return sorted({name for name, value in wanted.items() if any(trace.encode() in text for trace in traces(value))})


def test_everything_was_really_sent(exercise: Exercise):
    """The search means something: requests of every outcome, log lines in both places."""
    assert {401, 404, 405, 413, 422} <= {answer.status_code for answer in exercise.errors}
    assert not [answer for answer in exercise.errors if answer.status_code >= 500]
    assert len(exercise.secrets) >= 17
    log = exercise.service.log_text()
    file = exercise.service.data_dir / "logs" / "app.log"
    assert log.count("/data/{secret_key}") > 100
    assert file.read_text().count("/data/{secret_key}") > 100
    assert "Traceback" not in log


def test_no_log_line_has_a_secret(exercise: Exercise):
    wanted = exercise.secrets | exercise.kept
    for path in (exercise.service.log_path, exercise.service.data_dir / "logs" / "app.log"):
        for line in path.read_bytes().splitlines():
            assert not leaks(line, wanted), line


def test_no_file_has_a_secret(exercise: Exercise):
    """The database's own files too: it knows digests and hashes alone."""
    files = [path for path in exercise.service.folder.rglob("*") if path.is_file()]
    assert {exercise.service.log_path, exercise.service.data_dir / "logs" / "app.log"} <= set(files)
    for path in files:
        found = leaks(path.read_bytes(), exercise.secrets)
        assert not found, f"{path.relative_to(exercise.service.folder)} holds {found}"


def test_no_error_answer_has_a_secret(exercise: Exercise):
    wanted = exercise.secrets | exercise.kept
    for answer in exercise.errors:
        whole = str(answer.headers).encode() + answer.content
        assert not leaks(whole, wanted), f"{answer.request.method} {answer.request.url}: {answer.text}"
    for text in exercise.texts:
        assert not leaks(text.encode(), wanted), text


def test_the_database_has_no_secret(exercise: Exercise):
    """Read back through the database itself, since its files may be compressed."""
    service = exercise.service
    service.start()
    if service.embedded:
        port = service.health()["database"]["embedded"]["port"]
        url, name = f"mongodb://127.0.0.1:{port}/?directConnection=true", "arrow"
    else:
        url, name = service.env["MONGODB_URL"], service.env["DATABASE_NAME"]
    with MongoClient[dict[str, Any]](url) as client:
        collections = client[name].list_collection_names()
        rows = [json_util.dumps(row) for collection in collections for row in client[name][collection].find()]
    service.stop()

    assert len(collections) >= 5
    assert any("asha@example.com" in row for row in rows)
    assert any(next(iter(exercise.kept.values())) in row for row in rows)
    for row in rows:
        assert not leaks(row.encode(), exercise.secrets), row


@pytest.mark.parametrize(("log_format", "log_level"), [("json", "DEBUG"), ("console", "INFO")])
def test_the_databases_password_is_not_shown_when_it_cannot_be_reached(tmp_path: Path, log_format: str, log_level: str):
    passwords = {"MONGODB_URL": _marked("p@ss/w:rd"), "REDIS_URL": _marked("redis")}
    in_url = quote(passwords["MONGODB_URL"], safe="")
    service = ServiceProcess(
        tmp_path / "service",
        MONGODB_URL=f"mongodb://arrow:{in_url}@127.0.0.1:{free_port()}/?authSource=admin",
        REDIS_URL=f"redis://:{passwords['REDIS_URL']}@127.0.0.1:{free_port()}/0",
        LOG_LEVEL=log_level,
        LOG_FORMAT=log_format,
        LOG_FILE=str(tmp_path / "service" / "app.log"),
        DATABASE_CONNECT_TIMEOUT_SECONDS="1",
    )
    service.launch()
    assert service.process
    try:
        assert service.process.wait(50) != 0
    finally:
        service.kill_all()

    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert not leaks(path.read_bytes(), passwords), path
    assert "MONGODB_URL" in service.log_text()
