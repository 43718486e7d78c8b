"""One pipeline for all logs, in processes of their own: what is written, where, and what never is."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PASSWORD = "Pa55-w0rd-of-the-database"
BEGIN = """
import logging, sys
from pathlib import Path
import structlog
from app.core.logging import configure_logging
from app.core.settings import Settings
options = {options!r}
PASSWORD = {password!r}
def configure(**more):
    configure_logging(Settings(secret_key="k" * 40, _env_file=None, **(options | more)))
configure()
log = structlog.get_logger("arrow.test")
"""


def run(folder: Path, script: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run `script` with logging configured."""
    begin = BEGIN.format(options={"environment": "test", "data_dir": str(folder)} | options, password=PASSWORD)
    return subprocess.run(
        [sys.executable, "-X", "utf8", "-c", begin + textwrap.dedent(script)],
        capture_output=True,
        timeout=30,
        check=False,
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
    )


def lines(output: bytes) -> list[dict[str, Any]]:
    """Every line of JSON logs; each has to be an object."""
    found = [json.loads(line) for line in output.splitlines()]
    assert all(isinstance(line, dict) for line in found)
    return found


def test_json_lines(tmp_path: Path):
    done = run(
        tmp_path,
        """
        log.debug("too small")
        log.info("stored", alert_id="6b02893a002b26997921d778", ms=1.25, ok=True, nothing=None, many=[1, "a"])
        log.warning("two\\nlines \\u2028 and an é 😀")
        try:
            raise ValueError(f"cannot reach mongodb://arrow:{PASSWORD}@db/x")
        except ValueError:
            log.exception("failed", password=PASSWORD)
        log.error("half a pair: \\ud800", text="\\udfff")
        log.info("odd", value=object, big=2**80, nan=float("nan"), raw=b"\\xff", inner={1: {2: {3: 4}}})
        structlog.contextvars.bind_contextvars(request_id="r1")
        log.info("bound")
        """,
    )

    assert (done.returncode, done.stderr) == (0, b"")
    stored, two, failed, half, odd, bound = lines(done.stdout)
    assert {"event": "stored", "level": "info", "alert_id": "6b02893a002b26997921d778"}.items() <= stored.items()
    assert (stored["ms"], stored["ok"], stored["nothing"], stored["many"]) == (1.25, True, None, [1, "a"])
    assert stored["timestamp"].endswith("Z")
    assert two["event"] == "two\nlines \u2028 and an é 😀"
    assert "ValueError: cannot reach mongodb://arrow:***@db/x" in failed["exception"]
    assert "Traceback" in failed["exception"]
    assert failed["password"] == "***"
    assert (half["event"], half["text"]) == ("half a pair: \ud800", "\udfff")
    assert odd["big"] == 2**80
    assert bound["request_id"] == "r1"


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_no_secret_in_any_field(tmp_path: Path, log_format: str):
    done = run(
        tmp_path,
        """
        class Talkative:
            def __str__(self): return f"mongodb://arrow:{PASSWORD}@db"
            __repr__ = __str__
        log.warning(f"password={PASSWORD}", a=Talkative(), b=[Talkative()], c={"password": PASSWORD})
        log.warning("more", d=f"token={PASSWORD}".encode(), error=OSError(f"mongodb://arrow:{PASSWORD}@db"))
        log.warning("in a name", **{f"mongodb://arrow:{PASSWORD}@db": 1, "api_key": PASSWORD})
        key = "k" * 43
        log.warning(f"POST /data/{key}", path=f"/data/{key}", keys=[key], digest={key: key})
        logging.getLogger("pymongo").warning("at %s", f"mongodb://arrow:{PASSWORD}@db")
        logging.getLogger("other").error("failed", exc_info=OSError(f"mongodb://arrow:{PASSWORD}@db"))
        try:
            try:
                raise OSError(f"mongodb://arrow:{PASSWORD}@db")
            except OSError as error:
                raise RuntimeError(f"token={PASSWORD}") from error
        except RuntimeError:
            log.exception("chained")
        """,
        log_format=log_format,
        log_file=str(tmp_path / "logs" / "app.log"),
    )

    assert (done.returncode, done.stderr) == (0, b"")
    for text in (done.stdout, (tmp_path / "logs" / "app.log").read_bytes()):
        assert PASSWORD.encode() not in text
        assert b"k" * 43 not in text
        assert b"POST /data/***" in text
        assert text.count(b"***") >= 12


def test_other_libraries_go_the_same_way(tmp_path: Path):
    done = run(
        tmp_path,
        """
        logging.getLogger("asyncio").warning("Executing %s took %.3f seconds", "task", 1.5)
        logging.getLogger("chatty").info("too small for others")
        logging.getLogger("broken").error("%d", "not a number")
        logging.getLogger("levels").log(35, "between two levels")
        logging.getLogger("levels").log(99, "above all")
        logging.getLogger("uvicorn.error").info("Started server process")
        logging.getLogger("uvicorn.access").info('127.0.0.1 - "GET /data/secret-key HTTP/1.1" 200')
        logging.getLogger("uvicorn.error").info('%s - "WebSocket %s" [accepted]', "127.0.0.1", "/ws?token=secret")
        logging.getLogger("uvicorn.error").error("connection lost", exc_info=(ValueError, ValueError("x"), None))
        """,
    )

    assert (done.returncode, done.stderr) == (0, b"")
    assert [(line["level"], line["event"], line["logger"]) for line in lines(done.stdout)] == [
        ("warning", "Executing task took 1.500 seconds", "asyncio"),
        ("error", "%d", "broken"),
        ("warning", "between two levels", "levels"),
        ("critical", "above all", "levels"),
        ("info", "Started server process", "uvicorn.error"),
        ("error", "connection lost", "uvicorn.error"),
    ]
    assert b"secret" not in done.stdout
    assert lines(done.stdout)[-1]["exception"] == "ValueError: x"


