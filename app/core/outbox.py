"""The bounded outbox of one WebSocket connection, and the channels that messages come through.

Nothing here does I/O or waits on the way of a message: `core.hub` puts messages in, and the connection's own writer
task takes them out and writes them to its own socket.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Final


class Channel(StrEnum):
    """What a client can subscribe to."""

    TICKS = "ticks"
    CANDLES = "candles"
    ALERTS = "alerts"
    SIGNALS = "signals"
    ORDERS = "orders"
    JOBS = "jobs"


class Audience(Enum):
    """Who may hear a channel."""

    EVERYBODY = "everybody, signed in or not"
    MEMBERS = "who is signed in; a message with an owner only its owner"
    OWNER = "the owner of each message"


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules of one channel: the `type` of its messages, its audience, and whether it can be cut down to symbols."""

    kind: str
    audience: Audience
    by_symbol: bool = False
    capitals: bool = False
    """Its messages name symbols in capitals: who asks for one may write it in any case."""

    def spelling(self, symbol: str) -> str:
        """`symbol` as the channel's messages have it."""
        return symbol.strip().upper() if self.capitals else symbol


POLICIES: Final[Mapping[Channel, Policy]] = {
    Channel.TICKS: Policy("tick", Audience.EVERYBODY, by_symbol=True, capitals=True),
    Channel.CANDLES: Policy("candle", Audience.MEMBERS, by_symbol=True, capitals=True),
    Channel.ALERTS: Policy("alert", Audience.OWNER),
    Channel.SIGNALS: Policy("signal", Audience.MEMBERS),
    Channel.ORDERS: Policy("order", Audience.OWNER),
    Channel.JOBS: Policy("job", Audience.MEMBERS),
}


@dataclass(frozen=True, slots=True)
class Message:
    """One encoded message, shared by all outboxes that hold it."""

    channel: Channel
    seq: int
    text: str
    owner: str | None = None
    key: str | None = None
    """Conflation key: of two waiting messages with the same key only the newer one is worth sending."""
    symbol: str | None = None
    """What subscriptions to single symbols are matched with."""

    @property
    def content(self) -> tuple[int, str]:
        """What makes two messages of a channel the same, whenever they were sent (two processes can share a `seq`)."""
        return self.seq, self.text.partition(',"data":')[2]


@dataclass(slots=True)
class ChannelCounts:
    """Totals of one channel since the start; the last three count once per receiving client."""

    published: int = 0
    offered: int = 0
    delivered: int = 0
    missed: int = 0


@dataclass(frozen=True, slots=True)
class Bounds:
    """The most that one client's outbox holds."""

    messages: int = 256
    """Plain messages."""
    keys: int = 4096
    """Conflation keys, each with its newest message."""
    replies: int = 64
    """Replies, beyond which the client's further requests wait."""


class Lane:
    """What one subscriber has had of one channel."""

    __slots__ = ("held", "last", "lost_from", "missed", "symbols")

    def __init__(self, symbols: set[str] | None, last: int) -> None:
        self.symbols = symbols
        """None: all of them."""
        self.last = last
        """Everything up to this `seq` has been delivered (or was there before the subscription)."""
        self.missed = 0
        self.lost_from: int | None = None
        """Smallest `seq` among the missed."""
        self.held = False
        """Live messages wait until what was stored has been replayed."""


