#!/usr/bin/env python3
"""Checks a running service from outside, as a client sees it, and says what is wrong.

    .venv/bin/python scripts/test_api_connection.py
    .venv/bin/python scripts/test_api_connection.py --url https://your.host --email asha@example.com

With --email it signs in, reads the account and signs out again. The password is asked for, or taken from the variable
ARROW_PASSWORD; it is never an argument, where other users of the machine could see it. The exit status is 0 when all is
well, else 1. It reads no settings and changes nothing.
"""

import argparse
import asyncio
import getpass
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidHandshake, InvalidURI, WebSocketException

PASSWORD_VARIABLE = "ARROW_PASSWORD"  # noqa: S105 (a name)
WELL = {"ok", "off"}


class Failure(Exception):  # noqa: N818 (a result, not an error of the program)
    """A check did not succeed; the message is the reason."""


class Skipped(Exception):  # noqa: N818 (a result, not an error of the program)
    """A check had nothing to do; the message is the reason."""


@dataclass
class Report:
    """The table, printed as it grows."""

    failures: int = 0
    _lines: int = field(default=0, repr=False)

    def add(self, name: str, result: str, milliseconds: float | None, remark: str) -> None:
        """One line of it."""
        if not self._lines:
            print(f"{'check':<28}{'result':<9}{'ms':>7}  remark")
        self._lines += 1
        self.failures += result == "FAILED"
        spent = "" if milliseconds is None else f"{milliseconds:.1f}"
        print(f"{name:<28}{result:<9}{spent:>7}  {remark}".rstrip(), flush=True)

    async def check(self, name: str, work: Callable[[], Awaitable[str]]) -> bool:
        """Do `work`, which gives a remark; whether it succeeded."""
        began = time.perf_counter()
        try:
            result, remark = "ok", await work()
        except Failure as failure:
            result, remark = "FAILED", str(failure)
        except Skipped as skipped:
            result, remark = "skipped", str(skipped)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, TimeoutError, WebSocketException) as error:
            result, remark = "FAILED", reason(error)
        self.add(name, result, (time.perf_counter() - began) * 1000, remark)
        return result == "ok"


def reason(error: Exception) -> str:
    """What an error of the network means, in words."""
    match error:
        case httpx.ConnectError() | ConnectionRefusedError():
            return f"no connection ({error}); does the service run there? scripts/run starts it"
        case httpx.TimeoutException() | TimeoutError():
            return "no answer in time"
        case InvalidHandshake() | InvalidURI():
            return f"no WebSocket there ({error}); does the proxy pass `Upgrade` on?"
        case _:
            return f"{type(error).__name__}: {error}".rstrip(": ")


def said(answer: httpx.Response) -> Any:
    """The JSON of an answer with status 200; `Failure` with what the service says otherwise."""
    try:
        content = answer.json()
    except ValueError:
        content = None
    if answer.status_code != 200:
        detail = content.get("detail") if isinstance(content, dict) else None
        raise Failure(f"status {answer.status_code}: {detail or 'not an answer of Arrow'}")
    if content is None:
        raise Failure(f"not JSON but {answer.headers.get('content-type', 'nothing')}: is this Arrow?")
    return content


