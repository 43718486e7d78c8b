"""`scripts/run` and the environment it keeps, in a project of its own whose lock holds a wheel made here.

`uvicorn` is the one thing that stands in: a module of the project that prints how it was started. What the script does
with the real one and the real lock is in test_clean_copy.py.

To make an environment costs seconds: the tests of the lock change it, all others take the one they find.
"""

import base64
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.ops.repository import ROOT

pytestmark = [pytest.mark.timeout(180), pytest.mark.slow]

STARTED = """
import json, os, sys
from importlib.metadata import distributions
print(json.dumps({
    "arguments": sys.argv[1:], "folder": os.getcwd(), "pid": os.getpid(), "prefix": sys.prefix,
    "packages": {d.name: d.version for d in distributions() if d.name.startswith("demo")},
}))
"""


CHECKED = """
import os, sys
sys.exit("arrow: ENVIRONMENT: is wrong" if os.environ.get("ENVIRONMENT") == "wrong" else 0)
"""


def make_wheel(folder: Path, name: str, version: str) -> str:
    """A wheel of one module, written to `folder`; returns its line of a lock."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"version = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [f"{path},sha256={_record_hash(text)},{len(text)}" for path, text in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,"]) + "\n"
    folder.mkdir(exist_ok=True)
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in files.items():
            archive.writestr(zipfile.ZipInfo(path), text)  # no time of day in it: the same bytes every time
    return f"./{folder.name}/{wheel.name} --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"


def _record_hash(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


@dataclass(frozen=True)
class Project:
    folder: Path

    def environment(self, **variables: str) -> dict[str, str]:
        """A plain one: no setting of this process reaches the script, and pip reaches no index."""
        plain = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "PYTHON": sys.executable}
        no_index = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
        return plain | no_index | variables

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.folder / "scripts/run", *arguments],
            cwd="/", env=self.environment(**variables), capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    def start(self, *arguments: str, **variables: str) -> dict[str, Any]:
        done = self.run(*arguments, **variables)
        assert done.returncode == 0, done.stderr
        started: dict[str, Any] = json.loads(done.stdout)
        return started | {"installed": "Installing" in done.stderr}

    def write_lock(self, *lines: str) -> None:
        (self.folder / "requirements.txt").write_text("".join(lines))


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("a project's folder"))
    (project.folder / "scripts").mkdir()
    for name in ("run", "venv.sh"):
        shutil.copy(ROOT / "scripts" / name, project.folder / "scripts")
    (project.folder / "uvicorn").mkdir()
    (project.folder / "uvicorn/__init__.py").touch()
    (project.folder / "uvicorn/__main__.py").write_text(STARTED)
    (project.folder / "app/core").mkdir(parents=True)
    # What scripts/run asks, before it starts several workers, whether the settings are right.
    (project.folder / "app/core/settings.py").write_text(CHECKED)
    wheels = project.folder / "wheels"
    project.write_lock(make_wheel(wheels, "demo", "1.0"), make_wheel(wheels, "demo_extra", "1.0"))
    return project


@pytest.fixture
def project(made_once: Project) -> Project:
    """The project without a .env. Its lock and its environment are as the test before left them."""
    (made_once.folder / ".env").unlink(missing_ok=True)
    return made_once


def option(started: dict[str, Any], name: str) -> str:
    arguments: list[str] = started["arguments"]
    return arguments[arguments.index(f"--{name}") + 1]


def test_it_installs_once_and_hands_over_with_the_safe_flags(project: Project) -> None:
    first, second = project.start(), project.start("--reload", "--log-level", "debug")

    assert first["packages"] == second["packages"] == {"demo": "1.0", "demo_extra": "1.0"}
    assert (first["installed"], second["installed"]) == (True, False)
    assert first["folder"] == str(project.folder)
    assert Path(first["prefix"]) == project.folder / ".venv"
    assert first["arguments"] == [
        "app.main:app", "--host", "127.0.0.1", "--port", "8000", "--workers", "1",
        "--ws", "websockets-sansio", "--no-access-log", "--no-proxy-headers", "--no-server-header",
        "--timeout-graceful-shutdown", "15",
    ]  # fmt: skip
    assert second["arguments"] == [*first["arguments"], "--reload", "--log-level", "debug"]


def test_wrong_settings_stop_several_workers_before_uvicorn(project: Project) -> None:
    """uvicorn's parent would end with 0."""
    done = project.run(WORKERS="2", ENVIRONMENT="wrong")
    assert (done.returncode, done.stdout) == (2, "")
    assert "arrow: ENVIRONMENT: is wrong" in done.stderr


