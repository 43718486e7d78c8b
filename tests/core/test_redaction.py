"""No secret survives, wherever it stands; what people need to read stays."""

import json
import secrets
import time
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from bson import ObjectId
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jose import jwt

from app.core.redaction import scrub, scrub_path, scrub_value

URL_SAFE = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
# What a person may choose; at least eight characters, as the service demands, and no line break.
PASSWORDS = st.text(st.sampled_from("abcXYZ 0189.,:;!?&=%+/@#'\"\\{}[]()<>*-_~äß€😀"), min_size=8, max_size=24).filter(
    lambda text: text == text.strip() and len(set(text)) > 4
)
KEYS = st.text(st.sampled_from(URL_SAFE), min_size=43, max_size=43)
JWTS = st.binary(min_size=8, max_size=8).map(
    lambda raw: str(jwt.encode({"sub": raw.hex(), "type": "access"}, "k" * 32, algorithm="HS256"))
)
PINS = st.from_regex(r"[0-9]{4,8}", fullmatch=True)
NAMES = st.sampled_from(
    [
        *("password", "new_password", "Password", "PASSWORD", "passwd", "passphrase", "refresh_token", "access_token"),
        *("accessToken", "token", "METRICS_TOKEN", "secret_key", "SECRET_KEY_PREVIOUS", "client_secret", "api_key"),
        *("apiKey", "X-Api-Key", "api-key", "totp_key", "otp", "OTP", "private_key", "credentials", "pwd"),
    ]
)
# Words around a secret that must not make it invisible to the patterns.
AROUND = st.sampled_from(["", " ", "got ", "{'a': 1} ", "http://h:80/x?y=z ", "a,b;", "\n", "(", '"', "é", "=> "])


@dataclass(frozen=True)
class Place:
    """A way in which a named secret is written, and whether it survives there unquoted only up to a blank."""

    write: Callable[[str, str], str]
    ends_at_blank: bool = False


PLACES: dict[str, Place] = {
    "JSON": Place(lambda name, secret: json.dumps({"user": "asha", name: secret, "n": 1})),
    "compact JSON": Place(
        lambda name, secret: json.dumps({name: secret, "n": 1}, separators=(",", ":"), ensure_ascii=False)
    ),
    "indented JSON": Place(lambda name, secret: json.dumps({"a": {"b": [{name: secret}]}}, indent=2)),
    "JSON within JSON": Place(lambda name, secret: json.dumps({"body": json.dumps({name: secret, "n": 1})})),
    "JSON within JSON within JSON": Place(
        lambda name, secret: json.dumps([json.dumps({"x": json.dumps({name: secret, "n": 1})})])
    ),
    "a JSON list": Place(lambda name, secret: json.dumps({name: [secret, secret]}).replace("]", "")),
    "a Python dictionary": Place(lambda name, secret: repr({name: secret, "n": 1})),
    "a Python dictionary of bytes": Place(lambda name, secret: repr({name.encode(): secret})),
    "quoted with =": Place(lambda name, secret: f"{name}={secret!r} n=1"),
    "a form": Place(lambda name, secret: urlencode({name: secret, "n": 1})),
    "a query": Place(lambda name, secret: f"GET /x?{urlencode({'a': 1, name: secret})} HTTP/1.1"),
    "a quoted query": Place(lambda name, secret: quote(f"/x?a=1&{name}={quote(secret, safe='')}", safe="/?&")),
    "a variable": Place(lambda name, secret: f"{name}={secret}", ends_at_blank=True),
    "a header": Place(lambda name, secret: f"{name}: {secret}", ends_at_blank=True),
}


def remains(secret: str, text: str) -> bool:
    """Whether a telling part of `secret` is left: the whole of it, or any five characters in a row."""
    pieces = {secret[start : start + 5] for start in range(max(1, len(secret) - 4))}
    return any(piece in text for piece in pieces)


@pytest.mark.parametrize("place", PLACES)
@given(name=NAMES, secret=PASSWORDS | KEYS | PINS, before=AROUND, after=AROUND)
@settings(max_examples=60)
def test_a_named_secret_never_survives(place: str, name: str, secret: str, before: str, after: str):
    written = PLACES[place].write(name, secret)
    hidden = secret
    if PLACES[place].ends_at_blank:
        # Without quotes nobody can tell where it ends; what stands before the first blank or quote goes.
        assume(not set(" '\"&\\{}[]()<>,;") & set(secret))
    elif place == "a JSON list":
        assume("]" not in secret)
    if before == '"' or after == '"':
        assume(not PLACES[place].ends_at_blank)
    clean = scrub(f"{before}{written}{after}")
    around = f"{before}{PLACES[place].write(name, '')}{after}user asha"

    for form in {hidden, quote(hidden), json.dumps(hidden)[1:-1], repr(hidden)[1:-1], quote(quote(hidden))}:
        assert not remains(form, clean) or remains(form, around), clean


