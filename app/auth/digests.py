"""Keyed digests: what the database keeps of short secrets, and of names that it need not know."""

import hashlib
import hmac
from collections.abc import Sequence
from typing import Self

from app.core.settings import Settings

_LABEL = b"arrow/keyed-digests/1"
"""Makes these keys differ from every other use of SECRET_KEY."""


class KeyedDigests:
    """HMAC-SHA256 under keys derived from SECRET_KEY.

    A plain hash of six digits is undone by trying a million of them; without the key nobody can try, so a copy of the
    database gives no code away.
    """

    def __init__(self, secret_key: str, previous_keys: Sequence[str] = ()) -> None:
        """Digests are made with `secret_key` and recognised by it and by `previous_keys`.

        Raises `ValueError` for an empty key.
        """
        if not secret_key or not all(previous_keys):
            raise ValueError("an empty key would let anybody make these digests")
        self._keys = [hmac.digest(key.encode(), _LABEL, hashlib.sha256) for key in (secret_key, *previous_keys)]

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Digests under SECRET_KEY and SECRET_KEY_PREVIOUS."""
        previous = [key.get_secret_value() for key in settings.secret_key_previous]
        return cls(settings.secret_key.get_secret_value(), previous)

    def make(self, purpose: str, text: str) -> str:
        """64 hexadecimal digits that tell nothing of `text`; the same text for another purpose has another digest."""
        return _digest(self._keys[0], purpose, text)

    def matches(self, purpose: str, text: str, digest: str) -> bool:
        """Whether `digest` was made of this, by the present or a previous key. Takes the same time either way."""
        given = digest.encode()
        verdicts = [hmac.compare_digest(_digest(key, purpose, text).encode(), given) for key in self._keys]
        return any(verdicts)  # only now: every key is tried, whichever fits


def _digest(key: bytes, purpose: str, text: str) -> str:
    # The length first: no purpose and text run together into those of another pair.
    message = f"{len(purpose)}:{purpose}:{text}".encode(errors="surrogatepass")
    return hmac.digest(key, message, hashlib.sha256).hex()
