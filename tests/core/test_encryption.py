"""The vault: what it seals opens with its own keys only, at its own place only, and survives the change of keys."""

import base64
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.encryption import UndecryptableError, Vault
from app.core.encryption_keys import EncryptionKeyError, check_keys, new_key
from app.core.errors import UnavailableError

ROOT = Path(__file__).parents[2]
TEXT = "JBSWY3DPEHPK3PXP"
HERE = "totp:6b02893a002b26997921d778"
THERE = "totp:6b02893a002b26997921d779"


def damaged(token: str) -> list[str]:
    """The token with one character changed, at its beginning, in the middle and near its end, and cut."""
    changed = [token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :] for at in (0, 20, len(token) // 2, -6)]
    return [*changed, token[:-4], token[4:], token + "AAAA", "", "A", "é", "not a token", "=" * 40]


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=300), context=st.text(st.characters(exclude_characters="\x00"), max_size=40))
def test_what_goes_in_comes_out(text: str, context: str):
    try:
        f"{text}{context}".encode()
    except UnicodeEncodeError:
        return  # half a surrogate pair: no request can hold one
    vault = Vault([new_key()])

    token = vault.encrypt(text, context=context)

    assert vault.decrypt(token, context=context) == text
    assert token.isascii()


def test_nothing_of_the_text_shows_and_no_two_tokens_are_equal():
    vault = Vault([new_key()])
    tokens = {vault.encrypt(TEXT, context=HERE) for _ in range(20)}

    assert len(tokens) == 20
    for token in tokens:
        for shown in (token, base64.urlsafe_b64decode(token).decode("latin-1")):
            assert TEXT not in shown
            assert "totp" not in shown


def test_it_is_fernet():
    """Any other program can read it that has the key: data outlives this one."""
    key = new_key()

    assert Fernet(key).decrypt(Vault([key]).encrypt(TEXT, context=HERE)) == f"{HERE}\x00{TEXT}".encode()


def test_what_is_damaged_does_not_open():
    vault = Vault([new_key(), new_key()])
    token = vault.encrypt(TEXT, context=HERE)
    for wrong in damaged(token):
        with pytest.raises(UndecryptableError) as refused:
            vault.decrypt(wrong, context=HERE)
        assert TEXT not in str(refused.value)
        with pytest.raises(UndecryptableError):
            vault.rotate(wrong)
        assert vault.outdated(wrong)


@pytest.mark.parametrize("other", [THERE, "", HERE[:-1], f"{HERE}x", f"{HERE}\x00{TEXT[:3]}"])
def test_it_opens_at_its_own_place_only(other: str):
    vault = Vault([new_key()])
    token = vault.encrypt(TEXT, context=HERE)

    with pytest.raises(UndecryptableError):
        vault.decrypt(token, context=other)


def test_no_context_can_be_read_as_another():
    vault = Vault([new_key()])

    with pytest.raises(ValueError, match="NUL"):
        vault.encrypt(TEXT, context="a\x00b")
    assert vault.decrypt(vault.encrypt("b\x00c", context="a"), context="a") == "b\x00c"


def test_keys_change_without_losing_anything():
    old, new, strange = new_key(), new_key(), new_key()
    before = Vault([old]).encrypt(TEXT, context=HERE)

    both = Vault([new, old])
    assert both.decrypt(before, context=HERE) == TEXT
    assert both.outdated(before)
    after = both.rotate(before)
    assert not both.outdated(after)
    assert not both.outdated(both.encrypt(TEXT, context=HERE))

    # The old key can go now, and what was not rotated is lost with it.
    assert Vault([new]).decrypt(after, context=HERE) == TEXT
    with pytest.raises(UndecryptableError):
        Vault([new]).decrypt(after, context=THERE)  # the place came along
    for vault, token in ((Vault([new]), before), (Vault([old]), after), (Vault([strange]), before)):
        with pytest.raises(UndecryptableError):
            vault.decrypt(token, context=HERE)


def test_without_a_key_it_says_what_is_missing():
    vault = Vault([])

    assert not vault.available
    for use in (
        lambda: vault.encrypt(TEXT, context=HERE),
        lambda: vault.decrypt("x", context=HERE),
        lambda: vault.rotate("x"),
        lambda: vault.outdated("x"),
    ):
        with pytest.raises(UnavailableError, match="ENCRYPTION_KEYS"):
            use()


def test_keys_do_not_show():
    keys = [new_key(), new_key()]
    vault = Vault(keys)

    assert vault.available
    for key in keys:
        assert key not in f"{vault!r} {vault} {[vault]}"


def test_new_keys_are_good_and_differ():
    keys = [new_key() for _ in range(200)]

    assert check_keys(keys) == keys
    assert len(set(keys)) == 200


def test_the_alphabet_that_openssl_writes_is_taken_too():
    raw = bytes(range(224, 256))  # nothing but + and / in places
    standard = base64.b64encode(raw).decode()
    assert set(standard) & set("+/")

    [checked] = check_keys([standard])

    assert checked == base64.urlsafe_b64encode(raw).decode()
    token = Vault([standard]).encrypt(TEXT, context=HERE)
    assert Vault([checked]).decrypt(token, context=HERE) == TEXT


GOOD = base64.urlsafe_b64encode(bytes(range(32))).decode()


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "your-encryption-key",
        GOOD[:-1],
        GOOD + "=",
        GOOD[:-2],
        " " + GOOD,
        GOOD + "\n",
        GOOD[:20] + "é" + GOOD[21:],
        GOOD[:20] + "*" + GOOD[20:],
        "0123456789abcdef" * 4,  # hexadecimal
        base64.urlsafe_b64encode(bytes(31)).decode(),
        base64.urlsafe_b64encode(bytes(32)).decode(),
        base64.urlsafe_b64encode(b"changeme" * 4).decode(),
    ],
)
def test_what_is_no_key_is_told_in_one_line_that_shows_nothing_of_it(wrong: str):
    for keys, which in (([wrong], "first key"), ([new_key(), wrong], "key 2")):
        with pytest.raises(EncryptionKeyError) as refused:
            check_keys(keys)
        message = str(refused.value)
        assert which in message
        assert "openssl rand" in message
        assert "\n" not in message
        assert not wrong.strip() or wrong.strip() not in message
        with pytest.raises(EncryptionKeyError):
            Vault(keys)


def test_a_key_that_stands_there_twice_is_a_mistake():
    """Somebody meant to put a new one first."""
    key = new_key()
    with pytest.raises(EncryptionKeyError, match=r"key 2 .* twice"):
        check_keys([key, key])
    assert check_keys([]) == []


def test_the_rules_of_keys_load_no_cryptography():
    """Settings are read by every program, most of which encrypt nothing."""
    code = "import sys, app.core.encryption_keys; print('cryptography' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "False"
