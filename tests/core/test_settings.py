"""Settings: every name and order of precedence, lists, errors of one line without a secret, keys made once."""

import ipaddress
import json
import os
import stat
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import AliasChoices, ValidationError

from app.core.clock import SystemClock
from app.core.key_files import read_or_create_secret
from app.core.settings import MAX_RETENTION_DAYS, Settings, SettingsError

ROOT = Path(__file__).parents[2]
PASSWORD = "Pa55-w0rd"
GOOD_KEY = "f3a1c09b7d5e2486a0c4e8f1b2d3967582af0c1e4d6b8a97"
OTHER_KEY = "0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f6071"
VAULT_KEY = "poa7TB5SmVVbsxdd9K0UP5QsfHogVuBUqZXoBqjEpp8="
PRODUCTION = {"environment": "production", "secret_key": GOOD_KEY}


def names_of(field: str) -> list[str]:
    alias = Settings.model_fields[field].validation_alias
    return [str(choice) for choice in alias.choices] if isinstance(alias, AliasChoices) else [field]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and nothing of the developer's own settings."""
    known = {name for field in Settings.model_fields for name in names_of(field)}
    for name in list(os.environ):
        if name.lower() in known:
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    """Settings from these variables (names in small letters here, in capitals there)."""
    with monkeypatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name.upper(), value)
        return Settings.load()


def refusal(monkeypatch: pytest.MonkeyPatch, **variables: str) -> str:
    """The one line with which the start ends."""
    with pytest.raises(SettingsError) as refused:
        load(monkeypatch, **variables)
    message = str(refused.value)
    assert len(message.splitlines()) == 1, message
    return message


def mongodb(settings_: Settings) -> str | None:
    return settings_.mongodb_url.get_secret_value() if settings_.mongodb_url else None


def redis(settings_: Settings) -> str | None:
    return settings_.redis_url.get_secret_value() if settings_.redis_url else None


def test_with_nothing_set_it_is_the_embedded_database_in_development(folder: Path, monkeypatch: pytest.MonkeyPatch):
    found = load(monkeypatch)

    assert (found.environment, found.production, found.data_dir) == ("development", False, Path("data"))
    assert (mongodb(found), redis(found), found.database_name) == (None, None, "arrow")
    assert found.secret_key.get_secret_value() == (folder / "data/secrets/secret_key").read_text()


# Each name of an address, by precedence: contract.md, "Deliberate differences" and "Settings".
ADDRESSES = ("mongodb_url", "mongo_db_connection_string", "database_url")


@pytest.mark.parametrize("present", [ADDRESSES[start:] for start in range(3)] + [(name,) for name in ADDRESSES])
def test_names_of_the_database_address_by_precedence(monkeypatch: pytest.MonkeyPatch, present: tuple[str, ...]):
    found = load(monkeypatch, **{name: f"mongodb://{name.replace('_', '-')}" for name in present})

    assert mongodb(found) == f"mongodb://{present[0].replace('_', '-')}"


def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch):
    empty = {"mongodb_url": "", "redis_url": "", "log_file": "", "alert_retention_days": "", "trusted_proxies": ""}
    found = load(monkeypatch, database_url="mongodb://third", **empty)

    assert mongodb(found) == "mongodb://third"
    assert (redis(found), found.log_file, found.alert_retention_days, found.trusted_proxies) == (None, None, None, [])


def test_names_of_the_database(monkeypatch: pytest.MonkeyPatch):
    assert load(monkeypatch, mongo_db_name="one").database_name == "one"
    assert load(monkeypatch, database_name="two").database_name == "two"
    assert load(monkeypatch, database_name="two", mongo_db_name="one").database_name == "two"


def test_redis_by_address_or_in_parts(monkeypatch: pytest.MonkeyPatch):
    assert redis(load(monkeypatch, redis_url="redis://:pw@h:1/2", redis_host="other")) == "redis://:pw@h:1/2"
    assert redis(load(monkeypatch, redis_url="rediss://h")) == "rediss://h"
    assert redis(load(monkeypatch, redis_host="h")) == "redis://h:6379/0"
    assert redis(load(monkeypatch, redis_host="h", redis_port="6380", redis_db="3")) == "redis://h:6380/3"
    assert redis(load(monkeypatch, redis_host="::1")) == "redis://[::1]:6379/0"
    assert redis(load(monkeypatch, redis_port="6380", redis_db="3")) is None


