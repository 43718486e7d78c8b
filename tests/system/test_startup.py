"""A start with a wrong setting ends with one line that names it; a right one comes up, whatever way it is written."""

import signal
import stat
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from app.core.settings import Settings, SettingsError
from tests.support.clocks import wait_for_minute
from tests.support.http import NO_TLS
from tests.support.people import somebody
from tests.support.service import ServiceProcess, free_port

# All wrong starts are made before the first test: one for each stage of a start that can refuse.
pytestmark = [pytest.mark.timeout(180), pytest.mark.slow]

MakeService = Callable[..., ServiceProcess]
PASSWORD = "Pa55-of-the-database"
GOOD_SECRET = "f3a1c09b7d5e2486a0c4e8f1b2d3967582af0c1e4d6b8a97"
STARTUP_FAILURE = 3
"""uvicorn's exit status for a start that failed."""

WRONG: dict[str, tuple[dict[str, str | None], str]] = {
    "PostgreSQL": ({"MONGODB_URL": None, "DATABASE_URL": f"postgresql://arrow:{PASSWORD}@db/arrow"}, "DATABASE_URL"),
    "broken address": ({"MONGODB_URL": f"mongodb://arrow:{PASSWORD}@:not-a-port/"}, "MONGODB_URL"),
    "unreachable database": (
        {"MONGODB_URL": f"mongodb://arrow:{PASSWORD}@127.0.0.1:{{port}}/", "DATABASE_CONNECT_TIMEOUT_SECONDS": "1"},
        "MONGODB_URL",
    ),
    "unreachable database under its other name": (
        {
            "MONGODB_URL": None,
            "MONGO_DB_CONNECTION_STRING": f"mongodb://arrow:{PASSWORD}@127.0.0.1:{{port}}/",
            "DATABASE_CONNECT_TIMEOUT_SECONDS": "1",
        },
        "MONGODB_URL",
    ),
    "a word for a number": ({"RATE_LIMIT_PER_MINUTE": "abc"}, "RATE_LIMIT_PER_MINUTE"),
    "production without a key": ({"ENVIRONMENT": "production"}, "SECRET_KEY"),
    "data folder in a file": ({"DATA_DIR": "{file}/data"}, "DATA_DIR"),
    "data folder in a file, in production": (
        {"DATA_DIR": "{file}/data", "ENVIRONMENT": "production", "SECRET_KEY": GOOD_SECRET},
        "DATA_DIR",
    ),
    "log file in a file": ({"LOG_FILE": "{file}/app.log"}, "LOG_FILE"),
}
AS_A_SHELL = "a word for a number"
"""The one that is started with its own import of the service; the others are forked from one that has it."""


@dataclass(frozen=True)
class Refusal:
    """How a start ended."""

    status: int | None
    output: str


def attempt(folder: Path, settings: dict[str, str | None], workers: int = 1, *, forked: bool = True) -> Refusal:
    """Start with these settings and wait for the end; status None if it is running after 60 s."""
    folder.mkdir(parents=True)
    (folder / "file").write_text("no folder")
    places = {"port": str(free_port()), "file": str(folder / "file")}
    filled = {name: value and value.format(**places) for name, value in settings.items()}
    service = ServiceProcess(folder, workers=workers, forked=forked, **filled)
    try:
        process = service.launch().process
        assert process
        return Refusal(process.wait(60), service.log_text())
    except subprocess.TimeoutExpired:
        return Refusal(None, service.log_text())
    finally:
        service.close()


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Refusal]]:
    """Every wrong start, two at a time."""
    folder = tmp_path_factory.mktemp("wrong")
    with ThreadPoolExecutor(2) as pool:
        running = {
            name: pool.submit(attempt, folder / name, settings)
            for name, (settings, _) in WRONG.items()
            if name != AS_A_SHELL
        }
        running[AS_A_SHELL] = pool.submit(attempt, folder / "shell", WRONG[AS_A_SHELL][0], forked=False)
        running["several workers"] = pool.submit(attempt, folder / "several", {"RATE_LIMIT_PER_MINUTE": "abc"}, 2)
        yield {name: future.result() for name, future in running.items()}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_setting_stops_the_start_with_one_line(refusals: dict[str, Refusal], name: str):
    refusal, setting = refusals[name], WRONG[name][1]

    assert refusal.status == STARTUP_FAILURE, refusal
    naming = [line for line in refusal.output.splitlines() if setting in line]
    assert len(naming) == 1, refusal.output
    assert "Traceback" not in refusal.output
    assert PASSWORD not in refusal.output


