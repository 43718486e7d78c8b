"""The line of the live feed in `/health`, with what it depends on."""

from collections.abc import Mapping
from typing import Any


def feed_line(
    feed: Mapping[str, Any],
    instruments: Mapping[str, Any],
    watchlist: Mapping[str, Any],
    *,
    caution: str | None = None,
) -> dict[str, Any]:
    """`feed`, with the list of instruments and the watchlist; `off` stays off, else the worst of them counts.

    `caution`: what the market calendar warns of. It degrades nothing: the feed runs as far as the calendar knows.
    """
    status = feed["status"]
    if status == "ok" and any(line["status"] == "degraded" for line in (instruments, watchlist)):
        status = "degraded"
    said = {"calendar": caution} if caution else {}
    return {**feed, **said, "status": status, "instruments": dict(instruments), "watchlist": dict(watchlist)}
