"""TA-Lib as this project uses it: on numpy arrays.

Where pandas or polars is installed, TA-Lib loads it to be able to take its series too: 56 MB and 0.2 s in a process
that has none. A name that stands for None among the modules counts as not installed (Python's import system), and it
is put back at once. To be imported, like numpy, where first used.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _hidden(*names: str) -> Iterator[None]:
    missing = [name for name in names if name not in sys.modules]
    for name in missing:
        sys.modules[name] = None  # type: ignore[assignment]  # what the import system calls a halted import
    try:
        yield
    finally:
        for name in missing:
            del sys.modules[name]


with _hidden("pandas", "polars"):
    import talib

__all__ = ["talib"]
