"""The use cases around accounts at brokers: activate, list, choose, sign in again, remove."""

import asyncio
from collections.abc import Awaitable, Coroutine, Mapping
from contextlib import suppress
from typing import Any, Final, Protocol, TypeVar

from beanie import PydanticObjectId

from app.brokerage.accounts.addresses import checked_address
from app.brokerage.accounts.brokers import HANDED_OVER, WANTS, default_base_url
from app.brokerage.accounts.news import AccountNews
from app.brokerage.accounts.schemas import ActivationInput
from app.brokerage.accounts.sessions import BrokerSessions
from app.brokerage.accounts.sign_ins import NO_ACCOUNT, SignIns
from app.brokerage.accounts.store import AccountStore, Row
from app.brokerage.ports import BrokerSession
from app.brokerage.words import BrokerName
from app.core.audit import Act, Actor, AuditTrail, Outcome
from app.core.clock import Clock
from app.core.errors import ConflictError, DomainError, FieldError, InvalidInputError, NotFoundError, UnavailableError
from app.core.rate_limit import RateLimiter
from app.core.security import Principal
from app.core.settings import Settings

T = TypeVar("T")
View = dict[str, Any]

SIGN_INS_PER_MINUTE: Final = 10
"""Of one user, by hand."""


class UnsettledOrders(Protocol):
    """Knows orders."""

    async def unsettled(self, account_id: str) -> int:
        """How many orders of an account are not final."""


