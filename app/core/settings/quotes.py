"""Settings of quotes and candles."""

from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings

from app.core.settings.values import MAX_RETENTION_DAYS

YAHOO: str = "https://query2.finance.yahoo.com"
"""Yahoo's own: then its other hosts are asked for what is theirs. At any other address one server answers for all."""


class QuoteSettings(BaseSettings):
    """Part of `Settings`."""

    yahoo_base_url: str = YAHOO
    quotes_indian_source: Literal["yahoo", "angel_one"] = "yahoo"
    market_cache_seconds: int = Field(300, ge=1, le=86_400)
    quote_cache_seconds: int = Field(15, ge=1, le=3_600)
    market_sync_rate_limit_per_minute: int = Field(30, ge=1)
    """Of one account: each is a request to a provider that counts them."""
    market_series_unused_days: int = Field(30, ge=1, le=MAX_RETENTION_DAYS)
    market_series_max: int = Field(1_000, ge=1, le=1_000_000)
    """Of one symbol, timeframe and provider each; those that the service works with itself stay beyond it."""
