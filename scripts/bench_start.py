#!/usr/bin/env python3
"""How soon a newcomer has a healthy service: `python3 scripts/bench_start.py`.

Copies the repository's files, runs `scripts/run` there twice, and prints the seconds until `/health/ready` answers:
with the install (from pip's cache or the package index), and without; beside the same interpreter doing nothing but
importing uvicorn and FastAPI.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def copy_repository(target: Path) -> None:
    """The files that git knows, as they are now."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],  # noqa: S607 (git, wherever it is)
        cwd=ROOT, capture_output=True, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def seconds_until_ready(folder: Path) -> float:
    """Start the service, wait until it is ready, end it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    began = time.perf_counter()
    env = os.environ | {"PORT": str(port)}
    process = subprocess.Popen([folder / "scripts/run"], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603 (our own)
    try:
        while process.poll() is None:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=5).close()
            except (urllib.error.URLError, OSError):
                time.sleep(0.02)
            else:
                return time.perf_counter() - began
        raise SystemExit(f"the service ended with {process.returncode}")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def seconds_of_imports(folder: Path) -> float:
    """The floor: the interpreter and the two libraries that every such service imports."""
    python = folder / ".venv/bin/python"
    began = time.perf_counter()
    subprocess.run([python, "-c", "import uvicorn, fastapi"], check=True)  # noqa: S603 (our own)
    return time.perf_counter() - began


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "arrow"
        copy_repository(clone)
        first = seconds_until_ready(clone)
        second = min(seconds_until_ready(clone) for _ in range(3))
        floor = min(seconds_of_imports(clone) for _ in range(3))
    print(f"first start, with the install      {first:6.1f} s   (aim: under 60)")
    print(f"second start                       {second:6.2f} s   (aim: under 3)")
    print(f"second start / importing FastAPI   {second / floor:6.1f} ×", file=sys.stdout)


if __name__ == "__main__":
    main()
