"""What the simulators of listing providers have in common: counted calls, limits, and faults on demand.

Faults come from Python (`simulator.fail("too_many", times=2, retry_after=5)`), or from anywhere over HTTP:

    curl localhost:PORT/_simulator/calls
    curl localhost:PORT/_simulator/faults -d '{"fault": "too_many", "times": 2, "retry_after": 5}'
    curl -X DELETE localhost:PORT/_simulator/faults
"""

import asyncio
import gzip
import inspect
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import TracebackType
from typing import Any, ClassVar, Final, Self
from urllib.parse import parse_qsl

import msgspec

from tests.simulators.angel_one.http import Answer, HttpFault, HttpRequest, HttpServer
from tests.simulators.coins import Coins

CONTROL: Final = "/_simulator/"
encode = msgspec.json.Encoder(decimal_format="number").encode
decode = msgspec.json.Decoder(float_hook=Decimal).decode


@dataclass(frozen=True, slots=True)
class Fault(HttpFault):
    """What goes wrong with one request: see `HttpFault`, and"""

    drip: float = 0.0
    """Seconds between two pieces of the true answer, of 16 bytes each."""
    content_type: str | None = None
    """Of the true answer, instead of its own."""
    change: Callable[[Any], Any] | None = None
    """Changes the true answer's JSON."""


def answer(content: object, status: int = 200, **headers: str) -> Answer:
    """JSON, with exact numbers."""
    return Answer(status, encode(content), headers={name.replace("_", "-"): value for name, value in headers.items()})


def html(status: int = 502) -> Fault:
    """A proxy's page."""
    page = f"<!DOCTYPE html><html><head><title>{status}</title></head><body><h1>Error {status}</h1></body></html>"
    return Fault(Answer(status, page.encode(), "text/html"))


def cloudflare(status: int = 522) -> Fault:
    """A status that only Cloudflare has."""
    body = b"error code: " + str(status).encode()
    head = f"HTTP/1.1 {status} \r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return Fault(raw=head.encode() + body)


def garbage() -> Fault:
    """JSON by its header, and nothing of the kind."""
    return Fault(Answer(200, b'[{"id": "bitcoin", "symbol": "\xff\xfe\x00'))


def truncated() -> Fault:
    """The true answer breaks off in the middle, with a length that says so."""
    return Fault(cut_after=700)


def cut_json() -> Fault:
    """An answer that is complete for HTTP, and half of a JSON text."""
    return Fault(Answer(200, b'[{"id": "bitcoin", "symbol": "btc", "name": "Bitcoin", "current_price": 68'))


def slow(seconds: float = 30.0) -> Fault:
    """The true answer, late."""
    return Fault(delay=seconds)


def half_open() -> Fault:
    """Takes the request and never answers, as when the other side is gone."""
    return Fault(delay=86_400.0)


def drip(pause: float = 0.2) -> Fault:
    """The true answer in tiny pieces: no single wait is long, and there is no end."""
    return Fault(drip=pause)


def huge(megabytes: int = 9) -> Fault:
    """More than anybody wants to read."""
    return Fault(Answer(200, b"[" + b" " * (megabytes << 20) + b"]"))


def bomb(megabytes: int = 16) -> Fault:
    """A small answer that unpacks into a huge one."""
    return Fault(Answer(200, gzip.compress(b" " * (megabytes << 20)), headers={"Content-Encoding": "gzip"}))


def wrong_type() -> Fault:
    """The true answer, called a page."""
    return Fault(content_type="text/html; charset=utf-8")


def zipped() -> Fault:
    """The true answer, compressed: nothing is wrong with it."""
    return Fault(content_type="application/json", change=_zip)


def _zip(content: Any) -> Any:
    return gzip.compress(encode(content))


def unknown_encoding() -> Fault:
    """Compressed in a way that nobody asked for."""
    return Fault(Answer(200, b"[]", headers={"Content-Encoding": "br"}))


def not_gzip() -> Fault:
    """Called compressed, and is not."""
    return Fault(Answer(200, b"[]", headers={"Content-Encoding": "gzip"}))


def empty() -> Fault:
    """200 and no body at all."""
    return Fault(Answer(200, b""))


def redirect(to: str = "http://127.0.0.1:9/") -> Fault:
    """Elsewhere."""
    return Fault(Answer(302, b"", headers={"Location": to}))


def not_http() -> Fault:
    """Bytes that no HTTP client understands."""
    return Fault(raw=b"\x16\x03\x01\x00\xa5 not HTTP\r\n\r\n")


def reset() -> Fault:
    """The connection ends without a word."""
    return Fault(raw=b"")


def nested() -> Fault:
    """JSON so deep that a careless reader falls over."""
    return Fault(Answer(200, b"[" * 100_000))


def numberless() -> Fault:
    """Numbers that JSON does not have."""
    return Fault(Answer(200, b'[{"id": "bitcoin", "symbol": "btc", "name": "Bitcoin", "current_price": NaN}]'))


_COMMON: Final = (
    html, cloudflare, garbage, truncated, cut_json, slow, half_open, drip, huge, bomb, wrong_type, zipped,
    unknown_encoding, not_gzip, empty, redirect, not_http, reset, nested, numberless,
)  # fmt: skip


