"""Keeps secrets out of logs and answers, whoever wrote the text that carries them.

It would rather hide a word too many than one too few. Every repetition below is bounded or cannot start inside itself,
so that no text, however long, takes more than linear time.
"""

import re
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from bson import ObjectId

_NAMES = (
    r"(?:passw(?:or)?d|passphrase|secret|token|api[-_]?key|private[-_]?key|credential|totp"
    r"|(?<![a-z])otp(?![a-z])|(?<![a-z])pwd(?![a-z]))"
)
_HEADERS = r"(?:authorization|cookie)"
_SECRET_NAMES = re.compile(f"{_NAMES}|{_HEADERS}", re.IGNORECASE)
# From a name to its value: `"name": `, `name=`, `\"name\": ` (JSON within JSON), `name%3D` and the like.
_TO_VALUE = r"""[\w-]{0,40}(?:\\{0,8}["']|%22)?\s{0,8}(?:[=:]|%3[AD])\s{0,8}"""
_DATABASES = r"(?:mongodb|\+srv|rediss?|postgres\w{0,30}|mysql|amqps?)"


def _named(value: str) -> re.Pattern[str]:
    return re.compile(rf"(?P<name>{_NAMES}{_TO_VALUE}){value}", re.IGNORECASE)


_NAME_HINTS = ("passw", "passphrase", "secret", "token", "key", "credential", "otp", "pwd")
# Hints (one of them is in every text, in small letters, that the pattern can match), the pattern, what replaces it.
_SECRETS_IN_TEXT: tuple[tuple[tuple[str, ...], re.Pattern[str], str], ...] = (
    # JSON Web Tokens
    (("eyj",), re.compile(r"eyJ[\w-]{5,400}\.[\w-]+(?:\.[\w-]*)?"), "***"),
    # Authorization and cookie headers: all of the line, or of the quoted text
    (
        ("authorization", "cookie"),
        re.compile(rf"""(?P<name>{_HEADERS}\b(?:\\{{0,8}}["'])?\s{{0,8}}[=:]\s{{0,8}})[^"'\r\n\\]+""", re.IGNORECASE),
        r"\g<name>***",
    ),
    (("bearer",), re.compile(r"(?i:\b(bearer))\s{1,8}[\w.~+/=-]{8,}"), r"\1 ***"),
    # "basic" is an English word too: what follows is Base64 when it has more than small letters.
    (
        ("basic",),
        re.compile(r"(?i:\b(basic))\s{1,8}(?=[a-z]{0,64}[A-Z0-9+/=])[A-Za-z0-9+/]{6,}={0,2}"),
        r"\1 ***",
    ),
    # A named value in quotes with its escapes, the same within another JSON text, a list, and one without quotes
    (_NAME_HINTS, _named(r"""(?P<q>["'])(?:\\.|(?!(?P=q)).)*(?P=q)?"""), r"\g<name>\g<q>***\g<q>"),
    (_NAME_HINTS, _named(r"""(?P<q>\\{1,8}["'])(?:(?!(?<!\\)(?P=q)).)*(?P=q)?"""), r"\g<name>\g<q>***\g<q>"),
    (_NAME_HINTS, _named(r"\[[^\]]*\]?"), r"\g<name>***"),
    (_NAME_HINTS, _named(r"""(?!\*\*\*)[^\s"'&\\]{3,}(?<=[^,;)}\]])"""), r"\g<name>***"),
    # user:password@host in addresses; a database's may hold what should have been percent-encoded
    (
        ("://",),
        re.compile(rf"""(?P<user>{_DATABASES}://[^\s:/@"']{{0,256}}):[^\s"'<>]{{0,512}}@""", re.IGNORECASE),
        r"\g<user>:***@",
    ),
    (("://",), re.compile(r"""(?P<user>://[^\s:/@"']{0,256}):[^\s/"'<>]{1,512}@"""), r"\g<user>:***@"),
)
# Strategy keys and refresh tokens: 43 URL-safe characters, wherever they stand.
_KEY_CHARS = 43
_KEY = re.compile(rf"(?<![\w-])[\w-]{{{_KEY_CHARS},}}(?![\w-])")
_PLAIN = (int, float, Decimal, datetime, date, time, timedelta, UUID, ObjectId)
"""Types whose text cannot be a credential."""


def scrub(text: str) -> str:
    """`text` with everything that looks like a credential replaced by `***`."""
    small = text.lower()
    for hints, pattern, replacement in _SECRETS_IN_TEXT:
        if any(hint in small for hint in hints):
            text = pattern.sub(replacement, text)
    return _KEY.sub("***", text) if len(text) >= _KEY_CHARS else text


def scrub_value(value: Any, depth: int = 4) -> Any:
    """The same for nested log fields: by name and by shape. Objects of unknown types become their scrubbed text."""
    if value is None or isinstance(value, _PLAIN):
        return value
    if isinstance(value, str):
        return scrub(value)
    if isinstance(value, bytes | bytearray):
        return scrub(value.decode("utf-8", "replace"))
    if isinstance(value, Mapping):
        if depth == 0:
            return "…"
        return {
            scrub(str(key)): "***" if _SECRET_NAMES.search(str(key)) else scrub_value(item, depth - 1)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [scrub_value(item, depth - 1) for item in value] if depth else "…"
    # Exceptions, addresses, documents: what they say of themselves may quote anything.
    return scrub(str(value))


def scrub_path(path: str) -> str:
    """A URL path whose long segments (strategy keys stand there) are replaced by `***`; ids stay readable."""
    if len(path) < 32:
        return path
    return "/".join("***" if len(segment) > 30 else segment for segment in path.split("/"))
