"""Keeps secrets out of logs and answers, whoever wrote the text that carries them."""

import re
from collections.abc import Mapping
from typing import Any

_SECRET_NAMES = re.compile(
    r"password|passwd|secret|token|authorization|api_?key|totp|otp\b|cookie|credential|private_key", re.IGNORECASE
)
_SECRETS_IN_TEXT = (
    # JSON Web Tokens
    (re.compile(r"eyJ[\w-]{5,}\.[\w-]+(?:\.[\w-]*)?"), "***"),
    # Authorization headers
    (re.compile(r"\b(bearer|basic)\s+[\w.~+/=-]{8,}", re.IGNORECASE), r"\1 ***"),
    # name=value and "name": "value"
    (
        re.compile(
            r"(?P<name>\b\w*(?:token|password|passwd|secret|api_?key)\w*\b[\"']?\s*[=:]\s*[\"']?)(?P<value>[^\s\"'&,;}]{4,})",
            re.IGNORECASE,
        ),
        r"\g<name>***",
    ),
    # the password in the authority of a URL
    (re.compile(r"(?P<scheme>\w+://[^\s:/@]*):[^\s/@]+@"), r"\g<scheme>:***@"),
    # strategy keys and refresh tokens: 43 URL-safe characters, wherever they stand
    (re.compile(r"(?<![\w-])[\w-]{43,}(?![\w-])"), "***"),
)


def scrub(text: str) -> str:
    """`text` with everything that looks like a credential replaced by `***`."""
    for pattern, replacement in _SECRETS_IN_TEXT:
        text = pattern.sub(replacement, text)
    return text


def scrub_value(value: Any, depth: int = 4) -> Any:
    """The same for nested log fields: by name and by shape."""
    if isinstance(value, str):
        return scrub(value)
    if isinstance(value, bytes):
        return scrub(value.decode("utf-8", "replace"))
    if isinstance(value, Mapping):
        if depth == 0:
            return "…"
        return {
            str(key): "***" if _SECRET_NAMES.search(str(key)) else scrub_value(item, depth - 1)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [scrub_value(item, depth - 1) for item in value] if depth else "…"
    return value


def scrub_path(path: str) -> str:
    """A URL path whose long segments (strategy keys stand there) are replaced by `***`; ids stay readable."""
    if len(path) < 32:
        return path
    return "/".join("***" if len(segment) > 30 else segment for segment in path.split("/"))