def test_the_process_becomes_the_server_so_that_signals_reach_it(project: Project) -> None:
    project.start()
    process = subprocess.Popen(
        [project.folder / "scripts/run"], env=project.environment(), stdout=subprocess.PIPE, text=True
    )
    out, _ = process.communicate(timeout=60)
    assert json.loads(out)["pid"] == process.pid


def test_another_lock_is_installed_and_what_it_lacks_is_gone(project: Project) -> None:
    wheels = project.folder / "wheels"
    before = project.start()["packages"]
    project.write_lock(make_wheel(wheels, "demo", "2.0"))
    started = project.start()
    assert before.keys() == {"demo", "demo_extra"}
    assert started["installed"]
    assert started["packages"] == {"demo": "2.0"}


def test_a_file_that_is_not_the_locked_one_is_refused_and_an_interrupted_install_done_again(project: Project) -> None:
    line = make_wheel(project.folder / "wheels", "demo", "3.0")
    digest = line.rstrip().rpartition(":")[2]
    project.write_lock(line.replace(digest, "0" * 64))

    refused = project.run()
    assert refused.returncode != 0
    assert refused.stdout == ""
    assert "THESE PACKAGES DO NOT MATCH THE HASHES" in refused.stderr

    project.write_lock(line)  # the same file, as it is locked
    complete = project.folder / ".venv/arrow-lock.txt"
    while True:
        process = subprocess.Popen(
            [project.folder / "scripts/run"], env=project.environment(), start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stderr
        assert "Installing" in process.stderr.readline()
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if not complete.exists():
            break
        complete.unlink()  # this process stood still until the install was over
    left = project.folder / ".venv/left-behind"
    left.parent.mkdir(exist_ok=True)
    left.touch()

    started = project.start()
    assert started["installed"]
    assert started["packages"] == {"demo": "3.0"}
    assert not left.exists()


@pytest.mark.parametrize(
    ("text", "port"),
    [
        ("PORT=9001", "9001"),
        ("PORT = 9002  # the proxy's\nEXPORT=1", "9002"),
        ("export PORT='9003'\r\n", "9003"),
        ('\t PORT="9004" # quoted', "9004"),
        ("PORT=1\nREDIS_PORT=2\nMY PORT=3\n#PORT=4\nPORT=9005\n", "9005"),
        ("PORT=\n", "8000"),
        ("PORTER=9006\nXPORT=9006\nPORT_2=9006", "8000"),
        ("", "8000"),
    ],
)
def test_the_dotenv_file_is_read(project: Project, text: str, port: str) -> None:
    (project.folder / ".env").write_bytes(text.encode())
    assert option(project.start(), "port") == port


def test_the_environment_goes_before_the_dotenv_file(project: Project) -> None:
    (project.folder / ".env").write_text("HOST=0.0.0.0\nPORT=9001\nWORKERS=3\n")
    started = project.start(PORT="9100", HOST="")
    assert [option(started, name) for name in ("host", "port", "workers")] == ["0.0.0.0", "9100", "3"]


def test_the_dotenv_file_is_never_executed(project: Project) -> None:
    hostile = "$(touch made-it) `touch made-it`\nHOST=$(touch made-it)`touch made-it`\n*\ntouch made-it\n"
    (project.folder / ".env").write_text(f"SMTP_PASSWORD={hostile}")
    assert option(project.start(), "host") == "$(touch made-it)`touch made-it`"
    assert not (project.folder / "made-it").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "http"),
        ("PORT", "65536"),
        ("PORT", "-1"),
        ("PORT", "80 --reload"),
        ("WORKERS", "0"),
        ("WORKERS", "two"),
    ],
)
def test_a_wrong_value_stops_the_start_with_one_line_that_names_it(project: Project, name: str, value: str) -> None:
    refused = project.run(**{name: value})
    assert refused.returncode == 2
    assert refused.stdout == ""
    (line,) = refused.stderr.splitlines()
    assert line.startswith(f"{name} must be")
    assert value in line


def test_without_a_python_it_says_what_to_install(project: Project, tmp_path: Path) -> None:
    shutil.rmtree(project.folder / ".venv", ignore_errors=True)
    for name in ("sh", "dirname", "cat", "rm"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")  # what a Python older than 3.11, or one without venv, does when asked
    old.chmod(0o755)

    refused = project.run(PATH=str(tmp_path), PYTHON="")
    assert refused.returncode == 1
    assert "Arrow needs Python 3.11 or newer" in refused.stderr
    assert "apt install python3 python3-venv" in refused.stderr

    chosen = project.run(PYTHON=str(old))
    assert chosen.returncode == 1
    assert chosen.stderr.startswith(f"PYTHON={old} is not a Python 3.11 or newer")
