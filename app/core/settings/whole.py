"""All settings of the service in one frozen object, read from the environment and `.env`."""

import difflib
import ipaddress
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from redis.asyncio.connection import parse_url as parse_redis_url

from app.core.encryption_keys import check_keys, new_key
from app.core.key_files import read_or_create_secret
from app.core.settings.brokerage import BrokerageSettings
from app.core.settings.crypto import CryptoSettings
from app.core.settings.market_data import MarketDataSettings
from app.core.settings.predictions import PredictionSettings
from app.core.settings.quotes import QuoteSettings
from app.core.settings.signals import SignalSettings
from app.core.settings.values import (
    BASE_URL,
    LOOPBACK,
    MAX_RETENTION_DAYS,
    MIN_SECRET_BYTES,
    ORIGIN,
    SENDER,
    scheme,
    service_address,
    split,
    weakness,
)

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

# The four addresses that TradingView's documentation names for its webhooks (IPv4 only).
TRADINGVIEW_ADDRESSES = ("52.89.214.238", "34.212.75.30", "54.218.53.128", "52.32.178.7")

# Where frontends are developed: React's and Vite's ports.
LOCAL_FRONTENDS = (
    "http://localhost:3000",
    "http://localhost:5173",
    "http://127.0.0.1:3000",
    "http://127.0.0.1:5173",
)
# What scripts/run and docker-compose.yml read from the same file.
_OF_SCRIPTS = {"HOST", "PORT", "WORKERS", "ARROW_PUBLISH"}
# Settings that are addresses of providers.
_PROVIDERS = (
    "angel_one_base_url",
    "angel_one_ws_url",
    "angel_one_instruments_url",
    "angel_one_order_ws_url",
    "zerodha_base_url",
    "zerodha_login_url",
    "upstox_base_url",
    "upstox_instruments_url",
    "groww_base_url",
    "groww_instruments_url",
    "coingecko_base_url",
    "coinmarketcap_base_url",
    "yahoo_base_url",
)


class SettingsError(Exception):
    """A setting is wrong; the message is one line that names it and never shows a secret."""


def _names(field: str) -> list[str]:
    """The names of the variables that set a field, in lower case."""
    alias = Settings.model_fields[field].validation_alias if field in Settings.model_fields else None
    return [str(choice) for choice in alias.choices] if isinstance(alias, AliasChoices) else [field]


def _variable(field: str) -> str:
    """The variable behind a field: of several names for one setting, the one that is set."""
    names = _names(field)
    known = {name.upper() for name in os.environ} | {name.upper() for name in dotenv_values(".env")}
    return next((name.upper() for name in names if name.upper() in known), names[0].upper())


