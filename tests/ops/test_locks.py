"""The locks are complete, hashed, the same wherever they are made, and in step with what a person edits."""

import ast
import re
import sys
from importlib.metadata import distribution, packages_distributions

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.ops.repository import ROOT, read_direct, read_lock

RUNTIME, DEV = "requirements.txt", "requirements-dev.txt"

# Optional, and imported only where a chart is asked for as an image.
IMAGE_EXTRA = {"kaleido", "choreographer"}

# What the embedded database has wheels for, and what it has none for.
LINUX = {"sys_platform": "linux", "platform_machine": "x86_64"}
WITH_WHEEL = [
    LINUX,
    {"sys_platform": "linux", "platform_machine": "aarch64"},
    {"sys_platform": "darwin", "platform_machine": "arm64"},
    {"sys_platform": "win32", "platform_machine": "AMD64"},
]
WITHOUT_WHEEL = [
    {"sys_platform": "darwin", "platform_machine": "x86_64"},
    {"sys_platform": "win32", "platform_machine": "ARM64"},
    {"sys_platform": "linux", "platform_machine": "ppc64le"},
    LINUX | {"platform_python_implementation": "PyPy", "implementation_name": "pypy"},
    LINUX | {"python_version": "3.14", "python_full_version": "3.14.0"},
]


def environment(python: str, **markers: str) -> dict[str, str]:
    return {
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "python_version": python,
        "python_full_version": f"{python}.0",
        "os_name": "nt" if markers.get("sys_platform") == "win32" else "posix",
    } | markers


@pytest.mark.parametrize("lock", [RUNTIME, DEV])
def test_every_pin_has_hashes_and_nothing_names_a_host_or_a_path(lock: str) -> None:
    pins = read_lock(lock)
    assert len(pins) > 40
    for pin in pins:
        assert pin.version
        assert pin.hashes, f"{pin.name} has no hash"
        assert pin.requirement.url is None
    text = (ROOT / lock).read_text()
    assert not re.search(r"https?:|file:|find-links|index-url|trusted-host|^-", text, re.MULTILINE)


@pytest.mark.parametrize(("source", "lock"), [("requirements.in", RUNTIME), ("requirements-dev.in", DEV)])
def test_the_lock_is_in_step_with_its_source(source: str, lock: str) -> None:
    locked = {(pin.name, pin.version) for pin in read_lock(lock)}
    direct = read_direct(source)
    assert direct
    for requirement in direct:
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", f"{requirement.name} in {source} is not pinned exactly"
        assert (canonicalize_name(requirement.name), specifier.version) in locked, f"run scripts/lock: {requirement}"


def test_the_tests_run_on_the_versions_that_the_service_runs_on() -> None:
    dev = {(pin.name, pin.version): pin for pin in read_lock(DEV)}
    for pin in read_lock(RUNTIME):
        assert dev[pin.name, pin.version].hashes == pin.hashes


@pytest.mark.parametrize("lock", [RUNTIME, DEV])
def test_the_lock_is_complete_here(lock: str) -> None:
    """Every dependency that an installed package declares is in the lock, at a version it accepts."""
    locked = {pin.name: pin for pin in read_lock(lock) if pin.applies()}
    for name, pin in locked.items():
        installed = distribution(name)
        assert installed.version == pin.version
        for requirement in map(Requirement, installed.requires or []):
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
                continue
            needed = locked.get(canonicalize_name(requirement.name))
            assert needed is not None, f"{name} needs {requirement.name}, which {lock} lacks"
            assert requirement.specifier.contains(needed.version, prereleases=True)


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize("machine", WITH_WHEEL, ids=lambda machine: "-".join(machine.values()))
def test_the_embedded_database_is_installed_where_it_has_wheels(python: str, machine: dict[str, str]) -> None:
    there = environment(python, **machine)
    assert [pin.version for pin in read_lock(RUNTIME) if pin.name == "secantusdb" and pin.applies(there)] == ["0.7.0b3"]


@pytest.mark.parametrize("machine", WITHOUT_WHEEL, ids=lambda machine: "-".join(machine.values()))
def test_everything_else_is_installed_where_it_has_none(machine: dict[str, str]) -> None:
    there = environment("3.13") | machine
    names = {pin.name for pin in read_lock(RUNTIME) if pin.applies(there)}
    assert "secantusdb" not in names
    assert {"fastapi", "uvicorn", "beanie", "pymongo", "redis"} <= names


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
@pytest.mark.parametrize("lock", [RUNTIME, DEV])
def test_one_version_of_a_package_a_platform(python: str, lock: str) -> None:
    for machine in WITH_WHEEL:
        names = [pin.name for pin in read_lock(lock) if pin.applies(environment(python, **machine))]
        assert len(names) == len(set(names))


def test_the_service_imports_only_what_its_own_lock_installs() -> None:
    runtime = {pin.name for pin in read_lock(RUNTIME)}
    providers = packages_distributions()
    imported = set()
    for file in (ROOT / "app").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(), file)):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.partition(".")[0])
    assert "fastapi" in imported
    for module in imported - sys.stdlib_module_names - {"app"} - IMAGE_EXTRA:
        owners = {canonicalize_name(owner) for owner in providers.get(module, [])}
        assert owners & runtime, f"{module} is imported in app/, and requirements.txt does not install it"
