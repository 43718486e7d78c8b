"""The port of the audit trail: what is written down about who did what. The audit feature fills it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from beanie import PydanticObjectId

from app.core.security import Principal


class Outcome(StrEnum):
    """How an act ended."""

    SUCCESS = "success"
    FAILURE = "failure"
    """It was tried and the credential or the input did not hold."""
    REFUSED = "refused"
    """It was not even tried: not allowed, or too often."""


class ActorKind(StrEnum):
    """What kind of credential stands behind an act."""

    NOBODY = "nobody"
    SESSION = "session"
    API_TOKEN = "api_token"  # noqa: S105 (a word, not a token)
    STRATEGY_KEY = "strategy_key"
    SYSTEM = "system"
    """The service itself, or a script on its machine."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts: an account by one of its credentials, the service itself, or nobody known."""

    kind: ActorKind = ActorKind.NOBODY
    user_id: PydanticObjectId | None = None
    credential_id: PydanticObjectId | None = None

    @classmethod
    def of(cls, principal: Principal) -> "Actor":
        """The actor behind an authenticated request."""
        kind = ActorKind.API_TOKEN if principal.api_token else ActorKind.SESSION
        return cls(kind, principal.user_id, principal.session_id)


SYSTEM = Actor(ActorKind.SYSTEM)


@dataclass(frozen=True, slots=True)
class Act:
    """One thing that happened, to be written down.

    `action` is a stable dotted word (`auth.sign_in`, `strategy_key.bind`), `account_id` the account whose trail it
    belongs to (None: only administrators see it), `target` the kind and id of what was acted on, and `details` a few
    further words: JSON scalars, never a secret, 1 KiB at most. From where and by which request is added by the trail.
    """

    action: str
    account_id: PydanticObjectId | None
    actor: Actor = field(default_factory=Actor)
    outcome: Outcome = Outcome.SUCCESS
    target: tuple[str, str] | None = None
    details: Mapping[str, str | int | bool | None] = field(default_factory=dict)


class AuditTrail(Protocol):
    """Writes acts down; nothing here ever changes or removes one."""

    async def record(self, act: Act, *, hurried: bool = False) -> None:
        """Return when `act` is durably in the trail. Raises `UnavailableError` when it could not be stored in time.

        For what must not go on unless it is written down. `hurried`: lists may show it a moment later.
        """

    async def note(self, act: Act) -> None:
        """Write down an act that is already done: as `record`, but without an error for whoever did it.

        An error would only make them repeat what is done. What could not be stored in time is logged; the trail keeps
        it and stores it when the database is back.
        """