class Checks:
    """What is tried, in order."""

    def __init__(self, client: httpx.AsyncClient, url: str, report: Report, timeout: float) -> None:
        self._client = client
        self._url = url
        self._report = report
        self._timeout = timeout
        self._tokens: dict[str, Any] = {}

    async def run(self, email: str | None, password: str) -> None:
        """All of them; when nothing answers, the first failure says it all."""
        if not await self._report.check("root", self._root):
            return
        await self._health()
        for path in ("/docs", "/redoc"):
            await self._report.check(path[1:], lambda path=path: self._page(path))  # type: ignore[misc]
        await self._report.check("openapi", self._openapi)
        await self._report.check("websocket ping", self._ping)
        if email is None:
            return
        if await self._report.check("sign in", lambda: self._sign_in(email, password)):
            await self._report.check("account (/api/v1/auth/me)", self._me)
            await self._report.check("sign out", self._sign_out)

    async def _root(self) -> str:
        about = said(await self._client.get("/"))
        if not isinstance(about, dict) or not {"name", "version", "environment"} <= about.keys():
            raise Failure("something answers, but it is not Arrow")
        return f"{about['name']} {about['version']}, {about['environment']}"

    async def _health(self) -> None:
        began = time.perf_counter()
        answer = await self._client.get("/health")
        spent = (time.perf_counter() - began) * 1000
        try:
            health = answer.json()
        except ValueError:
            health = None
        overall = health.get("status") if isinstance(health, dict) else None
        if not isinstance(health, dict) or not isinstance(overall, str):  # a problem's status is a number
            self._report.add("health", "FAILED", spent, f"status {answer.status_code}, not a report of health")
            return
        self._report.add("health", _mark(overall), spent, "" if overall == "ok" else overall)
        for name, line in health.items():
            if isinstance(line, dict) and "status" in line:
                facts = ", ".join(f"{key} {value}" for key, value in line.items() if _plain(key, value))
                self._report.add(f"  {name}", _mark(line["status"]), line.get("ping_ms"), facts)

    async def _page(self, path: str) -> str:
        answer = await self._client.get(path)
        if answer.status_code != 200 or "text/html" not in answer.headers.get("content-type", ""):
            raise Failure(f"status {answer.status_code}, {answer.headers.get('content-type', 'nothing')}")
        return ""

    async def _openapi(self) -> str:
        document = said(await self._client.get("/openapi.json"))
        if not isinstance(document, dict) or not {"openapi", "paths"} <= document.keys():
            raise Failure("not an OpenAPI document")
        return f"OpenAPI {document['openapi']}, {len(document['paths'])} paths"

    async def _ping(self) -> str:
        address = "ws" + self._url.removeprefix("http") + "/ws"
        async with asyncio.timeout(self._timeout), connect(address) as socket:
            await socket.send(json.dumps({"action": "ping"}))
            reply = json.loads(await socket.recv())
        if reply.get("type") != "pong":
            raise Failure(f"the answer is {reply.get('type')}, not pong")
        return ""

    async def _secretly(self, method: str, path: str, **content: Any) -> httpx.Response:
        """A request that carries a secret: it goes to where `--url` says and nowhere else."""
        answer = await self._client.request(method, path, follow_redirects=False, **content)
        if answer.is_redirect:
            there = answer.headers.get("location", "somewhere else")
            raise Failure(f"a redirect to {there}, where no password or token is sent; give the right --url")
        return answer

    async def _sign_in(self, email: str, password: str) -> str:
        body = {"email": email, "password": password}
        answer = await self._secretly("POST", "/api/v1/auth/login", json=body)
        if b"urn:arrow:problem:second-factor-required" in answer.content:
            raise Skipped("the password is right; the rest needs a code of the second factor")
        tokens = said(answer)
        if not isinstance(tokens, dict) or not {"access_token", "refresh_token", "expires_in"} <= tokens.keys():
            raise Failure("the answer holds no tokens: is this Arrow?")
        self._tokens = tokens
        return f"tokens for {self._tokens['expires_in']} s"

    async def _me(self) -> str:
        headers = {"Authorization": f"Bearer {self._tokens['access_token']}"}
        me = said(await self._secretly("GET", "/api/v1/auth/me", headers=headers))
        return f"{me['email']} ({me['role']})"

    async def _sign_out(self) -> str:
        body = {"refresh_token": self._tokens["refresh_token"]}
        answer = await self._secretly("POST", "/api/v1/auth/logout", json=body)
        if answer.status_code != 204:
            said(answer)
        return ""


def _mark(status: str) -> str:
    return "ok" if status in WELL else {"degraded": "degraded"}.get(status, "FAILED")


def _plain(key: str, value: Any) -> bool:
    if key in {"status", "ping_ms"}:
        return key == "status" and value != "ok"
    return isinstance(value, (str, bool, int)) and value != ""


def arguments() -> argparse.Namespace:
    """What the command line says."""
    assert __doc__ is not None  # noqa: S101 (python -OO is not used)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="default: %(default)s")
    parser.add_argument("--email", help="sign in as this account")
    parser.add_argument("--timeout", type=float, default=10.0, metavar="SECONDS", help="for one answer (10)")
    wanted = parser.parse_args()
    wanted.url = wanted.url.rstrip("/")
    if not wanted.url.startswith(("http://", "https://")):
        parser.error("--url begins with http:// or https://")
    return wanted


def read_password() -> str:
    """The password from the environment, typed, or the first line of what is piped in."""
    if password := os.environ.get(PASSWORD_VARIABLE):
        return password
    return getpass.getpass("Password: ") if sys.stdin.isatty() else sys.stdin.readline().rstrip("\r\n")


async def run(wanted: argparse.Namespace, password: str) -> int:
    """Make the checks and give the exit status."""
    report = Report()
    async with httpx.AsyncClient(base_url=wanted.url, timeout=wanted.timeout, follow_redirects=True) as client:
        await Checks(client, wanted.url, report, wanted.timeout).run(wanted.email, password)
    print("All is well." if not report.failures else f"{report.failures} failed.")
    return 1 if report.failures else 0


def main() -> None:
    """Check what the command line names; exit status 1 when something is wrong."""
    wanted = arguments()
    try:
        raise SystemExit(asyncio.run(run(wanted, read_password() if wanted.email else "")))
    except KeyboardInterrupt:
        raise SystemExit("Interrupted.") from None


if __name__ == "__main__":
    main()
