"""What the simulated brokers have in common: a book, a session that dies at a time of day, limits, faults on demand.

Faults as in `tests.simulators.vendor`, from Python (`simulator.fail("lost")`) or over HTTP:

    curl localhost:PORT/_simulator/faults -d '{"fault": "lost", "times": 1, "on": "/placeOrder"}'
    curl localhost:PORT/_simulator/book
    curl localhost:PORT/_simulator/move -d '{"exchange": "NSE", "symbol": "RELIANCE", "price": "1500"}'

`lost`, `slow`, `reset_after`, `html_after`, `garbage_after` and `down_after` carry the request out and spoil
its answer; `html`, `garbage`, `down` and the vendor's own answer instead. `on` is the end of `METHOD /path`.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, ClassVar

from tests.simulators.angel_one.http import Answer, HttpRequest
from tests.simulators.brokers.book import IST, Book, RefusedError
from tests.simulators.coins import Coins
from tests.simulators.vendor import CONTROL, Fault, VendorSimulator, answer, decode, encode

Rates = Mapping[str, tuple[tuple[int, float], ...]]
"""So many requests in so many seconds, by the end of the path (with its method before it, where that matters)."""


@dataclass(frozen=True, slots=True)
class After(Fault):
    """The request is carried out, and this is said instead of what came of it."""

    instead: Answer | None = None


def lost() -> Fault:
    """Carried out; the answer breaks off after a few bytes."""
    return Fault(cut_after=20)


def reset_after() -> Fault:
    """Carried out; the connection ends without a word."""
    return Fault(raw=b"")


def html_after(status: int = 200) -> Fault:
    """Carried out; a proxy's page comes back."""
    return After(instead=Answer(status, _page("Please wait"), "text/html"))


def garbage_after() -> Fault:
    """Carried out; bytes come back that are no JSON."""
    return After(instead=Answer(200, b'{"status": "succ\xff\xfe\x00'))


def down(status: int = 502) -> Fault:
    """Not carried out: a proxy's page with a 5xx."""
    return Fault(Answer(status, _page(f"Error {status}"), "text/html"))


def down_after(status: int = 504) -> Fault:
    """Carried out; the gateway gave up waiting."""
    return After(instead=Answer(status, _page("Gateway Time-out"), "text/html"))


def _page(title: str) -> bytes:
    return f"<!DOCTYPE html><html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>".encode()


class BrokerSimulator(VendorSimulator):
    """Use as an asynchronous context manager; then give the service `environment()`."""

    dies_at: ClassVar[time] = time(6, 0)
    """When sessions end, in India."""
    rates: ClassVar[Rates] = {}
    """The vendor's limits."""

    def __init__(
        self,
        book: Book | None = None,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        limited: bool = True,
        port: int = 0,
    ) -> None:
        """`now`: the vendor's clock, and the book's. `limited=False` lifts the limits."""
        super().__init__(Coins(1), now=now, port=port)
        self.book = book or self.make_book()
        self._limited = limited
        self._times: dict[str, deque[datetime]] = defaultdict(deque)

    def make_book(self) -> Book:
        """A book with this vendor's ids."""
        return Book(now=self.now)

    @property
    def base_url(self) -> str:
        """Of all paths."""
        return f"http://127.0.0.1:{self.port}"

    def environment(self) -> dict[str, str]:
        """The settings of a service that uses this simulator."""
        return {f"{self.vendor}_BASE_URL": self.base_url}

    def credentials(self) -> dict[str, str]:
        """What a person enters to activate the account here, by the names of the service."""
        return {}

    def known_faults(self) -> dict[str, Callable[..., Fault]]:
        """By name."""
        own = (lost, reset_after, html_after, garbage_after, down, down_after)
        return super().known_faults() | {fault.__name__: fault for fault in own} | self.own_faults

    def dead_by(self, made_at: datetime) -> datetime:
        """When a session that was made then ends."""
        local = made_at.astimezone(IST)
        end = datetime.combine(local.date(), self.dies_at, IST)
        return end if local < end else end + timedelta(days=1)

    def too_fast(self, request: HttpRequest) -> bool:
        """Count one more; whether it is over this vendor's limits."""
        asked = f"{request.method} {request.path}"
        for ending, limits in self.rates.items() if self._limited else ():
            method, _, path = ending.rpartition(" ")
            if not (asked.endswith(path) and asked.startswith(method)):
                continue
            now, times = self.now(), self._times[ending]
            if any(sum(now - at < timedelta(seconds=span) for at in times) >= most for most, span in limits):
                self.limits.refused[ending] += 1
                return True
            times.append(now)
            while len(times) > 10_000:
                times.popleft()
            break
        return False

    async def _serve(self, request: HttpRequest, writer: asyncio.StreamWriter) -> bool:
        asked = f"{request.method} {request.path}"
        if request.path.startswith(CONTROL):
            writer.write(self._control(request).encode())
            await writer.drain()
            return True
        self.requests = [*self.requests[-199:], request]
        self.calls[asked] += 1
        fault = self._next(asked)
        true = fault.answer or await self.handle(request)
        if isinstance(fault, After) and fault.instead is not None:
            true = fault.instead
        if fault.change is not None:
            true = replace(true, body=encode(fault.change(decode(true.body))))
        raw = true.encode() if fault.raw is None else fault.raw
        await asyncio.sleep(fault.delay)
        writer.write(raw if fault.cut_after is None else raw[: fault.cut_after])
        await writer.drain()
        if fault.cut_after is not None or fault.raw is not None:
            await asyncio.sleep(0.01)  # so that what was written leaves before the connection is aborted
            return False
        return request.headers.get("connection", "").lower() != "close"

    def _control(self, request: HttpRequest) -> Answer:
        if request.path == f"{CONTROL}book":
            orders = [_shown(asdict(order)) for order in self.book.orders.values()]
            return answer({"orders": orders, "trades": [_shown(asdict(trade)) for trade in self.book.trades]})
        asked = request.json()
        if not isinstance(asked, dict) or request.path not in {f"{CONTROL}move", f"{CONTROL}fill"}:
            return super()._control(request)
        try:
            if request.path == f"{CONTROL}move":
                instrument = self.book.find(str(asked.get("exchange")), str(asked.get("symbol")))
                self.book.move(instrument, Decimal(str(asked.get("price"))))
            else:
                self.book.fill(str(asked.get("order_id")), asked.get("quantity"), asked.get("price"))
        except (RefusedError, InvalidOperation, TypeError) as error:
            return answer({"error": str(error)}, 422)
        return answer({"done": True})


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "instrument": f"{row['instrument']['exchange']}:{row['instrument']['symbol']}"}
