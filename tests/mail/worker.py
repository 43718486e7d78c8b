"""An outbox in a process of its own, on the event loop that the service has: URL DATABASE SMTP_PORT FOLDER.

Its lease is named by its process id. It prints a line when it runs, and ends when it is killed.
"""

import os
import sys
from pathlib import Path

import uvloop
from beanie import init_beanie
from pymongo import AsyncMongoClient

from app.core.bus import Bus, NullTransport
from app.core.clock import SystemClock
from app.core.lease_holder import Lease
from app.core.mail import Letter, MailRequest
from app.mail.models import DOCUMENTS
from app.mail.outbox import MailOutbox
from tests.mail.conftest import QUICK, mail_settings
from tests.support.mongodb import OPTIONS


async def compose(request: MailRequest) -> Letter:
    """Says who wrote it."""
    return Letter(request.to, "otp", {"name": None, "code": f"{os.getpid():06}"[-6:], "minutes": 5})


async def main(url: str, database: str, port: str, folder: str) -> None:
    """Send until killed."""
    client: AsyncMongoClient[dict[str, object]] = AsyncMongoClient(url, **OPTIONS)
    await init_beanie(client[database], document_models=DOCUMENTS)
    clock = SystemClock()
    outbox = MailOutbox(
        settings=mail_settings(
            Path(folder), None, smtp_host="127.0.0.1", smtp_port=int(port), smtp_tls=os.environ["SMTP_TLS"]
        ),
        clock=clock,
        bus=Bus(NullTransport()),
        lease=lambda seconds: Lease(client[database], clock, "mail", str(os.getpid()), seconds),
        timings=QUICK,
    )
    outbox.add_composer("otp", compose)
    sys.stdout.write("runs\n")
    sys.stdout.flush()
    await outbox.run()


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