def test_the_environment_comes_before_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch):
    (folder / ".env").write_text("MONGO_DB_CONNECTION_STRING=mongodb://file\nRATE_LIMIT_PER_MINUTE=7\nUNKNOWN=x\n")

    assert mongodb(load(monkeypatch)) == "mongodb://file"
    assert load(monkeypatch).rate_limit_per_minute == 7
    assert load(monkeypatch, rate_limit_per_minute="8").rate_limit_per_minute == 8
    assert mongodb(load(monkeypatch, mongo_db_connection_string="mongodb://shell")) == "mongodb://shell"
    # What is said in the code, by the tests and the scripts, comes before both.
    assert Settings.load(rate_limit_per_minute=9).rate_limit_per_minute == 9


def test_the_sample_file_is_right(monkeypatch: pytest.MonkeyPatch):
    """.env.example explains every variable, shows true defaults, and loads when everything in it is switched on."""
    lines = (ROOT / ".env.example").read_text().splitlines()
    shown = dict(line.removeprefix("#").split("=", 1) for line in lines if line[1:2].isupper() and "=" in line)
    known = {name.upper() for field in Settings.model_fields for name in names_of(field)}
    of_the_script = {"HOST", "PORT", "WORKERS"}

    assert {name.upper() for name in Settings.model_fields} <= set(shown)
    assert set(shown) <= known | of_the_script
    taken = load(monkeypatch, **{name: value for name, value in shown.items() if name not in of_the_script})
    assert taken.model_dump(exclude={"secret_key"}) == load(monkeypatch).model_dump(exclude={"secret_key"})


@pytest.mark.parametrize(
    "text",
    [
        "https://a.example,https://b.example:8443",
        " https://a.example , https://b.example:8443 ,",
        '["https://a.example", "https://b.example:8443"]',
        ' [ "https://a.example/", "https://b.example:8443/" ] ',
    ],
)
def test_ways_to_write_a_list(monkeypatch: pytest.MonkeyPatch, text: str):
    assert load(monkeypatch, allowed_origins=text).allowed_origins == ["https://a.example", "https://b.example:8443"]


def test_an_empty_list_is_a_list(monkeypatch: pytest.MonkeyPatch):
    assert load(monkeypatch, allowed_origins="[]").allowed_origins == []
    assert load(monkeypatch, webhook_allowed_ips="[]").webhook_allowed_ips == []


ORIGINS = st.from_regex(r"https://[a-z]{1,8}\.example(:[1-9][0-9]{1,3})?", fullmatch=True)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(origins=st.lists(ORIGINS, max_size=5))
def test_a_list_is_the_same_as_json_and_with_commas(origins: list[str]):
    texts = [json.dumps(origins), ",".join(origins), " , ".join(origins)]

    assert [Settings(secret_key="k", allowed_origins=text).allowed_origins for text in texts] == [origins] * 3


def test_networks(monkeypatch: pytest.MonkeyPatch):
    found = load(monkeypatch, trusted_proxies="127.0.0.1, 10.1.2.3/8,::1,fd00::/8")

    expected = ["127.0.0.1/32", "10.0.0.0/8", "::1/128", "fd00::/8"]
    assert found.trusted_proxies == [ipaddress.ip_network(network) for network in expected]


def test_the_word_tradingview_stands_for_its_addresses(monkeypatch: pytest.MonkeyPatch):
    """https://www.tradingview.com/support/solutions/43000529348-about-webhooks/ names four."""
    for text in ("tradingview, 192.0.2.0/24", '["TradingView", "192.0.2.0/24"]'):
        found = [str(network) for network in load(monkeypatch, webhook_allowed_ips=text).webhook_allowed_ips]
        four = {"52.89.214.238/32", "34.212.75.30/32", "54.218.53.128/32", "52.32.178.7/32"}
        assert (set(found[:4]), found[4:]) == (four, ["192.0.2.0/24"])


def test_case_of_words(monkeypatch: pytest.MonkeyPatch):
    found = load(monkeypatch, environment="Production", log_level="debug", secret_key=GOOD_KEY)

    assert (found.environment, found.log_level, found.production) == ("production", "DEBUG", True)


def test_a_base_address_has_no_slash_at_the_end(monkeypatch: pytest.MonkeyPatch):
    for text in ("https://arrow.example", "https://arrow.example/", "https://arrow.example//"):
        assert load(monkeypatch, public_base_url=text).public_base_url == "https://arrow.example"
    assert load(monkeypatch, public_base_url="http://h:8/arrow/").public_base_url == "http://h:8/arrow"


