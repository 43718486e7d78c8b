"""What the network says of the request that is being answered, for whoever has to write it down."""

from collections.abc import Callable
from contextvars import ContextVar
from typing import NamedTuple


class RequestInfo(NamedTuple):
    """`address` is the client's own: behind trusted proxies the one that they report."""

    request_id: str
    address: str
    user_agent: str | None = None


_current: ContextVar[Callable[[], RequestInfo] | None] = ContextVar("request_info", default=None)


def current_request() -> RequestInfo | None:
    """The request that this code runs for; None in a background task or a script."""
    tell = _current.get()
    return tell() if tell else None


def note_request(tell: Callable[[], RequestInfo]) -> None:
    """Make what `tell` gives the current request, in this task and in those that it starts.

    A callable, because most requests write nothing down and need not pay for it.
    """
    _current.set(tell)


def printable(text: str) -> str:
    """`text` without what no terminal or page should be made to show."""
    return "".join(char for char in text if char.isprintable())
