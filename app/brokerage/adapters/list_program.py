"""`python -m app.brokerage.adapters.list_program`: fetches, reads and builds one broker's list of instruments.

What is said there is in `core.list_program`; the setup names the broker and where the brokers are.
"""

import msgspec
from httpx import create_ssl_context

from app.brokerage.adapters.making import Addresses, real_broker
from app.brokerage.adapters.paper.listings import tradable
from app.brokerage.errors import BrokerError, BrokerRateLimitedError
from app.brokerage.listing_table import built
from app.brokerage.words import BrokerName
from app.core.clock import SystemClock
from app.core.list_program import Get, ListRefusedError, Refused, serve
from app.core.staged_lists import ListHere


class Setup(msgspec.Struct, frozen=True):
    """What the program is told first."""

    broker: BrokerName
    """With `paper` the exchanges' list, as Angel One has it."""
    addresses: Addresses


encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Setup).decode


def begin(body: bytes) -> Get:
    """What fetches the list that the setup names."""
    setup = _decode(body)
    paper = setup.broker is BrokerName.PAPER

    async def get(_known: tuple[str, str] | None) -> ListHere:
        real = BrokerName.ANGEL_ONE if paper else setup.broker
        broker = real_broker(real, setup.addresses, SystemClock(), create_ssl_context())
        try:
            found = await broker.listings()
            return built(tradable(found) if paper else found)
        except BrokerError as error:
            retry_after = error.retry_after if isinstance(error, BrokerRateLimitedError) else None
            raise ListRefusedError(Refused(type(error).__name__, error.detail, retry_after)) from None
        finally:
            await broker.close()

    return get


if __name__ == "__main__":
    serve(begin)
