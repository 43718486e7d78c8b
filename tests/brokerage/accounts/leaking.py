"""A program that sends recognisable credentials through every path of this room, with everything logged.

`python -m tests.brokerage.accounts.leaking FOLDER` leaves in FOLDER the log, the database's files, `answers.json`
(answers, events, acts, mails), `rows.json` (the database read back), and `secrets.json`: what none of them may hold.
"""

import asyncio
import json
import secrets
import sys
from pathlib import Path
from typing import Any

import httpx
import structlog
from beanie import PydanticObjectId
from bson import json_util

from app.brokerage.accounts.models import DOCUMENTS
from app.brokerage.adapters.groww.client import GrowwBroker
from app.brokerage.adapters.upstox.client import UpstoxBroker
from app.brokerage.ports import BrokerSession
from app.brokerage.push.angel_stream import AngelOrderStream, Counts, Timing
from app.brokerage.push.models import DOCUMENTS as PUSH_DOCUMENTS
from app.brokerage.words import BrokerName
from app.core.cancelling import end
from app.core.errors import DomainError
from app.core.logging import configure_logging
from tests.brokerage.accounts.kit import PATH, WEBHOOK_SECRETS, Desk, desk_of, settings_of
from tests.simulators.brokers.groww.simulator import GrowwSimulator
from tests.simulators.brokers.upstox.simulator import UpstoxSimulator
from tests.support.mongodb import empty_database, mongodb_server

FAULTS = ("html", "garbage", "reset", "too_many")


class Leaking:
    """The desk, and what it was told and answered."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.secrets: dict[str, str] = {f"webhook {number}": one for number, one in enumerate(WEBHOOK_SECRETS)}
        self.shown: dict[str, str] = {}
        """API keys that the sign-in page's address names: nothing else may."""
        self.answers: list[str] = []
        self.who = ""
        desk.client.event_hooks["response"].append(self._keep)

    async def _keep(self, answer: httpx.Response) -> None:
        await answer.aread()
        self.answers.append(f"{answer.request.method} {answer.request.url} {answer.headers} {_without_page(answer)}")

    async def ask(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self.who}"}
        answer = await self.desk.client.request(method, PATH + path, headers=headers, **options)
        self.desk.clock.move(seconds=7)
        found = answer.json() if answer.content else {}
        return found if isinstance(found, dict) else {}

    def keep(self, broker: str, given: dict[str, str]) -> None:
        for name, value in given.items():
            paged = name == "api_key" and broker in {"zerodha", "upstox"}
            if name != "redirect_uri":
                (self.shown if paged else self.secrets)[f"{broker} {name} {value[-4:]}"] = value

    async def broker(self, broker: BrokerName, sim: Any) -> str:
        """Everything that can be done with one broker's account."""
        self.who = f"owner at {broker}"  # sign-ins are limited by person
        self.desk.people.ids[self.who] = PydanticObjectId()
        begin = {"brokerage": broker.value, "api_url": sim.base_url}
        for fault in FAULTS:
            sim.fail(fault, times=1)
            given = sim.credentials()
            self.keep(broker, given)
            await self.ask("POST", "/activate-brokerage", json=begin | given)
        wrong = {name: f"wrong-{secrets.token_hex(8)}" for name in given if name not in {"totp_key", "redirect_uri"}}
        self.keep(f"{broker} wrong", wrong)
        # Refused, refused by our own guard, and with fields that do not belong there.
        for more in ({}, {}, {"surplus": wrong["api_key"]}, {"api_url": f"https://{wrong['api_key']}@evil.example"}):
            await self.ask("POST", "/activate-brokerage", json=begin | given | wrong | more)
        self.desk.clock.move(hours=2)
        given = sim.credentials()
        self.keep(broker, given)
        made = await self.ask("POST", "/activate-brokerage", json=begin | given)
        assert made.get("session", {}).get("state") == "valid", made
        await self.use(made["id"], sim)
        return str(made["id"])

    async def use(self, account_id: str, sim: Any) -> None:
        sessions = self.desk.here.sessions
        account, session = await sessions.open(account_id)
        self._tokens(account_id, session)
        log = structlog.get_logger("leaking")
        # Somebody will log them as they are, one day.
        log.info("an account", account=account, session=session, both=[account, session])
        row = await self.desk.here.store.get((await self.desk.row({"id": account_id}))["_id"])
        log.info("a row", secrets=row and sorted(row["secrets"]))
        try:
            raise RuntimeError(f"with {account} and {session}")
        except RuntimeError:
            log.exception("it broke")
        broker = self.desk.brokers[account.broker]
        await broker.funds(account, session)
        sim.end_sessions() if hasattr(sim, "end_sessions") else sim.sessions.expire(refresh_too=True)
        try:
            await broker.orders(account, session)
        except DomainError as error:
            self.answers.append(f"{error!r} {error.__dict__ | {'login_url': None, 'extensions': None}}")
        await sessions.expired(account_id, session)
        await self.ask("GET", "/brokerages")
        await self.ask("POST", f"/brokerages/{account_id}/session", json={})
        await self.desk.here.keeper.sweep()

    def _tokens(self, account_id: str, session: BrokerSession) -> None:
        for name in ("access_token", "refresh_token", "feed_token"):
            if (token := getattr(session, name)) is not None:
                self.secrets[f"{account_id} {name}"] = token.get_secret_value()

    async def pushes(self, angel_id: str) -> None:
        for headers in ({}, {"X-Broker-Signature": WEBHOOK_SECRETS[0]}):
            for broker in ("zerodha", "angelone", "nobody"):
                body = json.dumps({"user_id": "x", "checksum": WEBHOOK_SECRETS[1]})
                await self.desk.client.post(f"/api/v1/brokerage/webhook/{broker}", content=body, headers=headers)
        stream = AngelOrderStream(
            angel_id,
            url="ws://127.0.0.1:9/",
            sessions=self.desk.here.sessions,
            news=self.desk.recorder,
            read=lambda _: None,
            clock=self.desk.clock,
            counts=Counts(),
            timing=Timing(first_wait=0.01, last_wait=0.02),
        )
        task = asyncio.create_task(stream.run())
        await asyncio.sleep(0.2)
        await end([task])