def test_what_uvicorn_set_up_before_is_replaced(tmp_path: Path):
    done = run(
        tmp_path,
        """
        for name in ("uvicorn", "uvicorn.error"):
            logging.getLogger(name).addHandler(logging.StreamHandler(sys.stdout))
            logging.getLogger(name).propagate = False
        logging.getLogger().addHandler(logging.StreamHandler(sys.stdout))
        configure()
        logging.getLogger("uvicorn.error").info("Application startup complete.")
        """,
    )

    assert [line["event"] for line in lines(done.stdout)] == ["Application startup complete."]


@pytest.mark.parametrize(
    ("options", "is_json"),
    [
        ({"environment": "development"}, False),
        ({"environment": "test"}, True),
        ({"environment": "staging"}, True),
        ({"environment": "production", "secret_key": "f3a1c09b7d5e2486a0c4e8f1b2d39675"}, True),
        ({"environment": "development", "log_format": "json"}, True),
        ({"environment": "test", "log_format": "console"}, False),
    ],
)
def test_which_form_lines_have(tmp_path: Path, options: dict[str, str], is_json: bool):
    begin = BEGIN.replace('secret_key="k" * 40, ', "").format(
        options={"data_dir": str(tmp_path)} | options, password=PASSWORD
    )
    done = subprocess.run(
        [sys.executable, "-c", begin + 'log.info("a plain word", n=1)'],
        capture_output=True,
        timeout=30,
        check=True,
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
    )

    assert b"a plain word" in done.stdout
    assert done.stdout.startswith(b"{") == is_json
    if not is_json:
        assert b"\x1b[" not in done.stdout  # colours are for terminals


@pytest.mark.parametrize("level", ["DEBUG", "INFO", "WARNING", "ERROR"])
def test_the_level(tmp_path: Path, level: str):
    done = run(
        tmp_path,
        """
        for name in ("debug", "info", "warning", "error", "critical"):
            getattr(log, name)(name)
            getattr(logging.getLogger("library"), name)(f"library {name}")
        """,
        log_level=level,
    )
    order = ["debug", "info", "warning", "error", "critical"]
    ours = [line["event"] for line in lines(done.stdout) if "logger" not in line]
    theirs = [line["event"].removeprefix("library ") for line in lines(done.stdout) if "logger" in line]

    assert ours == order[order.index(level.lower()) :]
    # Of other libraries only what somebody ought to know.
    assert theirs == order[max(order.index(level.lower()), order.index("warning")) :]


def test_the_log_file_gets_every_line_and_is_continued(tmp_path: Path):
    path = tmp_path / "logs" / "deep" / "app.log"
    for number in (1, 2):
        done = run(tmp_path, f'log.info("start {number}")\nlog.info("ünï")', log_file=str(path))
        assert done.returncode == 0

    assert [line["event"] for line in lines(path.read_bytes())] == ["start 1", "ünï", "start 2", "ünï"]
    assert path.read_bytes().endswith(done.stdout)


def test_two_processes_write_whole_lines_to_one_file(tmp_path: Path):
    path = tmp_path / "app.log"
    script = 'for n in range(2000):\n    log.info("line", n=n, text="x" * 200)\n'
    begin = BEGIN.format(
        options={"environment": "test", "data_dir": str(tmp_path), "log_file": str(path)}, password=PASSWORD
    )
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", begin + script], stdout=subprocess.DEVNULL, env=environment, cwd=tmp_path
        )
        for _ in range(2)
    ]
    assert [process.wait(30) for process in both] == [0, 0]

    written = lines(path.read_bytes())
    assert sorted(line["n"] for line in written) == sorted([*range(2000)] * 2)


def test_a_full_disk_stops_nobody(tmp_path: Path):
    done = run(tmp_path, 'log.info("first")\nlog.info("second")', log_file="/dev/full")

    assert (done.returncode, done.stderr) == (0, b"")
    assert [line["event"] for line in lines(done.stdout)] == ["first", "second"]


def test_a_closed_standard_output_stops_nobody(tmp_path: Path):
    path = tmp_path / "app.log"
    done = run(
        tmp_path,
        """
        import os
        sys.stdout.close()
        log.info("closed")
        sys.stdout = None
        log.info("none")
        read, write = os.pipe()
        os.close(read)
        sys.stdout = os.fdopen(write, "w")
        log.info("broken pipe")
        os._exit(0)
        """,
        log_file=str(path),
    )

    assert (done.returncode, done.stderr) == (0, b"")
    assert [line["event"] for line in lines(path.read_bytes())] == ["closed", "none", "broken pipe"]


def test_it_may_be_configured_again(tmp_path: Path):
    done = run(
        tmp_path,
        """
        configure()
        configure(log_format="console")
        configure()
        log.info("once")
        logging.getLogger("library").warning("once too")
        logging.getLogger("uvicorn.error").info('"WebSocket /ws?token=x" 403')
        """,
    )

    assert [line["event"] for line in lines(done.stdout)] == ["once", "once too"]


def test_a_log_file_that_cannot_be_is_named(tmp_path: Path):
    done = run(tmp_path, "", log_file="/dev/null/app.log")

    assert done.returncode != 0
    assert b"LOG_FILE: " in done.stderr.splitlines()[-1]
