"""Where the brokers' lists of instruments come from: a program beside the service, or a broker in this process."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final, Protocol

import structlog

from app.brokerage.accounts.brokers import WANTS
from app.brokerage.adapters.list_program import Setup, encode
from app.brokerage.adapters.making import Addresses
from app.brokerage.errors import BrokerError, BrokerRateLimitedError, BrokerUnavailableError
from app.brokerage.listing_table import built
from app.brokerage.words import BrokerName, Listing
from app.core.list_process import FETCH_SECONDS, ListLostError, ListProcess
from app.core.list_program import ListRefusedError, Refused
from app.core.staged_lists import NewList

log = structlog.get_logger(__name__)

PROGRAM: Final = "app.brokerage.adapters.list_program"


class Lists(Protocol):
    """As much of a broker as its list needs."""

    async def listings(self) -> Sequence[Listing]:
        """See `ports.Broker`."""


class ListedHere:
    """Fills `core.staged_lists.ListSource` in this process: for lists that are small."""

    def __init__(self, broker: Lists) -> None:
        self._broker = broker

    @asynccontextmanager
    async def fetch(self, known: tuple[str, str] | None = None) -> AsyncIterator[NewList | None]:  # noqa: ARG002 (the port)
        """See the port. Raises `BrokerError`."""
        found = await asyncio.to_thread(built, await self._broker.listings())
        yield found


class ListedElsewhere:
    """Fills `core.staged_lists.ListSource` with a program, which takes the memory that the reading of a list needs."""

    def __init__(
        self, broker: BrokerName, addresses: Addresses, *, program: str = PROGRAM, seconds: float = FETCH_SECONDS
    ) -> None:
        """`seconds`: for the whole list."""
        self._broker = broker
        self._process = ListProcess(program, encode(Setup(broker, addresses)), seconds=seconds)

    @asynccontextmanager
    async def fetch(self, known: tuple[str, str] | None = None) -> AsyncIterator[NewList | None]:
        """See the port. Raises `BrokerError`, also for a program that is lost."""
        try:
            async with self._process.fetch(known) as found:
                yield found
        except ListRefusedError as error:
            raise _error_of(error.refused) from None
        except ListLostError as error:
            log.warning("the program that fetches a broker's instruments was lost", broker=self._broker, why=error.why)
            raise BrokerUnavailableError(
                f"The list of instruments of {WANTS[self._broker].label} could not be fetched. Try again soon."
            ) from None


def _error_of(refused: Refused) -> BrokerError:
    if refused.kind == BrokerRateLimitedError.__name__:
        return BrokerRateLimitedError(refused.message, retry_after=refused.retry_after or 1)
    kind = BrokerUnavailableError if refused.kind == BrokerUnavailableError.__name__ else BrokerError
    return kind(refused.message)