@given(before=AROUND, after=AROUND, secret=KEYS | JWTS, glue=st.sampled_from(["", " ", "/", "%2F", "=", ":", ".", ","]))
def test_keys_and_tokens_are_known_by_their_shape(before: str, after: str, secret: str, glue: str):
    clean = scrub(f"{before}http://arrow.example/data{glue}{secret}{after}")

    for part in secret.split("."):
        if len(part) >= 43:  # of a token: its claims and its signature
            assert part[1:-1] not in clean


@given(secret=KEYS | JWTS | st.text(st.sampled_from(URL_SAFE + ".~+/"), min_size=8, max_size=40))
def test_authorization_headers(secret: str):
    assume(len(set(secret)) > 4)
    for template in (
        "Authorization: Bearer {}",
        "authorization:bearer   {}",
        '{{"Authorization": "Bearer {}"}}',
        "[(b'authorization', b'Bearer {}')]",
        "sent Bearer {} to it",
        "Authorization: Token {}",
        "Authorization: AWS4 Credential={0}, Signature={0}",
        "Cookie: session={0}; other={0}",
        "Set-Cookie: session={}; HttpOnly",
    ):
        assume(secret not in template)
        assert secret not in scrub(template.format(secret)), template


@given(user=st.text(st.sampled_from("abcdef019"), min_size=1, max_size=8), secret=PASSWORDS)
def test_basic_authorization(user: str, secret: str):
    encoded = b64encode(f"{user}:{secret}".encode()).decode()

    assert encoded.rstrip("=") not in scrub(f"got basic {encoded} from it")
    assert encoded.rstrip("=") not in scrub(f"Authorization: Basic {encoded}")


SCHEMES = st.sampled_from(["mongodb", "mongodb+srv", "redis", "rediss", "postgresql", "amqp"])
USERS = st.sampled_from(["", "arrow", "a.b", "user%40example.com"])


@given(scheme=SCHEMES, user=USERS, secret=PASSWORDS, before=AROUND, after=AROUND)
def test_passwords_in_addresses_of_databases(scheme: str, user: str, secret: str, before: str, after: str):
    """Percent-encoded, as it should be, and as people paste it."""
    pasted = "".join(char for char in secret if char not in " '\"<>")
    assume(len(set(pasted)) > 4)
    assume("@" not in after and '"' not in before + after)
    for password in (quote(secret, safe=""), pasted):
        clean = scrub(f"{before}{scheme}://{user}:{password}@db.example:27017/arrow?w=1{after}")
        assert not remains(password, clean.replace("db.example:27017/arrow?w=1", "").replace(before, "")), clean
        assert "@db.example:27017/arrow" in clean


@given(scheme=st.sampled_from(["https", "http", "wss", "smtp"]), secret=PASSWORDS)
def test_passwords_in_other_addresses(scheme: str, secret: str):
    encoded = quote(secret, safe="")
    clean = scrub(f"connect to {scheme}://user:{encoded}@host/path failed")

    assert not remains(encoded, clean)
    assert clean == f"connect to {scheme}://user:***@host/path failed"


ORDINARY = [
    "The token was not accepted; sign in again.",
    "a basic functionality check passed",
    "the bearer of this message",
    "laptop: fine, desktop = fine",
    "no secret was given",
    "user asha@example.com signed in from 192.0.2.1",
    "alert 6b02893a002b26997921d778 of strategy 6b02893a002b26997921d779 stored in 1.3 ms",
    "see http://localhost:8000/docs and https://arrow.example/data/6b02893a002b26997921d778?limit=50&cursor=abc",
    "mail to asha@example.com,ravi@example.com about http://host:8000/x?to=a@b.co",
    "connected to mongodb://db.example:27017/arrow?replicaSet=rs0",
    "embedded database launched pid=8270 port=24135 restarts=0",
    "2026-11-22T07:40:17Z NIFTY 24350.50 x 75 (long_entry)",
    "urn:arrow:problem:not-found",
    "f47ac10b-58cc-4372-a567-0e02b2c3d479 done",
    "key prefix aB3_x9 was last used a minute ago",
    "",
]


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_sentences_stay(text: str):
    assert scrub(text) == text


WORDS = st.sampled_from(
    [
        *("the", "an", "alert", "was", "stored", "and", "streamed", "to", "every", "client", "of", "this", "strategy"),
        *(
            "price",
            "quantity",
            "NIFTY",
            "order",
            "position",
            "market",
            "tick",
            "candle",
            "worker",
            "process",
            "database",
        ),
        *("database", "restarted", "within", "two", "milliseconds", "health", "degraded"),
    ]
)


