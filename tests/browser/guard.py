"""Says once, and aloud, what happens to browser tests where there is no browser.

A pytest plugin. Without a Chromium the tests marked `browser` are left out, and the summary has a line about it;
with REQUIRE_BROWSER=1 they stay in and fail.
"""

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)


def find_browser() -> str | None:
    """The Chromium or Chrome to drive: $CHROMIUM, or the first one found in the usual places."""
    if named := os.environ.get("CHROMIUM"):
        return shutil.which(named)
    found = (shutil.which(name) for name in NAMES)
    return next((path for path in (*found, *PLACES) if path and Path(path).is_file()), None)


def missing() -> str | None:
    """What the browser tests lack, or None."""
    if find_spec("playwright") is None:
        return "the package playwright is not installed"
    if find_browser() is None:
        return "no Chromium or Chrome was found (CHROMIUM can name one)"
    return None


def required() -> bool:
    """Whether a missing browser is a failure."""
    return os.environ.get("REQUIRE_BROWSER", "") not in {"", "0"}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the browser tests out where they cannot run."""
    if required() or not missing():
        return
    left_out = [item for item in items if item.get_closest_marker("browser")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("browser")]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The one line."""
    lack = missing()
    if lack and not required():
        terminalreporter.write_line(f"The browser tests were left out: {lack}.", yellow=True)
