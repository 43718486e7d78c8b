"""`python -m app.core.settings`: are they right?"""

from app.core.settings import Settings, SettingsError

if __name__ == "__main__":
    try:
        Settings.load()
    except SettingsError as error:
        raise SystemExit(f"arrow: {error}") from None