class Settings(
    MarketDataSettings,
    CryptoSettings,
    QuoteSettings,
    SignalSettings,
    PredictionSettings,
    BrokerageSettings,
    BaseSettings,
):
    """The service's configuration; `.env.example` explains each variable to the person who sets it."""

    model_config = SettingsConfigDict(
        frozen=True,
        env_file=".env",
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        hide_input_in_errors=True,
        populate_by_name=True,
    )

    # operation
    app_name: str = "Arrow"
    environment: Literal["development", "test", "staging", "production"] = "development"
    debug: bool = False
    data_dir: Path = Path("./data")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["auto", "json", "console"] = "auto"
    log_file: Path | None = None
    background_tasks_enabled: bool = True
    metrics_token: SecretStr | None = None
    public_base_url: str | None = None
    allowed_origins: Annotated[list[str], NoDecode] = list(LOCAL_FRONTENDS)
    trusted_proxies: Annotated[list[Network], NoDecode] = []

    # database
    mongodb_url: SecretStr | None = Field(
        None, validation_alias=AliasChoices("mongodb_url", "mongo_db_connection_string", "database_url")
    )
    database_name: str = Field(
        "arrow", validation_alias=AliasChoices("database_name", "mongo_db_name"), pattern=r"^[A-Za-z0-9_-]{1,38}$"
    )
    database_max_pool_size: int = Field(50, ge=1, le=1000)
    database_connect_timeout_seconds: float = Field(20, gt=0, le=300)

    # redis
    redis_url: SecretStr | None = None
    redis_host: str | None = None
    redis_port: int = Field(6379, ge=1, le=65535)
    redis_db: int = Field(0, ge=0)

    # jobs
    task_broker_url: SecretStr | None = None

    # accounts
    secret_key: SecretStr = SecretStr("")
    secret_key_previous: Annotated[list[SecretStr], NoDecode] = []
    algorithm: Literal["HS256", "HS384", "HS512"] = "HS256"
    access_token_expire_minutes: int = Field(30, ge=1, le=24 * 60)
    refresh_token_expire_days: int = Field(7, ge=1, le=365)
    otp_expire_minutes: int = Field(5, ge=1, le=60)
    password_hash_passes: int = Field(3, ge=1, le=20)
    password_hash_kib: int = Field(32 * 1024, ge=64, le=1024 * 1024)
    encryption_keys: Annotated[list[SecretStr], NoDecode] = []
    audit_retention_days: int | None = Field(None, ge=1, le=MAX_RETENTION_DAYS)

    # mail
    smtp_host: str | None = None
    smtp_port: int = Field(587, ge=1, le=65535)
    smtp_username: str | None = None
    smtp_password: SecretStr | None = None
    smtp_tls: Literal["starttls", "tls", "none"] = "starttls"
    mail_from: str | None = None

    # limits
    rate_limit_per_minute: int = Field(60, ge=1)
    user_rate_limit_per_minute: int = Field(600, ge=1)
    auth_rate_limit_per_minute: int = Field(5, ge=1)
    auth_address_rate_limit_per_minute: int = Field(20, ge=1)
    alert_rate_limit_per_minute: int = Field(300, ge=1)
    max_body_bytes: int = Field(64 * 1024, ge=1024)
    ws_max_connections: int = Field(2000, ge=1)
    ws_max_connections_per_address: int = Field(100, ge=1)

    # alerts
    alert_dedup_seconds: int = Field(60, ge=1, le=86_400)
    webhook_allowed_ips: Annotated[list[Network], NoDecode] = []
    alert_retention_days: int | None = Field(None, ge=1, le=MAX_RETENTION_DAYS)
    rejected_retention_days: int = Field(30, ge=1, le=MAX_RETENTION_DAYS)
    rejected_max_per_strategy: int = Field(500, ge=10, le=10_000)

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Settings from the environment and `.env`; raises `SettingsError` with one line on the first wrong one."""
        try:
            return cls(**overrides)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            name = _variable(str(first["loc"][0])) if first["loc"] else ""
            message = first["msg"].removeprefix("Value error, ")
            if others := [other for other in cls._other_names(name) if other not in message]:
                message += f" ({' and '.join(others)} mean{'s' if len(others) == 1 else ''} the same)"
            raise SettingsError(f"{name}: {message}" if name else message) from None

    @classmethod
    def _other_names(cls, name: str) -> list[str]:
        """Further variables that may have set the one called `name`."""
        field = cls.model_fields.get(name.lower())
        alias = field.validation_alias if field else None
        choices = alias.choices if isinstance(alias, AliasChoices) else []
        return [str(choice).upper() for choice in choices if str(choice).upper() != name]

    @field_validator("allowed_origins", "secret_key_previous", "encryption_keys", mode="before")
    @classmethod
    def _lists(cls, value: Any) -> Any:
        return split(value)

    @field_validator("trusted_proxies", "webhook_allowed_ips", mode="before")
    @classmethod
    def _networks(cls, value: Any) -> Any:
        names = split(value)
        if not isinstance(names, list):
            return names
        networks: list[str] = []
        for name in names:
            networks.extend(TRADINGVIEW_ADDRESSES if str(name).lower() == "tradingview" else [name])
        try:
            return [ipaddress.ip_network(str(network), strict=False) for network in networks]
        except ValueError as error:
            raise ValueError(f"{error}; write addresses or networks, for instance 10.0.0.0/8") from None

    @field_validator("log_level", "environment", mode="before")
    @classmethod
    def _case(cls, value: Any, info: Any) -> Any:
        if not isinstance(value, str):
            return value
        return value.strip().upper() if info.field_name == "log_level" else value.strip().lower()

    @field_validator("mongodb_url")
    @classmethod
    def _mongodb_only(cls, value: SecretStr | None) -> SecretStr | None:
        begins = scheme(value.get_secret_value()) if value else ""
        if value and begins not in {"mongodb", "mongodb+srv"}:
            raise ValueError(
                "the address of MongoDB (MONGODB_URL, MONGO_DB_CONNECTION_STRING or DATABASE_URL) "
                f"must start with mongodb:// or mongodb+srv://{', not ' + begins + '://' if begins else ''}"
            )
        return value

    @field_validator("redis_url", "task_broker_url")
    @classmethod
    def _redis_only(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        text = value.get_secret_value()
        if scheme(text) not in {"redis", "rediss"}:
            raise ValueError("must start with redis:// or rediss://")
        try:
            parse_redis_url(text)
            database = urlsplit(text).path.strip("/")
            if database and not database.isdecimal():
                raise ValueError("no number")
        except ValueError:
            raise ValueError(
                "is not a usable address; it should look like redis://:password@host:6379/0, "
                "with special characters of the password percent-encoded"
            ) from None
        return value

    @field_validator("allowed_origins")
    @classmethod
    def _origins(cls, value: list[str]) -> list[str]:
        # Browsers send no slash at the end.
        origins = [origin.strip().rstrip("/") for origin in value]
        for origin in origins:
            if origin not in {"*", "null"} and not ORIGIN(origin):
                raise ValueError(f"{origin!r} is not an origin; write https://app.example.com, without a path, or *")
        return origins

    @field_validator("public_base_url")
    @classmethod
    def _base_url(cls, value: str | None) -> str | None:
        if value and not BASE_URL(value):
            raise ValueError("must be an http:// or https:// address, without spaces, query or fragment")
        return value.rstrip("/") if value else None

    @field_validator("encryption_keys")
    @classmethod
    def _fernet_keys(cls, value: list[SecretStr]) -> list[SecretStr]:
        return [SecretStr(key) for key in check_keys(key.get_secret_value() for key in value)]

    @field_validator("mail_from")
    @classmethod
    def _sender(cls, value: str | None) -> str | None:
        # One address, with a name or without; whatever else has no place in a header.
        if value and not (value.isprintable() and SENDER(value)):
            raise ValueError("must be an address, as in Arrow <arrow@example.com>")
        return value

    @field_validator("smtp_host", "smtp_username")
    @classmethod
    def _one_word(cls, value: str | None) -> str | None:
        if value and (not value.isprintable() or " " in value or "/" in value):
            raise ValueError("must be a plain name, without spaces or slashes")
        return value

    @field_validator("smtp_tls", mode="before")
    @classmethod
    def _tls_words(cls, value: Any) -> Any:
        return value.strip().lower() if isinstance(value, str) else value

    @model_validator(mode="after")
    def _smtp(self) -> Self:
        if self.smtp_username and not self.smtp_password:
            raise ValueError("SMTP_PASSWORD: is required with SMTP_USERNAME")
        return self

    @model_validator(mode="after")
    def _providers(self) -> Self:
        for name in _PROVIDERS:
            try:
                address = service_address(getattr(self, name), production=self.production)
            except ValueError as error:
                raise ValueError(f"{name.upper()}: {error}") from None
            object.__setattr__(self, name, address)
        return self

    @model_validator(mode="after")
    def _hash_cost(self) -> Self:
        # OWASP's least for argon2id by one lane.
        if self.production and (self.password_hash_passes < 2 or self.password_hash_kib < 19 * 1024):
            raise ValueError(
                "PASSWORD_HASH_PASSES: production hashes with 2 passes and PASSWORD_HASH_KIB=19456 at least"
            )
        return self

    @model_validator(mode="after")
    def _secret_key(self) -> Self:
        secret = self.secret_key.get_secret_value()
        previous = [key.get_secret_value() for key in self.secret_key_previous]
        if not all(previous):
            raise ValueError("SECRET_KEY_PREVIOUS: has an empty key, with which anybody could sign tokens")
        if self.environment == "production":
            if not secret:
                raise ValueError("SECRET_KEY: is required in production; make one with: openssl rand -hex 32")
            # A former key still verifies tokens, so it is as dangerous as the present one.
            for name, keys in (("SECRET_KEY", [secret]), ("SECRET_KEY_PREVIOUS", previous)):
                if weak := next(filter(None, map(weakness, keys)), None):
                    raise ValueError(f"{name}: {weak}")
        elif not secret:
            made = self._made_once("secret_key", lambda: secrets.token_hex(32))
            object.__setattr__(self, "secret_key", SecretStr(made))
        if not self.encryption_keys and not self.production:
            made = self._made_once("encryption_key", new_key)
            try:
                keys = check_keys([made])
            except ValueError as error:
                path = self.data_dir / "secrets" / "encryption_key"
                raise ValueError(f"DATA_DIR: in {path} {error}") from None
            object.__setattr__(self, "encryption_keys", [SecretStr(key) for key in keys])
        if not self.redis_url and self.redis_host:
            host = f"[{self.redis_host}]" if ":" in self.redis_host else self.redis_host
            url = f"redis://{host}:{self.redis_port}/{self.redis_db}"
            object.__setattr__(self, "redis_url", SecretStr(url))
        return self

    def _made_once(self, name: str, make: Callable[[], str]) -> str:
        try:
            return read_or_create_secret(self.data_dir / "secrets" / name, make)
        except OSError as error:
            raise ValueError(f"DATA_DIR: cannot be used ({error.strerror}: {error.filename})") from None

    def doubts(self) -> list[str]:
        """What is probably a mistake, and not wrong enough to stop the start; a line each, without a secret."""
        lines = []
        if len(self.secret_key.get_secret_value().encode()) < MIN_SECRET_BYTES:
            lines.append(f"SECRET_KEY is shorter than {MIN_SECRET_BYTES} bytes; production refuses it")
        if not self.encryption_keys:
            lines.append("ENCRYPTION_KEYS is not set: nobody can enrol a second factor")
        if self.production and not self.mongodb_url and self.audit_retention_days is None:
            lines.append("AUDIT_RETENTION_DAYS is not set: the embedded database is slow with over 100,000 entries")
        if self.production and not self.smtp_host:
            lines.append("SMTP_HOST is not set: no codes, no verification and no password reset by e-mail")
        if self.smtp_host and not self.mail_from and "@" not in (self.smtp_username or ""):
            lines.append("MAIL_FROM is not set: mails come from arrow@localhost, which most servers refuse")
        if self.smtp_username and self.smtp_tls == "none" and self.smtp_host not in LOOPBACK:
            lines.append("SMTP_TLS is none: the mail server's password travels in clear text")
        if self.angel_one_missing and len(self.angel_one_missing) < 4:
            lines.append(f"{' and '.join(self.angel_one_missing)} missing: there is no live market data without")
        if self.quotes_indian_source == "angel_one" and self.angel_one_missing:
            lines.append("QUOTES_INDIAN_SOURCE is angel_one, and Angel One is not configured: Yahoo is asked")
        names = {name.upper() for field in type(self).model_fields for name in _names(field)} | _OF_SCRIPTS
        for name in dotenv_values(".env"):
            if name.upper() not in names:
                close = difflib.get_close_matches(name.upper(), names, 1, 0.8)
                lines.append(f"{name} in .env is no setting of this version{f'; {close[0]} is' if close else ''}")
        return lines

    @property
    def angel_one_orders_streamed(self) -> bool:
        """Whether Angel One's order stream is where its requests go: the vendor gets no simulator's tokens."""
        own = {name: field.default for name, field in Settings.model_fields.items()}
        elsewhere = self.angel_one_base_url != own["angel_one_base_url"]
        return not elsewhere or bool(self.angel_one_order_ws_url != own["angel_one_order_ws_url"])

    @property
    def feed_enabled(self) -> bool:
        """Whether live market data is wanted and can be had."""
        return self.background_tasks_enabled and not self.angel_one_missing

    @property
    def production(self) -> bool:
        """Whether strict rules hold: JSON logs, no generated secret."""
        return self.environment == "production"
