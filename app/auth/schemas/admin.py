"""What administrators send and get."""

from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field, StrictBool, StringConstraints, WithJsonSchema, field_validator, model_validator

from app.auth.schemas.accounts import MAX_EMAIL_CHARS, User
from app.core.schemas import NoControlCharacters, RequestModel, example
from app.core.security import Role

SearchText = Annotated[
    str,
    StringConstraints(strip_whitespace=True, to_lower=True, min_length=2, max_length=MAX_EMAIL_CHARS),
    NoControlCharacters,
]
"""The beginning of an e-mail address or of a username, or a whole id."""

_YES_OR_NO = WithJsonSchema({"type": "boolean"})


class AccountChanges(RequestModel):
    """What is to be different about an account; what is left out stays."""

    model_config = ConfigDict(
        json_schema_extra={"minProperties": 1, **example({"is_active": False}, {"role": "operator"})}
    )

    is_active: Annotated[StrictBool | None, _YES_OR_NO] = Field(
        None, description="False ends its sessions and pauses its strategies, true lets it sign in again."
    )
    role: Annotated[Role | None, WithJsonSchema({"type": "string", "enum": [role.value for role in Role]})] = None
    is_verified: Annotated[StrictBool | None, _YES_OR_NO] = Field(
        None, description="Whether the e-mail address is known to be its owner's."
    )
    second_factor: Annotated[StrictBool | None, WithJsonSchema({"type": "boolean", "const": False})] = Field(
        None, description="`false` removes a second factor that its owner has lost."
    )

    api_tokens: Annotated[StrictBool | None, WithJsonSchema({"type": "boolean", "const": False})] = Field(
        None, description="`false` revokes all of its API tokens, for good."
    )

    @field_validator("*", mode="before")
    @classmethod
    def _not_null(cls, value: Any) -> Any:
        if value is None:
            raise ValueError("Leave the field out where nothing is to change")
        return value

    @field_validator("second_factor")
    @classmethod
    def _removed_at_most(cls, value: bool | None) -> bool | None:
        if value:
            raise ValueError("Only its owner can turn a second factor on")
        return value

    @field_validator("api_tokens")
    @classmethod
    def _revoked_at_most(cls, value: bool | None) -> bool | None:
        if value:
            raise ValueError("Only its owner can make API tokens")
        return value

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("Send at least one of is_active, role, is_verified, second_factor and api_tokens")
        return self

    @property
    def stored(self) -> dict[str, bool | Role]:
        """The fields of the account itself, with the values that they are to have."""
        wanted = {"is_active": self.is_active, "role": self.role, "is_verified": self.is_verified}
        return {name: value for name, value in wanted.items() if value is not None}


class AccountDetails(User):
    """An account as an administrator sees it."""

    model_config = ConfigDict(
        json_schema_extra=example(
            {
                "id": "6b02893a002b26997921d778",
                "email": "asha@example.com",
                "username": "asha",
                "name": "Asha Rao",
                "mobile": "+919876543210",
                "role": "operator",
                "is_active": True,
                "is_verified": True,
                "created_at": "2026-11-22T06:20:00.123Z",
                "updated_at": "2026-11-23T08:05:12.021Z",
                "second_factor": True,
            }
        )
    )

    second_factor: bool = Field(description="Whether signing in asks for a second factor.")
