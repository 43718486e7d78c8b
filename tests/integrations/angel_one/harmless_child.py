"""Uses the session and the feed in a process of its own, and reports what that left behind.

Arguments: two URLs, API key, client id, PIN, TOTP key.
"""

import asyncio
import json
import logging
import sys
import warnings
from typing import Any

from app.core.cancelling import end

CONNECTED: list[str] = []
WRITTEN: list[str] = []
LOGGED: list[str] = []


class Everything(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        LOGGED.append(self.format(record))


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect":
        CONNECTED.append(f"{arguments[1][0]}:{arguments[1][1]}" if isinstance(arguments[1], tuple) else "local")
    elif event in {"socket.getaddrinfo", "socket.gethostbyname"}:
        CONNECTED.append(str(arguments[0]))
    elif event == "os.mkdir" or (event == "open" and set(str(arguments[1] or "")) & set("wax+")):
        WRITTEN.append(str(arguments[0]))


async def use(url: str, feed_url: str, secrets: list[str]) -> None:
    from pydantic import SecretStr

    from app.core.clock import SystemClock
    from app.integrations.angel_one.credentials import Credentials
    from app.integrations.angel_one.errors import AngelOneError
    from app.integrations.angel_one.feed import FeedClient
    from app.integrations.angel_one.frames import Exchange, Mode
    from app.integrations.angel_one.session import AngelOneSession
    from app.integrations.angel_one.subscriptions import Instrument, Subscription

    account = Credentials(*(SecretStr(secret) for secret in secrets))
    session = AngelOneSession(account, clock=SystemClock(), base_url=url, timeout=(30, 30))
    tokens = await session.tokens()
    await session.profile()
    feed = FeedClient(url=feed_url, session=session, clock=SystemClock())
    first = asyncio.Event()
    wanted = [Subscription(Mode.LTP, Instrument(Exchange.NSE_CM, "99926000"))]
    running = asyncio.create_task(feed.run(lambda: wanted, lambda *_: first.set()))
    await asyncio.wait_for(first.wait(), 30)
    await end([running])
    await session.close()
    wrong = Credentials(account.api_key, account.client_id, SecretStr("wrongPin"), account.totp_key)
    for broken, base in ((wrong, url), (account, "http://127.0.0.1:9")):
        session = AngelOneSession(broken, clock=SystemClock(), base_url=base, timeout=(30, 30))
        try:
            await session.tokens()
        except AngelOneError as error:
            logging.getLogger("child").exception("as a service would")
            LOGGED.append(repr(error) + str(error.__context__) + str(error.__cause__))
        await session.close()
    shown = [repr(tokens), repr(account), str(account)]
    secrets += [tokens.jwt, tokens.refresh, tokens.feed, "wrongPin"]
    leaks = [secret for secret in secrets for text in (*LOGGED, *shown) if secret in text]
    report = {
        "connected": sorted(set(CONNECTED)),
        "written": [path for path in WRITTEN if not path.endswith(".pyc") and ".pyc." not in path],
        "leaks": leaks,
        "logged": len(LOGGED),
        "modules": sorted(name for name in sys.modules if name.split(".")[0] in {"SmartApi", "logzero", "websocket"}),
        "get": requests.get.__module__,
        "filters": len(warnings.filters) - before,
    }
    sys.__stdout__.write(json.dumps(report) + "\n")  # type: ignore[union-attr]


logging.basicConfig(level=1, handlers=[Everything()], force=True)
sys.addaudithook(watch)
import requests  # noqa: E402 (what it changes at its own import is not the SDK's doing)

before = len(warnings.filters)
asyncio.run(use(sys.argv[1], sys.argv[2], sys.argv[3:]))
