"""The running service against its own OpenAPI document: some three thousand generated requests, valid and not.

schemathesis runs as its own program, which is its stable interface (its pytest plugin lags behind pytest). It tries the
document's examples, the bounds of every parameter, missing ones, undocumented methods, random input, and sequences of
requests that use one another's answers.
"""

import asyncio
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.contract.conftest import Account
from tests.support.administrators import administrator
from tests.support.service import ServiceProcess

EXAMPLES = 5
"""Sequences of requests that use one another's answers."""
RANDOM = 2
"""Random cases for each operation, beside the thirty that are listed."""
PRIVILEGED = "^/api/v1/(admin|market-data/watchlist)"
"""What takes the role of an administrator or operator: everybody else gets 403, which the rooms' own tests look at."""
LEFT_OUT = ",".join(
    [
        # Rules that JSON Schema cannot express make some input wrong that the document allows: start before end, a
        # picture's format where the image extra is missing, text that is JSON.
        "positive_data_acceptance",
        # It takes `/data/{item_id}` and `/data/{secret_key}` for two paths; test_openapi.py looks at `Allow` instead.
        "allow_header_conformance",
    ]
)


HERE = Path(__file__).parent
CONFIG = f"""
[phases.fuzzing]
generation.max-examples = {RANDOM}

[phases.coverage]
# One that no route has; test_openapi.py sees from `Allow` that no path takes a method that is not in the document.
unexpected-methods = ["QUERY"]

# They would end the session that the run has, and everything after them would be 401. Signing out and a new password
# want a refresh token and the password in their bodies, which no generated request has; an administrator's own role and
# activation are refused with 409. There is no operation that deletes an account, or that is about maintenance.
[[operations]]
include-name = "DELETE /api/v1/auth/sessions"
enabled = false

[[operations]]
include-name = "DELETE /api/v1/auth/sessions/{{session_id}}"
enabled = false

# Its addresses are those of real brokers: no test asks the internet.
[[operations]]
include-name = "POST /api/v1/dashboard/activate-brokerage"
enabled = false

[checks.negative_data_rejection]
# 413 beside the usual ones: some wrong bodies are wrong by their size.
expected-statuses = [400, 401, 403, 404, 405, 406, 409, 411, 413, 415, 422, 428]
"""


def run(service: ServiceProcess, folder: Path, config: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run schemathesis on `service`, in an empty folder, with these options."""
    (folder / "schemathesis.toml").write_text(config + CONFIG)
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{service.url}/openapi.json", *options]
    command += ["--checks", "all", "--exclude-checks", LEFT_OUT, "--max-examples", str(EXAMPLES)]
    environment = {**os.environ, "CI": "", "SCHEMATHESIS_HOOKS": "fewer_cases", "PYTHONPATH": str(HERE)}
    command += ["--generation-deterministic", "--no-shrink", "--continue-on-failure", "--no-color"]
    command += ["--request-timeout", "60"]  # a busy machine is no failure
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=580, check=False, env=environment
    )


def check(done: subprocess.CompletedProcess[str], service: ServiceProcess) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line for line in service.log_text().splitlines() if '"level":"error"' in line] == []
    deadline = time.monotonic() + 40
    while (health := service.health())["status"] != "ok":  # a part of it may be behind for a moment
        assert time.monotonic() < deadline, health
        time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_with_a_token(target: ServiceProcess, account: Account, tmp_path: Path):
    config = f'[parameters]\nsecret_key = "{account.key}"\n'
    header = f"Authorization: {account.headers['Authorization']}"
    options = ["--header", header, "--phases", "examples,coverage,fuzzing,stateful"]

    done = run(target, tmp_path, config, *options, "--exclude-path-regex", PRIVILEGED)

    check(done, target)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_with_an_administrators_token(target: ServiceProcess, tmp_path: Path):
    async with administrator(target) as admin:
        header = f"Authorization: {admin.client.headers['Authorization']}"
        options = ["--header", header, "--phases", "examples,coverage,fuzzing,stateful"]

        done = await asyncio.to_thread(run, target, tmp_path, "", *options, "--include-path-regex", PRIVILEGED)
        me = await admin.client.get("/api/v1/auth/me")
        followed = await admin.client.delete("/api/v1/market-data/watchlist")
        # The other tests of this folder sign in at the same service.
        stopped = await admin.client.get("/api/v1/admin/users", params={"is_active": "false", "limit": 100})
        for somebody in stopped.json():
            await admin.client.patch(f"/api/v1/admin/users/{somebody['id']}", json={"is_active": True})

    check(done, target)
    assert (me.status_code, me.json()["role"]) == (200, "admin"), "it has ended its own session or role"
    assert followed.json()["source"] != "api"
    selected = re.search(r"Operations: +(\d+) selected", done.stdout)
    assert selected is not None
    assert int(selected[1]) == 8


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_without_a_token(target: ServiceProcess, tmp_path: Path):
    done = run(target, tmp_path, "", "--phases", "examples")

    check(done, target)
