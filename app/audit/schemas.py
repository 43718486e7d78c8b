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
    """Who acted: the account, and the id of the session, API token or strategy key that stood for it."""

    kind: ActorKind
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
                "number": 4711,
                "at": "2026-11-20T05:30:01.123Z",
                "action": "auth.sign_in",
                "outcome": "success",
                "account_id": "6b0288f1002b26997921d6aa",
                "actor": {
                    "kind": "session",
                    "user_id": "6b0288f1002b26997921d6aa",
                    "credential_id": "6b02893a002b26997921d777",
                },
                "target": None,
                "address": "203.0.113.7",
                "user_agent": "Mozilla/5.0",
                "request_id": "01JD4Y2V7Q8K3M5N9P0R1S2T3V",
                "details": {"method": "password"},
                "hash": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            }
        )
    )

    id: str
    number: int = Field(description="Position in the chain of all entries.")
    at: datetime
    action: str
    outcome: Outcome
    account_id: str | None = Field(description="Whose trail it belongs to; none when no account is known.")
    actor: AuditActor
    target: AuditTarget | None
    address: str | None = Field(description="The client's address, if a request was behind it.")
    user_agent: str | None
    request_id: str | None
    details: dict[str, str | int | bool | None]
    hash: str = Field(description="SHA-256 of the entry and, by the hash of the one before, of all that precede it.")
