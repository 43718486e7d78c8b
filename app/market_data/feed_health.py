"""The line of the live feed in `/health`, with what it depends on."""

from collections.abc import Mapping
from typing import Any


def feed_line(feed: Mapping[str, Any], instruments: Mapping[str, Any], watchlist: Mapping[str, Any]) -> dict[str, Any]:
    """`feed`, with the list of instruments and the watchlist; `off` stays off, else the worst of them counts."""
    status = feed["status"]
    if status == "ok" and any(line["status"] == "degraded" for line in (instruments, watchlist)):
        status = "degraded"
    return {**feed, "status": status, "instruments": dict(instruments), "watchlist": dict(watchlist)}