class Subscriber:
    """One connection at the hub: whose it is, its subscriptions, and its bounded outbox.

    Three things wait here: replies to the client (first in line; whoever adds many awaits `room` before), plain
    messages, of which the oldest make room for new ones, and the newest message of each conflation key.
    """

    def __init__(self, bounds: Bounds, counts: Mapping[Channel, ChannelCounts], stamp: Callable[[], str]) -> None:
        """`counts` are added to; `stamp` gives the time that notices carry."""
        self.owner: str | None = None
        self.lanes: dict[Channel, Lane] = {}
        self._bounds, self._counts, self._stamp = bounds, counts, stamp
        self._replies: deque[str | Message] = deque()
        self._plain: deque[Message] = deque()
        # Each outbox holds references to the shared newest messages: unlike one map for all clients this needs no
        # cleaning up, and a key that two owners happen to share can never show one the other's message.
        self._newest: OrderedDict[tuple[Channel, str | None, str], Message] = OrderedDict()
        self._newest_first = False
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    @property
    def pending(self) -> int:
        """Messages that wait, replies not counted: at most `bounds.messages + bounds.keys`."""
        return len(self._plain) + len(self._newest)

    @property
    def has_room(self) -> bool:
        """Whether another reply can be added without letting replies pile up."""
        return len(self._replies) < self._bounds.replies

    async def room(self) -> None:
        """Wait until the client has taken enough replies for another one."""
        await self._room.wait()

    async def wait(self) -> None:
        """Wait until `take` may have something."""
        await self._wake.wait()

    def reply(self, item: str | Message) -> None:
        """Queue an answer to the client, or a replayed message, before everything else."""
        self._replies.append(item)
        if not self.has_room:
            self._room.clear()
        self._wake.set()

    def offer(self, message: Message) -> None:
        """Queue a published message; never waits, never holds more than the bounds allow."""
        if message.key is None:
            if len(self._plain) >= self._bounds.messages:
                self._lose(self._plain.popleft())
            self._plain.append(message)
        else:
            slot = (message.channel, message.owner, message.key)
            # A replaced message keeps its place in line, so that a busy symbol can neither overtake nor be starved.
            replaced = self._newest.get(slot)
            if replaced is not None:
                self._lose(replaced)
            elif len(self._newest) >= self._bounds.keys:
                self._lose(self._newest.popitem(last=False)[1])
            self._newest[slot] = message
        self._wake.set()

    def take(self) -> tuple[str, ...]:
        """What to write next: a reply, a message, the notice of missed messages and the next message; or nothing.

        The notice alone where no message follows.
        """
        message: str | Message | None
        if self._replies:
            message = self._replies.popleft()
            if self.has_room:
                self._room.set()
        else:
            message = self._next()
        if message is None:
            if overdue := self._overdue():
                return (overdue,)
            self._wake.clear()
            return ()
        if isinstance(message, str):
            return (message,)
        lane = self.lanes[message.channel]
        notice = self._notice(message.channel, lane) if lane.missed else None
        lane.last = max(lane.last, message.seq)
        self._counts[message.channel].delivered += 1
        return (message.text,) if notice is None else (notice, message.text)

    def _next(self) -> Message | None:
        """Plain and conflated messages in turn, so that neither kind waits for the end of the other."""
        self._newest_first = not self._newest_first
        if self._newest_first:
            return self._pop_newest() or self._pop_plain()
        return self._pop_plain() or self._pop_newest()

    def _pop_plain(self) -> Message | None:
        for index, message in enumerate(self._plain):
            if not self.lanes[message.channel].held:
                del self._plain[index]
                return message
        return None

    def _pop_newest(self) -> Message | None:
        for slot in self._newest:
            if not self.lanes[slot[0]].held:
                return self._newest.pop(slot)
        return None

    def _overdue(self) -> str | None:
        """The notice of a channel whose waiting messages all had to make room for another channel's."""
        for channel, lane in self.lanes.items():
            if lane.lost_from is not None and not lane.held:
                return self._notice(channel, lane)
        return None

    def _notice(self, channel: Channel, lane: Lane) -> str:
        since = lane.last if lane.lost_from is None else min(lane.last, lane.lost_from - 1)
        count, lane.missed, lane.lost_from = lane.missed, 0, None
        return f'{{"type":"missed","channel":"{channel}","count":{count},"since":{since},"ts":"{self._stamp()}"}}'

    def _lose(self, message: Message) -> None:
        lane = self.lanes[message.channel]
        lane.missed += 1
        lane.lost_from = message.seq if lane.lost_from is None else min(lane.lost_from, message.seq)
        self._counts[message.channel].missed += 1

    def skip(self, channel: Channel, count: int) -> None:
        """Count messages of `channel` that were never offered; the client hears of them before the next one."""
        self.lanes[channel].missed += count
        self._counts[channel].missed += count

    def purge(self, unwanted: Callable[[Message], bool]) -> None:
        """Forget waiting messages: after a client was told that a subscription ended, nothing of it may follow."""
        self._replies = deque(item for item in self._replies if isinstance(item, str) or not unwanted(item))
        self._plain = deque(message for message in self._plain if not unwanted(message))
        for slot in [slot for slot, message in self._newest.items() if unwanted(message)]:
            del self._newest[slot]
        if self.has_room:
            self._room.set()

    def hold(self, channel: Channel) -> None:
        """Keep live messages of `channel` waiting, until `release`."""
        self.lanes[channel].held = True

    def release(self, channel: Channel, replayed: Iterable[Message], position: int) -> None:
        """Let them go after the replay, without those that were replayed; `position` is the `seq` reached with it."""
        lane, seen = self.lanes[channel], {message.content for message in replayed}
        self._plain = deque(
            message for message in self._plain if message.channel is not channel or message.content not in seen
        )
        lane.held = False
        lane.last = position
        self._wake.set()
