"""`scripts/export_data.py` and `scripts/import_data.py`, run as a person runs them."""

import asyncio
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import httpx
import pytest
from bson import json_util

from app.core.database import Database
from app.core.embedded import EmbeddedDatabase, installed_version
from tests.core.databases import MakeDatabase, make_database, server_settings
from tests.core.exports import user
from tests.support.http import NO_TLS
from tests.support.people import alert, sign_up
from tests.support.service import ROOT, ServiceProcess

pytestmark = pytest.mark.timeout(180)

__all__ = ["make_database"]

MakeService = Callable[..., ServiceProcess]


class Run:
    """Runs programs as a person does, from a folder of theirs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def __call__(self, name: str, *arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
        return self._run([sys.executable, str(ROOT / "scripts" / name), *arguments], env)

    def shell(self, line: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
        return self._run(["sh", "-c", line], env)

    def _run(self, command: list[str], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=self.folder, env=env, capture_output=True, text=True, timeout=50, check=False
        )


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "work")


class Sender(threading.Thread):
    """Delivers alerts one after another until it is stopped, and keeps what was acknowledged."""

    def __init__(self, url: str, key: str) -> None:
        super().__init__(daemon=True)
        self.acknowledged: list[float] = []
        self.problems: list[str] = []
        self._url = f"{url}/data/{key}"
        self._over = threading.Event()

    def run(self) -> None:
        with httpx.Client(timeout=30, verify=NO_TLS) as client:
            while not self._over.is_set():
                price = 1000.0 + len(self.acknowledged)
                for _ in range(4):  # as TradingView does, where the machine stands still for too long
                    answer = client.post(self._url, json=alert(price=price, alert_id=str(price)))
                    if answer.status_code != 503:
                        break
                if answer.status_code in {200, 201}:
                    self.acknowledged.append(price)
                else:
                    self.problems.append(answer.text)
                time.sleep(0.02)

    def finish(self) -> None:
        self._over.set()
        self.join(60)


async def test_from_a_service_at_work_to_another_database(make_service: MakeService, run: Run, tmp_path: Path) -> None:
    """Embedded → embedded, or → the server of `TEST_MONGODB_URL`."""
    source = make_service(MONGODB_URL=None, DATABASE_NAME=None).start()
    async with aclosing((person := await sign_up(source.url)).client):
        key = await person.bind("Carried")
    sender = Sender(source.url, key)
    sender.start()
    while len(sender.acknowledged) < 30:
        await asyncio.sleep(0.05)
    before = set(sender.acknowledged)
    told = run("export_data.py", "--output", "carried.bson.gz", env=source.env)
    assert told.returncode == 0, told.stderr
    file = tmp_path / "work" / "carried.bson.gz"
    counted = int(re.search(r"^alerts: ([\d,]+)$", told.stdout, re.MULTILINE)[1].replace(",", ""))  # type: ignore[index]
    assert "not as of one moment" in told.stdout

    # The service that runs is not to be overwritten; what it lacks may be added.
    for option in ([], ["--replace"]):
        told = run("import_data.py", str(file), *option, env=source.env)
        assert (told.returncode, told.stdout) == (1, "")
        assert re.fullmatch(rf"a running service \(process {source.process.pid}\) .*stop it first\n", told.stderr)  # type: ignore[union-attr]
    told = run("import_data.py", "carried.bson.gz", "--merge", env=source.env)
    assert (told.returncode, told.stderr) == (0, "")
    assert f"alerts: 0 imported, {counted:,} there already" in told.stdout
    sender.finish()
    assert sender.problems == []
    assert counted >= len(before)
    source.stop()

    target = make_service()
    told = run("import_data.py", "carried.bson.gz", env=target.env)
    assert (told.returncode, told.stderr) == (0, "")
    assert f"alerts: {counted:,} imported\n" in told.stdout
    target.start()
    async with httpx.AsyncClient(base_url=target.url, timeout=30, verify=NO_TLS) as client:
        login = await client.post("/api/auth/login", json={"email": person.email, "password": person.password})
        client.headers["Authorization"] = f"Bearer {login.json()['access_token']}"
        alerts = (await client.get("/data/", params={"limit": 100})).json()
        assert {row["price"] for row in alerts} >= before if counted <= 100 else len(alerts) == 100
        # The key came along, and the unique index that decides repeats.
        again = await client.post(f"/data/{key}", json=alert(price=1.0, alert_id="x"))
        repeat = await client.post(f"/data/{key}", json=alert(price=1.0, alert_id="x"))
        assert (again.status_code, repeat.status_code) == (201, 200)


async def test_the_programs_say_what_is_wrong(
    mongodb_url: str, make_database: MakeDatabase, run: Run, tmp_path: Path
) -> None:
    two = await make_database(), await make_database()
    await two[0].db["users"].insert_many([user("a"), user("b")])
    env = {"ENVIRONMENT": "test", "DATA_DIR": str(tmp_path / "data"), "MONGODB_URL": mongodb_url}
    source, target = (env | {"DATABASE_NAME": database.db.name} for database in two)
    told = run("export_data.py", "-o", "x.gz", "--collections", "users", env=source)
    assert (told.returncode, told.stderr) == (0, "")
    assert "users: 2" in told.stdout

    told = run("import_data.py", "x.gz", "--check", env=target)
    assert told.stdout.endswith("users: 2\n")
    told = run("import_data.py", "x.gz", "--print", env=target)
    line = json_util.loads(told.stdout.splitlines()[0])
    assert (line["collection"], line["document"]["email"]) == ("users", "a@example.com")
    assert '"schema_version": {"$numberInt": "1"}' in told.stdout

    whole = (tmp_path / "work" / "x.gz").read_bytes()
    (tmp_path / "work" / "y.gz").write_bytes(whole[:-40])
    told = run("import_data.py", "y.gz", "--replace", env=target)
    assert (told.returncode, told.stdout, told.stderr.count("\n")) == (1, "", 1)
    assert "y.gz is not an export of Arrow, or is damaged or incomplete (its end is missing)" in told.stderr
    assert await two[1].db.list_collection_names() == []

    taken = user("b")
    await two[1].db["users"].insert_one(taken)
    told = run("import_data.py", "x.gz", env=target)
    assert (told.returncode, told.stderr.count("\n")) == (1, 1)
    assert "has data already (in users)" in told.stderr
    told = run("import_data.py", "x.gz", "--merge", env=target)
    assert (told.returncode, told.stderr.count("\n")) == (3, 1)
    assert re.match(r"users [0-9a-f]{24}: left out, another document has the same email", told.stderr)


def test_where_there_is_nothing_to_export(run: Run, tmp_path: Path) -> None:
    env = {"ENVIRONMENT": "test", "DATA_DIR": str(tmp_path / "data")}
    told = run("export_data.py", env=env)
    assert (told.returncode, told.stderr.count("\n")) == (1, 1)
    assert "there is no embedded database in" in told.stderr
    assert not (tmp_path / "data" / "embedded").exists()


async def test_files_of_another_version_of_the_embedded_database(run: Run, tmp_path: Path) -> None:
    """The printed commands are the whole procedure; here it is walked with the marker instead of an old package."""
    data = tmp_path / "data"
    embedded = EmbeddedDatabase(data, role="tool")
    database = Database(server_settings(await embedded.start(), tmp_path))
    await database.connect()
    await database.client["arrow"]["users"].insert_one(user("kept"))
    await database.close()
    await embedded.stop()
    marker, here = data / "embedded" / "version", installed_version()
    marker.write_text("0.0.1")

    env = {"ENVIRONMENT": "test", "DATA_DIR": str(data)}
    told = run("export_data.py", "--output", "kept.gz", env=env)
    assert (told.returncode, told.stdout) == (1, "")
    first, export, move, second, load = [line.strip() for line in told.stderr.splitlines() if line.startswith("  ")]
    assert first == f"{sys.executable} -m pip install SecantusDB==0.0.1"
    assert second == f"{sys.executable} -m pip install SecantusDB=={here}"
    marker.write_text(here)
    for command in (export, move, load):
        told = run.shell(command, env=env)
        assert told.returncode == 0, told.stderr
    assert (data / "embedded-0.0.1" / "files").is_dir()
    assert "users: 1 imported" in told.stdout
