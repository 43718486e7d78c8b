"""What goes over the wire about second factors."""

from datetime import datetime

from pydantic import ConfigDict, Field

from app.auth.schemas.accounts import Password, SecondCode
from app.core.schemas import RequestModel, ResponseModel, example

_SAMPLE_PASSWORD = "correct horse battery staple"  # noqa: S105 (an example for the docs)


class EnrolBody(RequestModel):
    """The account's password: a stolen token alone cannot lock its owner out."""

    model_config = ConfigDict(json_schema_extra=example({"password": _SAMPLE_PASSWORD}))

    password: Password


class FactorCodeBody(RequestModel):
    """A code of the second factor."""

    model_config = ConfigDict(json_schema_extra=example({"code": "492039"}))

    code: SecondCode


class DisableBody(RequestModel):
    """Both factors: one of them alone does not turn the other off."""

    model_config = ConfigDict(json_schema_extra=example({"password": _SAMPLE_PASSWORD, "code": "492039"}))

    password: Password
    code: SecondCode


class Enrolment(ResponseModel):
    """What an authenticator app needs, shown this once: scan the QR, or type the secret in."""

    model_config = ConfigDict(
        json_schema_extra=example(
            {
                "secret": "JF6XDABQXPD2VG2SD7XEZMOIO2AGUVVX",
                "otpauth_uri": "otpauth://totp/Arrow:asha%40example.com"
                "?secret=JF6XDABQXPD2VG2SD7XEZMOIO2AGUVVX&issuer=Arrow",
                "qr_svg": '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 61 61">…</svg>',
                "expires_in": 1800,
            }
        )
    )

    secret: str = Field(repr=False)
    otpauth_uri: str = Field(repr=False)
    qr_svg: str = Field(repr=False)
    expires_in: int
    """Seconds until it has to be begun again, if it is not confirmed."""


class RecoveryCodes(ResponseModel):
    """Codes for the day when the app is lost, shown this once. Each works once, with or without its hyphens."""

    model_config = ConfigDict(
        json_schema_extra=example({"recovery_codes": ["7Q2M-X0KD-9RTA-4HJW", "K3ZV-88PC-D0WN-1M6E"]})
    )

    recovery_codes: list[str] = Field(repr=False)


class SecondFactorStatus(ResponseModel):
    """Whether a sign-in asks for a second factor."""

    model_config = ConfigDict(
        json_schema_extra=example({"enabled": True, "since": "2026-11-22T06:20:00.123Z", "recovery_codes_left": 9})
    )

    enabled: bool
    since: datetime | None
    recovery_codes_left: int
