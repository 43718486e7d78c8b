"""Access tokens: what is signed, what is believed, and what is not."""

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from beanie import PydanticObjectId
from jose import jwt

from app.auth.tokens import AccessTokens, digest_of, new_refresh_token
from app.core.errors import UnauthorizedError

KEY, OLD_KEY, OTHER_KEY = "k" * 20 + "0123456789ab", "o" * 20 + "0123456789ab", "x" * 20 + "0123456789ab"
USER, SESSION = PydanticObjectId(), PydanticObjectId()
NOW = datetime(2026, 11, 22, 6, 30, 0, 123000, UTC)


class SetClock:
    """A clock that stands where it is put."""

    def __init__(self, now: datetime = NOW) -> None:
        self.time = now

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return self.time.timestamp()


def make(clock: SetClock | None = None, **changes: Any) -> AccessTokens:
    options: dict[str, Any] = {"secret_key": KEY, "lifetime": timedelta(minutes=30), "clock": clock or SetClock()}
    return AccessTokens(**options | changes)


def issue(tokens: AccessTokens, *, not_after: datetime = NOW + timedelta(days=7)) -> str:
    return tokens.issue(USER, SESSION, not_after=not_after).token


def part(content: Any) -> str:
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def claims(**changes: Any) -> dict[str, Any]:
    moment = int(NOW.timestamp())
    good = {"sub": str(USER), "sid": str(SESSION), "jti": "1", "type": "access", "iat": moment, "exp": moment + 600}
    return {name: value for name, value in (good | changes).items() if value is not None}


def forge(header: Any, body: Any, key: str = KEY, digest: str = "sha256") -> str:
    signed = f"{part(header)}.{part(body)}"
    return f"{signed}.{part(hmac.new(key.encode(), signed.encode(), getattr(hashlib, digest)).digest())}"


def test_a_token_says_who_and_which_session_and_until_when() -> None:
    access = make().issue(USER, SESSION, not_after=NOW + timedelta(days=7))
    assert access.expires_in == 1800
    verified = make().verify(access.token)
    assert (verified.user_id, verified.session_id) == (USER, SESSION)
    assert verified.expires_at == NOW.replace(microsecond=0) + timedelta(minutes=30)
    content = jwt.get_unverified_claims(access.token)
    assert set(content) == {"sub", "sid", "jti", "type", "iat", "exp"}
    assert jwt.get_unverified_header(access.token) == {"alg": "HS256", "typ": "JWT"}


def test_no_two_tokens_are_equal() -> None:
    assert len({issue(make()) for _ in range(50)}) == 50


def test_a_token_never_outlives_its_session() -> None:
    access = make().issue(USER, SESSION, not_after=NOW + timedelta(minutes=5))
    assert access.expires_in == 300


def test_a_token_expires_by_the_injected_clock() -> None:
    clock = SetClock()
    token = issue(make(clock))
    clock.time = NOW + timedelta(minutes=29, seconds=59)
    make(clock).verify(token)
    clock.time = NOW + timedelta(minutes=30)
    with pytest.raises(UnauthorizedError, match="expired"):
        make(clock).verify(token)


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_only_the_configured_algorithm_is_believed(algorithm: str) -> None:
    token = issue(make(algorithm=algorithm))
    for other in ("HS256", "HS384", "HS512"):
        if other == algorithm:
            make(algorithm=other).verify(token)
        else:
            with pytest.raises(UnauthorizedError):
                make(algorithm=other).verify(token)


@pytest.mark.parametrize("algorithm", ["none", "RS256", "ES256", "HS1", ""])
def test_no_other_algorithm_can_be_configured(algorithm: str) -> None:
    with pytest.raises(ValueError, match="not one of"):
        make(algorithm=algorithm)


@pytest.mark.parametrize("keys", [{"secret_key": ""}, {"previous_keys": [OLD_KEY, ""]}])
def test_an_empty_key_is_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="empty key"):
        make(**keys)


def test_old_keys_verify_until_they_are_removed_and_never_sign() -> None:
    old = issue(make(secret_key=OLD_KEY))
    rotated = make(previous_keys=[OTHER_KEY, OLD_KEY])
    assert rotated.verify(old).user_id == USER
    make().verify(issue(rotated))  # signed with the new key alone
    with pytest.raises(UnauthorizedError):
        make().verify(old)