def test_settings_do_not_change(monkeypatch: pytest.MonkeyPatch):
    found = load(monkeypatch)

    with pytest.raises(ValidationError):
        found.debug = True  # type: ignore[misc]  # that is the point


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch):
    found = load(
        monkeypatch,
        mongodb_url=f"mongodb://u:{PASSWORD}@h",
        redis_url=f"redis://:{PASSWORD}@h",
        secret_key=f"{GOOD_KEY}{PASSWORD}",
        secret_key_previous=f"{OTHER_KEY}{PASSWORD}",
        metrics_token=PASSWORD,
        smtp_username="arrow",
        smtp_password=PASSWORD,
        encryption_keys=VAULT_KEY,
    )

    for text in (repr(found), str(found), repr(found.model_dump())):
        assert PASSWORD not in text
        assert VAULT_KEY not in text


WRONG: dict[str, tuple[dict[str, str], str]] = {
    "no MongoDB": ({"database_url": f"postgresql://u:{PASSWORD}@h/db"}, "DATABASE_URL"),
    "a file": ({"database_url": "sqlite:///./trading_dashboard.db"}, "DATABASE_URL"),
    "no scheme": ({"mongodb_url": f"u:{PASSWORD}@h"}, "MONGODB_URL"),
    "nothing but the password": ({"mongo_db_connection_string": PASSWORD}, "MONGO_DB_CONNECTION_STRING"),
    "a bracket in Redis' password": ({"redis_url": f"redis://:[{PASSWORD}]@h"}, "REDIS_URL"),
    "half a bracket": ({"redis_url": f"redis://:[{PASSWORD}@h"}, "REDIS_URL"),
    "a letter that is several": ({"redis_url": f"redis://:\u2100{PASSWORD}@h"}, "REDIS_URL"),
    "Redis with a slash in the password": ({"redis_url": f"redis://:/{PASSWORD}@h"}, "REDIS_URL"),
    "Redis with a word for a port": ({"redis_url": f"redis://:{PASSWORD}@h:port"}, "REDIS_URL"),
    "Redis with a word for a database": ({"redis_url": f"redis://:{PASSWORD}@h:1/db"}, "REDIS_URL"),
    "Redis with a wrong option": ({"redis_url": f"redis://:{PASSWORD}@h:1/0?db=x"}, "REDIS_URL"),
    "another cache": ({"redis_url": f"memcached://:{PASSWORD}@h"}, "REDIS_URL"),
    "a broken list of keys": ({"secret_key_previous": f'["{PASSWORD}'}, "SECRET_KEY_PREVIOUS"),
    "a number among the keys": ({"secret_key_previous": f'["{PASSWORD}", 5]'}, "SECRET_KEY_PREVIOUS"),
    "an empty key": ({"secret_key_previous": f'["{PASSWORD}", ""]'}, "SECRET_KEY_PREVIOUS"),
    "the database's other name": ({"mongo_db_name": "a/b"}, "MONGO_DB_NAME"),
    "a long database name": ({"database_name": "d" * 39}, "DATABASE_NAME"),
    "an origin without a scheme": ({"allowed_origins": "localhost:3000"}, "ALLOWED_ORIGINS"),
    "an origin with a path": ({"allowed_origins": '["https://a.example/app"]'}, "ALLOWED_ORIGINS"),
    "an origin with a line break": ({"allowed_origins": '["https://a.\\nexample"]'}, "ALLOWED_ORIGINS"),
    "a number for an origin": ({"allowed_origins": "[5]"}, "ALLOWED_ORIGINS"),
    "a number for a network": ({"trusted_proxies": "[1]"}, "TRUSTED_PROXIES"),
    "an object for networks": ({"webhook_allowed_ips": '{"a": 1}'}, "WEBHOOK_ALLOWED_IPS"),
    "a base with a query": ({"public_base_url": "https://a.example/?x=1"}, "PUBLIC_BASE_URL"),
    "a base with a space": ({"public_base_url": "https://a example"}, "PUBLIC_BASE_URL"),
    "a base without a host": ({"public_base_url": "https://"}, "PUBLIC_BASE_URL"),
    "no number of seconds": ({"database_connect_timeout_seconds": "nan"}, "DATABASE_CONNECT_TIMEOUT_SECONDS"),
    "endless seconds": ({"database_connect_timeout_seconds": "inf"}, "DATABASE_CONNECT_TIMEOUT_SECONDS"),
    "endless retention": ({"rejected_retention_days": "10000000"}, "REJECTED_RETENTION_DAYS"),
    "retention beyond the calendar": ({"alert_retention_days": "1000000"}, "ALERT_RETENTION_DAYS"),
    "a folder that cannot be": ({"data_dir": "/dev/null/data"}, "DATA_DIR"),
    "production with no key": ({"environment": "production"}, "SECRET_KEY"),
    "a short key": ({"environment": "production", "secret_key": GOOD_KEY[:31]}, "SECRET_KEY"),
    "a repeated letter": ({"environment": "production", "secret_key": "abc" * 20}, "SECRET_KEY"),
    "system 1's sample": (
        {"environment": "production", "secret_key": "your-secret-key-here-make-it-long-and-secure"},
        "SECRET_KEY",
    ),
    "a sample in other letters": (
        {"environment": "production", "secret_key": f"{GOOD_KEY}-CHANGE-ME"},
        "SECRET_KEY",
    ),
    "a user of the mail server without a password": ({"smtp_username": "arrow"}, "SMTP_PASSWORD"),
    "an address for a mail server": ({"smtp_host": f"smtp://arrow:{PASSWORD}@h"}, "SMTP_HOST"),
    "another way to encrypt mail": ({"smtp_tls": "ssl"}, "SMTP_TLS"),
    "a sender without an address": ({"mail_from": "Arrow"}, "MAIL_FROM"),
    "a sender with a header of its own": ({"mail_from": "a@example.com\nBcc: b@example.com"}, "MAIL_FROM"),
    "a key that encrypts nothing": ({"encryption_keys": PASSWORD}, "ENCRYPTION_KEYS"),
    "one key twice": ({"encryption_keys": f"{VAULT_KEY},{VAULT_KEY}"}, "ENCRYPTION_KEYS"),
    "zeros for a key": ({"encryption_keys": "A" * 43 + "="}, "ENCRYPTION_KEYS"),
    "cheap passwords in production": (PRODUCTION | {"password_hash_passes": "1"}, "PASSWORD_HASH_PASSES"),
    "codes for a day": ({"otp_expire_minutes": "1440"}, "OTP_EXPIRE_MINUTES"),
    "a former key that is weak": (
        PRODUCTION | {"secret_key_previous": f"{OTHER_KEY},{PASSWORD}"},
        "SECRET_KEY_PREVIOUS",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_setting_is_named_in_one_line_without_its_secret(monkeypatch: pytest.MonkeyPatch, name: str):
    variables, named = WRONG[name]

    message = refusal(monkeypatch, **variables)

    assert named in message
    assert ":" in message
    for secret in (PASSWORD, GOOD_KEY[:31], OTHER_KEY):
        assert secret not in message


# What no address may hold unless it is percent-encoded, and what breaks its parsers in one way or another.
PASSWORDS = st.text(
    st.sampled_from("abcXYZ019[]@:/?#%&= '\"\\\u2100\uff0f\u212a\t") | st.characters(codec="utf-8"),
    min_size=6,
    max_size=20,
).filter(lambda text: "\x00" not in text)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(
    password=PASSWORDS, field=st.sampled_from(["mongodb_url", "redis_url"]), scheme=st.sampled_from(["", "redis://"])
)
def test_no_password_makes_an_error_that_shows_it(password: str, field: str, scheme: str):
    message, of_another = (complaint(field, f"{scheme}user:{word}@[host") for word in (password, "\u00a7" * 30))
    for shown in (password, password.strip()):
        # hypothesis knows the constants of the code: a password may be a word of the message itself
        assert shown not in message or shown in of_another
    assert len(message.splitlines()) <= 1


def complaint(field: str, address: str) -> str:
    try:
        Settings.load(secret_key="k", **{field: address})
    except SettingsError as error:
        return str(error)
    return ""


def test_a_used_address_decides_not_one_that_is_overridden(monkeypatch: pytest.MonkeyPatch):
    found = load(monkeypatch, mongodb_url="mongodb://h", database_url=f"postgresql://u:{PASSWORD}@h/db")

    assert mongodb(found) == "mongodb://h"


def test_production_with_real_keys(folder: Path, monkeypatch: pytest.MonkeyPatch):
    found = load(monkeypatch, **PRODUCTION, secret_key_previous=OTHER_KEY)

    assert found.production
    assert [key.get_secret_value() for key in found.secret_key_previous] == [OTHER_KEY]
    assert not (folder / "data" / "secrets" / "secret_key").exists()  # nothing is made up in production


def test_a_key_that_encrypts_is_made_once_and_never_in_production(folder: Path, monkeypatch: pytest.MonkeyPatch):
    path = folder / "data" / "secrets" / "encryption_key"
    made = [load(monkeypatch).encryption_keys for _ in range(2)]

    assert made[0] == made[1]
    assert [key.get_secret_value() for key in made[0]] == [path.read_text()]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    given = load(monkeypatch, encryption_keys=f"{VAULT_KEY}, {path.read_text()}")
    assert [key.get_secret_value() for key in given.encryption_keys] == [VAULT_KEY, path.read_text()]
    path.unlink()
    assert load(monkeypatch, **PRODUCTION).encryption_keys == []
    assert not path.exists()


def test_what_is_doubtful_is_said(monkeypatch: pytest.MonkeyPatch):
    def doubts(**variables: str) -> str:
        lines = load(monkeypatch, **variables).doubts()
        assert PASSWORD not in str(lines)
        return " ".join(line.split()[0] for line in lines)

    mail = {"smtp_host": "smtp.example.com", "mail_from": "a@example.com"}
    whole = PRODUCTION | mail | {"mongodb_url": "mongodb://h", "encryption_keys": VAULT_KEY}
    clear = {"smtp_username": "arrow", "smtp_password": PASSWORD, "smtp_tls": "none"}

    assert doubts() == doubts(**whole) == doubts(**whole | clear | {"smtp_host": "localhost"}) == ""
    assert doubts(secret_key="short") == "SECRET_KEY"
    assert doubts(**PRODUCTION) == "ENCRYPTION_KEYS AUDIT_RETENTION_DAYS SMTP_HOST"
    assert doubts(**whole, **clear) == "SMTP_TLS"
    assert doubts(smtp_host="smtp.example.com") == "MAIL_FROM"


def test_development_takes_any_key(folder: Path, monkeypatch: pytest.MonkeyPatch):
    for environment in ("development", "test", "staging"):
        found = load(monkeypatch, environment=environment, secret_key="short")
        assert found.secret_key.get_secret_value() == "short"
    assert not (folder / "data" / "secrets" / "secret_key").exists()


def test_the_longest_retention_still_makes_dates(monkeypatch: pytest.MonkeyPatch):
    found = load(monkeypatch, rejected_retention_days=str(MAX_RETENTION_DAYS))

    assert SystemClock().now() + timedelta(days=found.rejected_retention_days)
    assert SystemClock().now() - timedelta(days=MAX_RETENTION_DAYS)


MAKER = """
import secrets, sys
from pathlib import Path
from app.core.key_files import read_or_create_secret
print("ready", flush=True)
sys.stdin.readline()
print(read_or_create_secret(Path(sys.argv[1]), lambda: secrets.token_hex(32)), flush=True)
"""


def test_eight_processes_at_once_make_one_secret(tmp_path: Path):
    path = tmp_path / "data" / "secrets" / "secret_key"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    makers = [
        subprocess.Popen(
            [sys.executable, "-c", MAKER, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for _ in range(8)
    ]
    try:
        for maker in makers:
            assert maker.stdout
            assert maker.stdout.readline() == "ready\n"
        for maker in makers:
            assert maker.stdin
            maker.stdin.write("\n")
            maker.stdin.flush()
        said = [maker.communicate(timeout=40)[0].strip() for maker in makers]
    finally:
        for maker in makers:
            maker.kill()
            maker.wait()

    assert len(set(said)) == 1
    assert len(said[0]) == 64
    assert path.read_text() == said[0]
    assert [entry.name for entry in path.parent.iterdir()] == ["secret_key"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_secret_is_made_once(tmp_path: Path):
    path = tmp_path / "secret"
    made: list[str] = []

    def make() -> str:
        made.append("first" if not made else "another")
        return made[-1]

    assert [read_or_create_secret(path, make) for _ in range(3)] == ["first"] * 3
    assert made == ["first"]


@pytest.mark.parametrize("content", ["", "\n", "  \n"])
def test_a_file_without_a_secret_is_no_secret(folder: Path, monkeypatch: pytest.MonkeyPatch, content: str):
    """With an empty key anybody could sign tokens."""
    path = folder / "data/secrets/secret_key"
    path.parent.mkdir(parents=True)
    path.write_text(content)

    message = refusal(monkeypatch)

    assert "DATA_DIR" in message
    assert "secret_key" in message
    assert path.read_text() == content


def test_a_draft_that_a_killed_process_left_is_not_used(tmp_path: Path):
    path = tmp_path / "secret"
    (tmp_path / f"secret.{os.getpid()}").write_text("of somebody else")

    assert read_or_create_secret(path, lambda: "mine") == "mine"


def test_every_setting_has_a_type_that_pydantic_checks():
    """A test of the tests: none of the wrong values above is a name that does not exist."""
    known: set[Any] = {name for field in Settings.model_fields for name in names_of(field)}

    assert {name for variables, _ in WRONG.values() for name in variables} <= known
