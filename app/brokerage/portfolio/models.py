"""What the portfolio stores. Private to the room.

Trades are the truth; books, days and what trades carry of them follow from it, and `portfolio.rebuild` makes them anew.
A change first marks the books that it touches, then writes trades, then books and takes its mark away: a mark that is
left says that a process died in between, and whoever finds it computes the book again.
"""

from datetime import datetime
from typing import Any

from beanie import DecimalAnnotation, Document, PydanticObjectId
from pydantic import Field
from pymongo import DESCENDING, IndexModel


class TradeDocument(Document):
    """One fill, reported by a broker or entered by its owner."""

    id: PydanticObjectId = Field(default_factory=PydanticObjectId)
    schema_version: int = 1
    user_id: PydanticObjectId
    account_id: str
    broker: str
    source: str
    book: str
    key: str
    """What makes it one trade: account, day, exchange, order and the broker's id of the trade; else its own id."""
    ref: str
    """The broker's id of the trade; of one that was entered its own."""
    broker_order_id: str | None = None
    order_id: str | None = None
    """Of the order that was placed here."""
    exchange: str
    stock_ticker: str
    product: str
    type: str
    order_type: str
    quantity: int
    price: DecimalAnnotation
    capital_used: DecimalAnnotation
    day: str
    """In India, ISO 8601."""
    seq: int
    """Microseconds since the epoch of its execution."""
    order_executed_at: datetime
    created_at: datetime
    updated_at: datetime
    revision: int = 1
    given_brokerage: DecimalAnnotation | None = None
    given_mtf: DecimalAnnotation | None = None
    settlement: str | None = None
    """Of what ended a position in a contract that expired, as `naming.Settlement`; nobody traded it."""
    note: str | None = None
    """For a person."""
    elsewhere: int | None = None
    """How many of the shares that it delivered came from elsewhere: follows from the book's trades."""
    converted_from: str | None = None
    """The product that it was traded as, where the broker made another of it."""

    # What follows from it and the others of its book and day
    opened: int | None = None
    closed: int | None = None
    entry_value: DecimalAnnotation | None = None
    realised: DecimalAnnotation | None = None
    exit_quantity: int | None = None
    exit_value: DecimalAnnotation | None = None
    buy_price: DecimalAnnotation | None = None
    sell_price: DecimalAnnotation | None = None
    status: str | None = None
    mtf_charge: DecimalAnnotation | None = None
    brokerage_charge: DecimalAnnotation | None = None
    charges: DecimalAnnotation | None = None

    class Settings:
        """Collection and indexes."""

        name = "trades"
        keep_nulls = False
        indexes = [
            IndexModel("key", name="key_1", unique=True),
            IndexModel([("user_id", 1), ("seq", DESCENDING)], name="user_id_1_seq_-1"),
            IndexModel([("user_id", 1), ("stock_ticker", 1), ("seq", DESCENDING)], name="user_id_1_ticker_1_seq_-1"),
            IndexModel([("user_id", 1), ("status", 1), ("seq", DESCENDING)], name="user_id_1_status_1_seq_-1"),
            IndexModel([("book", 1), ("seq", 1)], name="book_1_seq_1"),
            IndexModel([("account_id", 1), ("day", 1)], name="account_id_1_day_1"),
            IndexModel("seq", name="seq_1"),
        ]


class BookDocument(Document):
    """The open lots of an account in an instrument and product; `id` is made by `naming.book_id`."""

    id: str  # type: ignore[assignment]  # Beanie declares an ObjectId, MongoDB takes anything
    schema_version: int = 1
    user_id: PydanticObjectId
    account_id: str
    broker: str
    source: str
    exchange: str
    symbol: str
    product: str
    revision: int = 0
    pending: list[dict[str, Any]] = Field(default_factory=list)
    """Marks (`id`, `at`) of changes under way, with the first day that they change (`since`)."""
    dirty: bool = False
    open: bool = False
    state: dict[str, Any] = Field(default_factory=dict)
    """Lots and sums; see `book_rows`."""
    last_day: str | None = None
    contract: dict[str, Any] | None = None
    """Terms of a future or an option, kept for the time when no list has them any more; see `expiry`."""
    expired: dict[str, Any] | None = None
    """What became of a position that was open when the contract ended: `day`, `state`, `note` and `price`."""

    class Settings:
        """Collection and indexes."""

        name = "portfolio_books"
        keep_nulls = False
        indexes = [
            IndexModel([("account_id", 1), ("open", 1)], name="account_id_1_open_1"),
            IndexModel([("account_id", 1), ("last_day", 1)], name="account_id_1_last_day_1"),
            IndexModel([("account_id", 1), ("dirty", 1)], name="account_id_1_dirty_1"),
            IndexModel("dirty", name="dirty_1"),
            IndexModel("open", name="open_1"),
        ]


class DayDocument(Document):
    """What an account's trades of a day made and cost; `id` is made by `naming.day_id`."""

    id: str  # type: ignore[assignment]
    schema_version: int = 1
    user_id: PydanticObjectId
    account_id: str
    broker: str
    day: str
    revision: int = 0
    pending: bool = True
    """Whether its trades have changed since it was computed."""
    trades: int = 0
    turnover: DecimalAnnotation | None = None
    realised: DecimalAnnotation | None = None
    interest: DecimalAnnotation | None = None
    charges: dict[str, DecimalAnnotation] | None = None
    """The contract note by component, and `total`."""
    note: str | None = None
    books: list[dict[str, Any]] | None = None

    class Settings:
        """Collection and indexes."""

        name = "portfolio_days"
        keep_nulls = False
        indexes = [
            IndexModel([("account_id", 1), ("day", 1)], name="account_id_1_day_1"),
            IndexModel([("account_id", 1), ("pending", 1)], name="account_id_1_pending_1"),
            IndexModel("pending", name="pending_1"),
            IndexModel("day", name="day_1"),
        ]


class SnapshotDocument(Document):
    """What an account was worth after a day's close; `id` is made by `naming.day_id`."""

    id: str  # type: ignore[assignment]
    schema_version: int = 1
    user_id: PydanticObjectId
    account_id: str
    day: str
    at: datetime
    unrealised: DecimalAnnotation
    unpriced: int
    """Open positions without a price: they are not in `unrealised`."""
    funds: DecimalAnnotation | None = None
    """Money at the broker, where it answered."""
    unpriced_books: list[str] | None = None
    """Which; older snapshots have only their number."""
    books: list[dict[str, Any]]
    """Of each open position `book`, `quantity`, `price` and `unrealised`. It follows from the trades and the price, and
    is corrected when trades of its day or of earlier ones are; see `marks`."""
    revision: int | None = None
    """Counts corrections."""

    class Settings:
        """Collection and indexes."""

        name = "portfolio_snapshots"
        keep_nulls = False
        indexes = [IndexModel([("account_id", 1), ("day", 1)], name="account_id_1_day_1")]


class SeenDocument(Document):
    """What a broker told last of an account; `id` is the account's."""

    id: str  # type: ignore[assignment]
    schema_version: int = 1
    user_id: PydanticObjectId
    at: datetime
    funds: dict[str, DecimalAnnotation]
    positions: list[dict[str, Any]]
    holdings: list[dict[str, Any]]

    class Settings:
        """Collection."""

        name = "portfolio_seen"


DOCUMENTS: list[type[Document]] = [TradeDocument, BookDocument, DayDocument, SnapshotDocument, SeenDocument]
"""What the database has to know of the portfolio."""
