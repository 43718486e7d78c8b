"""The real brokers, as the settings want them: in the service, and in the program that fetches their lists."""

import ssl
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from app.brokerage.adapters.angel_one.client import AngelOneBroker
from app.brokerage.adapters.groww.client import GrowwBroker
from app.brokerage.adapters.http import Timeouts
from app.brokerage.adapters.upstox.client import UpstoxBroker
from app.brokerage.adapters.zerodha.client import ZerodhaBroker
from app.brokerage.ports import Broker
from app.brokerage.words import BrokerName
from app.core.clock import Clock


class Addresses(msgspec.Struct, frozen=True, kw_only=True):
    """Where the brokers are, as the settings have it."""

    angel_one_instruments: str
    zerodha: str
    zerodha_login: str
    upstox_instruments: str
    groww_instruments: str
    timeout: float
    """Seconds for an answer; a list has its own."""


_Make = Callable[[Clock, Addresses, ssl.SSLContext, Timeouts], Broker]
_MAKERS: Final[Mapping[BrokerName, _Make]] = {
    BrokerName.ANGEL_ONE: lambda clock, at, tls, timeouts: AngelOneBroker(
        clock, instruments_url=at.angel_one_instruments, tls=tls, timeouts=timeouts
    ),
    BrokerName.ZERODHA: lambda clock, at, tls, timeouts: ZerodhaBroker(
        clock, base_url=at.zerodha, login_url=at.zerodha_login, tls=tls, timeouts=timeouts
    ),
    BrokerName.UPSTOX: lambda clock, at, tls, timeouts: UpstoxBroker(
        clock, instruments_url=at.upstox_instruments, tls=tls, timeouts=timeouts
    ),
    BrokerName.GROWW: lambda clock, at, tls, timeouts: GrowwBroker(
        clock, instruments_url=at.groww_instruments, tls=tls, timeouts=timeouts
    ),
}
REAL: Final = tuple(_MAKERS)
"""Those that are asked over the network."""


def real_broker(name: BrokerName, addresses: Addresses, clock: Clock, tls: ssl.SSLContext) -> Broker:
    """One of `REAL`."""
    return _MAKERS[name](clock, addresses, tls, Timeouts(whole=addresses.timeout))
