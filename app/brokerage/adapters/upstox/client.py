"""The port `Broker` for Upstox, over its HTTP interface.

Orders go to a host of their own (`api-hft`), everything else to `api`; a simulator is both. A token lives until 03:30
in India, and no refresh exists: a person signs in each day.
"""

import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeVar
from urllib.parse import urlencode

from pydantic import SecretStr

from app.brokerage.adapters.http import BrokerHttp, Reply, Timeouts, broker_words
from app.brokerage.adapters.pace import AccountPace, Rates
from app.brokerage.adapters.unreadable import UnreadableError
from app.brokerage.adapters.upstox import mapping
from app.brokerage.adapters.upstox.instruments import InstrumentReader
from app.brokerage.adapters.upstox.words import CAPABILITIES
from app.brokerage.adapters.values import text
from app.brokerage.errors import (
    BrokerError,
    BrokerRateLimitedError,
    BrokerSessionError,
    BrokerUnavailableError,
    OrderRejectedError,
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

INSTRUMENTS: Final = "https://assets.upstox.com/market-quote/instruments/exchange"
_FILES: Final = ("NSE.json.gz", "BSE.json.gz")
_LABEL: Final = "Upstox"
RATES: Final[Mapping[str, Rates]] = {"read": ((10, 1.05), (400, 61.0)), "sign in": ((1, 1.05),)}
_SESSION_CODES: Final = frozenset({"UDAPI100050", "UDAPI100067"})
"""A token that does not hold, or not for this."""
_RATE_CODES: Final = frozenset({"UDAPI10005", "UDAPI100099"})
_CLOSED_CODES: Final = frozenset({"UDAPI100072", "UDAPI100074"})
"""Outside its hours, 05:30 to 24:00 in India."""
_NOT_CLEAR: Final = frozenset({"UDAPI100500"})
_STATIC_ADDRESS: Final = "UDAPI1154"
_KNOWN_SYMBOLS: Final = 200_000
_T = TypeVar("_T")


class UpstoxBroker:
    """Fills `app.brokerage.ports.Broker`."""

    def __init__(
        self,
        clock: Clock,
        *,
        instruments_url: str = INSTRUMENTS,
        tls: ssl.SSLContext | None = None,
        timeouts: Timeouts = Timeouts(),  # noqa: B008 (a constant)
        rates: Mapping[str, Rates] = RATES,
    ) -> None:
        """`instruments_url`: the folder of the lists of instruments. `tls`: what to trust, the system's by default.

        `rates`: how often may be read, and signed in.
        """
        self._clock, self._instruments_url = clock, instruments_url.rstrip("/")
        self._http = BrokerHttp(_LABEL, clock, tls=tls, timeouts=timeouts)
        self._pace = AccountPace(_LABEL, clock, rates)
        self._learned: dict[str, str] = {}
        self._listed: Callable[[], Awaitable[mapping.Symbols]] | None = None

    def spell_by(self, listed: Callable[[], Awaitable[mapping.Symbols]]) -> None:
        """Read the symbols of its books in the list that is in force, which `listed` gives by Upstox's keys."""
        self._listed = listed

    @property
    def capabilities(self) -> Capabilities:
        """See `Broker`."""
        return CAPABILITIES

    # Sessions

    def login_url(self, account: BrokerAccount) -> str | None:
        """See `Broker`. It names the API key, as Upstox wants it: a name, which opens nothing without the secret.

        None while the account does not say what the app's redirect address is.
        """
        key, redirect = _secret(account, "api_key"), _secret(account, "redirect_uri")
        if not key or not redirect:
            return None
        asked = {"response_type": "code", "client_id": key, "redirect_uri": redirect}
        return f"{_base(account)}/v2/login/authorization/dialog?{urlencode(asked)}"

    async def sign_in(self, account: BrokerAccount) -> BrokerSession:
        """See `Broker`. The `request_token` is Upstox's `code`, which is good for one try."""
        form = {
            "code": _secret(account, "request_token"),
            "client_id": _secret(account, "api_key"),
            "client_secret": _secret(account, "api_secret"),
            "redirect_uri": _secret(account, "redirect_uri"),
            "grant_type": "authorization_code",
        }
        if missing := [name for name, value in form.items() if not value]:
            raise self._session_error(account, f"It lacks {', '.join(_OURS[name] for name in missing)}.")
        await self._pace.turn(account.account_id, "sign in")
        url = f"{_base(account)}/v2/login/authorization/token"
        reply = await self._http.ask("POST", url, headers={}, form=form)
        if reply.status >= 400 or _is_error(reply):
            error = self._error(account, reply, changes=False)
            if isinstance(error, BrokerRateLimitedError | BrokerUnavailableError):
                raise error
            raise self._session_error(account, f"Upstox refused the sign-in: {_reason(account, reply)}.")
        token = text(reply.mapping.get("access_token"), 8000)
        if token is None:
            self._http.unclear(changes=False)
        return BrokerSession(
            access_token=SecretStr(token),
            expires_at=mapping.tokens_die(self._clock.now()),
            broker_user_id=text(reply.mapping.get("user_id"), 64),
        )

    async def renew(self, account: BrokerAccount, session: BrokerSession) -> BrokerSession:  # noqa: ARG002 (the port)
        """See `Broker`: never without a person."""
        raise self._session_error(account, "Its tokens die at 03:30 in India.")

    # Orders

    async def place(self, account: BrokerAccount, session: BrokerSession, ticket: OrderTicket) -> str:
        """See `Broker`."""
        self._learn(ticket.listing)
        body = mapping.place_body(ticket)
        reply = await self._change(account, session, "POST", "/v3/order/place", body=body)
        placed = mapping.placed_id(reply.content)
        if placed is None:
            self._http.unclear(changes=True)
        return placed

    async def modify(
        self, account: BrokerAccount, session: BrokerSession, order: BookedOrder, listing: Listing, change: OrderChange
    ) -> None:
        """See `Broker`."""
        self._learn(listing)
        await self._change(account, session, "PUT", "/v3/order/modify", body=mapping.modify_body(order, change))

    async def cancel(self, account: BrokerAccount, session: BrokerSession, order: BookedOrder) -> None:
        """See `Broker`."""
        which: dict[str, str | int] = {"order_id": order.broker_order_id}
        await self._change(account, session, "DELETE", "/v3/order/cancel", parameters=which)

    # Books

    async def orders(self, account: BrokerAccount, session: BrokerSession) -> list[BookedOrder]:
        """See `Broker`."""
        data = await self._data(account, session, "/v2/order/retrieve-all")
        symbols = await self._symbols()
        return self._read(lambda: mapping.orders_of(data, symbols))

    async def trades(self, account: BrokerAccount, session: BrokerSession) -> list[BookedTrade]:
        """See `Broker`."""
        data = await self._data(account, session, "/v2/order/trades/get-trades-for-day")
        symbols = await self._symbols()
        return self._read(lambda: mapping.trades_of(data, symbols))

    async def positions(self, account: BrokerAccount, session: BrokerSession) -> list[BrokerPosition]:
        """See `Broker`."""
        data = await self._data(account, session, "/v2/portfolio/short-term-positions")
        symbols = await self._symbols()
        return self._read(lambda: mapping.positions_of(data, symbols))

    async def holdings(self, account: BrokerAccount, session: BrokerSession) -> list[BrokerHolding]:
        """See `Broker`."""
        data = await self._data(account, session, "/v2/portfolio/long-term-holdings")
        symbols = await self._symbols()
        return self._read(lambda: mapping.holdings_of(data, symbols))

    async def funds(self, account: BrokerAccount, session: BrokerSession) -> Funds:
        """See `Broker`. Upstox tells them from 05:30 to 24:00 in India only."""
        data = await self._data(account, session, "/v2/user/get-funds-and-margin")
        return self._read(lambda: mapping.funds_of(data))

    async def listings(self) -> Sequence[Listing]:
        """See `Broker`. Raises `BrokerUnavailableError` also for files that hold no instruments."""
        reader = InstrumentReader()
        try:
            for file in _FILES:
                await self._http.download(f"{self._instruments_url}/{file}", reader.take, packed=True)
                reader.next_file()
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
        self,
        account: BrokerAccount,
        session: BrokerSession,
        method: str,
        path: str,
        *,
        body: dict[str, Any] | None = None,
        parameters: dict[str, str | int] | None = None,
    ) -> Reply:
        url = f"{mapping.order_base(account.base_url)}{path}"
        headers = _headers(session)
        reply = await self._http.ask(method, url, headers=headers, changes=True, parameters=parameters, json=body)
        return self._good(account, session, reply, changes=True)

    async def _data(self, account: BrokerAccount, session: BrokerSession, path: str) -> Any:
        await self._pace.turn(account.account_id, "read")
        reply = await self._http.ask("GET", f"{_base(account)}{path}", headers=_headers(session))
        return self._good(account, session, reply, changes=False).mapping.get("data")

    def _good(self, account: BrokerAccount, session: BrokerSession, reply: Reply, *, changes: bool) -> Reply:
        """The reply, if it is a success; else what it means is raised."""
        if reply.status >= 400 or _is_error(reply):
            raise self._error(account, reply, changes=changes, token=session.access_token.get_secret_value())
        if reply.mapping.get("status") != "success":
            self._http.unclear(changes=changes)
        return reply

    def _error(self, account: BrokerAccount, reply: Reply, *, changes: bool, token: str = "") -> BrokerError:
        code, reason = _code(reply), _reason(account, reply, token)
        if reply.status == 401 or code in _SESSION_CODES:
            return self._session_error(account, "Upstox does not accept its token any more.")
        if code in _RATE_CODES:
            return BrokerRateLimitedError("Upstox has had too many requests. Try again in a second.")
        if code in _CLOSED_CODES or reply.status == 423:
            return BrokerUnavailableError(f"Upstox is closed now: {reason}.", retry_after=600)
        if not _is_error(reply) or code in _NOT_CLEAR:
            # A gateway's words, or "something went wrong": nobody knows what became of it.
            try:
                self._http.unclear(changes=changes, because=f"it answered {reply.status}")
            except BrokerError as error:
                return error
        if code == _STATIC_ADDRESS:
            reason = f"{reason}. Register this machine's static IP address for the app in Upstox's developer console"
        return OrderRejectedError(reason, code=code) if changes else BrokerError(f"Upstox refused: {reason}.")

    def _session_error(self, account: BrokerAccount, why: str) -> BrokerSessionError:
        url = self.login_url(account)
        how = "Sign in to Upstox again, and give the code that it returns as request_token."
        return BrokerSessionError(f"The session with Upstox cannot be used. {why} {how}", login_url=url)

    def _read(self, read: Callable[[], _T]) -> _T:
        try:
            return read()
        except UnreadableError as error:
            self._http.unclear(changes=False, because=f"its answer makes no sense ({error})")

    def _learn(self, listing: Listing) -> None:
        if len(self._learned) < _KNOWN_SYMBOLS:
            self._learned[listing.key] = listing.symbol

    async def _symbols(self) -> mapping.Symbols:
        """Those of the list, and of what was ordered here where there is no list."""
        listed = await self._listed() if self._listed is not None else {}
        return listed or self._learned