class Limits:
    """A vendor's own count of what was asked of it, by its clock."""

    def __init__(self, now: Callable[[], datetime], per_minute: int | None, per_month: int | None) -> None:
        self._now, self.per_minute, self.per_month = now, per_minute, per_month
        self._recent: deque[datetime] = deque()
        self.by_month: Counter[str] = Counter()
        """What each month's plan was charged."""
        self.refused: Counter[str] = Counter()
        """How often a limit was reached: by a well-behaved client, never."""

    def over(self, charge: int = 1) -> str | None:
        """Count one more; which limit it is over, if one."""
        now = self._now()
        while self._recent and self._recent[0] <= now - timedelta(seconds=60):
            self._recent.popleft()
        self._recent.append(now)
        month = f"{now:%Y-%m}"
        self.by_month[month] += charge
        over = None
        if self.per_minute is not None and len(self._recent) > self.per_minute:
            over = "minute"
        if self.per_month is not None and self.by_month[month] > self.per_month:
            over = "month"
        if over:
            self.refused[over] += 1
        return over


class VendorSimulator(HttpServer, ABC):
    """Use as an asynchronous context manager; then give the service `environment()`."""

    vendor: ClassVar[str] = ""
    own_faults: ClassVar[dict[str, Callable[..., Fault]]] = {}
    """Faults with this vendor's words."""

    def __init__(
        self,
        coins: Coins | None = None,
        *,
        key: str | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        per_minute: int | None = None,
        per_month: int | None = None,
        port: int = 0,
    ) -> None:
        """`key`: the only one that holds; `now`: the vendor's clock; the limits are of its plan, None for none."""
        super().__init__(self.handle, port)
        self.coins, self.key, self.now = coins or Coins(), key, now
        self.limits = Limits(now, per_minute, per_month)
        self.calls: Counter[str] = Counter()
        """How often each path was asked, however it went."""
        self._waiting: deque[tuple[str, Fault]] = deque()

    @property
    def total(self) -> int:
        """Calls in all."""
        return self.calls.total()

    @property
    @abstractmethod
    def base_url(self) -> str:
        """What the setting of the provider's address is given."""

    def environment(self) -> dict[str, str]:
        """The settings of a service that uses this simulator."""
        values = {f"{self.vendor}_BASE_URL": self.base_url}
        return values | ({f"{self.vendor}_API_KEY": self.key} if self.key else {})

    def fail(self, fault: str | Fault, *faults: str | Fault, times: int = 1, on: str = "", **options: Any) -> None:  # type: ignore[override]
        """The next requests whose path ends in `on` go wrong like this, in order, each fault `times` times.

        By name (see `known_faults`), with the fault's own `options`.
        """
        for each in (fault, *faults):
            made = self.known_faults()[each](**options) if isinstance(each, str) else each
            self._waiting.extend([(on, made)] * times)

    def heal(self) -> None:
        """No faults any more."""
        self._waiting.clear()

    def known_faults(self) -> dict[str, Callable[..., Fault]]:
        """By name."""
        return {fault.__name__: fault for fault in _COMMON} | self.own_faults

    @abstractmethod
    async def handle(self, request: HttpRequest) -> Answer:
        """The true answer."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await super().__aexit__(kind, error, trace)

    async def __aenter__(self) -> Self:
        return await super().__aenter__()

    async def _serve(self, request: HttpRequest, writer: asyncio.StreamWriter) -> bool:
        if request.path.startswith(CONTROL):
            writer.write(self._control(request).encode())
            await writer.drain()
            return True
        self.requests = [*self.requests[-99:], request]
        self.calls[request.path] += 1
        fault = self._next(request.path)
        # What goes wrong counts, too: so do the vendors.
        true = fault.answer or await self.handle(request)
        raw = _changed(true, fault).encode() if fault.raw is None else fault.raw
        await asyncio.sleep(fault.delay)
        await _write(writer, raw if fault.cut_after is None else raw[: fault.cut_after], fault.drip)
        if fault.cut_after is not None or fault.raw is not None:
            await asyncio.sleep(0.01)  # so that what was written leaves before the connection is aborted
            return False
        return request.headers.get("connection", "").lower() != "close"

    def _next(self, path: str) -> Fault:
        for place, (ending, fault) in enumerate(self._waiting):
            if path.endswith(ending):
                del self._waiting[place]
                return fault
        return Fault()

    def _control(self, request: HttpRequest) -> Answer:
        if request.path == f"{CONTROL}calls":
            counts = {"total": self.total, "by_path": dict(self.calls), "by_month": dict(self.limits.by_month)}
            return answer({**counts, "refused": dict(self.limits.refused)})
        if request.path != f"{CONTROL}faults":
            return answer({"error": f"there are {CONTROL}calls and {CONTROL}faults"}, 404)
        if request.method == "DELETE":
            self.heal()
        elif request.method == "POST":
            asked = request.json()
            known = self.known_faults()
            if not isinstance(asked, dict) or asked.get("fault") not in known:
                return answer({"error": "no such fault", "faults": sorted(known)}, 422)
            try:
                inspect.signature(self.fail).bind(asked.pop("fault"), **asked)
                self.fail(request.json()["fault"], **asked)
            except TypeError as error:
                return answer({"error": str(error)}, 422)
        return answer({"waiting": len(self._waiting), "faults": sorted(self.known_faults())})


def query(request: HttpRequest) -> dict[str, str]:
    """The parameters."""
    return dict(parse_qsl(request.query, keep_blank_values=True))


def _changed(true: Answer, fault: Fault) -> Answer:
    body, headers = true.body, dict(true.headers)
    if fault.change is not None:
        changed = fault.change(decode(body))
        body = changed if isinstance(changed, bytes) else encode(changed)
        headers |= {"Content-Encoding": "gzip"} if isinstance(changed, bytes) else {}
    return Answer(true.status, body, fault.content_type or true.content_type, headers)


async def _write(writer: asyncio.StreamWriter, raw: bytes, pause: float) -> None:
    if not pause:
        writer.write(raw)
        await writer.drain()
        return
    for place in range(0, len(raw), 16):
        writer.write(raw[place : place + 16])
        await writer.drain()
        await asyncio.sleep(pause)
