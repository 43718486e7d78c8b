"""Secrets that must be read again (TOTP secrets, brokers' credentials) are encrypted before they are stored."""

from collections.abc import Sequence

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from app.core.encryption_keys import check_keys
from app.core.errors import UnavailableError

# Stands between the context and the text; no context may hold it, so neither can be read as a part of the other.
_END_OF_CONTEXT = "\x00"


class UndecryptableError(Exception):
    """No key opens it, or it was sealed for something else; nothing of it is in the message."""


class Vault:
    """Encrypts with the newest of ENCRYPTION_KEYS and decrypts with any of them (Fernet: AES-128-CBC, HMAC-SHA256).

    The `context` names what the text is and whose (`totp:<account>`). It is sealed in: what was stored for one
    account does not open for another, so that who can write to the database alone cannot lend secrets around.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        """`keys` are newest first; without any the vault is there but not `available`.

        Raises `EncryptionKeyError` for what is no key.
        """
        fernets = [Fernet(key) for key in check_keys(keys)]
        self._newest = fernets[0] if fernets else None
        self._all = MultiFernet(fernets) if fernets else None

    def __repr__(self) -> str:
        return f"<Vault {'available' if self.available else 'without keys'}>"

    @property
    def available(self) -> bool:
        """Whether there is any key."""
        return self._all is not None

    def encrypt(self, text: str, *, context: str) -> str:
        """`text` sealed with the newest key, in ASCII; twice the same text gives two tokens.

        Raises `UnavailableError` without a key.
        """
        if _END_OF_CONTEXT in context:
            raise ValueError("a context has no NUL")
        return self._keys().encrypt(f"{context}{_END_OF_CONTEXT}{text}".encode()).decode("ascii")

    def decrypt(self, token: str, *, context: str) -> str:
        """The text behind `token`.

        Raises `UndecryptableError` when no key opens it or it was sealed for another context, and `UnavailableError`
        without a key.
        """
        try:
            sealed = self._keys().decrypt(token.encode()).decode()
        except (InvalidToken, ValueError):  # a damaged token may be no Base64, or not even ASCII
            raise UndecryptableError("None of the ENCRYPTION_KEYS opens a stored secret.") from None
        found, _, text = sealed.partition(_END_OF_CONTEXT)
        if found != context:
            raise UndecryptableError("A stored secret was encrypted for something else than it lies at.")
        return text

    def rotate(self, token: str) -> str:
        """The same text and context sealed with the newest key: the other keys are not needed for it any more.

        Raises as `decrypt` does.
        """
        try:
            return self._keys().rotate(token.encode()).decode("ascii")
        except (InvalidToken, ValueError):
            raise UndecryptableError("None of the ENCRYPTION_KEYS opens a stored secret.") from None

    def outdated(self, token: str) -> bool:
        """Whether it takes an older key than the newest to open `token`, or none opens it at all."""
        self._keys()
        try:
            if self._newest:
                self._newest.decrypt(token.encode())
        except (InvalidToken, ValueError):
            return True
        return False

    def _keys(self) -> MultiFernet:
        if self._all is None:
            raise UnavailableError(
                "Secrets cannot be stored or read here until the operator sets ENCRYPTION_KEYS.", retry_after=600
            )
        return self._all
