"""What the parts of the service tell one another after the fact, in this process and in its others.

A new event is one class here and, if other processes are to hear it, its name in `WireEvent`; a test holds the two
together. Events are notices: what an answer or money depends on is stored first and then announced.
"""

from typing import ClassVar, NamedTuple

import msgspec


class Event(msgspec.Struct, frozen=True, tag=True):
    """Base of all events: immutable, cheap to make, and told apart on the wire by the class's name."""

    local_only: ClassVar[bool] = False
    """Whether the event concerns this process alone and never leaves it."""


class SessionRevoked(Event, frozen=True):
    """Credentials of an account ended (logout, password change, reuse of a refresh token, a revoked API token):
    access tokens of these sessions, and these API tokens, are worthless now."""

    user_id: str
    """The account, 24 hex digits."""
    session_ids: list[str]
    """The sessions and API tokens that ended, 24 hex digits each."""


class AccountChanged(Event, frozen=True):
    """An account was (de)activated or got another role: nothing that a cache says about it or about any of its
    sessions, tokens and keys is true any more."""

    user_id: str
    """The account, 24 hex digits."""
    is_active: bool


class MailWaiting(Event, frozen=True):
    """A mail was put into the outbox: whoever sends mails need not wait for the next look."""


class KeyChanged(Event, frozen=True):
    """A strategy key was bound or revoked: what a cache says about it is no longer true."""

    digest: str
    """SHA-256 of the key in hex; the key itself never travels."""


class AlertStored(Event, frozen=True):
    """An alert is durably in the database."""

    user_id: str
    """The owner, 24 hex digits."""
    strategy_id: str
    alert_id: str
    seq: int
    """The alert's order key: microseconds since the epoch, strictly increasing within a process."""
    body: bytes
    """The alert as JSON, as clients get it: encoded once, by the process that stored it."""


class AlertChanged(Event, frozen=True):
    """A stored alert was corrected or deleted by its owner."""

    user_id: str
    alert_id: str
    change_id: str
    """Different for every change."""
    deleted: bool


class TickNotice(NamedTuple):
    """One tick as clients get it."""

    symbol: str
    received_ms: int
    """The exchange's time of it, in milliseconds since the epoch, by which the newest is told."""
    seq: int
    """Orders the messages of the channel: microseconds since the epoch, strictly increasing within a process."""
    body: bytes
    """JSON, encoded once, by the process that runs the feed."""
    late: bool = False
    """Whether a newer one of its symbol had come before it."""


class TicksArrived(Event, frozen=True):
    """Ticks that passed the checks, as many as came in one turn of the event loop."""

    ticks: list[TickNotice]


class CandleNotice(NamedTuple):
    """One candle as clients get it."""

    symbol: str
    key: str
    """Tells candles apart: `<symbol>|<timeframe>|<start in ms>`."""
    closed: bool
    """Whether its time is over; until then a newer state of it is all that matters."""
    seq: int
    body: bytes
    """JSON, encoded once."""


class CandlesChanged(Event, frozen=True):
    """Candles that began, changed or closed."""

    candles: list[CandleNotice]


class CandlesWanted(Event, frozen=True):
    """A process has clients that listen to candles; it says so again as long as it has. The others send it none."""

    origin: str
    """The process, as the bus calls it."""
    symbols: list[str] | None
    """Of which symbols; None: of all."""


class FeedChanged(Event, frozen=True):
    """The live feed of the service is in another state."""

    state: str
    """A state of `market_data.ports.FeedHealth`."""


class GenerationMade(Event, frozen=True):
    """A sync has made a new generation of the cryptocurrency listing: older ones are not served any more."""

    number: int


class JobChanged(Event, frozen=True):
    """A run of a job was queued, started, got on, or ended."""

    run_id: str
    job: str
    """The job's name."""
    state: str
    """A `core.scheduler.RunState`."""
    finished: bool
    seconds: float | None
    """How long it ran, once it has ended."""
    seq: int
    """Orders the changes: microseconds since the epoch, strictly increasing with every change of a run."""
    body: bytes
    """The run as JSON, as every member may see it: encoded once, by the process that changed it."""


class SignalChanged(Event, frozen=True):
    """A signal of a user was made, changed, completed, cancelled or deleted."""

    user_id: str
    """The owner, 24 hex digits."""
    signal_id: str
    status: str
    """A `signals.status.Status`."""
    deleted: bool
    seq: int
    """Orders the changes: microseconds since the epoch, strictly increasing within a process."""
    body: bytes
    """The signal as JSON, as its owner gets it on the channel: encoded once, by the process that changed it."""


class SignalMade(Event, frozen=True):
    """The rules made a new signal, of candles that are everybody's to read."""

    symbol: str
    """As the provider of candles calls it: `RELIANCE.NS`."""
    timeframe: str
    seq: int
    """Orders the signals: microseconds since the epoch, strictly increasing within a process."""
    body: bytes
    """The signal as JSON, as clients get it on the channel: encoded once, by the process that made it."""


class BrokerAccountChanged(Event, frozen=True):
    """An account at a broker was activated, chosen or removed, or its session is in another state: what a cache says
    about it is no longer true."""

    user_id: str
    """The owner, 24 hex digits."""
    account_id: str
    seq: int
    """Orders the changes: microseconds since the epoch, strictly increasing within a process."""
    body: bytes
    """The news as JSON, as the owner gets it on the channel of orders: encoded once, without any credential."""


class OrderChanged(Event, frozen=True):
    """An order at a broker was made, sent, or heard of."""

    user_id: str
    """The owner, 24 hex digits."""
    account_id: str
    """The account at the broker that it goes through."""
    order_id: str
    state: str
    """A `brokerage.words.OrderState`."""
    open: bool
    """Whether its broker is still to be asked about it."""
    seq: int
    """Orders the changes: microseconds since the epoch, strictly increasing within a process."""
    body: bytes
    """The order as JSON, as its owner gets it on the channel: encoded once, by the process that changed it."""


class OrdersHeld(Event, frozen=True):
    """A broker wants a pause: nothing is sent through this account meanwhile, by any process."""

    account_id: str
    until: int
    """Milliseconds since the epoch."""


class InstrumentsChanged(Event, frozen=True):
    """There is a newer list of instruments in the database."""

    version: str


class WatchlistChanged(Event, frozen=True):
    """Other instruments are to be followed by the live feed: who goes by the list reads it again."""

    revision: int


class PeersChanged(Event, frozen=True):
    """This process was (re)connected to the others, lost them, or missed events of theirs: caches must be emptied."""

    local_only: ClassVar[bool] = True

    reason: str = ""
    """Why, in words for the log."""


WireEvent = (
    SessionRevoked
    | AccountChanged
    | MailWaiting
    | KeyChanged
    | AlertStored
    | AlertChanged
    | TicksArrived
    | CandlesChanged
    | CandlesWanted
    | FeedChanged
    | InstrumentsChanged
    | WatchlistChanged
    | GenerationMade
    | JobChanged
    | SignalChanged
    | SignalMade
    | BrokerAccountChanged
    | OrderChanged
    | OrdersHeld
)
"""The events that travel between processes."""
