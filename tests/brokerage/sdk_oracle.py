"""Our requests beside those of a vendor's own library, which `record_sdks.py` wrote down."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from app.brokerage.errors import BrokerError
from tests.simulators.angel_one.http import Answer, HttpRequest, HttpServer


def recorded(folder: Path) -> dict[str, dict[str, Any]]:
    """What the library sends, by the name of the call."""
    return json.loads((folder / "sdk_requests.json").read_text())["requests"]


class Wire:
    """A server that answers everything alike, and keeps what it was asked."""

    def __init__(self, server: HttpServer) -> None:
        self._server = server

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._server.port}"

    async def sent(self, call: Callable[[], Awaitable[object]]) -> dict[str, Any]:
        """The first request of `call`, in the form of the records."""
        return (await self.all_sent(call))[0]

    async def all_sent(self, call: Callable[[], Awaitable[object]]) -> list[dict[str, Any]]:
        """All of them."""
        self._server.requests = []
        with suppress(BrokerError):  # what it makes of the answer does not matter
            await call()
        return [_shown(request) for request in self._server.requests]


@asynccontextmanager
async def wire(answer: dict[str, Any]) -> AsyncIterator[Wire]:
    async def handle(_request: HttpRequest) -> Answer:
        return Answer.of(answer)

    async with HttpServer(handle) as server:
        yield Wire(server)


def _shown(request: HttpRequest) -> dict[str, Any]:
    body = request.body.decode()
    is_form = "form-urlencoded" in request.headers.get("content-type", "")
    wanted = ("authorization", "content-type", "x-api-version")
    return {
        "method": request.method,
        "path": request.path,
        "query": dict(parse_qsl(request.query)),
        "headers": {name: request.headers[name] for name in wanted if name in request.headers},
        "body": (dict(parse_qsl(body)) if is_form else json.loads(body)) if body else None,
    }
