"""What SmartAPI's error codes mean for somebody who has asked it to do something. Pure."""

from enum import Enum, auto
from typing import Final

from app.integrations.angel_one.errors import says_too_many


class Meaning(Enum):
    """Of an answer that is no success."""

    SESSION = auto()
    """The token or the credentials do not hold."""
    TOO_MANY = auto()
    UNSURE = auto()
    """Something went wrong in there: it may have been done."""
    EMPTY = auto()
    """There are none of what was asked for."""
    REFUSED = auto()
    """Understood, and it will not."""


_SESSION: Final = frozenset({"AG8001", "AG8002", "AG8003", "AG8004", "AB8050", "AB8051", "AB1010", "AB1011"})
_UNSURE: Final = frozenset({"", "AB1004", "AB2000", "AB2001"})
"""In the vendor's words: something went wrong; not specified; internal error."""
_OMS: Final = "AB1007"
"""Two things at once: wrong parameters (or a wrong PIN), and an error of the order system behind it ("AMX Error")."""
_EMPTY: Final = frozenset({"AB1013", "AB1014", "AB1015", "AB1016"})
_TOO_MANY: Final = frozenset({"AB1021"})


def meaning_of(code: str, message: str, *, signing_in: bool = False) -> Meaning:
    """By the code, and where that is not enough by the words.

    In a sign-in whatever is not known to be temporary counts as refused: too few tries are better than a locked
    account.
    """
    if code in _TOO_MANY or says_too_many(message):
        return Meaning.TOO_MANY
    if signing_in:
        return Meaning.UNSURE if code in _UNSURE - {""} else Meaning.SESSION
    if code in _SESSION:
        return Meaning.SESSION
    if code in _UNSURE or (code == _OMS and "amx" in message.lower()):
        return Meaning.UNSURE
    return Meaning.EMPTY if code in _EMPTY else Meaning.REFUSED


def meaning_of_text(status: int, said: str) -> Meaning:
    """For an answer that is not JSON: 403 can mean either, and says which."""
    if says_too_many(said):
        return Meaning.TOO_MANY
    return Meaning.SESSION if status in {401, 403} else Meaning.UNSURE