class BrokerAccounts:
    """Accounts of one user at a time; nobody sees anybody else's."""

    def __init__(
        self,
        *,
        settings: Settings,
        store: AccountStore,
        sign_ins: SignIns,
        sessions: BrokerSessions,
        news: AccountNews,
        clock: Clock,
        audit: AuditTrail,
        limiter: RateLimiter,
        orders: UnsettledOrders,
    ) -> None:
        self._settings, self._store, self._sign_ins, self._sessions = settings, store, sign_ins, sessions
        self._news, self._clock, self._audit, self._limiter, self._orders = news, clock, audit, limiter, orders

    # Activating

    async def activate(self, caller: Principal, given: ActivationInput) -> tuple[View, bool]:
        """Store a brokerage, with a session where what was given suffices for one; whether it is a new one.

        From then on orders go through it. Raises `InvalidInputError` for an address that is not allowed,
        `BrokerSessionError` for credentials that the broker refuses (nothing is stored), `ConflictError`, and
        `UnavailableError`.
        """
        if given.brokerage is BrokerName.PAPER:
            return await self.choose(caller, (await self._sessions.paper(caller.user_id))["_id"]), False
        base_url = checked_address(self._settings, given.brokerage, given.api_url) if given.api_url else None
        if base_url == default_base_url(self._settings, given.brokerage):
            base_url = None  # the same, and so it follows the setting
        await self._limiter.hit("broker-sign-in", str(caller.user_id), SIGN_INS_PER_MINUTE)
        # In a task of its own: whoever hangs up must not lose what the broker has given.
        return await _to_the_end(self._activate(caller, given, base_url))

    async def _activate(self, caller: Principal, given: ActivationInput, base_url: str | None) -> tuple[View, bool]:
        broker, secrets = given.brokerage, dict(given.given)
        token = secrets.pop(HANDED_OVER, None)
        if broker is BrokerName.UPSTOX and "redirect_uri" not in secrets:
            secrets["redirect_uri"] = self._redirect_uri()
        before = next((row for row in await self._store.of_user(caller.user_id) if row["broker"] == broker), None)
        draft = self._draft(caller, broker, base_url, secrets, before)
        session = None
        if token or not WANTS[broker].by_page:
            handed = {HANDED_OVER: token} if token else {}
            session = await self._tried(caller, self._sign_ins.sign_in(self._store.account(draft, **handed)), draft)
        row = await self._stored(draft, before, session)
        await self._note(caller, "activate" if before is None else "reactivate", row)
        self._news.tell(row, "activated")
        return self._view(row, row["_id"]), before is None

    def _redirect_uri(self) -> str:
        if self._settings.upstox_redirect_uri:
            return self._settings.upstox_redirect_uri
        text = "Upstox wants redirect_uri, too: the address that your app has there"
        raise InvalidInputError(f"{text}.", [FieldError(("body", "redirect_uri"), text, "missing")])

    def _draft(
        self,
        caller: Principal,
        broker: BrokerName,
        base_url: str | None,
        secrets: Mapping[str, str],
        before: Row | None,
    ) -> Row:
        now = self._clock.now()
        account_id = before["_id"] if before else PydanticObjectId()
        renews = "totp_key" in secrets and self._sign_ins.adapter(broker).capabilities.renews_itself
        fresh: Row = {
            "_id": account_id,
            "schema_version": 1,
            "user_id": caller.user_id,
            "broker": broker.value,
            "revision": 1,
            "session_live": False,
            "created_at": now,
        }
        return {
            **(before or fresh),
            "base_url": base_url,
            "secrets": self._store.seal(account_id, secrets),
            "renews": renews,
            "chosen_at": now,
            "early_deaths": 0,
            "updated_at": now,
        }

    async def _stored(self, draft: Row, before: Row | None, session: BrokerSession | None) -> Row:
        # Whatever session was there belongs to other credentials, and to another place perhaps.
        over = {"session": None, "session_live": False, "warned_for": None, "not_before": None, "last_error": None}
        replaced = {"session_ended": "replaced"} if before and before.get("session_live") else {}
        fresh = self._sign_ins.session_values(draft, session) if session else {**over, **replaced}
        if before is None:
            row = {**draft, **fresh}
            if await self._store.insert(row):
                return row
        else:
            names = ("base_url", "secrets", "renews", "chosen_at", "early_deaths")
            changed = await self._store.change(before, **{name: draft[name] for name in names}, **fresh)
            if changed is not None:
                return changed
        raise ConflictError("This brokerage is being changed by somebody else at this moment; try again.")

    # Reading and choosing

    async def all_of(self, user_id: PydanticObjectId) -> list[View]:
        """What the user has activated, newest first; paper is always there."""
        await self._sessions.paper(user_id)
        active = (await self._sessions.chosen(user_id))["_id"]
        rows = await self._store.of_user(user_id)
        rows.sort(key=lambda row: (row["created_at"], row["_id"]), reverse=True)
        return [self._view(row, active) for row in rows]

    async def get(self, user_id: PydanticObjectId, account_id: PydanticObjectId) -> View:
        """One of them; raises `NotFoundError`."""
        row = await self._mine(user_id, account_id)
        return self._view(row, (await self._sessions.chosen(user_id))["_id"])

    async def choose(self, caller: Principal, account_id: PydanticObjectId) -> View:
        """From now on orders go through this one; raises `NotFoundError`."""
        row = await self._change(caller, account_id, chosen_at=self._clock.now())
        await self._note(caller, "choose", row)
        self._news.tell(row, "chosen")
        return self._view(row, row["_id"])

    async def begin_session(self, caller: Principal, account_id: PydanticObjectId, token: str | None) -> View:
        """A new session, with what the broker's page handed over or by what is stored.

        Raises `NotFoundError`, `BrokerSessionError` (with the address of the page where one is needed), and what else
        comes of the broker.
        """
        row = await self._mine(caller.user_id, account_id)
        broker = BrokerName(row["broker"])
        if broker is BrokerName.PAPER:
            return await self.get(caller.user_id, account_id)
        if token and not WANTS[broker].by_page:
            text = f"{WANTS[broker].label} hands over no token: its stored credentials suffice"
            raise InvalidInputError(f"{text}.", [FieldError(("body", HANDED_OVER), text, "surplus")])
        if not token and WANTS[broker].by_page:
            raise self._sessions.over(row)
        await self._limiter.hit("broker-sign-in", str(caller.user_id), SIGN_INS_PER_MINUTE)
        fresh = await _to_the_end(self._begin_session(caller, row, token))
        await self._note(caller, "sign_in", fresh)
        return self._view(fresh, (await self._sessions.chosen(caller.user_id))["_id"])

    async def _begin_session(self, caller: Principal, row: Row, token: str | None) -> Row:
        if not token:
            return (await self._tried(caller, self._sign_ins.renewed(row), row))[0]
        session = await self._tried(
            caller, self._sign_ins.sign_in(self._store.account(row, **{HANDED_OVER: token})), row
        )
        return await self._sign_ins.keep(row, session)

    async def delete(self, caller: Principal, account_id: PydanticObjectId) -> None:
        """Remove a brokerage with all that was stored of it; orders go through paper then, if it was the chosen one.

        Raises `NotFoundError`, and `ConflictError` for paper and while orders are open there.
        """
        row = await self._mine(caller.user_id, account_id)
        if row["broker"] == BrokerName.PAPER:
            raise ConflictError("The paper broker is a part of this service and cannot be removed.")
        if count := await self._orders.unsettled(str(account_id)):
            raise ConflictError(
                f"{count} of your orders there {'is' if count == 1 else 'are'} not settled: cancel them, or wait until "
                "they are. Without the account nobody could follow them."
            )
        if (await self._sessions.chosen(caller.user_id))["_id"] == account_id:
            # First, so that orders at no moment go to an account that was chosen before this one.
            paper = await self._sessions.paper(caller.user_id)
            await self._change(caller, paper["_id"], chosen_at=self._clock.now())
        if not await self._store.delete(account_id):
            raise NotFoundError(NO_ACCOUNT)
        await self._note(caller, "remove", row)
        self._news.tell({**row, "session_live": False, "secrets": {}}, "removed")

    # Common

    async def _change(self, caller: Principal, account_id: PydanticObjectId, **values: Any) -> Row:
        for _ in range(5):
            changed = await self._store.change(await self._mine(caller.user_id, account_id), **values)
            if changed is not None:
                return changed
        raise ConflictError("This brokerage is being changed by somebody else at this moment; try again.")

    async def _mine(self, user_id: PydanticObjectId, account_id: PydanticObjectId) -> Row:
        row = await self._store.get(account_id)
        if row is None or row["user_id"] != user_id:
            raise NotFoundError(NO_ACCOUNT)
        return row

    async def _tried(self, caller: Principal, sign_in: Awaitable[T], row: Row) -> T:
        try:
            return await sign_in
        except DomainError as error:
            await self._note(caller, "sign_in", row, Outcome.FAILURE, error=type(error).slug)
            raise

    def _view(self, row: Row, active: PydanticObjectId) -> View:
        view = self._news.view(row)
        broker = BrokerName(row["broker"])
        if broker is not BrokerName.PAPER:
            # An account that no key opens is shown all the same: activating it again repairs it.
            with suppress(UnavailableError):
                view["session"]["login_url"] = self._sign_ins.adapter(broker).login_url(self._store.account(row))
        return {**view, "active": row["_id"] == active}

    async def _note(
        self, caller: Principal, act: str, row: Row, outcome: Outcome = Outcome.SUCCESS, **details: str
    ) -> None:
        broker = BrokerName(row["broker"])
        told = {"broker": broker.value, "address": "other" if row.get("base_url") else "usual", **details}
        target = ("brokerage", str(row["_id"]))
        await self._audit.note(
            Act(f"brokerage.{act}", caller.user_id, Actor.of(caller), outcome, target=target, details=told)
        )


async def _to_the_end(work: Coroutine[Any, Any, T]) -> T:
    return await asyncio.shield(asyncio.ensure_future(work))