EMAILS = st.from_regex(r"[a-z]{2,9}[.+_0-9]?[a-z]{0,5}@[a-z]{2,9}\.(example|test)", fullmatch=True)


@given(st.lists(WORDS, min_size=1, max_size=20), st.integers(0, 10**15), st.decimals(0, 10**6, places=2), EMAILS)
def test_sentences_with_ids_numbers_and_addresses_stay(words: list[str], number: int, price: Decimal, email: str):
    assume(not any(word in email for word in ("bearer", "basic", "token", "secret")))
    text = f"{' '.join(words)} {ObjectId()} seq {number} at {price} for {email} on {datetime.now(UTC)}, {email}"

    assert scrub(text) == text


@given(st.text(max_size=200))
def test_scrubbing_twice_changes_nothing_more(text: str):
    once = scrub(text)

    assert scrub(once) == once


@dataclass
class Talkative:
    """An object of some library, whose text quotes what it was given."""

    url: str = "mongodb://arrow:Pa55-w0rd@db/x"


@pytest.mark.parametrize(
    "value",
    [
        Talkative(),
        ValueError("cannot reach redis://:Pa55-w0rd@cache:6379"),
        b"password=Pa55-w0rd",
        bytearray(b"password=Pa55-w0rd"),
        {"note": {"password": "Pa55-w0rd"}},
        {"note": ["a", ("b", {"api_key": ["Pa55-w0rd"]})]},
        {"token": Talkative()},
        {"mongodb://u:Pa55-w0rd@h": 1},
        {ValueError("password=Pa55-w0rd"): 1},
        frozenset({"password=Pa55-w0rd"}),
        [[[[[["password=Pa55-w0rd"]]]]]],
        {"a": {"b": {"c": {"d": {"e": {"password": "Pa55-w0rd"}}}}}},
    ],
)
def test_fields_of_every_kind(value: Any):
    clean = scrub_value(value)

    assert "Pa55-w0rd" not in repr(clean)
    assert "Pa55-w0rd" not in str(clean)
    json.dumps(clean)  # made of plain values alone


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        7,
        1.5,
        Decimal("24350.50"),
        datetime(2026, 11, 22, tzinfo=UTC),
        ObjectId(),
        "plain",
        [1, "a"],
        {"a": 1},
    ],
)
def test_plain_fields_stay_what_they_are(value: Any):
    assert scrub_value(value) == value


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.sampled_from(ORDINARY),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
        max_leaves=8,
    )
)
def test_nested_fields_without_secrets_stay(value: Any):
    def depth(item: Any) -> int:
        inner = item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
        return 1 + max(map(depth, inner), default=0) if isinstance(item, dict | list) else 0

    assume(depth(value) <= 4)

    assert scrub_value(value) == value


def test_paths():
    key = secrets.token_urlsafe(32)

    assert scrub_path(f"/data/{key}") == "/data/***"
    assert scrub_path(f"/alerts/create/{key}/") == "/alerts/create/***/"
    assert scrub_path(f"/data/{key}%2F{key}") == "/data/***"
    assert scrub_path("/data/6b02893a002b26997921d778") == "/data/6b02893a002b26997921d778"
    assert scrub_path("/api/v1/cryptocurrencies/top/gainers") == "/api/v1/cryptocurrencies/top/gainers"
    assert scrub_path("/") == "/"


LONG = 60_000
HOSTILE = {
    "one letter": "a" * LONG,
    "starts of tokens": "eyJ" * (LONG // 3),
    "dashes": "a-" * (LONG // 2),
    "names": "token " * (LONG // 6),
    "names with =": "token=" * (LONG // 6),
    "opened quotes": 'token:"' * (LONG // 7),
    "opened lists": "token:[" * (LONG // 7),
    "blanks": "token" + " " * LONG,
    "backslashes": "token" + "\\" * LONG,
    "escaped quotes": 'token:"' + '\\"' * (LONG // 2),
    "schemes": "://a:" * (LONG // 5),
    "databases": "mongodb://a:" * (LONG // 12),
    "headers": "authorization:" * (LONG // 14),
    "basic": "basic " + "a" * LONG,
    "bearers": "bearer " * (LONG // 7),
    "small names": "otp-" * (LONG // 4),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_text_takes_long(name: str):
    """Texts of others are logged, too: the time must grow with the length alone."""
    text = HOSTILE[name]
    began = time.thread_time()
    scrub(text[: LONG // 8])
    short = time.thread_time() - began
    began = time.thread_time()
    scrub(text)
    took = time.thread_time() - began

    assert took < max(0.3, short * 8 * 3)
