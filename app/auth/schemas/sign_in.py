"""Signing in without a password, and with a second factor."""

from typing import Annotated

from pydantic import BeforeValidator, ConfigDict, Field, SecretStr, WithJsonSchema

from app.auth.schemas.accounts import Email, OpaqueToken, SecondCode, verbatim
from app.core.schemas import RequestModel, ResponseModel, example

_SAMPLE_CHALLENGE = "Zk3uVw8yB1nQ5rT7pX0cD2fG4hJ6kL9mN1bV3cX5zA0"

Otp = Annotated[
    SecretStr,
    BeforeValidator(verbatim),
    Field(min_length=1, max_length=32),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": 32, "writeOnly": True, "examples": ["042917"]}),
]
"""Any short text: what is not six digits is a wrong code, and counts as one."""


class OtpRequestBody(RequestModel):
    """Where the code is to be sent."""

    model_config = ConfigDict(json_schema_extra=example({"email": "asha@example.com"}))

    email: Email


class OtpLoginBody(RequestModel):
    """The code that came by e-mail. With a second factor enrolled its `code` may come along, and saves a step."""

    model_config = ConfigDict(json_schema_extra=example({"email": "asha@example.com", "otp": "042917"}))

    email: Email
    otp: Otp
    code: SecondCode | None = None


class SecondFactorBody(RequestModel):
    """The second step of a sign-in."""

    model_config = ConfigDict(json_schema_extra=example({"challenge_token": _SAMPLE_CHALLENGE, "code": "492039"}))

    challenge_token: OpaqueToken
    code: SecondCode


class Accepted(ResponseModel):
    """The same for every address, known or not."""

    model_config = ConfigDict(json_schema_extra=example({"detail": "If there is an account, a mail is on its way."}))

    detail: str = "If there is an account with this address, a mail is on its way to it."
