"""Signing in without a password, and with a second factor."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, SecretStr, WithJsonSchema

from app.auth.schemas.accounts import Email, OpaqueToken, SecondCode, verbatim
from app.core.problem import Problem
from app.core.schemas import RequestModel, ResponseModel, example

MAX_OTP_CHARS = 32
_SAMPLE_CHALLENGE = "Zk3uVw8yB1nQ5rT7pX0cD2fG4hJ6kL9mN1bV3cX5zA0"


def _bare(secret: SecretStr) -> SecretStr:
    """Six digits are often shown, and typed, as two groups."""
    text = secret.get_secret_value()
    if not 0 < len(text) <= MAX_OTP_CHARS:
        raise ValueError(f"A code has 1 to {MAX_OTP_CHARS} characters")
    return SecretStr(text.replace(" ", "").replace("-", ""))


Otp = Annotated[
    SecretStr,
    BeforeValidator(verbatim),
    AfterValidator(_bare),
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


class SecondFactorRequired(Problem):
    """The first step of a sign-in was right; `challenge_token` goes with a code to `/api/v1/auth/login/second-factor`.

    `type` is `urn:arrow:problem:second-factor-required`.
    """

    model_config = ConfigDict(
        json_schema_extra=example(
            {
                "type": "urn:arrow:problem:second-factor-required",
                "title": "Second factor required",
                "status": 401,
                "detail": "This account has a second factor: send its code with the challenge_token to "
                "/api/v1/auth/login/second-factor.",
                "instance": "/api/v1/auth/login",
                "request_id": "0c7b1f8e5a9d-2a",
                "challenge_token": _SAMPLE_CHALLENGE,
                "expires_in": 300,
                "methods": ["totp", "recovery_code"],
            }
        )
    )

    challenge_token: str
    expires_in: int
    methods: list[Literal["totp", "recovery_code"]]
