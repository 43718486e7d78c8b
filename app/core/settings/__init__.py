"""All settings of the service in one frozen object, read from the environment and `.env`."""

from app.core.settings.values import MAX_RETENTION_DAYS
from app.core.settings.whole import Network, Settings, SettingsError

__all__ = ["MAX_RETENTION_DAYS", "Network", "Settings", "SettingsError"]
