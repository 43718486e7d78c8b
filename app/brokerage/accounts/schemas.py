"""What goes over the wire of accounts at brokers."""

import binascii
from base64 import b32decode
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, SecretStr, model_validator

from app.brokerage.accounts.brokers import CREDENTIALS, HANDED_OVER, WANTS
from app.brokerage.accounts.session_state import SessionState
from app.brokerage.words import BrokerName
from app.core.schemas import RequestModel, ResponseModel, example

MAX_CREDENTIAL = 512


def _credential(value: Any) -> Any:
    """One line of what can be typed: it travels in headers and forms."""
    if isinstance(value, str):
        value = value.strip()
        if not 0 < len(value) <= MAX_CREDENTIAL or not value.isascii() or not value.isprintable():
            raise ValueError(f"Input should be 1 to {MAX_CREDENTIAL} printable ASCII characters, in one line")
    return value


def _name(value: Any) -> Any:
    return value.strip().lower().replace("_", "").replace(" ", "") if isinstance(value, str) else value


Credential = Annotated[SecretStr, BeforeValidator(_credential)]
Brokerage = Annotated[BrokerName, BeforeValidator(_name)]

_KITE = {
    "brokerage": "zerodha",
    "api_url": "https://api.kite.trade",
    "api_key": "your-api-key",
    "api_secret": "your-api-secret",
    "request_token": "your-request-token",
}
_ANGEL = {
    "brokerage": "angelone",
    "client_id": "A123456",
    "password": "your-pin",
    "totp_key": "YOURTOTPKEYBASE32ABC",
    "api_key": "your-api-key",
}


class ActivationInput(RequestModel):
    """A brokerage to activate, with what opens it. Which fields a broker wants is told by the answer that misses one.

    `angelone`: `client_id`, `password` (the PIN), `totp_key`, `api_key`. `zerodha` and `upstox`: `api_key`,
    `api_secret`, and the `request_token` (Upstox: `code`) of their sign-in page, which may follow later. `groww`:
    `api_key` with `totp_key` or `api_secret`. `paper`: nothing.
    """

    model_config = ConfigDict(json_schema_extra=example({"brokerage": "paper"}, _KITE, _ANGEL))

    brokerage: Brokerage
    api_url: str | None = Field(
        None,
        max_length=300,
        description="The broker's own address, or one in `BROKER_API_URL_ALLOWLIST`; without it the service's setting.",
    )
    api_key: Credential | None = None
    api_secret: Credential | None = None
    client_id: Credential | None = None
    password: Credential | None = None
    totp_key: Credential | None = Field(None, description="The Base32 text behind the authenticator's QR code.")
    redirect_uri: Credential | None = Field(None, description="The address that the app has at Upstox.")
    request_token: Credential | None = None
    code: Credential | None = Field(None, description="What Upstox calls its `request_token`.")

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        wants = WANTS[self.brokerage]
        given = self.given
        if missing := [name for name in wants.needed if name not in given]:
            raise ValueError(f"{wants.label} wants {' and '.join(missing)}, too")
        if wants.one_of and not any(name in given for name in wants.one_of):
            raise ValueError(f"{wants.label} wants {' or '.join(wants.one_of)}, too")
        if surplus := [name for name in given if name not in wants.known]:
            known = ", ".join(name for name in (*CREDENTIALS, HANDED_OVER) if name in wants.known) or "no credentials"
            raise ValueError(f"{wants.label} takes no {' and no '.join(surplus)}, but {known}")
        if self.brokerage is BrokerName.PAPER and self.api_url:
            raise ValueError("The paper broker has no api_url: it is a part of this service")
        _check_totp_key(given.get("totp_key"))
        return self

    @property
    def given(self) -> Mapping[str, str]:
        """What was entered, under the names by which brokers are told of it."""
        found = {name: getattr(self, name) for name in (*CREDENTIALS, HANDED_OVER)}
        found[HANDED_OVER] = self.request_token or self.code
        return {name: secret.get_secret_value() for name, secret in found.items() if secret is not None}


def _check_totp_key(key: str | None) -> None:
    if key is None:
        return
    text = "".join(key.split()).upper().rstrip("=")
    try:
        b32decode(text + "=" * (-len(text) % 8))
    except (binascii.Error, ValueError):
        raise ValueError("totp_key is not the Base32 text (A to Z, 2 to 7) that stands with the QR code") from None


class SessionInput(RequestModel):
    """What begins a session: the sign-in page's token, or nothing where the stored credentials suffice."""

    model_config = ConfigDict(json_schema_extra=example({"request_token": "your-request-token"}, {}))

    request_token: Credential | None = None
    code: Credential | None = Field(None, description="What Upstox calls its `request_token`.")

    @property
    def token(self) -> str | None:
        """Either."""
        given = self.request_token or self.code
        return given.get_secret_value() if given else None


class BrokerSessionView(ResponseModel):
    """How the session with the broker stands. It has nothing to do with being signed in here."""

    state: SessionState
    made_at: datetime | None
    expires_at: datetime | None = Field(description="Null with an open session: it does not end.")
    ended_because: Literal["expired", "refused", "replaced"] | None
    renews_itself: bool = Field(description="Whether it is renewed without you.")
    login_url: str | None = Field(
        None, description="Where you sign in at the broker; it hands a token over for `POST …/session`."
    )
    last_error: str | None = Field(description="Why the newest try brought no session.")


class BrokerageView(ResponseModel):
    """An activated brokerage. What opens it is never shown: `credentials` has the names of what is stored."""

    id: str
    brokerage: BrokerName
    active: bool = Field(description="Whether orders go through it.")
    api_url: str | None = Field(description="Where it was said to be; null: where the service's settings say.")
    credentials: list[str]
    session: BrokerSessionView
    created_at: datetime
    updated_at: datetime
