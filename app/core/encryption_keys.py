"""The rules of ENCRYPTION_KEYS, apart from the cryptography itself: settings are read by programs that need none."""

import base64
import re
import secrets
from collections.abc import Iterable

_KEY = re.compile(r"[A-Za-z0-9+/_-]{43}=").fullmatch
_BYTES = 32
# Of 32 random bytes some 30 differ. Fewer than this many were typed by somebody, or are a sample's zeros.
_LEAST_DIFFERENT = 16
_MAKE_ONE = "openssl rand -base64 32"


class EncryptionKeyError(ValueError):
    """A key is none; the message says what to do and shows nothing of it."""


def new_key() -> str:
    """A fresh key: 32 random bytes in URL-safe Base64, as Fernet has them."""
    return base64.urlsafe_b64encode(secrets.token_bytes(_BYTES)).decode()


def check_keys(keys: Iterable[str]) -> list[str]:
    """The keys (newest first) in URL-safe Base64; the standard alphabet is taken too, which `openssl` writes.

    Raises `EncryptionKeyError` with one sentence on the first that is no key. No key at all is fine here.
    """
    checked: list[str] = []
    for number, key in enumerate(keys, 1):
        which = f"key {number} of the list" if number > 1 else "the first key"
        if not _KEY(key):
            raise EncryptionKeyError(f"{which} is not 32 bytes in Base64 (44 characters); make one with: {_MAKE_ONE}")
        key = key.translate(str.maketrans("+/", "-_"))
        if len(set(base64.urlsafe_b64decode(key))) < _LEAST_DIFFERENT:
            raise EncryptionKeyError(f"{which} is not random; make a real one with: {_MAKE_ONE}")
        if key in checked:
            raise EncryptionKeyError(f"{which} stands there twice; list each key once, newest first")
        checked.append(key)
    return checked
