"""Keyed digests: nothing without the key, and each purpose by itself."""

import hashlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.auth.digests import KeyedDigests
from app.core.settings import Settings

KEY, NEXT = "a" * 40, "b" * 40
TEXTS = st.text(st.characters(), max_size=20)  # half surrogate pairs too


@given(TEXTS, TEXTS)
def test_a_digest_matches_its_own_text_and_purpose(purpose: str, text: str) -> None:
    digests = KeyedDigests(KEY)
    digest = digests.make(purpose, text)
    assert len(digest) == 64
    assert digests.matches(purpose, text, digest)
    assert not digests.matches(purpose, text + "0", digest)
    assert not digests.matches(purpose + "0", text, digest)


def test_purpose_and_text_do_not_run_together() -> None:
    digests = KeyedDigests(KEY)
    pairs = [("a", "bc"), ("ab", "c"), ("", "abc"), ("a:b", "c"), ("a", "b:c"), ("1:a", "c"), ("", "1:a:c")]
    for one, other in itertools.combinations(pairs, 2):
        assert digests.make(*one) != digests.make(*other)


def test_without_the_key_a_short_secret_cannot_be_tried() -> None:
    digest = KeyedDigests(KEY).make("otp", "123456")
    assert digest != KeyedDigests(NEXT).make("otp", "123456")
    for message in ("123456", "otp123456", "3:otp:123456"):
        assert digest != hashlib.sha256(message.encode()).hexdigest()
        assert digest != hashlib.sha256(KEY.encode() + message.encode()).hexdigest()


def test_digests_outlive_a_change_of_the_key_as_long_as_the_old_one_is_named() -> None:
    old = KeyedDigests(KEY).make("otp", "123456")
    assert KeyedDigests(NEXT, [KEY]).matches("otp", "123456", old)
    assert not KeyedDigests(NEXT, [KEY]).matches("otp", "123457", old)
    assert not KeyedDigests(NEXT).matches("otp", "123456", old)
    assert KeyedDigests(NEXT, [KEY]).make("otp", "123456") == KeyedDigests(NEXT).make("otp", "123456")


def test_settings_name_the_keys() -> None:
    settings = Settings(secret_key=NEXT, secret_key_previous=[KEY], _env_file=None)
    digests = KeyedDigests.of(settings)
    assert digests.make("p", "t") == KeyedDigests(NEXT).make("p", "t")
    assert digests.matches("p", "t", KeyedDigests(KEY).make("p", "t"))


@pytest.mark.parametrize("keys", [("", []), (KEY, [""])])
def test_an_empty_key_is_refused(keys: tuple[str, list[str]]) -> None:
    with pytest.raises(ValueError, match="empty key"):
        KeyedDigests(*keys)


@pytest.mark.parametrize("stored", ["", "ä" * 64, "0" * 64])
def test_whatever_is_stored_as_a_digest_is_compared_without_an_error(stored: str) -> None:
    assert not KeyedDigests(KEY).matches("p", "t", stored)