_OURS: Final = {
    "code": "the request_token",
    "client_id": "the api_key",
    "client_secret": "the api_secret",
    "redirect_uri": "the redirect_uri of the app",
}
"""What a person knows the parts of a sign-in by."""


def _base(account: BrokerAccount) -> str:
    return mapping.api_base(account.base_url)


def _secret(account: BrokerAccount, name: str) -> str:
    held = account.secrets.get(name)
    return held.get_secret_value().strip() if held is not None else ""


def _headers(session: BrokerSession) -> dict[str, str]:
    return {"Authorization": f"Bearer {session.access_token.get_secret_value()}"}


def _is_error(reply: Reply) -> bool:
    """Whether it is Upstox itself that says no."""
    return reply.mapping.get("status") == "error" and isinstance(reply.mapping.get("errors"), list)


def _first(reply: Reply) -> dict[str, Any]:
    errors = reply.mapping.get("errors")
    first = errors[0] if isinstance(errors, list) and errors else None
    return first if isinstance(first, dict) else {}


def _code(reply: Reply) -> str | None:
    # Two spellings: the newer, and the one that its documentation calls deprecated.
    first = _first(reply)
    return text(first.get("error_code"), 32) or text(first.get("errorCode"), 32)


def _reason(account: BrokerAccount, reply: Reply, *more: str) -> str:
    secrets = [value.get_secret_value() for value in account.secrets.values()]
    said = broker_words(_first(reply).get("message"), *secrets, *more).rstrip(". ")
    return said or f"without words ({_code(reply) or reply.status})"
