"""WebSocket fan-out: who listens to which channel, and what waits to be written to each of them.

`Hub` decides who may hear and who does hear a message, and puts it into the bounded outboxes of those connections
(`core.outbox`). Each connection's own writer task takes from its outbox and writes to its own socket, so a client that
stalls can hold up nobody else. Everything runs in the event loop's thread, without an await on the way of a message.

A message is `{"type", "channel", "seq", "ts", "data"}`, encoded once however many clients hear it. `seq` is a number
in microseconds since the epoch that increases strictly within a channel and process (`core.clock.Sequence` makes the
same kind), so that it also orders messages across restarts and processes. A client that keeps up sees it increase; one
that is sent the newest price per symbol sees it increase per symbol.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

from app.core.clock import Clock, to_micros
from app.core.errors import UnauthorizedError
from app.core.outbox import POLICIES, Audience, Bounds, Channel, ChannelCounts, Lane, Message, Subscriber

__all__ = ["Channel", "Hub"]


class _Feed:
    """The listeners of one channel, by how they listen."""

    __slots__ = ("everything", "owners", "symbols")

    def __init__(self) -> None:
        self.everything: set[Subscriber] = set()
        self.symbols: dict[str, set[Subscriber]] = {}
        self.owners: dict[str, set[Subscriber]] = {}


class Hub:
    """Keeps the subscriptions, enforces who may hear what, and hands each published message to those concerned."""

    def __init__(self, clock: Clock, *, bounds: Bounds | None = None) -> None:
        """`bounds` are those of each connection's outbox."""
        self.counts = {channel: ChannelCounts() for channel in Channel}
        self.closed = False
        self._clock = clock
        self._bounds = bounds or Bounds()
        self._feeds = {channel: _Feed() for channel in Channel}
        self._last = dict.fromkeys(Channel, 0)
        self._subscribers: dict[Subscriber, Callable[[], None]] = {}

    def stamp(self) -> str:
        """The `ts` of messages: now, UTC, ISO 8601 with milliseconds."""
        return self._clock.now().isoformat(timespec="milliseconds")

    def position(self, channel: Channel) -> int:
        """A `seq` that everything published so far is at or below, and everything from now on by this hub above."""
        self._last[channel] = max(self._last[channel], to_micros(self._clock.now()))
        return self._last[channel]

    # Connections

    def attach(self, on_close: Callable[[], None]) -> Subscriber:
        """A new connection, not signed in; `on_close` is called when the hub closes, or at once if it has."""
        subscriber = Subscriber(self._bounds, self.counts, self.stamp)
        self._subscribers[subscriber] = on_close
        if self.closed:
            on_close()
        return subscriber

    def detach(self, subscriber: Subscriber) -> None:
        """Forget a connection and its subscriptions."""
        for channel in tuple(subscriber.lanes):
            self.unsubscribe(subscriber, channel)
        self._subscribers.pop(subscriber, None)

    def identify(self, subscriber: Subscriber, owner: str | None) -> list[Channel]:
        """Make the connection `owner`'s (a user id), or nobody's; the private subscriptions of another user end.

        Returns the channels that ended, whose waiting messages are forgotten.
        """
        if owner == subscriber.owner:
            return []
        ended = [channel for channel in subscriber.lanes if POLICIES[channel].audience is not Audience.EVERYBODY]
        for channel in ended:
            self.unsubscribe(subscriber, channel)
        subscriber.owner = owner
        return ended

    def close(self) -> None:
        """The service stops: tell every connection, and take no more messages."""
        self.closed = True
        for on_close in tuple(self._subscribers.values()):
            on_close()

    # Subscriptions

    def subscribe(self, subscriber: Subscriber, channel: Channel, symbols: Collection[str] | None = None) -> int:
        """Add symbols of `channel` to what the connection hears; None adds all. Returns the channel's position.

        Raises `UnauthorizedError` for a private channel where nobody is signed in, and `ValueError` for symbols where
        the channel has none.
        """
        policy, feed = POLICIES[channel], self._feeds[channel]
        private = policy.audience is not Audience.EVERYBODY
        if private and subscriber.owner is None:
            raise UnauthorizedError(f"The channel {channel} is private: authenticate first.")
        if symbols is not None and not policy.by_symbol:
            raise ValueError(f"the channel {channel} has no symbols")
        position = self.position(channel)
        lane = subscriber.lanes.get(channel)
        if lane is None:
            lane = subscriber.lanes[channel] = Lane(set(), position)
        if symbols is None:
            self._leave(feed, subscriber, lane.symbols or ())
            feed.everything.add(subscriber)
            lane.symbols = None
        elif lane.symbols is not None:
            lane.symbols.update(symbols)
            for symbol in symbols:
                feed.symbols.setdefault(symbol, set()).add(subscriber)
        if private and subscriber.owner is not None:
            feed.owners.setdefault(subscriber.owner, set()).add(subscriber)
        return position

    def unsubscribe(self, subscriber: Subscriber, channel: Channel, symbols: Collection[str] | None = None) -> None:
        """Stop hearing some symbols of `channel`, or (None) the channel; what waits of it is forgotten.

        Raises `ValueError` for single symbols of a channel that is heard whole.
        """
        lane = subscriber.lanes.get(channel)
        if lane is None:
            return
        if symbols is not None and lane.symbols is None:
            raise ValueError(f"you hear all of {channel}: unsubscribe from the channel, then subscribe to symbols")
        feed = self._feeds[channel]
        gone = set(symbols) if symbols is not None else None
        self._leave(feed, subscriber, (lane.symbols or ()) if gone is None else gone)
        if gone is not None and lane.symbols is not None:
            lane.symbols -= gone
            subscriber.purge(lambda message: message.channel is channel and message.symbol in gone)
            if lane.symbols:
                return
        feed.everything.discard(subscriber)
        self._drop(feed.owners, subscriber.owner, subscriber)
        del subscriber.lanes[channel]
        subscriber.purge(lambda message: message.channel is channel)

    def _leave(self, feed: _Feed, subscriber: Subscriber, symbols: Iterable[str]) -> None:
        for symbol in symbols:
            self._drop(feed.symbols, symbol, subscriber)

    @staticmethod
    def _drop(index: dict[str, set[Subscriber]], entry: str | None, subscriber: Subscriber) -> None:
        """Remove from one entry of an index; an empty entry goes too, so that indexes hold only what is in use."""
        if entry is not None and (members := index.get(entry)) is not None:
            members.discard(subscriber)
            if not members:
                del index[entry]

    # Messages

    def publish(
        self,
        channel: Channel | str,
        data: bytes,
        *,
        seq: int | None = None,
        owner: str | None = None,
        key: str | None = None,
        symbol: str | None = None,
    ) -> int:
        """Hand `data` (JSON, already encoded) to the subscribers concerned; costs nothing per subscriber who is not.

        `owner`: the user id whose connections alone may hear it. `key`: a slow client needs only the newest message
        with this key. `symbol`: what subscriptions to single symbols are matched with, by default the key. `seq`: the
        publisher's own number, by default the channel's next. Returns how many connections it was handed to. Raises
        `ValueError` for an unknown channel, and for an owner where the channel has none or none where it needs one.
        """
        channel = Channel(channel)
        audience = POLICIES[channel].audience
        if (owner is None and audience is Audience.OWNER) or (owner is not None and audience is Audience.EVERYBODY):
            raise ValueError(f"a message on {channel} is for {audience.value}")
        if seq is None:
            seq = max(self._last[channel] + 1, to_micros(self._clock.now()))
        self._last[channel] = max(self._last[channel], seq)
        counts = self.counts[channel]
        counts.published += 1
        symbol = key if symbol is None else symbol
        message: Message | None = None
        heard = 0
        for subscriber in self._concerned(channel, owner, symbol):
            if message is None:  # nobody listens, nothing is encoded
                message = Message(channel, seq, self.envelope(channel, seq, data), owner, key, symbol)
            subscriber.offer(message)
            heard += 1
        counts.offered += heard
        return heard

    def heard(self, channel: Channel) -> bool:
        """Whether anybody hears anything on `channel`."""
        feed = self._feeds[channel]
        return bool(feed.everything or feed.symbols)

    def listeners(self, channel: Channel, symbol: str) -> int:
        """How many connections hear a message on `channel` that is about `symbol` and is everybody's."""
        feed = self._feeds[channel]
        return len(feed.everything) + len(feed.symbols.get(symbol, ()))

    def skip(self, channel: Channel, symbol: str, count: int) -> None:
        """Tell whoever hears `symbol` on `channel`, with the next message there, that `count` were left out."""
        for subscriber in self._concerned(channel, None, symbol):
            subscriber.skip(channel, count)

    def _concerned(self, channel: Channel, owner: str | None, symbol: str | None) -> Iterator[Subscriber]:
        feed = self._feeds[channel]
        if owner is not None:
            for subscriber in feed.owners.get(owner, ()):
                symbols = subscriber.lanes[channel].symbols
                if symbols is None or symbol in symbols:
                    yield subscriber
            return
        yield from feed.everything
        if symbol is not None:
            yield from feed.symbols.get(symbol, ())

    def envelope(self, channel: Channel, seq: int, data: bytes) -> str:
        """The message as clients get it."""
        kind = POLICIES[channel].kind
        return f'{{"type":"{kind}","channel":"{channel}","seq":{seq},"ts":"{self.stamp()}","data":{data.decode()}}}'

    # What is going on

    def health(self) -> dict[str, Any]:
        """Connections, subscriptions by channel, and the messages that slow clients missed since the start."""
        channels = Counter(channel for subscriber in self._subscribers for channel in subscriber.lanes)
        return {
            "clients": len(self._subscribers),
            "authenticated": sum(subscriber.owner is not None for subscriber in self._subscribers),
            "subscriptions": {str(channel): channels[channel] for channel in Channel if channels[channel]},
            "missed": sum(counts.missed for counts in self.counts.values()),
        }
