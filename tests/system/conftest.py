"""Tests of the whole service as processes."""

import os

import pytest

EMBEDDED = "embedded: about the process of the embedded database; there is none where TEST_MONGODB_URL is set"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", EMBEDDED)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On a real MongoDB the tests of the embedded database's process are deselected, and counted as such."""
    if not os.environ.get("TEST_MONGODB_URL"):
        return
    concerned = [item for item in items if item.get_closest_marker("embedded")]
    if concerned:
        config.hook.pytest_deselected(items=concerned)
        items[:] = [item for item in items if item not in concerned]
