"""Mails that an account's owner should get but that nothing depends on: they never make a request fail."""

import structlog
from pymongo.errors import PyMongoError

from app.core.errors import DomainError
from app.core.mail import MailRequest, Mails

log = structlog.get_logger(__name__)


class Notices:
    """Asks for mails where mails can be sent; else does nothing."""

    def __init__(self, mails: Mails) -> None:
        self._mails = mails

    async def send(self, request: MailRequest) -> None:
        """Ask for this mail; a failure is logged and stays here."""
        if not self._mails.available:
            return
        try:
            await self._mails.request(request)
        except (DomainError, PyMongoError) as error:
            log.warning("a notice was not queued", kind=request.kind, error=type(error).__name__)
