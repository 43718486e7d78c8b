"""What the service and the program that runs `yfinance` say to each other, as MessagePack."""

from datetime import datetime, time
from typing import Any, Final, NamedTuple

import msgspec

from app.quotes.bars import Row

AT_ONCE: Final = 2
"""Questions that the program works on. Who has more of them waits: its time for an answer begins with its turn."""


class Timeouts(NamedTuple):
    """Seconds."""

    connect: float = 3.0
    request: float = 8.0
    """Of one request, to the answer's end."""
    whole: float = 25.0
    """Of one question: a cookie, a crumb, the answer, and once more when the crumb had expired."""


class Setup(msgspec.Struct, frozen=True, tag=True):
    """Where Yahoo is, and where the library keeps what it keeps. Comes first."""

    base_url: str
    cache_dir: str
    timeouts: Timeouts


class AskHistory(msgspec.Struct, frozen=True, tag=True):
    """Candles of a symbol from `start` to before `end`, which is ahead of now; see `library.Library.history`."""

    symbol: str
    interval: str
    start: datetime
    end: datetime
    zone: str | None = None


class AskQuotes(msgspec.Struct, frozen=True, tag=True):
    """Quotes of symbols."""

    symbols: tuple[str, ...]


class History(msgspec.Struct, frozen=True, tag=True):
    """Rows as Yahoo has them, and what it says of them."""

    rows: list[Row]
    currency: str | None
    zone: str
    opens: time | None
    """At the exchange, like the next; None where it does not say."""
    closes: time | None
    traded_at: datetime | None
    """The newest trade in these rows."""


class Found(msgspec.Struct, frozen=True, tag=True):
    """What Yahoo says of each symbol that it knows."""

    rows: list[dict[str, Any]]


class Failure(msgspec.Struct, frozen=True, tag=True):
    """A question that brought nothing: a kind of `errors`, by its class's name."""

    kind: str
    code: str
    retry_after: float | None = None
    detail: str = ""
    """The name of an exception that nobody has thought of."""


class Done(msgspec.Struct, frozen=True, tag=True):
    """The setup was carried out."""


Question = Setup | AskHistory | AskQuotes
Reply = Done | History | Found | Failure


encode: Final = msgspec.msgpack.Encoder().encode
decode_question: Final = msgspec.msgpack.Decoder[Question](Question).decode
decode_reply: Final = msgspec.msgpack.Decoder[Reply](Reply).decode
