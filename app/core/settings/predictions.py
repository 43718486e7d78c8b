"""Settings of predictions, and of the process that trains."""

from pydantic import Field
from pydantic_settings import BaseSettings

from app.core.settings.values import MAX_RETENTION_DAYS


class PredictionSettings(BaseSettings):
    """Part of `Settings`."""

    predictions_warm_up: bool = False
    predictions_max_memory_mb: int = Field(1024, ge=512, le=65_536)
    predictions_train_seconds: float = Field(60, ge=5, le=300)
    predictions_models_max_mb: int = Field(1024, ge=16, le=1_048_576)
    prediction_cache_seconds: int = Field(900, ge=1, le=86_400)
    prediction_rate_limit_per_minute: int = Field(10, ge=1)
    prediction_retention_days: int = Field(730, ge=30, le=MAX_RETENTION_DAYS)
