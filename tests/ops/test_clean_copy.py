"""A newcomer's first minute: a clean copy of the repository, one command, a healthy service.

The real lock is installed (from pip's cache, or the package index) and the real service started. How long that takes
is measured by scripts/bench_start.py.
"""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from tests.ops.repository import ROOT, repository_files
from tests.support.http import NO_TLS
from tests.support.service import free_port, wait_for_end

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]

# What a person's shell has; none of the settings that this process may run with.
KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "SSL_CERT_FILE", "PYENV_ROOT", "PYENV_VERSION")

README_ADDRESS = "127.0.0.1:8000"


def plain_environment(port: int) -> dict[str, str]:
    pip_and_proxies = ("PIP_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
    kept = {k: v for k, v in os.environ.items() if k in KEPT or k.upper().startswith(pip_and_proxies)}
    # No test asks the internet; and of the hundred packages that are installed, only what is imported is compiled.
    return kept | {"PORT": str(port), "CRYPTO_SYNC_ENABLED": "false", "PIP_NO_COMPILE": "1"}


@pytest.fixture(scope="module")
def clean_copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clone") / "arrow"
    for file in repository_files():
        copy = folder / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, copy)
    return folder


@contextmanager
def running(folder: Path, deadline: float) -> Iterator[tuple[psutil.Process, str]]:
    """The service started there: its process and its address.

    Ends it as an operator does, and checks that it goes by itself and leaves no process behind.
    """
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    log = folder.parent / "output.log"
    began = time.monotonic()
    with log.open("wb") as output:
        process = psutil.Popen(
            [folder / "scripts/run"], cwd="/", env=plain_environment(port), stdout=output, stderr=subprocess.STDOUT
        )
    started: list[psutil.Process] = []
    try:
        while not is_ready(address):
            assert process.poll() is None, log.read_text()[-4000:]
            assert time.monotonic() - began < deadline, f"not ready after {deadline} s:\n{log.read_text()[-4000:]}"
            time.sleep(0.02)
        started = process.children(recursive=True)
        yield process, address
        process.send_signal(signal.SIGTERM)
        assert process.wait(40) in (0, -signal.SIGTERM), log.read_text()[-4000:]
        assert not wait_for_end(started, 30), "the service left processes behind"
    finally:
        for left in [process, *started]:
            if left.is_running():
                left.kill()


def is_ready(address: str) -> bool:
    try:
        return httpx.get(f"{address}/health/ready", timeout=5, trust_env=False, verify=NO_TLS).status_code == 200
    except httpx.TransportError:
        return False


def test_one_command_on_a_clean_copy_gives_a_healthy_service(clean_copy: Path) -> None:
    with running(clean_copy, deadline=200) as (_, address):
        until = time.monotonic() + 30
        while (health := httpx.get(f"{address}/health", timeout=30, trust_env=False, verify=NO_TLS).json())[
            "status"
        ] != "ok":  # a part of it may be behind for a moment
            assert time.monotonic() < until, health
            time.sleep(0.1)
        docs = httpx.get(f"{address}/docs", timeout=30, trust_env=False, verify=NO_TLS)
        assert docs.status_code == 200


def readme_commands() -> str:
    """The README's shell blocks that talk to a service on this machine, in their order."""
    blocks = re.findall(
        r"^```(?:sh|bash|console)\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    return "\n".join(block for block in blocks if "curl" in block and README_ADDRESS in block)


def test_the_lines_of_the_readme_work_when_pasted(clean_copy: Path) -> None:
    """The second start of the same folder, which installs nothing."""
    commands = readme_commands()
    assert commands.count("curl") >= 3
    installed = (clean_copy / ".venv/arrow-lock.txt").exists()  # by the test above, unless this one runs alone
    with running(clean_copy, deadline=60 if installed else 200) as (_, address):
        # A refusal stops it, which curl alone would print and pass over.
        script = 'set -eu\ncurl() { command curl --fail-with-body --silent --show-error "$@"; }\n' + commands
        pasted = subprocess.run(
            ["bash", "-c", script.replace(README_ADDRESS, address.removeprefix("http://"))],
            cwd=clean_copy, env=plain_environment(0), capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert pasted.returncode == 0, pasted.stdout + pasted.stderr


def test_the_installed_environment_is_complete_and_holds_nothing_else(clean_copy: Path) -> None:
    """Runs after the service has been started from it, in this file's order."""
    python = clean_copy / ".venv/bin/python"
    check = subprocess.run([python, "-m", "pip", "check"], capture_output=True, text=True, check=False)
    assert check.returncode == 0, check.stdout
    installed = subprocess.run([python, "-c", LIST], capture_output=True, text=True, check=True).stdout.split()
    assert {"fastapi", "uvicorn", "beanie"} <= set(installed)
    assert not {"pytest", "hypothesis", "mypy", "ruff"} & set(installed)


LIST = "from importlib.metadata import distributions as d; print(*sorted(x.name.lower() for x in d()))"
