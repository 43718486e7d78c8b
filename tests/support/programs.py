"""Simulators of providers as programs of their own, for tests that leave their event loop no time."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.service import ROOT

LAST = {"COINGECKO_BASE_URL", "COINMARKETCAP_API_KEY", "ANGEL_ONE_TOTP_KEY", "YAHOO_BASE_URL"}
"""What each of them prints last."""


@contextmanager
def simulator(module: str, *options: str) -> Iterator[dict[str, str]]:
    """`python -m module`, and the settings that it prints for a service; ended with the block."""
    command = [sys.executable, "-m", module, *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            settings: dict[str, str] = {}
            while not settings.keys() & LAST:
                line = process.stdout.readline()
                assert line, f"{module} ended before it served"
                name, _, value = line.strip().partition("=")
                settings[name] = value
            yield settings
        finally:
            process.terminate()