def _without_page(answer: httpx.Response) -> str:
    """The body, without the addresses of sign-in pages."""
    try:
        content = answer.json()
    except ValueError:
        return answer.text
    for row in content if isinstance(content, list) else [content]:
        row.pop("login_url", None)
        row.get("session", {}).pop("login_url", None)
    return json.dumps(content)


async def main(folder: Path) -> None:
    configure_logging(settings_of(log_level="DEBUG", log_format="json", log_file=folder / "app.log"))
    async with (
        mongodb_server(folder / "db") as url,
        empty_database(url, [*DOCUMENTS, *PUSH_DOCUMENTS]) as db,
        desk_of(db) as desk,
        UpstoxSimulator(now=desk.clock.now, limited=False) as upstox,
        GrowwSimulator(now=desk.clock.now, limited=False) as groww,
    ):
        desk.settings.broker_api_url_allowlist.extend([upstox.base_url, groww.base_url])
        desk.brokers |= {BrokerName.UPSTOX: UpstoxBroker(desk.clock), BrokerName.GROWW: GrowwBroker(desk.clock)}
        _marked(desk)
        leaking = Leaking(desk)
        sims = {BrokerName.ZERODHA: desk.kite, BrokerName.UPSTOX: upstox, BrokerName.GROWW: groww}
        for broker, sim in sims.items():
            await leaking.broker(broker, sim)
        angel_id = await leaking.broker(BrokerName.ANGEL_ONE, desk.angel)
        await leaking.pushes(angel_id)
        rows = [row async for name in _names(db) async for row in db[name].find()]
        told = [*map(repr, desk.recorder.acts), *map(repr, desk.recorder.mails), *map(str, desk.events)]
        leaking.answers += told
        for broker in (BrokerName.UPSTOX, BrokerName.GROWW):
            await desk.brokers[broker].close()
    found = {"secrets": leaking.secrets, "shown": leaking.shown}
    for name, content in (("secrets", found), ("answers", leaking.answers)):
        (folder / f"{name}.json").write_text(json.dumps(content))
    (folder / "rows.json").write_text(json_util.dumps(rows))


def _marked(desk: Desk) -> None:
    """Credentials that are found wherever they are."""
    for account, names in ((desk.kite.account, ("api_key", "api_secret")), (desk.angel.account, ("api_key",))):
        for name in names:
            object.__setattr__(account, name, f"{name}-{secrets.token_hex(9)}")
    object.__setattr__(desk.angel.account, "pin", f"{secrets.randbelow(10**12):012}")
    object.__setattr__(desk.angel.account, "client_code", f"K{secrets.randbelow(10**9):09}")


async def _names(db: Any) -> Any:
    for name in await db.list_collection_names():
        yield name


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
