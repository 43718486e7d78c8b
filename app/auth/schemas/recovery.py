"""Addresses verified, passwords changed and reset."""

from pydantic import ConfigDict

from app.auth.schemas.accounts import Email, NewPassword, OpaqueToken, Password
from app.core.schemas import RequestModel, example

_SAMPLE_TOKEN = "q4Vt0yXc9PzL2mRbW8sGn1dKf6HjT3uAe7oQi5YxZwE"  # noqa: S105 (an example for the docs)
_SAMPLE_PASSWORD = "another horse, another battery"  # noqa: S105


class AddressBody(RequestModel):
    """Where a mail is to be sent, if an account has this address."""

    model_config = ConfigDict(json_schema_extra=example({"email": "asha@example.com"}))

    email: Email


class VerifyEmailBody(RequestModel):
    """The token of the mail that asks whether the address is theirs."""

    model_config = ConfigDict(json_schema_extra=example({"token": _SAMPLE_TOKEN}))

    token: OpaqueToken


class PasswordResetBody(RequestModel):
    """The token of the mail for a forgotten password, and the new one."""

    model_config = ConfigDict(json_schema_extra=example({"token": _SAMPLE_TOKEN, "new_password": _SAMPLE_PASSWORD}))

    token: OpaqueToken
    new_password: NewPassword


class PasswordChangeBody(RequestModel):
    """The password that is known, and the one to come."""

    model_config = ConfigDict(
        json_schema_extra=example(
            {"current_password": "correct horse battery staple", "new_password": _SAMPLE_PASSWORD}
        )
    )

    current_password: Password
    new_password: NewPassword
