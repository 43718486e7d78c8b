"""What the simulated exchange keeps: orders, trades, positions, holdings. See `tests.simulators.brokers.book`."""

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final

from tests.simulators.brokers.instruments import Instrument


class Status(StrEnum):
    """Of an order."""

    RECEIVED = "received"
    """By the broker; not at the exchange yet (see `Book.hold`)."""
    TRIGGER_PENDING = "trigger pending"
    OPEN = "open"
    """Partly filled ones too."""
    COMPLETE = "complete"
    CANCELLED = "cancelled"
    REJECTED = "rejected"
    EXPIRED = "expired"


FINAL: Final = frozenset({Status.COMPLETE, Status.CANCELLED, Status.REJECTED, Status.EXPIRED})


class RefusedError(Exception):
    """The broker says no at its door: there is no such order. `kind`: `instrument`, `quantity`, `price`, `order`,
    `state`, `funds`, `holdings`, `duplicate`, or the vendor's own word; `reason` in words."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind, self.reason = kind, reason


@dataclass(frozen=True, slots=True)
class Trade:
    """One fill."""

    trade_id: str
    order_id: str
    instrument: Instrument
    side: str
    product: str
    quantity: int
    price: Decimal
    at: datetime


@dataclass(slots=True)
class Order:
    """As the book has it; changes as things happen."""

    order_id: str
    instrument: Instrument
    side: str
    product: str
    price_type: str
    quantity: int
    price: Decimal | None
    trigger: Decimal | None
    validity: str
    tag: str | None
    placed_at: datetime
    status: Status = Status.RECEIVED
    filled: int = 0
    average: Decimal | None = None
    reason: str | None = None
    updated_at: datetime | None = None
    exchange_order_id: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    """What only this vendor keeps of it."""

    @property
    def rest(self) -> int:
        """Still to be filled."""
        return 0 if self.status in FINAL else self.quantity - self.filled

    @property
    def cancelled(self) -> int:
        """Never to be filled, as it was cancelled or has expired."""
        return self.quantity - self.filled if self.status in {Status.CANCELLED, Status.EXPIRED} else 0


@dataclass(slots=True)
class Position:
    """Of one instrument and product, today."""

    instrument: Instrument
    product: str
    bought: int = 0
    sold: int = 0
    paid: Decimal = Decimal(0)
    received: Decimal = Decimal(0)

    @property
    def net(self) -> int:
        """Below 0: short."""
        return self.bought - self.sold

    @property
    def average(self) -> Decimal:
        """Of the side that is open; 0 when nothing is."""
        if self.net > 0:
            return self.paid / self.bought
        return self.received / self.sold if self.net < 0 else Decimal(0)


@dataclass(slots=True)
class Holding:
    """Shares of before today."""

    instrument: Instrument
    quantity: int
    average: Decimal
