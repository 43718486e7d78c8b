"""What values of settings look like: rules that several groups of settings share."""

import json
import re
from typing import Any
from urllib.parse import urlsplit

# What stands before an address's `://`. Not `urlsplit`: its errors show parts of what they cannot read, passwords too.
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE).match
BASE_URL = re.compile(r"https?://[^/\s?#]+(/[^\s?#]*)?", re.IGNORECASE).fullmatch
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s]+", re.IGNORECASE).fullmatch
_SERVICE = re.compile(r"(?:https?|wss?)://[^/\s?#]+(/[^\s?#]*)?", re.IGNORECASE).fullmatch
LOOPBACK = {"localhost", "127.0.0.1", "::1"}
SENDER = re.compile(r"(?:[^<>@]*<)?[^<>@\s]+@[^<>@\s]+>?").fullmatch
MAX_RETENTION_DAYS = 36_500
"""A hundred years: beyond what a date can hold, nothing could be stored any more."""

MIN_SECRET_BYTES = 32
# Words that stand in samples and tutorials where the secret should be.
_PLACEHOLDERS = ("your-secret", "changeme", "change-me", "change_me", "secret-key-here", "example", "placeholder")


def split(value: Any) -> Any:
    """A list given as JSON or comma-separated text."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text.startswith("["):
        try:
            return json.loads(text)
        except ValueError as error:
            raise ValueError("is neither a JSON list nor comma-separated text") from error
    return [part.strip() for part in text.split(",") if part.strip()]


def scheme(address: str) -> str:
    """What stands before an address's `://`, in lower case; empty when nothing does."""
    found = _SCHEME(address)
    return found[1].lower() if found else ""


def service_address(address: str, *, production: bool) -> str:
    """The address of a service that ours calls, without a slash at the end; raises `ValueError` for anything else.

    Credentials travel there: in production only in encrypted connections, except on this machine.
    """
    if not _SERVICE(address):
        raise ValueError("must be an http://, https://, ws:// or wss:// address, without spaces, query or fragment")
    try:
        parts = urlsplit(address)
    except ValueError:  # its words would show parts of what it cannot read
        raise ValueError("is not an address that can be read") from None
    if parts.username or parts.password:
        raise ValueError("must hold no user name or password")
    if production and parts.scheme in {"http", "ws"} and parts.hostname not in LOOPBACK:
        raise ValueError(f"must begin with {parts.scheme}s:// in production: credentials travel there")
    return address.rstrip("/")


def weakness(secret: str) -> str | None:
    """Why `secret` must not sign tokens in production; None if nothing speaks against it."""
    if len(secret.encode()) < MIN_SECRET_BYTES:
        return f"is shorter than {MIN_SECRET_BYTES} bytes; openssl rand -hex 32 makes one"
    if any(word in secret.lower() for word in _PLACEHOLDERS) or len(set(secret)) < 8:
        return "is a placeholder from a sample; openssl rand -hex 32 makes a real one"
    return None