def test_a_key_that_happens_to_be_json_is_still_just_a_key() -> None:
    key = '{"keys": [{"kty": "oct", "k": "' + part(OTHER_KEY.encode()) + '"}]}'
    tokens = make(secret_key=key)
    tokens.verify(issue(tokens))
    with pytest.raises(UnauthorizedError):
        tokens.verify(forge({"alg": "HS256"}, claims(), OTHER_KEY))


GOOD = {"alg": "HS256", "typ": "JWT"}
ATTACKS = {
    "alg none, no signature": f"{part({'alg': 'none'})}.{part(claims())}.",
    "alg None": f"{part({'alg': 'None'})}.{part(claims())}.",
    "alg none, but signed": forge({"alg": "none"}, claims()),
    "no alg": forge({"typ": "JWT"}, claims()),
    "alg is a list": forge({"alg": ["HS256"]}, claims()),
    "alg of another family": forge({"alg": "RS256"}, claims()),
    "other HMAC": forge({"alg": "HS512"}, claims(), digest="sha512"),
    "other key": forge(GOOD, claims(), OTHER_KEY),
    "no signature": f"{part(GOOD)}.{part(claims())}.",
    "two parts": f"{part(GOOD)}.{part(claims())}",
    "four parts": forge(GOOD, claims()) + ".AAAA",
    "key in the header": forge(GOOD | {"jwk": {"kty": "oct", "k": part(OTHER_KEY.encode())}}, claims(), OTHER_KEY),
    "kid names a file": forge(GOOD | {"kid": "/dev/null"}, claims(), ""),
    "refresh used as access": forge(GOOD, claims(type="refresh")),
    "no type": forge(GOOD, claims(type=None)),
    "no expiry": forge(GOOD, claims(exp=None)),
    "expiry is text": forge(GOOD, claims(exp="9999999999")),
    "expiry is true": forge(GOOD, claims(exp=True)),
    "expiry is infinite": forge(GOOD, claims(exp=float("inf"))),
    "expired": forge(GOOD, claims(exp=int(NOW.timestamp()) - 1)),
    "no session": forge(GOOD, claims(sid=None)),
    "session is no id": forge(GOOD, claims(sid="../../etc")),
    "session is an operator": forge(GOOD, claims(sid={"$gt": ""})),
    "no subject": forge(GOOD, claims(sub=None)),
    "subject is a number": forge(GOOD, claims(sub=5)),
    "subject is an operator": forge(GOOD, claims(sub={"$ne": None})),
    "claims are a list": forge(GOOD, [claims()]),
    "claims are not JSON": forge(GOOD, b"\xff\xfe"),
    "a header of brackets": f"{part(b'[' * 1400)}.e30.AAAA",
    "empty": "",
    "dots": "..",
    "not ASCII": "é.é.é",
    "half a surrogate pair": "\ud800.e30.AAAA",
    "far too long": "e" * 1_000_000,
}


@pytest.mark.parametrize("token", ATTACKS.values(), ids=ATTACKS.keys())
def test_attacks_on_access_tokens_fail(token: str) -> None:
    with pytest.raises(UnauthorizedError):
        make(previous_keys=[OLD_KEY]).verify(token)


def test_the_forger_of_these_tests_would_succeed_with_the_key() -> None:
    assert make().verify(forge(GOOD, claims())).user_id == USER


def test_changing_any_character_of_a_token_breaks_it() -> None:
    tokens = make()
    token = issue(tokens)
    for position in range(0, len(token), 7):
        # The last character of a part may carry unused bits; a change of the fourth bit always shows.
        swapped = "A" if token[position] not in "ABCDEFGHIJKLMNOP" else "z"
        with pytest.raises(UnauthorizedError):
            tokens.verify(token[:position] + swapped + token[position + 1 :])


def test_a_sid_cannot_be_exchanged() -> None:
    header, _, signature = issue(make()).split(".")
    with pytest.raises(UnauthorizedError):
        make().verify(f"{header}.{part(claims(sid=str(PydanticObjectId())))}.{signature}")


def test_refresh_tokens_are_long_random_and_stored_as_a_digest() -> None:
    tokens = {new_refresh_token() for _ in range(1000)}
    assert len(tokens) == 1000
    assert all(len(token) == 43 for token in tokens)
    assert digest_of("abc") == hashlib.sha256(b"abc").hexdigest()
