"""Angel One's live feed: over as many connections as the subscriptions need, until cancelled.

A client of our own. The SDK's turns the verification of certificates off, logs every packet, cannot notice a dead
socket and gives up after one retry.
"""

import asyncio
import ssl
from collections.abc import Callable, Iterable
from datetime import datetime

import msgspec
import structlog

from app.core.clock import Clock, from_micros
from app.integrations.angel_one.link import Deliver, FeedLink, Lost, Tally, Timing, TokensPort
from app.integrations.angel_one.subscriptions import FeedLimits, Subscription, share_out

log = structlog.get_logger(__name__)

_WORST_FIRST = ("refused", "backing off", "connecting", "silent", "live")


class FeedState(msgspec.Struct, frozen=True):
    """How the feed is doing."""

    state: str
    """`off`: not running. `paused`: nothing is wanted. Else that of the worst connection: `refused` (the sign-in),
    `backing off`, `connecting`, `silent` (connected, and no frames), `live`."""
    connections: int
    subscribed: int
    left_out: int
    """Subscriptions beyond what the vendor takes."""
    frames: int
    bad_frames: dict[str, int]
    """Messages that were none, by what is wrong with them."""
    reconnects: int
    last_frame_at: datetime | None
    last_error: str | None
    """A kind; stays after it has passed."""
    sure_until: datetime | None
    """Until when all connections are known to have been there; None where there is none to be."""


class FeedClient:
    """The feed of one account."""

    def __init__(
        self,
        *,
        url: str,
        session: TokensPort,
        clock: Clock,
        limits: FeedLimits | None = None,
        timing: Timing | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`tls`: what to trust, the system's authorities by default."""
        self._url, self._session, self._clock, self._tls = url, session, clock, tls
        self._limits, self._timing = limits or FeedLimits(), timing or Timing()
        self._tally = Tally()
        self._changed = asyncio.Event()
        self._links: dict[FeedLink, asyncio.Task[None]] = {}
        self._left_out = 0
        self._running = False

    async def run(
        self, wanted: Callable[[], Iterable[Subscription]], deliver: Deliver, lost: Lost = lambda *_: None
    ) -> None:
        """Deliver frames of what is `wanted` until cancelled. `deliver` and `lost` are called in the event loop.

        Waits out whatever happens, refused sign-ins too (rarely tried again: `Refusals`); `health` tells.
        """
        if self._tls is None and self._url.startswith("wss:"):
            self._tls = await asyncio.to_thread(ssl.create_default_context)
        self._running = True
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    self._changed.clear()
                    self._share_out(wanted(), deliver, lost, group)
                    await self._changed.wait()
        finally:
            self._running = False
            self._links = {}

    def wake(self) -> None:
        """What is wanted has changed: only the difference is asked for, over the connections that there are."""
        self._changed.set()

    def _share_out(
        self, wanted: Iterable[Subscription], deliver: Deliver, lost: Lost, group: asyncio.TaskGroup
    ) -> None:
        links = list(self._links)
        shares = share_out(wanted, [link.wanted for link in links], self._limits)
        if len(shares.left_out) > self._left_out:
            log.error("angel one's feed takes no more subscriptions", left_out=len(shares.left_out))
        self._left_out = len(shares.left_out)
        for place, share in enumerate(shares.connections):
            if place == len(links):
                links.append(self._new_link(deliver, lost))
            link = links[place]
            if not share:
                if (task := self._links.pop(link, None)) is not None:
                    task.cancel()
                continue
            link.want(share)
            if link not in self._links:
                self._links[link] = group.create_task(link.run(), name=f"angel-one-feed-{place + 1}")

    def _new_link(self, deliver: Deliver, lost: Lost) -> FeedLink:
        return FeedLink(
            url=self._url,
            session=self._session,
            clock=self._clock,
            deliver=deliver,
            lost=lost,
            tally=self._tally,
            timing=self._timing,
            limits=self._limits,
            tls=self._tls,
        )

    def health(self) -> FeedState:
        """How it is doing; never raises."""
        states = {link.state for link in self._links}
        state = next((word for word in _WORST_FIRST if word in states), "paused") if self._running else "off"
        tally = self._tally
        return FeedState(
            state=state,
            connections=sum(link.state in {"live", "silent"} for link in self._links),
            subscribed=sum(link.subscribed for link in self._links),
            left_out=self._left_out,
            frames=tally.frames,
            bad_frames=dict(tally.bad),
            reconnects=tally.reconnects,
            last_frame_at=None if tally.last_frame_ms is None else from_micros(tally.last_frame_ms * 1000),
            last_error=tally.last_error,
            sure_until=min((from_micros(link.sure_ms * 1000) for link in self._links), default=None),
        )
