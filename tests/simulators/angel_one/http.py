"""A small HTTP/1.1 server on plain sockets: it has to be able to break the rules, which a good server is not."""

import asyncio
import json
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

MAX_BODY = 1 << 20


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """What arrived; header names in lower case."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON, None for anything else."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back."""

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, content: object, status: int = 200, **headers: str) -> "Answer":
        """JSON."""
        return cls(status, json.dumps(content).encode(), headers=headers)

    def encode(self) -> bytes:
        """As bytes on the wire."""
        head = {
            "Content-Type": self.content_type,
            "Content-Length": str(len(self.body)),
            "Connection": "keep-alive",
            **self.headers,
        }
        lines = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}", *(f"{k}: {v}" for k, v in head.items())]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + self.body


@dataclass(frozen=True, slots=True)
class HttpFault:
    """What goes wrong with one request."""

    answer: Answer | None = None
    """Instead of the true one; None: the request is carried out."""
    raw: bytes | None = None
    """Instead of any HTTP; the connection ends after it."""
    delay: float = 0.0
    """Seconds before the answer."""
    cut_after: int | None = None
    """Bytes of the answer that arrive before the connection breaks."""


def too_many(retry_after: int | None = 1) -> HttpFault:
    """429, as a gateway says it."""
    body = {"status": False, "message": "Too many requests", "errorcode": "AB1021", "data": None}
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return HttpFault(replace(Answer.of(body, 429), headers=headers))


def rate_limited() -> HttpFault:
    """403 in plain text: what the vendor answers for a rate limit, beside bad authentication."""
    return HttpFault(Answer(403, b"Access denied because of exceeding access rate", "text/plain"))


def html(status: int = 502) -> HttpFault:
    """A proxy's page."""
    page = f"<html><head><title>{status}</title></head><body><center><h1>{status}</h1></center></body></html>"
    return HttpFault(Answer(status, page.encode(), "text/html"))


def garbage() -> HttpFault:
    """200, JSON by its header, and nothing of the kind."""
    return HttpFault(Answer(200, b'{"status": true, "data": {"jwt\xff\xfe\x00'))


def api_error(code: str = "AB1004", message: str = "Something Went Wrong, Please Try After Sometime") -> HttpFault:
    """200 and `status: false`: how the vendor reports most errors."""
    return HttpFault(Answer.of({"status": False, "message": message, "errorcode": code, "data": None}))


def empty() -> HttpFault:
    """200 and no body at all."""
    return HttpFault(Answer(200, b""))


def without_data() -> HttpFault:
    """Success without what was asked for."""
    return HttpFault(Answer.of({"status": True, "message": "SUCCESS", "errorcode": "", "data": None}))


def not_http() -> HttpFault:
    """Bytes that no HTTP client understands."""
    return HttpFault(raw=b"\x16\x03\x01\x00\xa5 not HTTP\r\n\r\n")


def slow(seconds: float) -> HttpFault:
    """The true answer, late."""
    return HttpFault(delay=seconds)


def lost() -> HttpFault:
    """The request is carried out, and its answer breaks off: whoever asked does not know."""
    return HttpFault(cut_after=20)


class HttpServer:
    """Serves `handle` on a port of its own, except where a fault was ordered."""

    def __init__(self, handle: Callable[[HttpRequest], Awaitable[Answer]], port: int = 0) -> None:
        self._handle = handle
        self._faults: dict[str, deque[HttpFault]] = defaultdict(deque)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = port
        self.requests: list[HttpRequest] = []
        """Everything that was asked, the oldest first; at most the last thousand."""

    def fail(self, path: str, *faults: HttpFault, times: int = 1) -> None:
        """The next requests whose path ends in `path` go wrong like this, in order, each fault `times` times."""
        for fault in faults:
            self._faults[path].extend([fault] * times)

    def heal(self) -> None:
        """No faults any more."""
        self._faults.clear()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
                while (request := await self._read(reader)) is not None and await self._serve(request, writer):
                    pass
        except asyncio.CancelledError:
            pass  # the simulator ends; a cancelled connection would be reported as an error by the server
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    @staticmethod
    async def _read(reader: asyncio.StreamReader) -> HttpRequest | None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.split("\r\n")
        method, target, _ = first.split(" ", 2)
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", "0"))
        if length > MAX_BODY:
            return None
        body = await reader.readexactly(length)
        parts = urlsplit(target)
        return HttpRequest(method, parts.path, parts.query, headers, body)

    async def _serve(self, request: HttpRequest, writer: asyncio.StreamWriter) -> bool:
        """Answer; whether the connection goes on."""
        self.requests = [*self.requests[-999:], request]
        fault = self._next_fault(request.path)
        answer = fault.answer if fault.answer or fault.raw else await self._handle(request)
        raw = fault.raw if answer is None or fault.raw is not None else answer.encode()
        assert raw is not None
        await asyncio.sleep(fault.delay)
        writer.write(raw if fault.cut_after is None else raw[: fault.cut_after])
        await writer.drain()
        if fault.cut_after is not None or fault.raw is not None:
            await asyncio.sleep(0.01)  # so that what was written leaves before the connection is aborted
            return False
        return request.headers.get("connection", "").lower() != "close"

    def _next_fault(self, path: str) -> HttpFault:
        for ending, faults in self._faults.items():
            if faults and path.endswith(ending):
                return faults.popleft()
        return HttpFault()
