"""The port `Broker` for Groww, over its HTTP interface.

Two ways to a session: an authenticator's key (`totp_key`), which needs nobody, or an `api_secret`, for which a person
approves the key on Groww's page each day. Its references are unique: a second order under the same is refused (GA007),
and that means that the first one is there. There is no trade book: the trades of each order are asked for, once.
"""

import asyncio
import ssl
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import quote

from pydantic import SecretStr

from app.brokerage.adapters.authenticator import code_at
from app.brokerage.adapters.groww import mapping
from app.brokerage.adapters.groww.answers import code_of, is_failure, reason_of, secrets_of
from app.brokerage.adapters.groww.instruments import InstrumentReader
from app.brokerage.adapters.groww.words import CAPABILITIES, REFUSED, SEGMENTS, words_of
from app.brokerage.adapters.http import BrokerHttp, Reply, Timeouts, broker_words
from app.brokerage.adapters.pace import AccountPace, Rates
from app.brokerage.adapters.unreadable import UnreadableError
from app.brokerage.adapters.values import text
from app.brokerage.errors import (
    BrokerError,
    BrokerRateLimitedError,
    BrokerSessionError,
    BrokerUnavailableError,
    OrderRejectedError,
    OutcomeUnknownError,
)
from app.brokerage.ports import BrokerAccount, BrokerSession
from app.brokerage.words import (
    BookedOrder,
    BookedTrade,
    BrokerHolding,
    BrokerPosition,
    Capabilities,
    Funds,
    Listing,
    OrderChange,
    OrderTicket,
)
from app.core.clock import Clock

INSTRUMENTS: Final = "https://growwapi-assets.groww.in/instruments/instrument.csv"
APPROVE_AT: Final = "https://groww.in/trade-api/api-keys"
"""Where a person approves a key for the day."""
_LABEL: Final = "Groww"
RATES: Final[Mapping[str, Rates]] = {"read": ((15, 1.05), (450, 61.0)), "sign in": ((1, 1.05),)}
"""Of what is no order: 20 in a second, 500 in a minute, with room for how differently two clocks count."""
_DUPLICATE: Final = "GA007"
_NOT_ALLOWED: Final = "GA005"
_NOT_CLEAR: Final = frozenset({"GA000", "GA003"})
"""Groww's own failures: an internal error, and "unable to serve request currently"."""
_ORDERS_A_PAGE, _TRADES_A_PAGE = 100, 50
PAGES: Final = 200
"""The most pages of a list: 5000 orders, should a page have no more than 25."""
_AT_ONCE: Final = 4
_ACCOUNTS: Final = 1000
_T = TypeVar("_T")


class _NotAllowedError(BrokerError):
    """Groww does not let this account have it."""


class _Fills(NamedTuple):
    """An order's trades, complete as of so many units filled."""

    filled: int
    trades: list[BookedTrade]


