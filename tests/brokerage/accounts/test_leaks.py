"""No credential is in a log, an answer, an event, a mail, the trail or a file of the database, in any spelling."""

import base64
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.support.service import ROOT

pytestmark = pytest.mark.timeout(180)
"""The first of them waits for the whole program."""


@dataclass
class Left:
    """What the program left."""

    folder: Path
    output: bytes
    secrets: dict[str, str]
    shown: dict[str, str]


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Left:
    folder = tmp_path_factory.mktemp("leaks")
    command = [sys.executable, "-m", "tests.brokerage.accounts.leaking", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((folder / "secrets.json").read_bytes())
    (folder / "secrets.json").unlink()
    return Left(folder, done.stdout + done.stderr, found["secrets"], found["shown"])


def spellings(value: str) -> list[str]:
    """Itself, its usual encodings, and parts that give it away."""
    found = [value, quote(value, safe=""), base64.b64encode(value.encode()).decode().rstrip("=")]
    if len(value) >= 24:
        found += [value[:16], value[-16:]]
    return found


def leaks(content: bytes, wanted: dict[str, str]) -> list[str]:
    return [name for name, value in wanted.items() if any(each.encode() in content for each in spellings(value))]


def test_the_program_went_every_way(left: Left) -> None:
    """A test that looks for what was never there would find nothing."""
    answers = json.loads((left.folder / "answers.json").read_bytes())
    assert len(answers) > 60
    text = "\n".join(answers)
    for words in (
        "could lock your account",
        '"state": "valid"',
        '"state": "expired"',
        "without a user name, query or fragment",
        "surplus",
        "brokerage.sign_in",
        "brokerage.push",
        "broker_session_ended",
    ):
        assert words in text, words
    brokers = {name.split()[0] for name in left.secrets} & {"zerodha", "upstox", "groww", "angelone"}
    assert len(brokers) == 4
    assert sum("access_token" in name for name in left.secrets) == 4
    log = (left.folder / "app.log").read_text()
    assert all(event in log for event in ("it broke", "an account", "a push of a broker was refused"))


def test_no_log_and_no_file_of_the_database_has_one(left: Left) -> None:
    wanted = left.secrets | left.shown
    files = [path for path in left.folder.rglob("*") if path.is_file() and path.name != "answers.json"]
    assert len(files) > 10
    assert (left.folder / "rows.json").stat().st_size > 3000
    for path in files:
        assert not leaks(path.read_bytes(), wanted), path
    assert not leaks(left.output, wanted)


def test_no_answer_event_act_or_mail_has_one(left: Left) -> None:
    """The address of a sign-in page names the API key to its owner, as the broker wants it; nothing else does."""
    answers = json.loads((left.folder / "answers.json").read_bytes())
    for answer in answers:
        assert not leaks(answer.encode(), left.secrets | left.shown), answer


def test_what_is_stored_is_sealed_field_by_field(left: Left) -> None:
    rows = [row for row in json.loads((left.folder / "rows.json").read_bytes()) if row.get("secrets")]
    assert len(rows) == 4
    tokens = [token for row in rows for token in row["secrets"].values()]
    assert len(tokens) >= 11
    assert all(re.fullmatch(r"gAAAA[\w-]{60,}={0,2}", token) for token in tokens)
