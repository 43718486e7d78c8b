"""What streaming needs from other features; the lifespan hands it over."""

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeAlias

from app.core.outbox import Channel


class Replay(Protocol):
    """What is stored of one channel, so that a client that was away can have what it missed."""

    async def since(self, user_id: str, seq: int, limit: int) -> list[tuple[int, bytes]]:
        """Up to `limit` messages of user `user_id` stored after `seq`, oldest first: their `seq` and encoded JSON.

        `seq` is given when a message is made, and messages made at about the same time, by other processes above all,
        may be stored in another order. An implementation therefore begins somewhat before `seq`: it may repeat what the
        client has, and must not leave anything out. Clients tell repeats by the id in the data.
        """


Replays: TypeAlias = Mapping[Channel, Replay]
"""The channels that can be resumed."""


class Snapshot(Protocol):
    """What is known of a channel now, so that a new subscriber need not wait for the next message."""

    async def newest(self, symbols: Sequence[str] | None) -> list[bytes]:
        """The newest of each of `symbols` that is known, of all if None (a thousand at most): encoded JSON."""


Snapshots: TypeAlias = Mapping[Channel, Snapshot]
"""The channels that have something to say at once."""
