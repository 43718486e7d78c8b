"""What goes over the wire, and the rules of accounts: e-mail, username, mobile, password."""

import re
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from email_validator import EmailNotValidError, validate_email
from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    WithJsonSchema,
    model_validator,
)

from app.auth.password_rules import general_fault
from app.auth.passwords import MAX_LENGTH, MIN_LENGTH
from app.core.schemas import NoControlCharacters, RequestModel, ResponseModel, example, no_control_characters
from app.core.security import Role

MAX_EMAIL_CHARS = 254
MAX_CODE_CHARS = 64
_USERNAME = re.compile(r"[a-z0-9_.-]{3,32}").fullmatch
_MOBILE = re.compile(r"\+?[1-9][0-9]{7,14}").fullmatch
_SEPARATORS = re.compile(r"[ ().-]")
# For the OpenAPI document: what `no_control_characters` lets pass.
_PLAIN = "^[^\\u0000-\\u001F\\u007F-\\u009F]*$"
_SAMPLE_PASSWORD = "correct horse battery staple"  # noqa: S105 (an example for the docs)


def normalise_email(text: str) -> str:
    """The one form of an e-mail address: lower case, the domain in Unicode. `ValueError` if it is no address.

    No DNS is asked. `.test` is allowed, which RFC 2606 keeps for trying things out.
    """
    no_control_characters(text)
    if len(text) > MAX_EMAIL_CHARS:
        raise ValueError(f"An e-mail address has at most {MAX_EMAIL_CHARS} characters")
    try:
        found = validate_email(text, check_deliverability=False, test_environment=True, allow_smtputf8=False)
    except EmailNotValidError as error:
        raise ValueError(f"This is not an e-mail address: {str(error).rstrip('.')}") from None
    if "." not in found.domain:
        raise ValueError("This is not an e-mail address: the part after the @-sign should have a period")
    return found.normalized.lower()


def normalise_username(text: str) -> str:
    """The one form of a username: lower case. `ValueError` if it breaks the rule."""
    lowered = text.lower()
    if not _USERNAME(lowered):
        raise ValueError("A username has 3 to 32 characters: letters a-z, digits, '_', '.' and '-'")
    return lowered


def _normalise_mobile(text: str) -> str:
    digits = _SEPARATORS.sub("", text)
    if not _MOBILE(digits):
        raise ValueError("A mobile number has 8 to 15 digits, with its country code, as in +919876543210")
    return digits


def _none_if_blank(value: Any) -> Any:
    """Forms send an empty field for one that was left out."""
    return None if isinstance(value, str) and not value.strip() else value


def _or_blank(schema: dict[str, Any]) -> None:
    """Say of an optional field that nothing but white space is as good as null."""
    blank = {"type": "string", "pattern": r"^\s*$", "maxLength": 32, "description": "As null: none is given."}
    schema["anyOf"].append(blank)


def verbatim(value: Any) -> Any:
    """Wrap a secret before the model's trimming gets at it: its spaces count."""
    return SecretStr(value) if isinstance(value, str) else value


