"""What orders need of the rest of brokerage, as tests own it."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from pydantic import SecretStr

from app.brokerage.errors import BrokerSessionError
from app.brokerage.orders.ports import Holding
from app.brokerage.ports import BrokerAccount, BrokerSession, LastPrice
from app.brokerage.words import BookedTrade, BrokerName, Exchange, Listing
from app.core.clock import SystemClock
from app.core.errors import NotFoundError, UnavailableError
from app.core.market_calendar import IST
from tests.simulators.brokers.instruments import INSTRUMENTS, Instrument
from tests.simulators.brokers.kite.simulator import KiteAccount


def listing_of(instrument: Instrument, **values: object) -> Listing:
    """As Kite lists it."""
    known = {
        "exchange": Exchange(instrument.exchange),
        "symbol": instrument.symbol,
        "key": instrument.symbol,
        "tick_size": instrument.tick,
        "lot_size": instrument.lot,
        "freeze_quantity": instrument.freeze,
        "kind": instrument.kind,
        "isin": instrument.isin,
        "expiry": instrument.expiry,
        "strike": instrument.strike,
    }
    return Listing(**(known | values))  # type: ignore[arg-type]


class ShiftedClock(SystemClock):
    """Goes after the machine's."""

    def __init__(self, shift: timedelta) -> None:
        self._shift = shift

    def now(self) -> datetime:
        return super().now() + self._shift


def past_the_turn(now: datetime) -> timedelta:
    """By how much a clock has to be ahead for no day and no session to end within a quarter of an hour.

    What is in doubt at midnight in India stays in doubt, and tokens die at six.
    """
    local = now.astimezone(IST)
    for hours in (24, 6):
        left = local.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(hours=hours) - local
        if timedelta() <= left < timedelta(minutes=15):
            return left + timedelta(minutes=1)
    return timedelta()


class FixedListings:
    """Fills the port `Listings` with what the simulators list."""

    def __init__(self) -> None:
        self.rows = {(Exchange(each.exchange), each.symbol): listing_of(each) for each in INSTRUMENTS}

    async def find(self, broker: BrokerName, exchange: Exchange, symbol: str) -> Listing | None:  # noqa: ARG002
        return self.rows.get((exchange, symbol.removesuffix("-EQ")))

    async def like(self, broker: BrokerName, exchange: Exchange, symbol: str) -> list[str]:  # noqa: ARG002
        return sorted(name for where, name in self.rows if where is exchange and name[:3] == symbol[:3])


class FixedSessions:
    """Fills the port `Sessions`: everybody has one account at Zerodha, with their own id."""

    def __init__(self, base_url: str, token: str, broker: BrokerName = BrokerName.ZERODHA) -> None:
        self.base_url, self.token, self.broker = base_url, token, broker
        self.ended: list[str] = []
        """The accounts whose session the broker refused."""
        self.known: set[str] = set()
        self.removed: set[str] = set()
        self.shut: set[str] = set()
        """Accounts that nobody signs in to."""
        self.gate: asyncio.Event | None = None
        """Whoever wants a session waits for it."""
        self.waiting = 0
        """How many have come to it."""

    async def active(self, user_id: str) -> str:
        self.known.add(user_id)
        return user_id

    async def broker_of(self, account_id: str) -> BrokerName:
        if account_id == "0" * 24 or account_id in self.removed:
            raise NotFoundError("There is no such account.")
        return self.broker

    async def open(self, account_id: str) -> tuple[BrokerAccount, BrokerSession]:
        if self.gate is not None:
            self.waiting += 1
            await self.gate.wait()
        if account_id in self.removed:
            raise NotFoundError("There is no such account.")
        if not self.token or account_id in self.shut:
            raise BrokerSessionError("The session with Zerodha is over: sign in there.")
        secrets = {"api_key": SecretStr(KiteAccount().api_key)}
        account = BrokerAccount(
            account_id=account_id, user_id=account_id, broker=self.broker, base_url=self.base_url, secrets=secrets
        )
        return account, BrokerSession(access_token=SecretStr(self.token), expires_at=None)

    async def expired(self, account_id: str, session: BrokerSession) -> None:
        if session.access_token.get_secret_value() == self.token:
            self.ended.append(account_id)
            self.token = ""

    async def all_open(self) -> list[str]:
        return sorted(self.known - self.removed) if self.token else []


class FixedPrices:
    """Fills the port `Prices` with what a test says."""

    def __init__(self) -> None:
        self.known: dict[tuple[Exchange, str], LastPrice] = {}
        self.silent = False
        """Whoever asks waits for ever."""
        self.broken = False

    async def last(self, exchange: Exchange, symbol: str) -> LastPrice | None:
        if self.broken:
            raise UnavailableError("Nobody knows a price.")
        if self.silent:
            await asyncio.Event().wait()
        return self.known.get((exchange, symbol))

    def on_price(
        self, listener: Callable[[Exchange, str, LastPrice], None], wants: Callable[[Exchange, str], bool]
    ) -> None:
        """Nobody listens here."""


@dataclass
class KeptFills:
    """Fills the port `Fills`."""

    trades: dict[tuple[str, str], BookedTrade] = field(default_factory=dict)
    calls: int = 0

    async def take(self, account_id: str, user_id: str, broker: BrokerName, trades: Sequence[BookedTrade]) -> int:  # noqa: ARG002
        assert user_id == account_id
        self.calls += 1
        before = len(self.trades)
        for trade in trades:
            self.trades[account_id, trade.trade_id] = trade
        return len(self.trades) - before

    async def net(self, account_id: str) -> Mapping[Holding, int]:
        """Fills `OwnPositions` from them."""
        found: defaultdict[Holding, int] = defaultdict(int)
        for (account, _), trade in self.trades.items():
            if account == account_id:
                found[Holding(trade.exchange, trade.symbol, trade.product)] += trade.side.sign * trade.quantity
        return found