def test_several_workers_do_not_try_for_ever(refusals: dict[str, Refusal]):
    refusal = refusals["several workers"]

    assert refusal.status is not None, refusal.output
    assert "RATE_LIMIT_PER_MINUTE" in refusal.output
    assert "Traceback" not in refusal.output


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ENVIRONMENT", "prod"),
        ("LOG_LEVEL", "loud"),
        ("LOG_FORMAT", "xml"),
        ("ALGORITHM", "none"),
        ("ALGORITHM", "RS256"),
        ("DATABASE_NAME", "a.b$c"),
        ("DATABASE_MAX_POOL_SIZE", "0"),
        ("DATABASE_CONNECT_TIMEOUT_SECONDS", "-1"),
        ("ACCESS_TOKEN_EXPIRE_MINUTES", "0"),
        ("REFRESH_TOKEN_EXPIRE_DAYS", "week"),
        ("USER_RATE_LIMIT_PER_MINUTE", "0"),
        ("AUTH_RATE_LIMIT_PER_MINUTE", "-5"),
        ("ALERT_RATE_LIMIT_PER_MINUTE", "1.5"),
        ("ALERT_DEDUP_SECONDS", "0"),
        ("WEBHOOK_ALLOWED_IPS", "tradingview,10.0.0.0/33"),
        ("TRUSTED_PROXIES", '["10.0.0.1"'),
        ("PUBLIC_BASE_URL", "arrow.example.com"),
        ("REJECTED_MAX_PER_STRATEGY", "1"),
        ("BACKGROUND_TASKS_ENABLED", "perhaps"),
        ("REDIS_PORT", "99999"),
        ("REDIS_URL", f"http://:{PASSWORD}@127.0.0.1"),
        ("MONGODB_URL", f"arrow:{PASSWORD}@db"),
        ("TRUSTED_PROXIES", "foo"),
        ("ALLOWED_ORIGINS", '["http://localhost:3000"'),
    ],
)
def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, value: str):
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setenv(name, value)

    message = refusal_of_the_settings()

    assert message.startswith(f"{name}: ")
    assert "\n" not in message
    assert PASSWORD not in message


@pytest.mark.parametrize("key", [PASSWORD, f"changeme-{PASSWORD}-changeme-changeme"])
def test_production_wants_a_real_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, key: str):
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setenv("ENVIRONMENT", "production")
    monkeypatch.setenv("SECRET_KEY", key)

    message = refusal_of_the_settings()

    assert message.startswith("SECRET_KEY")
    assert PASSWORD not in message


def refusal_of_the_settings() -> str:
    """What the service would say instead of starting."""
    with pytest.raises(SettingsError) as refused:
        Settings.load()
    return str(refused.value)


def test_lists_as_json_and_comma_separated(make_service: MakeService):
    made = make_service(
        ALLOWED_ORIGINS="https://a.example, https://b.example",
        TRUSTED_PROXIES='["127.0.0.1", "10.0.0.0/8"]',
        WEBHOOK_ALLOWED_IPS="127.0.0.1,tradingview",
        RATE_LIMIT_PER_MINUTE="3",
    ).start()
    wait_for_minute(12)
    with httpx.Client(base_url=made.url, timeout=30, verify=NO_TLS) as client:
        for origin in ("https://a.example", "https://b.example", "https://c.example"):
            allowed = client.get("/health", headers={"Origin": origin}).headers.get("Access-Control-Allow-Origin")
            assert allowed == (origin if origin != "https://c.example" else None)
        # Trusted proxies are known: each address behind them has its own allowance.
        for address in ("192.0.2.1", "192.0.2.2"):
            answers = [client.get("/", headers={"X-Forwarded-For": f"{address}, 10.1.1.1"}) for _ in range(4)]
            assert [answer.status_code for answer in answers] == [200, 200, 200, 429]


async def test_the_secret_key_is_kept_over_restarts(make_service: MakeService):
    service = make_service(forked=False)
    service.start()
    path = service.data_dir / "secrets" / "secret_key"
    first = path.read_text()
    async with somebody(service.url) as person:
        assert service.stop() in {0, -signal.SIGTERM}
        service.start()
        assert (await person.client.get("/api/v1/auth/me")).status_code == 200
    assert path.read_text() == first
    assert len(first.strip()) >= 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert first.strip() not in service.log_text()


async def test_two_workers_make_one_key_of_each_kind(make_service: MakeService):
    """Both start at the same moment on an empty folder; a token of one holds at the other."""
    service = make_service(workers=2).start()
    async with somebody(service.url) as person:
        for _ in range(20):
            async with httpx.AsyncClient(
                base_url=service.url, headers=person.client.headers, timeout=30, verify=NO_TLS
            ) as fresh:
                assert (await fresh.get("/api/v1/auth/me")).status_code == 200
    assert {path.name for path in (service.data_dir / "secrets").iterdir()} == {"secret_key", "encryption_key"}


@pytest.mark.embedded
def test_a_second_service_on_the_same_data_is_refused(make_service: MakeService):
    first = make_service(forked=False).start()
    second = make_service(DATA_DIR=str(first.data_dir), forked=False).launch()
    assert second.process

    assert second.process.wait(60) == STARTUP_FAILURE
    assert "another Arrow service" in second.log_text()
    assert "Traceback" not in second.log_text()
    assert first.health()["database"]["status"] == "ok"