def _sane_secret(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value()
    if not text:
        raise ValueError("The password is empty")
    if len(text) > MAX_LENGTH:
        raise ValueError(f"A password has at most {MAX_LENGTH} characters")
    no_control_characters(text)
    return secret


def _new_secret(secret: SecretStr) -> SecretStr:
    _sane_secret(secret)
    if fault := general_fault(secret.get_secret_value()):
        raise ValueError(fault)
    return secret


def _password_schema(least: int) -> WithJsonSchema:
    return WithJsonSchema(
        {
            "type": "string",
            "format": "password",
            "writeOnly": True,
            "minLength": least,
            "maxLength": MAX_LENGTH,
            "pattern": _PLAIN,
            "examples": [_SAMPLE_PASSWORD],
        }
    )


_EMAIL = WithJsonSchema(
    {"type": "string", "format": "email", "maxLength": MAX_EMAIL_CHARS, "examples": ["asha@example.com"]}
)
_HANDLE = WithJsonSchema(
    {"type": "string", "pattern": "^[A-Za-z0-9_.-]*$", "minLength": 3, "maxLength": 32, "examples": ["asha"]}
)
_PHONE = WithJsonSchema(
    {
        "type": "string",
        "pattern": r"^\+?[1-9]([ ().-]?[0-9]){7,14}$",
        "maxLength": 32,
        "examples": ["+919876543210"],
    }
)

_OR_BLANK = Field(json_schema_extra=_or_blank)

Email = Annotated[str, AfterValidator(normalise_email), _EMAIL]
Username = Annotated[str, AfterValidator(normalise_username), _HANDLE]
Mobile = Annotated[str, Field(max_length=32), AfterValidator(_normalise_mobile), _PHONE]
Name = Annotated[str, Field(max_length=100, json_schema_extra={"pattern": _PLAIN}), NoControlCharacters]
Password = Annotated[SecretStr, BeforeValidator(verbatim), AfterValidator(_sane_secret), _password_schema(1)]
NewPassword = Annotated[SecretStr, BeforeValidator(verbatim), AfterValidator(_new_secret), _password_schema(MIN_LENGTH)]
# The characters of RFC 6750's tokens.
OpaqueToken = Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[A-Za-z0-9._~+/=-]+$")]


def _sane_code(secret: SecretStr) -> SecretStr:
    """Nothing, or a code."""
    return _short_secret(secret) if secret.get_secret_value() else secret


def _short_secret(secret: SecretStr) -> SecretStr:
    if not 0 < len(secret.get_secret_value()) <= MAX_CODE_CHARS:
        raise ValueError(f"A code has 1 to {MAX_CODE_CHARS} characters")
    return secret


SecondCode = Annotated[
    SecretStr,
    BeforeValidator(verbatim),
    AfterValidator(_short_secret),
    WithJsonSchema(
        {
            "type": "string",
            "minLength": 1,
            "maxLength": MAX_CODE_CHARS,
            "writeOnly": True,
            "description": "The six digits that the authenticator app shows now, or a recovery code.",
            "examples": ["492039"],
        }
    ),
]


class SignupBody(RequestModel):
    """The least that makes an account."""

    model_config = ConfigDict(json_schema_extra=example({"email": "asha@example.com", "password": _SAMPLE_PASSWORD}))

    email: Email
    password: NewPassword


class RegisterBody(SignupBody):
    """An account with what its owner wants to say about themselves."""

    model_config = ConfigDict(
        json_schema_extra=example(
            {
                "email": "asha@example.com",
                "password": _SAMPLE_PASSWORD,
                "name": "Asha Rao",
                "username": "asha",
                "mobile": "+919876543210",
            }
        )
    )

    name: Annotated[Name | None, BeforeValidator(_none_if_blank), _OR_BLANK] = None
    username: Annotated[Username | None, BeforeValidator(_none_if_blank), _OR_BLANK] = None
    mobile: Annotated[Mobile | None, BeforeValidator(_none_if_blank), _OR_BLANK] = None


class LoginBody(RequestModel):
    """E-mail *or* username, and the password. With a second factor enrolled, its `code` saves a step."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": ["email"], "properties": {"email": {"type": "string"}, "username": {"type": "null"}}},
                {"required": ["username"], "properties": {"username": {"type": "string"}, "email": {"type": "null"}}},
            ],
            **example(
                {"email": "asha@example.com", "password": _SAMPLE_PASSWORD},
                {"username": "asha", "password": _SAMPLE_PASSWORD},
            ),
        }
    )

    email: Email | None = None
    username: Username | None = None
    password: Password
    code: SecondCode | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.email is None) == (self.username is None):
            raise ValueError("Send either email or username")
        return self

    @property
    def identifier(self) -> str:
        """Whichever was sent, normalised."""
        return self.email or self.username or ""


class SigninForm(RequestModel):
    """The OAuth2 password form (RFC 6749, section 4.3.2), as Swagger UI sends it; scope and client id are not used."""

    grant_type: Literal["password", ""] = "password"
    username: Annotated[
        str,
        Field(
            max_length=MAX_EMAIL_CHARS,
            description="E-mail or username.",
            json_schema_extra={"minLength": 1, "pattern": _PLAIN, "examples": ["asha@example.com"]},
        ),
        NoControlCharacters,
    ]
    password: Password
    scope: Annotated[str, Field(max_length=1000, json_schema_extra={"pattern": _PLAIN}), NoControlCharacters] = ""
    client_id: Annotated[str, Field(max_length=255, json_schema_extra={"pattern": _PLAIN}), NoControlCharacters] = ""
    client_secret: Annotated[
        SecretStr, AfterValidator(_sane_code), Field(description="The second factor's code, where one is enrolled.")
    ] = SecretStr("")


class RefreshBody(RequestModel):
    """A refresh token, as a sign-in or the last refresh gave it."""

    model_config = ConfigDict(
        json_schema_extra=example({"refresh_token": "pU1sWk0q9cXr3ZtV5bN7mJ2hG4fD6sA8lK0oI9uY1eE"})
    )

    refresh_token: OpaqueToken


class TokenPair(ResponseModel):
    """What a sign-in gives. `expires_in` is the life of the access token in seconds."""

    model_config = ConfigDict(
        json_schema_extra=example(
            {
                "access_token": "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiI2YjAyODkzYSJ9.c2lnbmF0dXJl",
                "token_type": "bearer",
                "refresh_token": "pU1sWk0q9cXr3ZtV5bN7mJ2hG4fD6sA8lK0oI9uY1eE",
                "expires_in": 1800,
            }
        )
    )

    access_token: str
    token_type: Literal["bearer"] = "bearer"  # noqa: S105 (a kind of token, not one)
    refresh_token: str
    expires_in: int


class User(ResponseModel):
    """An account as its owner sees it."""

    model_config = ConfigDict(
        json_schema_extra=example(
            {
                "id": "6b02893a002b26997921d778",
                "email": "asha@example.com",
                "username": "asha",
                "name": "Asha Rao",
                "mobile": "+919876543210",
                "role": "user",
                "is_active": True,
                "is_verified": False,
                "created_at": "2026-11-22T06:20:00.123Z",
                "updated_at": "2026-11-22T06:20:00.123Z",
            }
        )
    )

    id: str
    email: str
    username: str | None
    name: str | None
    mobile: str | None
    role: Role
    is_active: bool
    is_verified: bool
    created_at: datetime
    updated_at: datetime
