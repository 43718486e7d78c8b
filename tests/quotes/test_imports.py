"""What the service's process carries: never the library, which has a process of its own."""

import subprocess
import sys

HEAVY = ("pandas", "yfinance", "curl_cffi", "bs4", "peewee")
MODULES = "app.main, app.quotes.router, app.quotes.history, app.quotes.adapters.yahoo, app.quotes.adapters.angel_one"


def test_nothing_heavy_is_imported():
    code = f"import sys, {MODULES}; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=50)
    assert done.stdout.strip() == "[]"
