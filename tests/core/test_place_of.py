"""What programs say of the database they work on: its hosts, and nothing that may be a part of a password."""

import pytest
from pydantic import SecretStr

from app.core.maintenance import place_of
from app.core.settings import Settings


def place(url: str) -> str:
    return place_of(
        Settings.load(secret_key="s" * 40, mongodb_url=SecretStr(url), database_name="desk", _env_file=None)
    )


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("mongodb://db1", "db1"),
        ("mongodb://db1:27017/", "db1:27017"),
        ("mongodb://arrow:hidden@db1:27017,db2:27018/desk?replicaSet=rs", "db1:27017,db2:27018"),
        ("mongodb+srv://arrow:hidden@cluster0.example.net/?retryWrites=true", "cluster0.example.net"),
        ("mongodb://arrow:hid%2Fden@[2001:db8::1]:27017/", "[2001:db8::1]:27017"),
        ("mongodb://arrow:hid@den@db1:27017/", "db1:27017"),
    ],
)
def test_the_hosts_are_told(url: str, hosts: str) -> None:
    assert place(url) == f"the database desk on {hosts}"


@pytest.mark.parametrize(
    "url",
    [
        "mongodb://arrow:hid/den@db1:27017/",
        "mongodb://arrow:hid#den@db1:27017/",
        "mongodb://arrow:hid?den@db1:27017/",
        "mongodb://arrow:hid@den/hid@db1/",
        "mongodb://arrow:/den#@db1/",
        "mongodb://arrow:hidden",
        "mongodb://db1/?tlsCertificateKeyFilePassword=hid@den",
        "mongodb://%2Fhidden%2Fden.sock/",
    ],
)
def test_what_may_be_a_secret_is_not(url: str) -> None:
    told = place(url)
    assert told == "the database desk on the server that MONGODB_URL names"
