"""What brokerage needs of brokers, and of the rest of the service."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple, Protocol

import msgspec
from pydantic import SecretStr

from app.brokerage.words import (
    BookedOrder,
    BookedTrade,
    BrokerHolding,
    BrokerName,
    BrokerPosition,
    Capabilities,
    Exchange,
    Funds,
    Listing,
    OrderChange,
    OrderTicket,
)


class BrokerAccount(msgspec.Struct, frozen=True, kw_only=True):
    """Whose account it is, and what opens it. Never stored, logged or shown as it stands."""

    account_id: str
    """Ours: the activated brokerage, 24 hex digits."""
    user_id: str
    broker: BrokerName
    base_url: str
    secrets: Mapping[str, SecretStr]
    """What the person entered, by the names of the contract (`api_key`, `api_secret`, `client_id`, `password`,
    `totp_key`, `request_token`, …)."""


class BrokerSession(msgspec.Struct, frozen=True, kw_only=True):
    """What a broker gave for the credentials."""

    access_token: SecretStr
    expires_at: datetime | None
    """Aware UTC; None: it does not end."""
    refresh_token: SecretStr | None = None
    feed_token: SecretStr | None = None
    broker_user_id: str | None = None
    """The client code, as far as the broker tells it."""

    def __repr__(self) -> str:
        """Without the client code, with which people sign in."""
        return f"<session until {self.expires_at}>"


class Broker(Protocol):
    """One broker. Stateless but for its connections: each call names the account and its session.

    Every call but `sign_in` raises `BrokerSessionError`, `BrokerRateLimitedError`, `BrokerUnavailableError` (certainly
    not done) and, where the answer is no answer, `BrokerError`. `place`, `modify` and `cancel` raise also
    `OrderRejectedError`, and `OutcomeUnknownError` for everything that leaves open whether the broker did it: a
    time-out after the request began to be sent, a 5xx, an HTML page, a connection that broke.
    """

    @property
    def capabilities(self) -> Capabilities:
        """What it takes."""

    def login_url(self, account: BrokerAccount) -> str | None:
        """Where a person signs in to get a `request_token` or `code`; None where none is needed."""

    async def sign_in(self, account: BrokerAccount) -> BrokerSession:
        """A session for the credentials. Raises `BrokerSessionError` for credentials that do not hold."""

    async def renew(self, account: BrokerAccount, session: BrokerSession) -> BrokerSession:
        """A fresh session without a person, where `capabilities.renews_itself`; else `BrokerSessionError`."""

    async def place(self, account: BrokerAccount, session: BrokerSession, ticket: OrderTicket) -> str:
        """Send an order, once; gives the broker's order id."""

    async def modify(
        self, account: BrokerAccount, session: BrokerSession, order: BookedOrder, listing: Listing, change: OrderChange
    ) -> None:
        """Change an order that is open."""

    async def cancel(self, account: BrokerAccount, session: BrokerSession, order: BookedOrder) -> None:
        """Cancel an order that is open."""

    async def orders(self, account: BrokerAccount, session: BrokerSession) -> list[BookedOrder]:
        """The day's order book."""

    async def trades(self, account: BrokerAccount, session: BrokerSession) -> list[BookedTrade]:
        """The day's fills."""

    async def positions(self, account: BrokerAccount, session: BrokerSession) -> list[BrokerPosition]:
        """The day's positions and those carried over."""

    async def holdings(self, account: BrokerAccount, session: BrokerSession) -> list[BrokerHolding]:
        """Shares in the account."""

    async def funds(self, account: BrokerAccount, session: BrokerSession) -> Funds:
        """Money in the account."""

    async def listings(self) -> Sequence[Listing]:
        """The broker's instruments, checked row by row; junk is left out. Needs no session. For a thread: large."""

    async def close(self) -> None:
        """Close its connections."""


class LastPrice(NamedTuple):
    """The newest price of an instrument."""

    price: Decimal
    at: datetime
    """By the exchange."""
    volume: int | None = None
    """Of the day so far, where it is known."""
    live: bool = True
    """Whether it comes from the live feed; else it is a quote, delayed perhaps."""


class Prices(Protocol):
    """Newest prices, from the live feed, else from quotes."""

    async def last(self, exchange: Exchange, symbol: str) -> LastPrice | None:
        """The newest price; None if nobody knows one."""

    def on_price(
        self, listener: Callable[[Exchange, str, LastPrice], None], wants: Callable[[Exchange, str], bool]
    ) -> None:
        """Call `listener` for every live price of what it `wants`, in the event loop; neither may raise or wait.

        A price may come twice, and a late one after a newer one.
        """


class Listings(Protocol):
    """The instruments of every broker."""

    async def find(self, broker: BrokerName, exchange: Exchange, symbol: str) -> Listing | None:
        """The instrument; None if the broker does not list it. `RELIANCE-EQ` and `RELIANCE` are the same on NSE."""

    async def like(self, broker: BrokerName, exchange: Exchange, symbol: str) -> list[str]:
        """A few symbols that may have been meant."""


class Sessions(Protocol):
    """Activated accounts and their sessions, as orders need them."""

    async def active(self, user_id: str) -> str:
        """The account id that a user's orders go through; `BrokerSessionError` if there is none (never: `paper` is
        always there)."""

    async def broker_of(self, account_id: str) -> BrokerName:
        """Whom the account is with; `NotFoundError`."""

    async def open(self, account_id: str) -> tuple[BrokerAccount, BrokerSession]:
        """The account with a valid session, renewed where that needs no person. Raises `BrokerSessionError`."""

    async def expired(self, account_id: str, session: BrokerSession) -> None:
        """The broker refused this session: it is over, whatever the clock says."""

    async def all_open(self) -> list[str]:
        """The ids of all accounts whose session is valid now: who reconciles them."""


class OrderNews(Protocol):
    """Where all that is heard of orders at brokers goes: answers, polls, pushes, the paper broker's own fills."""

    async def observe(self, account_id: str, orders: Sequence[BookedOrder], trades: Sequence[BookedTrade]) -> None:
        """Take what a broker said: idempotent, and in any order (a late `OPEN` after `COMPLETE` changes nothing).

        Returns when it is durably stored. Raises `UnavailableError` when the database is away.
        """

    def look(self, account_id: str) -> None:
        """Something may have happened there: fetch its book soon. Never waits, never raises."""


class Fills(Protocol):
    """The one way of fills into trades, positions and P&L."""

    async def take(self, account_id: str, user_id: str, broker: BrokerName, trades: Sequence[BookedTrade]) -> int:
        """Store those that are new, and what follows from them; gives how many were. Idempotent."""