class GrowwBroker:
    """Fills `app.brokerage.ports.Broker`."""

    def __init__(
        self,
        clock: Clock,
        *,
        instruments_url: str = INSTRUMENTS,
        most_pages: int = PAGES,
        tls: ssl.SSLContext | None = None,
        timeouts: Timeouts = Timeouts(),  # noqa: B008 (a constant)
        rates: Mapping[str, Rates] = RATES,
    ) -> None:
        """`instruments_url`: of the list of instruments. `most_pages`: a list that has more is no list.

        `tls`: what to trust, the system's authorities by default. `rates`: how often may be read, and signed in.
        """
        self._clock, self._instruments_url, self._most_pages = clock, instruments_url, most_pages
        self._http = BrokerHttp(_LABEL, clock, tls=tls, timeouts=timeouts)
        self._pace = AccountPace(_LABEL, clock, rates)
        self._fills: OrderedDict[str, dict[str, _Fills]] = OrderedDict()

    @property
    def capabilities(self) -> Capabilities:
        """See `Broker`."""
        return CAPABILITIES

    # Sessions

    def login_url(self, account: BrokerAccount) -> str | None:
        """See `Broker`: where the key is approved; None for accounts with an authenticator's key."""
        return None if _secret(account, "totp_key") else APPROVE_AT

    async def sign_in(self, account: BrokerAccount) -> BrokerSession:
        """See `Broker`."""
        key = _secret(account, "api_key")
        body = self._proof(account)
        if not key or body is None:
            raise self._session_error(account, "It lacks the api_key, or both the totp_key and the api_secret.")
        await self._pace.turn(account.account_id, "sign in")
        url = f"{_base(account)}/v1/token/api/access"
        reply = await self._http.ask("POST", url, headers=_headers(key), json=body)
        # With an envelope as everything else, or without, as the vendor's own library expects it.
        content = reply.mapping.get("payload", reply.mapping)
        token = text(content.get("token"), 8000) if isinstance(content, dict) else None
        if reply.status >= 400 or is_failure(reply):
            error = self._error(account, reply, changes=False)
            if isinstance(error, BrokerRateLimitedError | BrokerUnavailableError):
                raise error
            raise self._session_error(account, f"Groww refused the sign-in: {reason_of(account, reply)}.")
        if token is None:
            self._http.unclear(changes=False)
        ends = mapping.tokens_die(self._clock.now(), content.get("expiry"))
        return BrokerSession(access_token=SecretStr(token), expires_at=ends)

    async def renew(self, account: BrokerAccount, session: BrokerSession) -> BrokerSession:  # noqa: ARG002 (the port)
        """See `Broker`: a new sign-in, for accounts with an authenticator's key."""
        if not _secret(account, "totp_key"):
            raise self._session_error(account, "Its tokens die at 06:00 in India.")
        return await self.sign_in(account)

    def _proof(self, account: BrokerAccount) -> dict[str, Any] | None:
        if seed := _secret(account, "totp_key"):
            try:
                return mapping.sign_in_by_code(code_at(seed, self._clock.now()))
            except ValueError:
                raise self._session_error(account, "Its totp_key is not the Base32 text that Groww shows.") from None
        secret = _secret(account, "api_secret")
        return mapping.sign_in_by_secret(secret, self._clock.now()) if secret else None

    # Orders

    async def place(self, account: BrokerAccount, session: BrokerSession, ticket: OrderTicket) -> str:
        """See `Broker`."""
        url = f"{_base(account)}/v1/order/create"
        body = mapping.place_body(ticket)
        reply = await self._http.ask("POST", url, headers=_headers(_token(session)), changes=True, json=body)
        if is_failure(reply) and code_of(reply) == _DUPLICATE:
            return await self._known(account, session, ticket)
        payload = self._payload(account, session, reply, changes=True)
        placed = mapping.placed_id(payload)
        if placed is None:
            self._http.unclear(changes=True)
        if str(payload.get("order_status")).upper() in REFUSED:
            secrets = (*secrets_of(account), _token(session))
            raise OrderRejectedError(broker_words(payload.get("remark"), *secrets) or "without words")
        return placed

    async def _known(self, account: BrokerAccount, session: BrokerSession, ticket: OrderTicket) -> str:
        """The id of the order that has this reference already: references are ours alone, so it is this very order."""
        path = f"/v1/order/status/reference/{quote(ticket.tag, safe='')}"
        asked: dict[str, str | int] = {"segment": words_of(ticket.listing.exchange)[1]}
        try:
            placed = mapping.placed_id(await self._get(account, session, path, asked))
        except BrokerError:
            placed = None
        if placed is None:
            raise OutcomeUnknownError(
                "Groww has this order already, and does not say under which id. The order book of Groww will tell."
            )
        return placed

    async def modify(
        self,
        account: BrokerAccount,
        session: BrokerSession,
        order: BookedOrder,
        listing: Listing,  # noqa: ARG002 (the port)
        change: OrderChange,
    ) -> None:
        """See `Broker`."""
        await self._change(account, session, "/v1/order/modify", mapping.modify_body(order, change))

    async def cancel(self, account: BrokerAccount, session: BrokerSession, order: BookedOrder) -> None:
        """See `Broker`."""
        await self._change(account, session, "/v1/order/cancel", mapping.cancel_body(order))

    # Books

    async def orders(self, account: BrokerAccount, session: BrokerSession) -> list[BookedOrder]:
        """See `Broker`. A book that is too long to be read whole is no book: `BrokerUnavailableError`."""
        parts = await _together([self._orders(account, session, segment) for segment in SEGMENTS])
        # Pages shift while orders arrive: one may be on two of them.
        return list({order.broker_order_id: order for part in parts for order in part}.values())

    async def _orders(self, account: BrokerAccount, session: BrokerSession, segment: str) -> list[BookedOrder]:
        page_of = partial(mapping.page_of, name="order_list", id_of="groww_order_id")
        asked: dict[str, str | int] = {"segment": segment, "page_size": _ORDERS_A_PAGE}
        try:
            rows = await self._rows(account, session, "/v1/order/list", asked, page_of)
        except _NotAllowedError:
            if segment == SEGMENTS[0]:
                raise
            return []  # an account without futures and options has no orders of them
        return self._read(partial(mapping.orders_of, rows))

    async def _rows(
        self,
        account: BrokerAccount,
        session: BrokerSession,
        path: str,
        asked: dict[str, str | int],
        page_of: Callable[[Any], dict[str, dict[str, Any]]],
    ) -> list[dict[str, Any]]:
        """All pages, until one brings nothing new: how many rows a page really has is the server's to say."""
        found: dict[str, dict[str, Any]] = {}
        for page in range(self._most_pages):
            payload = await self._get(account, session, path, {**asked, "page": page})
            rows = self._read(partial(page_of, payload))
            if rows.keys() <= found.keys():
                return list(found.values())
            found |= rows
        return self._http.unclear(changes=False, because="its list does not end")

    async def trades(self, account: BrokerAccount, session: BrokerSession) -> list[BookedTrade]:
        """See `Broker`. Costs a request for each order that was filled further since the last time."""
        orders = [order for order in await self.orders(account, session) if order.filled_quantity]
        known = self._fills.get(account.account_id, {})
        gate = asyncio.Semaphore(_AT_ONCE)

        async def fills(order: BookedOrder) -> _Fills:
            held = known.get(order.broker_order_id)
            if held is not None and held.filled == order.filled_quantity:
                return held
            async with gate:
                trades = await self._trades(account, session, order)
            return _Fills(sum(trade.quantity for trade in trades), trades)

        found = await _together([fills(order) for order in orders])
        self._fills[account.account_id] = {
            order.broker_order_id: fill for order, fill in zip(orders, found, strict=True)
        }
        self._fills.move_to_end(account.account_id)
        while len(self._fills) > _ACCOUNTS:
            self._fills.popitem(last=False)
        return [trade for fill in found for trade in fill.trades]

    async def _trades(self, account: BrokerAccount, session: BrokerSession, order: BookedOrder) -> list[BookedTrade]:
        path = f"/v1/order/trades/{quote(order.broker_order_id, safe='')}"
        asked: dict[str, str | int] = {"segment": words_of(order.exchange)[1], "page_size": _TRADES_A_PAGE}
        page_of = partial(mapping.page_of, name="trade_list", id_of="groww_trade_id", or_else="exchange_trade_id")
        rows = await self._rows(account, session, path, asked, page_of)
        return self._read(partial(mapping.trades_of, rows, order))

    async def positions(self, account: BrokerAccount, session: BrokerSession) -> list[BrokerPosition]:
        """See `Broker`."""
        found: list[BrokerPosition] = []
        for segment in SEGMENTS:
            try:
                payload = await self._get(account, session, "/v1/positions/user", {"segment": segment})
            except _NotAllowedError:
                if segment == SEGMENTS[0]:
                    raise
                continue
            found += self._read(partial(mapping.positions_of, payload))
        return found

    async def holdings(self, account: BrokerAccount, session: BrokerSession) -> list[BrokerHolding]:
        """See `Broker`."""
        payload = await self._get(account, session, "/v1/holdings/user")
        return self._read(partial(mapping.holdings_of, payload))

    async def funds(self, account: BrokerAccount, session: BrokerSession) -> Funds:
        """See `Broker`."""
        payload = await self._get(account, session, "/v1/margins/detail/user")
        return self._read(partial(mapping.funds_of, payload))

    async def listings(self) -> Sequence[Listing]:
        """See `Broker`. Raises `BrokerUnavailableError` also for a file that holds no instruments."""
        reader = InstrumentReader()
        try:
            await self._http.download(self._instruments_url, reader.take)
            reader.finish()
        except ValueError:
            self._http.unclear(changes=False, because="its list of instruments makes no sense")
        found = reader.listings
        if len(found) <= reader.rejected:
            self._http.unclear(changes=False, because="its list of instruments is mostly junk")
        return found

    async def close(self) -> None:
        """See `Broker`."""
        await self._http.close()

    # Requests

    async def _change(
        self, account: BrokerAccount, session: BrokerSession, path: str, body: dict[str, Any]
    ) -> dict[str, Any]:
        headers = _headers(_token(session))
        reply = await self._http.ask("POST", f"{_base(account)}{path}", headers=headers, changes=True, json=body)
        return self._payload(account, session, reply, changes=True)

    async def _get(
        self, account: BrokerAccount, session: BrokerSession, path: str, asked: dict[str, str | int] | None = None
    ) -> dict[str, Any]:
        await self._pace.turn(account.account_id, "read")
        headers = _headers(_token(session))
        reply = await self._http.ask("GET", f"{_base(account)}{path}", headers=headers, parameters=asked)
        return self._payload(account, session, reply, changes=False)

    def _payload(
        self, account: BrokerAccount, session: BrokerSession, reply: Reply, *, changes: bool
    ) -> dict[str, Any]:
        """What a success holds; else what the reply means is raised."""
        if reply.status >= 400 or is_failure(reply):
            raise self._error(account, reply, changes=changes, token=_token(session))
        payload = reply.mapping.get("payload")
        if reply.mapping.get("status") != "SUCCESS" or not isinstance(payload, dict):
            self._http.unclear(changes=changes)
        return payload

    def _error(self, account: BrokerAccount, reply: Reply, *, changes: bool, token: str = "") -> BrokerError:
        if reply.status == 401:
            return self._session_error(account, "Groww does not accept its token any more.")
        code = code_of(reply)
        if not is_failure(reply) or code in _NOT_CLEAR:
            try:
                self._http.unclear(changes=changes, because=f"it answered {code or reply.status}")
            except BrokerError as error:
                return error
        reason = reason_of(account, reply, token)
        if reply.status == 403:
            reason = (
                f"{reason}. Check that the trading subscription is active, and this machine's IP address registered"
            )
        if changes:
            return OrderRejectedError(reason, code=code)
        return (_NotAllowedError if code == _NOT_ALLOWED else BrokerError)(f"Groww refused: {reason}.")

    def _session_error(self, account: BrokerAccount, why: str) -> BrokerSessionError:
        url = self.login_url(account)
        how = "Approve the key on Groww's page, and renew the session." if url else "Renew the session."
        return BrokerSessionError(f"The session with Groww cannot be used. {why} {how}", login_url=url)

    def _read(self, read: Callable[[], _T]) -> _T:
        try:
            return read()
        except UnreadableError as error:
            self._http.unclear(changes=False, because=f"its answer makes no sense ({error})")


async def _together(asked: Sequence[Coroutine[Any, Any, _T]]) -> list[_T]:
    """What all of them give, in their order; the first that fails ends the others, and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each) for each in asked]
    except* BrokerError as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


def _base(account: BrokerAccount) -> str:
    return account.base_url.rstrip("/")


def _token(session: BrokerSession) -> str:
    return session.access_token.get_secret_value()


def _secret(account: BrokerAccount, name: str) -> str:
    held = account.secrets.get(name)
    return held.get_secret_value().strip() if held is not None else ""


def _headers(bearer: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {bearer}", "X-API-VERSION": "1.0"}
