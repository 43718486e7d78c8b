"""The record of a run: what clients see of it, and the port to where it is kept.

The record decides everything: whether a slot was taken, who runs it, whether it is still alive. What travels through a
broker is only the record's id, so a message that is lost, repeated or late does no harm.
"""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, NamedTuple, Protocol

import msgspec

MAX_RESULT: Final = 8 * 1024
"""Bytes of JSON of a result, and of arguments."""


class RunState(StrEnum):
    """Where a run is."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    LOST = "lost"
    """Its process died or was stopped; it is run again once, as another run."""
    SKIPPED = "skipped"
    """Its slot came while a run of the same job was under way, which serves for both."""


FINISHED: Final = frozenset({RunState.SUCCEEDED, RunState.FAILED, RunState.LOST, RunState.SKIPPED})


class Progress(msgspec.Struct, frozen=True):
    """How far a run is, in the job's own units."""

    done: int
    total: int | None = None
    note: str = ""


class RunView(msgspec.Struct, frozen=True, kw_only=True):
    """A run as clients see it. Times are aware UTC."""

    id: str
    job: str
    state: RunState
    arguments: dict[str, Any] = {}
    requested_by: str | None = None
    """The account that asked for it; told to itself and to administrators alone."""
    due: datetime | None = None
    retry_of: str | None = None
    """The lost run that this one stands in for."""
    retried_as: str | None = None
    """The run that stands in for this lost one."""
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    duration_ms: int | None = None
    progress: Progress | None = None
    result: dict[str, Any] | None = None
    error: str | None = None
    """A sentence for a person."""
    seq: int
    """The number of its newest change: microseconds since the epoch, increasing with every change."""

    @property
    def finished(self) -> bool:
        """Whether nothing about it will change any more."""
        return self.state in FINISHED

    def json(self, *, requested_by: bool = False) -> bytes:
        """The run as JSON, by default without the account that asked for it."""
        return _encode(self if requested_by else msgspec.structs.replace(self, requested_by=None))


_encode = msgspec.json.Encoder(order=None).encode


def plain_json(value: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """`value` as JSON holds it; raises `ValueError` for what JSON cannot hold, or more than `MAX_RESULT`."""
    if value is None:
        return None
    try:
        text = msgspec.json.encode(dict(value))
    except (TypeError, ValueError) as error:
        raise ValueError(f"it is no JSON: {error}") from None
    if len(text) > MAX_RESULT:
        raise ValueError(f"it is {len(text)} bytes of JSON, {MAX_RESULT} at most")
    plain: dict[str, Any] = msgspec.json.decode(text)
    return plain


def identity_of(job: str, arguments: Mapping[str, Any]) -> str:
    """What two runs have in common that must not be under way at the same time."""
    return f"{job} {msgspec.json.encode(dict(arguments), order='deterministic').decode()}"


class Added(NamedTuple):
    """What became of a new record."""

    id: str
    """Of the new run, or of the one under way that it was joined to."""
    joined: bool


class SlotTakenError(Exception):
    """There is a run of this slot already."""


class NotSentError(Exception):
    """A run could not be handed to the workers now; the message is the kind of failure. Its record waits."""


class Claim(StrEnum):
    """What became of the attempt to start a queued run."""

    STARTED = "started"
    BUSY = "another run of its group is under way"
    GONE = "it is not queued any more"


class RunStore(Protocol):
    """Where records are kept. What is conditional is so atomically, across all processes; raises `PyMongoError`."""

    def new_id(self) -> str:
        """An id for a new run."""

    async def add(self, view: RunView, *, slot: str | None, identity: str | None, alive_until: datetime) -> Added:
        """Store a new run, unless one with `slot` exists (`SlotTakenError`) or one with `identity` is under way."""

    async def get(self, run_id: str) -> RunView | None:
        """The run, if there is one."""

    async def claim(self, view: RunView, *, runner: str, group: str | None, alive_until: datetime) -> Claim:
        """Make the queued run what `view` says, unless one of `group` is running."""

    async def keep_queued(self, run_id: str, *, seen: datetime | None, alive_until: datetime) -> bool:
        """Vouch for a queued run until then; with `seen`, only if nobody else has since. False if it is gone."""

    async def beat(self, run_id: str, *, runner: str, alive_until: datetime, progress: Progress | None) -> bool:
        """`runner` is alive and `progress` made; False if the run is not this runner's any more."""

    async def finish(self, view: RunView, *, runner: str | None, seen: datetime | None, again: bool) -> bool:
        """Make the run what `view` says, if it is still `runner`'s, or vouched for until `seen`; False if not.

        `again`: it is to be run once more.
        """

    async def overdue(self, now: datetime) -> list[tuple[RunView, datetime]]:
        """Runs under way that nobody vouches for at `now`, and until when somebody did."""

    async def to_repeat(self) -> list[RunView]:
        """Lost runs that are to be run once more."""

    async def repeated(self, run_id: str, *, successor: str | None, slot: str) -> None:
        """The lost run has its successor: the run of `slot`, if there is one, else `successor`; or it needs none."""

    async def trim(self, job: str) -> None:
        """Delete the oldest runs of `job` beyond what is kept."""
