"""Settings of live market data and of Angel One, where it comes from."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode

from app.core.settings.values import MAX_RETENTION_DAYS, split


class MarketDataSettings(BaseSettings):
    """Part of `Settings`."""

    angel_one_api_key: SecretStr | None = None
    angel_one_client_id: SecretStr | None = None
    angel_one_password: SecretStr | None = None
    angel_one_totp_key: SecretStr | None = None
    angel_one_base_url: str = "https://apiconnect.angelone.in"
    angel_one_ws_url: str = "wss://smartapisocket.angelone.in/smart-stream"
    angel_one_instruments_url: str = (
        "https://margincalculator.angelone.in/OpenAPI_File/files/OpenAPIScripMaster.json"  # the vendor's name for it
    )
    angel_one_symbols: Annotated[list[str], NoDecode] = []

    store_after_hours: bool = False
    tick_retention_days: int | None = Field(None, ge=1, le=MAX_RETENTION_DAYS)
    tick_spill_max_mb: int = Field(512, ge=1, le=1_000_000)
    market_calendar_file: Path | None = None
    feed_always: bool = False

    @field_validator("angel_one_symbols", mode="before")
    @classmethod
    def _symbols(cls, value: object) -> object:
        return split(value)

    @property
    def angel_one_missing(self) -> list[str]:
        """Which of the four credentials of Angel One are not set."""
        credentials = ("api_key", "client_id", "password", "totp_key")
        return [f"ANGEL_ONE_{name.upper()}" for name in credentials if not getattr(self, f"angel_one_{name}")]
