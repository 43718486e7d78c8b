"""The container files, the settings' sample and the hygiene of what is in the repository."""

import fnmatch
import json
import os
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from app.core.settings import Settings
from tests.ops.repository import ROOT, repository_files

# Read by scripts/run, which hands them to uvicorn, and by docker-compose.yml.
NOT_SETTINGS = {"HOST", "PORT", "WORKERS", "ARROW_PUBLISH"}


# --- docker-compose.yml


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return parsed


def test_every_service_has_a_health_check_and_comes_back(compose: dict[str, Any]) -> None:
    assert set(compose["services"]) == {"app", "worker", "mongo", "redis"}
    for name, service in compose["services"].items():
        assert service["restart"] == "unless-stopped"
        if name == "worker":  # listens nowhere, and is started only by those who want it
            assert (service["healthcheck"], service["profiles"]) == ({"disable": True}, ["workers"])
        elif "build" in service:  # the image brings its own
            assert instruction("HEALTHCHECK")
        else:
            assert service["healthcheck"]["test"][0] in {"CMD", "CMD-SHELL"}, name
            assert re.fullmatch(r"[\w./-]+:[\w.-]+", service["image"]), f"{name}: an image without a version"


def test_the_service_waits_for_its_healthy_stores(compose: dict[str, Any]) -> None:
    app = compose["services"]["app"]
    assert app["depends_on"] == {name: {"condition": "service_healthy"} for name in ("mongo", "redis")}
    assert app["environment"]["REDIS_URL"] == "redis://redis:6379/0"


def test_the_worker_does_its_jobs_where_the_service_is(compose: dict[str, Any]) -> None:
    app, worker = compose["services"]["app"], compose["services"]["worker"]
    for same in ("image", "env_file", "environment", "volumes", "networks", "read_only", "cap_drop", "security_opt"):
        assert worker[same] == app[same]
    assert "ports" not in worker
    command = worker["command"]
    assert command[1:5] == ["-m", "taskiq", "worker", "app.jobs:broker"]
    ending = sum(int(command[command.index(name) + 1]) for name in ("--wait-tasks-timeout", "--shutdown-timeout"))
    assert int(worker["stop_grace_period"].removesuffix("s")) >= ending + 10


def test_mongodb_is_the_replica_set_that_the_service_asks_for(compose: dict[str, Any]) -> None:
    command = compose["services"]["mongo"]["command"]
    name = command[command.index("--replSet") + 1]
    assert compose["services"]["app"]["environment"]["MONGODB_URL"] == f"mongodb://mongo:27017/?replicaSet={name}"
    script = compose["services"]["mongo"]["healthcheck"]["test"][-1]
    assert f'_id: "{name}"' in script
    assert 'host: "mongo:27017"' in script


