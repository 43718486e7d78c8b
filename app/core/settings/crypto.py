"""Settings of cryptocurrency listings and of the providers that they come from."""

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings

from app.core.settings.values import MAX_RETENTION_DAYS


class CryptoSettings(BaseSettings):
    """Part of `Settings`."""

    coingecko_api_key: SecretStr | None = None
    coingecko_base_url: str = "https://api.coingecko.com/api/v3"
    coingecko_calls_per_minute: int = Field(30, ge=1)
    coingecko_calls_per_month: int = Field(10_000, ge=1)
    coingecko_category_calls_per_day: int = Field(20, ge=0)
    coinmarketcap_api_key: SecretStr | None = None
    coinmarketcap_base_url: str = "https://pro-api.coinmarketcap.com"
    coinmarketcap_calls_per_minute: int = Field(30, ge=1)
    coinmarketcap_calls_per_month: int = Field(10_000, ge=1)

    crypto_sync_enabled: bool = True
    crypto_sync_rate_limit_per_minute: int = Field(10, ge=1)
    crypto_cache_seconds: int = Field(300, ge=1, le=86_400)
    crypto_history_retention_days: int = Field(365, ge=1, le=MAX_RETENTION_DAYS)
