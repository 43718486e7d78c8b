"""`scripts/test_api_connection.py`, against a service that is well, one that is not, and none."""

import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pyotp
import pytest

from tests.support.people import PASSWORD, Person
from tests.support.service import ROOT, ServiceProcess, free_port


def check(*arguments: str, typed: str = "", password: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run it as somebody would who has nothing else of the service: no settings, another folder."""
    env = {"PATH": "/usr/bin:/bin", **({"ARROW_PASSWORD": password} if password else {})}
    command = [sys.executable, str(ROOT / "scripts" / "test_api_connection.py"), *arguments]
    return subprocess.run(
        command, env=env, cwd="/", input=typed, capture_output=True, text=True, timeout=50, check=False
    )


def results(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """The table: the result by check."""
    lines = [line for line in done.stdout.splitlines()[1:] if len(line) > 28 and line[28].strip()]
    return {line[:28].strip(): line[28:37].strip() for line in lines}


async def test_a_service_that_is_well(service: ServiceProcess, user: Person):
    for _ in range(4):  # a part of the service may be behind for a moment, and then that is what the script says
        done = check("--url", f"{service.url}/", "--email", user.email, password=PASSWORD)
        if done.returncode == 0:
            break

    assert done.returncode == 0, done.stdout + done.stderr
    found = results(done)
    components = {name for name, line in service.health().items() if isinstance(line, dict)}
    checks = {"root", "health", "docs", "redoc", "openapi", "websocket ping", "sign in", "account (/api/v1/auth/me)"}
    assert found.keys() == checks | {"sign out"} | components
    assert set(found.values()) == {"ok"}
    assert done.stdout.endswith("All is well.\n")
    assert f"{user.email} (user)" in done.stdout
    assert PASSWORD not in done.stdout + done.stderr
    # It left with a sign-out of its own session alone.
    assert (await user.client.get("/api/v1/auth/me")).status_code == 200


def test_a_wrong_password_is_said(service: ServiceProcess):
    done = check("--url", service.url, "--email", "nobody@example.com", typed="wrong, and piped in\n")

    assert done.returncode == 1
    found = results(done)
    assert (found["root"], found["websocket ping"], found["sign in"]) == ("ok", "ok", "FAILED")
    assert "do not match an account" in done.stdout
    assert "sign out" not in found
    assert done.stdout.endswith("1 failed.\n")


async def test_a_second_factor_is_no_failure(service: ServiceProcess, user: Person):
    begun = (await user.client.post("/api/v1/auth/2fa/enroll", json={"password": user.password})).json()
    code = pyotp.TOTP(begun["secret"]).now()
    assert (await user.client.post("/api/v1/auth/2fa/confirm", json={"code": code})).status_code == 200

    done = check("--url", service.url, "--email", user.email, password=PASSWORD)

    assert (done.returncode, results(done)["sign in"]) == (0, "skipped")
    assert "second factor" in done.stdout


def test_nobody_there_is_one_line_that_says_what_to_do():
    done = check("--url", f"http://127.0.0.1:{free_port()}")

    assert (done.returncode, results(done)) == (1, {"root": "FAILED"})
    assert "scripts/run starts it" in done.stdout
    assert "Traceback" not in done.stderr


class Stranger(http.server.BaseHTTPRequestHandler):
    """A web server that has nothing to do with this."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<h1>It works!</h1>")

    def log_message(self, *_: object) -> None:
        """Quietly."""


@contextmanager
def running(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    """A web server of this kind; its URL."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def stranger() -> Iterator[str]:
    with running(Stranger) as url:
        yield url


def test_something_else_at_the_address_is_recognised(stranger: str):
    done = check("--url", stranger)

    assert (done.returncode, results(done)) == (1, {"root": "FAILED"})
    assert "is this Arrow?" in done.stdout


class Elsewhere(http.server.BaseHTTPRequestHandler):
    """Passes itself off as Arrow, and sends whoever posts something on to another server with it."""

    posted: list[bytes]
    target: str

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(b'{"name": "Arrow", "version": "1", "environment": "test"}')

    def do_POST(self) -> None:
        self.posted.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(307)
        self.send_header("Location", self.target)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Quietly."""


def test_a_password_goes_nowhere_else():
    caught: list[bytes] = []
    thief_handler = type("Thief", (Elsewhere,), {"posted": caught, "target": "/again"})
    with running(thief_handler) as thief:
        asked: list[bytes] = []
        handler = type("Redirecting", (Elsewhere,), {"posted": asked, "target": f"{thief}/api/v1/auth/login"})
        with running(handler) as url:
            done = check("--url", url, "--email", "asha@example.com", password="a secret of mine")

    assert done.returncode == 1
    assert results(done)["sign in"] == "FAILED"
    assert f"a redirect to {thief}/api/v1/auth/login" in done.stdout
    assert len(asked) == 1
    assert caught == []


def test_an_address_that_is_none_is_refused():
    done = check("--url", "127.0.0.1:8000")

    assert done.returncode == 2
    assert "--url begins with http" in done.stderr
