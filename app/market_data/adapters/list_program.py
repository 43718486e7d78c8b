"""`python -m app.market_data.adapters.list_program`: fetches, reads and builds Angel One's list of instruments.

What is said there is in `core.list_program`; the setup is the address of the list.
"""

from app.core.list_program import Get, ListRefusedError, Refused, serve
from app.core.staged_lists import ListHere
from app.integrations.angel_one.instruments import InstrumentFile
from app.market_data.adapters.angel_one_instruments import AngelOneListings
from app.market_data.instruments import FilledHere
from app.market_data.listings import ListingsUnavailableError


def begin(body: bytes) -> Get:
    """What fetches the list at that address."""
    source = FilledHere(AngelOneListings(InstrumentFile(body.decode())))

    async def get(known: tuple[str, str] | None) -> ListHere | None:
        try:
            return await source.list(known)
        except ListingsUnavailableError as error:
            raise ListRefusedError(Refused("unavailable", error.kind, error.retry_after)) from None

    return get


if __name__ == "__main__":
    serve(begin)
