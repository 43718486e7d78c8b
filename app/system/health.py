"""The state of the service, put together from its parts."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal

from pydantic import Field

from app.core.schemas import ResponseModel

Status = Literal["ok", "degraded", "unavailable"]
Line = dict[str, Any]
Probe = Callable[[], Awaitable[Line]]


class HealthReport(ResponseModel):
    """`degraded` means that everything works, some of it on a fallback; `unavailable` that the database is away."""

    status: Status
    version: str
    database: Line = Field(examples=[{"status": "ok", "mode": "embedded", "ping_ms": 0.6}])
    cache: Line = Field(examples=[{"status": "ok", "backend": "memory"}])
    bus: Line = Field(examples=[{"status": "ok", "kind": "loopback", "peers": 1}])
    feed: Line = Field(examples=[{"status": "off"}])
    jobs: Line = Field(examples=[{"status": "ok", "leading": True}])
    tasks: Line = Field(examples=[{"status": "ok"}])
    mail: Line = Field(examples=[{"status": "ok", "transport": "smtp", "waiting": 0}])
    audit: Line = Field(examples=[{"status": "ok"}])
    brokerage: Line = Field(examples=[{"status": "ok", "sessions": {"open": 1}}])
    orders: Line = Field(examples=[{"status": "ok", "watched": 2}])
    paper: Line = Field(examples=[{"status": "ok", "accounts": 1}])
    quotes: Line = Field(examples=[{"status": "ok", "yahoo": {"circuit": "closed"}}])
    predictions: Line = Field(examples=[{"status": "ok", "state": "asleep"}])
    crypto: Line = Field(examples=[{"status": "ok", "providers": {"coingecko": {"state": "closed", "calls": 412}}}])
    signals: Line = Field(examples=[{"status": "ok"}])
    stream: Line = Field(examples=[{"status": "ok", "clients": 3}])


class HealthService:
    """Asks each component; only the database decides whether the service can do its job."""

    def __init__(self, version: str, probes: Mapping[str, Probe]) -> None:
        self._version = version
        self._probes = probes

    async def report(self) -> HealthReport:
        """Every component's line and what follows from them."""
        lines = {name: await probe() for name, probe in self._probes.items()}
        status: Status = "ok"
        if any(line["status"] not in {"ok", "off"} for line in lines.values()):
            status = "degraded"
        if lines["database"]["status"] == "unavailable":
            status = "unavailable"
        return HealthReport(status=status, version=self._version, **lines)

    async def ready(self) -> bool:
        """Whether the database answers."""
        return bool((await self._probes["database"]())["status"] != "unavailable")
