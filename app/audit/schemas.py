"""What goes over the wire in this feature."""

from datetime import datetime
from typing import Annotated

from beanie import PydanticObjectId
from pydantic import ConfigDict, Field, StringConstraints, model_validator

from app.core.audit import ActorKind, Outcome
from app.core.schemas import Moment, NoControlCharacters, RequestModel, ResponseModel, example

ActionName = Annotated[
    str, StringConstraints(min_length=1, max_length=64, pattern=r"^[a-z][a-z0-9_]*(\.[a-z0-9_]+)*\.?$")
]
"""An action (`auth.sign_in`), or how actions begin, up to a dot (`auth.`)."""
RequestId = Annotated[str, StringConstraints(min_length=1, max_length=128), NoControlCharacters]


class AuditFilters(RequestModel):
    """Which entries are asked for; all of it holds together."""

    action: ActionName | None = None
    outcome: Outcome | None = None
    start: Moment | None = None
    end: Moment | None = None
    account_id: PydanticObjectId | None = None
    actor_id: PydanticObjectId | None = None
    request_id: RequestId | None = None

    @model_validator(mode="after")
    def _order(self) -> "AuditFilters":
        if self.start and self.end and self.start > self.end:
            raise ValueError("start is after end")
        return self


class AuditActor(ResponseModel):
    """Who acted: the account, and the id of the session, API token or strategy key that stood for it.

    When an administrator acted on somebody's account, only administrators see which one.
    """

    kind: ActorKind
    administrator: bool = Field(
        default=False, description="Whether it was an administrator who acted on the account, not its owner."
    )
    user_id: str | None = None
    credential_id: str | None = None


class AuditTarget(ResponseModel):
    """What was acted on."""

    kind: str
    id: str


class AuditEntry(ResponseModel):
    """One thing that happened."""

    model_config = ConfigDict(
        json_schema_extra=example(
            {
                "id": "6b02893a002b26997921d778",
                "number": None,
                "at": "2026-11-20T05:30:01.123Z",
                "action": "auth.sign_in",
                "outcome": "success",
                "account_id": "6b0288f1002b26997921d6aa",
                "actor": {
                    "kind": "session",
                    "administrator": False,
                    "user_id": "6b0288f1002b26997921d6aa",
                    "credential_id": "6b02893a002b26997921d777",
                },
                "target": None,
                "address": "203.0.113.7",
                "user_agent": "Mozilla/5.0",
                "request_id": "01JD4Y2V7Q8K3M5N9P0R1S2T3V",
                "details": {"method": "password"},
                "hash": None,
            }
        )
    )

    id: str
    number: int | None = Field(
        description="Position in the chain of all entries; for signed-in administrators, null for everybody else."
    )
    at: datetime
    action: str
    outcome: Outcome
    account_id: str | None = Field(description="Whose trail it belongs to; none when no account is known.")
    actor: AuditActor
    target: AuditTarget | None
    address: str | None = Field(
        description="The client's address, if a request was behind it; that of an administrator only for such."
    )
    user_agent: str | None = Field(description="As the client named itself; that of an administrator only for such.")
    request_id: str | None
    details: dict[str, str | int | bool | None]
    hash: str | None = Field(
        description="SHA-256 of the entry and, by the hash of the one before, of all that precede it; for signed-in "
        "administrators, null for everybody else."
    )
