"""How many mails somebody who has not signed in may cause."""

from app.auth.sessions import Client
from app.core.client_address import network_of
from app.core.errors import RateLimitedError
from app.core.rate_limit import RateLimiter
from app.core.settings import Settings


class MailLimits:
    """Limits by network, and by network and address together.

    Not by the address alone: strangers who ask all the time would keep its owner from asking. What one mailbox gets in
    sum is bounded where the mails are made (`OtpCodes`, `MailedTokens`), after the answer, which tells nothing of it.
    """

    def __init__(self, limiter: RateLimiter, settings: Settings) -> None:
        self._limiter = limiter
        self._per_network = settings.auth_address_rate_limit_per_minute
        self._per_address = settings.auth_rate_limit_per_minute

    async def ask(self, kind: str, email: str, client: Client) -> None:
        """Count a request for a mail of this kind; raises `RateLimitedError`, known address or not."""
        network = network_of(client.address)
        await self._limiter.hit("mail-network", network, self._per_network)
        await self._limiter.hit(f"mail-{kind}", f"{network} {email}", self._per_address)

    async def room(self, client: Client) -> bool:
        """Count a mail that nobody asked for but that an act brings along; False if it had better be left out."""
        try:
            await self._limiter.hit("mail-network", network_of(client.address), self._per_network)
        except RateLimitedError:
            return False
        return True
