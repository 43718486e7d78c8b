"""What a broker's answer is that does not hold what it must: read whole, or not at all. Pure."""

from enum import StrEnum
from typing import Any, TypeVar

_Word = TypeVar("_Word", bound=StrEnum)


class UnreadableError(ValueError):
    """An answer that makes no sense; the message says in few words of ours what is missing."""


def objects(data: Any, what: str, *, or_null: bool = False) -> list[dict[str, Any]]:
    """The rows of a list. Raises `UnreadableError`.

    `or_null`: null is an empty one. Not for order books: there it may as well be a success that forgot its data, and
    an order that is looked for would seem never to have arrived.
    """
    if data is None and or_null:
        return []
    if not isinstance(data, list) or not all(isinstance(row, dict) for row in data):
        raise UnreadableError(f"no list of {what}")
    return data


def one_of(words: type[_Word], value: Any) -> _Word:
    """The word; raises `UnreadableError` for any other."""
    try:
        return words(value)
    except ValueError:
        raise UnreadableError(f"an unknown {words.__name__}") from None
