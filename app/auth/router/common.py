"""What the routers of accounts share."""

from typing import Annotated

from fastapi import Depends, Header

from app.auth.sessions import Client
from app.core.deps import ClientAddress
from app.core.request_info import printable


async def _client(
    address: ClientAddress, user_agent: Annotated[str | None, Header(include_in_schema=False)] = None
) -> Client:
    return Client(address, printable(user_agent[:256]) or None if user_agent else None)


CallingClient = Annotated[Client, Depends(_client)]