def test_only_the_service_can_be_reached_and_only_from_this_machine(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert services["app"]["ports"] == ["${ARROW_PUBLISH:-127.0.0.1:8000}:8000"]
    for name in ("mongo", "redis"):
        assert "ports" not in services[name]
        assert services[name]["networks"] == ["storage"]
    assert compose["networks"]["storage"]["internal"] is True


def test_what_is_stored_is_on_named_volumes(compose: dict[str, Any]) -> None:
    mounted = {volume.partition(":")[0] for service in compose["services"].values() for volume in service["volumes"]}
    assert mounted == set(compose["volumes"])
    assert "--appendonly" in compose["services"]["redis"]["command"]


def test_the_service_has_longer_to_stop_than_its_open_requests(compose: dict[str, Any]) -> None:
    grace = re.search(r"--timeout-graceful-shutdown (\d+)", (ROOT / "scripts/run").read_text())
    assert grace
    assert int(compose["services"]["app"]["stop_grace_period"].removesuffix("s")) >= int(grace[1]) + 10


# --- Dockerfile


def dockerfile_stages() -> list[list[tuple[str, str]]]:
    """The instructions of each stage as (name, arguments)."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    stages: list[list[tuple[str, str]]] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        name, _, arguments = line.partition(" ")
        if name == "FROM":
            stages.append([])
        stages[-1].append((name, arguments.strip()))
    return stages


def instruction(name: str) -> str:
    """The last such instruction of the image that runs."""
    return [arguments for found, arguments in dockerfile_stages()[-1] if found == name][-1]


def test_the_image_runs_as_an_ordinary_user_under_an_init() -> None:
    assert int(instruction("USER").split(":")[0]) >= 10_000
    assert json.loads(instruction("ENTRYPOINT")) == ["/usr/bin/tini", "--"]
    assert json.loads(instruction("CMD")) == ["scripts/run"]
    assert instruction("STOPSIGNAL") == "SIGTERM"
    assert json.loads(instruction("VOLUME")) == ["/data"]


def test_both_stages_have_the_same_python_and_the_embedded_database_has_wheels_for_it() -> None:
    images = {stage[0][1].split()[0] for stage in dockerfile_stages()}
    assert len(images) == 1
    version = re.fullmatch(r"python:(\d+\.\d+)-slim-\w+", images.pop())
    assert version
    assert version[1] in SpecifierSet(">=3.11,<3.14")


def test_everything_copied_into_the_image_is_there_and_nothing_secret_is() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert rules[0] == "*", "the context is a list of what is wanted"
    wanted = {rule[1:] for rule in rules if rule.startswith("!")}
    assert not [name for name in (".env", ".git", "data", ".venv") if any(fnmatch.fnmatch(name, w) for w in wanted)]
    for stage in dockerfile_stages():
        for name, arguments in stage:
            if name != "COPY" or "--from" in arguments:
                continue
            for source in shlex.split(arguments)[:-1]:
                assert (ROOT / source).exists()
                assert source.split("/")[0] in wanted, f"{source} is kept from the image by .dockerignore"


@contextmanager
def answering(status: int) -> Iterator[int]:
    """A real server on a port of its own that answers /health/live with `status`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/health/live" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (404, False), (503, False)])
def test_the_image_health_check_tells_a_live_service_from_another(status: int, healthy: bool) -> None:
    with answering(status) as port:
        assert (health_check(port) == 0) is healthy


def test_the_image_health_check_fails_without_a_service() -> None:
    with answering(200) as port:
        pass
    assert health_check(port) != 0


def health_check(port: int) -> int:
    """The exit code of the image's health check, run with this Python."""
    command = json.loads(instruction("HEALTHCHECK").partition("CMD ")[2])
    assert command[0] == "/app/.venv/bin/python"
    here = [sys.executable, *command[1:]]
    return subprocess.run(
        here, env={**os.environ, "PORT": str(port)}, stderr=subprocess.DEVNULL, check=False
    ).returncode


# --- .env.example


def documented_names() -> list[str]:
    """The variables that .env.example sets or, commented out, offers."""
    text = (ROOT / ".env.example").read_text()
    return re.findall(r"^#?[ ]?([A-Z][A-Z0-9_]*)=", text, re.MULTILINE)


def accepted_names(field: str) -> set[str]:
    """The variables that the setting `field` is read from."""
    alias = Settings.model_fields[field].validation_alias
    if alias is None:
        return {field.upper()}
    choices = [alias] if isinstance(alias, str) else alias.choices  # type: ignore[union-attr]
    return {str(choice).upper() for choice in choices}


def test_the_sample_explains_every_setting_and_nothing_else() -> None:
    documented = documented_names()
    assert len(documented) == len(set(documented)), "a variable stands there twice"
    known = set(NOT_SETTINGS)
    for field in Settings.model_fields:
        names = accepted_names(field)
        assert names & set(documented), f".env.example does not explain {' or '.join(sorted(names))}"
        known |= names
    assert not set(documented) - known, "the service reads no such variable"
    assert {"HOST", "PORT", "WORKERS"} <= set(documented)


# --- hygiene


def test_what_a_person_runs_is_executable() -> None:
    for file in [ROOT / ".ci/run", *(ROOT / "scripts").iterdir()]:
        if file.is_file() and file.read_bytes().startswith(b"#!"):
            assert os.access(file, os.X_OK), f"chmod +x {file.relative_to(ROOT)}"
    for name in ("scripts/run", "scripts/test", "scripts/lock", ".ci/run"):
        assert os.access(ROOT / name, os.X_OK)


# Written so that they do not match themselves.
FOREIGN = {
    "a path of one machine": r"/(home|Users)/[a-z]|/root/\.(pyenv|config|local)|/w[o]rk/|\.\./sh[a]red|/tmp/l[a]b",
    "a registry's address": r"pypi\.org|pythonhosted\.org|registry\.npmjs|(deb|security)\.debian\.org",
}


def test_no_file_names_one_machine_or_a_registry() -> None:
    found = []
    for file in repository_files():
        try:
            text = file.read_text()
        except UnicodeDecodeError:
            continue
        found += [f"{file.relative_to(ROOT)}: {what}" for what, rule in FOREIGN.items() if re.search(rule, text)]
    assert not found


def test_no_secret_and_no_data_is_in_the_repository() -> None:
    ignored = ["data/x.json", "logs/app.log", ".env", ".env.local", ".venv/x", ".venv-dev/x", "app/__pycache__/x"]
    listed = subprocess.run(["git", "check-ignore", *ignored], cwd=ROOT, capture_output=True, text=True, check=True)
    assert listed.stdout.split() == ignored
    kept = subprocess.run(["git", "check-ignore", ".env.example"], cwd=ROOT, capture_output=True, check=False)
    assert kept.returncode == 1


def test_the_licence_is_mit() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert text.startswith("MIT License")
    assert "The Arrow authors" in text
