"""Settings of brokerage: where the brokers are, whose events are believed, and how the paper broker trades."""

import ipaddress
import re
from decimal import Decimal
from typing import Annotated, Final, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode

from app.core.settings.values import LOOPBACK, split

MIN_WEBHOOK_SECRET: Final = 16
"""Characters of a secret that signs events: with a shorter one anybody can find out how."""
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?").fullmatch
_REDIRECT = re.compile(r"https?://[^\s#]+").fullmatch


def allowed_origin(entry: str) -> str:
    """An entry of BROKER_API_URL_ALLOWLIST as an origin (`https://broker.example.com:8443`); raises `ValueError`.

    A host alone means `https`; plain `http` is taken for this machine only.
    """
    text = entry.strip()
    address = text if "://" in text else f"https://{text}"
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:  # its words would show what it cannot read
        raise ValueError("has an entry that is no host; write broker.example.com, or https://10.0.0.5:8443") from None
    host = parts.hostname or ""
    scheme = parts.scheme.lower()
    if scheme not in {"http", "https"} or parts.path not in {"", "/"} or parts.query or parts.fragment or "@" in text:
        raise ValueError(f"{text.rpartition('@')[2]!r} is not a host; write broker.example.com, or https://host:8443")
    if not (_is_address(host) or _HOST(host)):
        raise ValueError(f"{text!r} is not a host; write broker.example.com, or https://10.0.0.5:8443")
    if scheme == "http" and host not in LOOPBACK:
        raise ValueError(f"{text!r} must begin with https://: credentials travel there")
    return origin_of(scheme, host, port)


def origin_of(scheme: str, host: str, port: int | None) -> str:
    """The origin in one spelling: small letters, and no port that goes without saying."""
    host = host.lower()
    shown = f"[{host}]" if ":" in host else host
    usual = {"http": 80, "https": 443}[scheme]
    return f"{scheme}://{shown}" + (f":{port}" if port not in {None, usual} else "")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class BrokerageSettings(BaseSettings):
    """Part of `Settings`. Angel One's own address is `angel_one_base_url`, with those of market data."""

    angel_one_order_ws_url: str = "wss://tns.angelone.in/smart-order-update"
    zerodha_base_url: str = "https://api.kite.trade"
    zerodha_login_url: str = "https://kite.zerodha.com/connect/login"
    upstox_base_url: str = "https://api.upstox.com"
    upstox_instruments_url: str = "https://assets.upstox.com/market-quote/instruments/exchange"
    upstox_redirect_uri: str | None = None
    groww_base_url: str = "https://api.groww.in"
    groww_instruments_url: str = "https://growwapi-assets.groww.in/instruments/instrument.csv"
    broker_api_url_allowlist: Annotated[list[str], NoDecode] = []
    broker_timeout_seconds: float = Field(10, gt=0, le=60)
    broker_session_warn_minutes: int = Field(60, ge=5, le=1440)

    broker_webhook_secret: SecretStr | None = None
    broker_webhook_additional_secrets: Annotated[list[SecretStr], NoDecode] = []
    broker_webhook_rate_limit_per_minute: int = Field(300, ge=1)

    order_max_value: Decimal = Field(Decimal(10_000_000), ge=0, le=Decimal("1e15"), allow_inf_nan=False)
    order_max_price_deviation_percent: Decimal = Field(Decimal(20), ge=0, le=10_000, allow_inf_nan=False)

    contract_prices_max: int = Field(20, ge=0, le=150)

    paper_starting_cash: Decimal = Field(Decimal(1_000_000), gt=0, le=Decimal("1e12"), allow_inf_nan=False)
    paper_slippage_bps: Decimal = Field(Decimal(2), ge=0, le=1000, allow_inf_nan=False)
    paper_latency_ms: int = Field(50, ge=0, le=60_000)
    paper_volume_share: Decimal = Field(Decimal("0.1"), gt=0, le=1, allow_inf_nan=False)
    paper_always_open: bool = False
    paper_seed: int = 0

    mtf_funded_percent: Decimal = Field(Decimal(75), ge=0, le=100, allow_inf_nan=False)

    @field_validator("broker_api_url_allowlist", "broker_webhook_additional_secrets", mode="before")
    @classmethod
    def _broker_lists(cls, value: object) -> object:
        return split(value)

    @field_validator("broker_api_url_allowlist")
    @classmethod
    def _allowlist(cls, value: list[str]) -> list[str]:
        return [allowed_origin(entry) for entry in value]

    @field_validator("upstox_redirect_uri")
    @classmethod
    def _redirect(cls, value: str | None) -> str | None:
        if value and not _REDIRECT(value):
            raise ValueError("must be the http:// or https:// address that the app has at Upstox")
        return value

    @model_validator(mode="after")
    def _webhook_secrets(self) -> Self:
        first = [self.broker_webhook_secret] if self.broker_webhook_secret else []
        groups = (("BROKER_WEBHOOK_SECRET", first), ("BROKER_WEBHOOK_ADDITIONAL_SECRETS", self._additional))
        for name, secrets in groups:
            # One that is on its way out still opens the door, so it is as dangerous as the present one.
            if any(len(secret.get_secret_value()) < MIN_WEBHOOK_SECRET for secret in secrets):
                raise ValueError(
                    f"{name}: is shorter than {MIN_WEBHOOK_SECRET} characters; openssl rand -hex 32 makes one"
                )
        return self

    @property
    def _additional(self) -> list[SecretStr]:
        return self.broker_webhook_additional_secrets

    @property
    def webhook_secrets(self) -> list[str]:
        """What brokers' events may be signed with, newest first; none: no signed event is taken."""
        first = [self.broker_webhook_secret] if self.broker_webhook_secret else []
        return [secret.get_secret_value() for secret in [*first, *self.broker_webhook_additional_secrets]]
