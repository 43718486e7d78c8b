"""What a new password must not be: too short, one that everybody tries first, or its owner's own name.

Length and commonness are looked at where a body is read, everything again where a password is stored
(`Accounts.create`, `Accounts.set_password`): no path leads around it, scripts included. Nothing is fuzzy: what is
refused can be told in one sentence, and what is accepted does not depend on an estimate.
"""

import importlib.util
import unicodedata
from functools import lru_cache
from pathlib import Path

from app.auth.passwords import MAX_LENGTH, MIN_LENGTH
from app.core.errors import FieldError, InvalidInputError


def _folded(text: str) -> str:
    """One form for all ways to write the same word: composed accents, no case, no spaces around it."""
    return unicodedata.normalize("NFC", text).strip().casefold()


@lru_cache(maxsize=1)
def common_passwords() -> frozenset[str]:
    """The commonest passwords that are long enough to be chosen here: some 1,100 of the 30,000 that zxcvbn lists.

    Read at the first use (some 40 ms). The module is run by itself and let go of: importing the package would build
    all its dictionaries and keep tens of megabytes for good.
    """
    package = importlib.util.find_spec("zxcvbn")
    assert package is not None  # noqa: S101 (requirements.txt names it)
    assert package.origin is not None  # noqa: S101 (a package with an __init__.py)
    spec = importlib.util.spec_from_file_location(
        "_zxcvbn_frequency_lists", Path(package.origin).with_name("frequency_lists.py")
    )
    assert spec is not None  # noqa: S101 (a .py file has a loader)
    assert spec.loader is not None  # noqa: S101
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return frozenset(_folded(word) for word in module.FREQUENCY_LISTS["passwords"] if len(word) >= MIN_LENGTH)


def general_fault(password: str) -> str | None:
    """What is wrong with a new password, whoever's it is: a sentence without its period, or None."""
    if len(password.strip()) < MIN_LENGTH:
        padded = ", not counting spaces around it" if len(password) >= MIN_LENGTH else ""
        return f"A password needs at least {MIN_LENGTH} characters{padded}"
    if len(password) > MAX_LENGTH:
        return f"A password has at most {MAX_LENGTH} characters"
    if _folded(password) in common_passwords():
        return "This password is one of the most common ones, which are guessed first; choose another"
    return None


def personal_fault(password: str, *, email: str, username: str | None) -> str | None:
    """What is wrong with it for the account of this (normalised) `email` and `username`; None if nothing."""
    folded = _folded(password)
    if folded == _folded(email):
        return "The password must not be the e-mail address"
    if folded == _folded(email.rpartition("@")[0]):
        return "The password must not be the part of the e-mail address before the @-sign"
    if username is not None and folded == _folded(username):
        return "The password must not be the username"
    return None


def demand_good(password: str, *, email: str, username: str | None, field: str) -> None:
    """Raises `InvalidInputError`, which names the body's `field`, for a password that must not be this account's."""
    if fault := general_fault(password) or personal_fault(password, email=email, username=username):
        raise InvalidInputError(f"{fault}.", [FieldError(("body", field), fault, "value_error")])
