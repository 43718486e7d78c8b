"""All settings of the service in one frozen object, read from the environment and `.env`."""

import ipaddress
import json
import secrets
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.core.key_files import read_or_create_secret

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

# The four addresses that TradingView's documentation names for its webhooks (IPv4 only).
TRADINGVIEW_ADDRESSES = ("52.89.214.238", "34.212.75.30", "54.218.53.128", "52.32.178.7")

MIN_SECRET_BYTES = 32
# Words that stand in samples and tutorials where the secret should be.
_PLACEHOLDERS = ("your-secret", "changeme", "change-me", "change_me", "secret-key-here", "example", "placeholder")


class SettingsError(Exception):
    """A setting is wrong; the message is one line that names it and never shows a secret."""


def _split(value: Any) -> Any:
    """A list given as JSON or comma-separated text."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text.startswith("["):
        try:
            return json.loads(text)
        except ValueError as error:
            raise ValueError("is neither a JSON list nor comma-separated text") from error
    return [part.strip() for part in text.split(",") if part.strip()]


class Settings(BaseSettings):
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
    allowed_origins: Annotated[list[str], NoDecode] = ["http://localhost:3000", "http://localhost:5173"]
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

    # accounts
    secret_key: SecretStr = SecretStr("")
    secret_key_previous: Annotated[list[SecretStr], NoDecode] = []
    algorithm: Literal["HS256", "HS384", "HS512"] = "HS256"
    access_token_expire_minutes: int = Field(30, ge=1, le=24 * 60)
    refresh_token_expire_days: int = Field(7, ge=1, le=365)

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
    alert_retention_days: int | None = Field(None, ge=1)
    rejected_retention_days: int = Field(30, ge=1)
    rejected_max_per_strategy: int = Field(500, ge=10, le=10_000)

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Settings from the environment and `.env`; raises `SettingsError` with one line on the first wrong one."""
        try:
            return cls(**overrides)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            name = str(first["loc"][0]).upper() if first["loc"] else ""
            message = first["msg"].removeprefix("Value error, ")
            raise SettingsError(f"{name}: {message}" if name else message) from None

    @field_validator("allowed_origins", "secret_key_previous", mode="before")
    @classmethod
    def _lists(cls, value: Any) -> Any:
        return _split(value)

    @field_validator("trusted_proxies", "webhook_allowed_ips", mode="before")
    @classmethod
    def _networks(cls, value: Any) -> Any:
        names = _split(value)
        if not isinstance(names, list):
            return names
        networks: list[str] = []
        for name in names:
            networks.extend(TRADINGVIEW_ADDRESSES if str(name).lower() == "tradingview" else [name])
        try:
            return [ipaddress.ip_network(network, strict=False) for network in networks]
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
        scheme = urlsplit(value.get_secret_value()).scheme if value else ""
        if value and scheme not in {"mongodb", "mongodb+srv"}:
            raise ValueError(
                "the address of MongoDB (MONGODB_URL, MONGO_DB_CONNECTION_STRING or DATABASE_URL) "
                f"must start with mongodb:// or mongodb+srv://{', not ' + scheme + '://' if scheme else ''}"
            )
        return value

    @field_validator("redis_url")
    @classmethod
    def _redis_only(cls, value: SecretStr | None) -> SecretStr | None:
        if value and urlsplit(value.get_secret_value()).scheme not in {"redis", "rediss"}:
            raise ValueError("must start with redis:// or rediss://")
        return value

    @field_validator("public_base_url")
    @classmethod
    def _base_url(cls, value: str | None) -> str | None:
        if value and (urlsplit(value).scheme not in {"http", "https"} or not urlsplit(value).netloc):
            raise ValueError("must be an http:// or https:// address")
        return value.rstrip("/") if value else None

    @model_validator(mode="after")
    def _secret_key(self) -> Self:
        secret = self.secret_key.get_secret_value()
        if self.environment == "production":
            if not secret:
                raise ValueError("SECRET_KEY: is required in production; make one with: openssl rand -hex 32")
            if len(secret.encode()) < MIN_SECRET_BYTES:
                raise ValueError(
                    f"SECRET_KEY: is shorter than {MIN_SECRET_BYTES} bytes; openssl rand -hex 32 makes one"
                )
            if any(word in secret.lower() for word in _PLACEHOLDERS) or len(set(secret)) < 8:
                raise ValueError("SECRET_KEY: is a placeholder from a sample; openssl rand -hex 32 makes a real one")
        elif not secret:
            try:
                made = read_or_create_secret(self.data_dir / "secrets" / "secret_key", lambda: secrets.token_hex(32))
            except OSError as error:
                raise ValueError(f"DATA_DIR: cannot be used ({error.strerror}: {error.filename})") from None
            object.__setattr__(self, "secret_key", SecretStr(made))
        if not self.redis_url and self.redis_host:
            url = f"redis://{self.redis_host}:{self.redis_port}/{self.redis_db}"
            object.__setattr__(self, "redis_url", SecretStr(url))
        return self

    @property
    def production(self) -> bool:
        """Whether strict rules hold: JSON logs, no generated secret."""
        return self.environment == "production"
