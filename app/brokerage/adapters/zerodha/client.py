"""The port `Broker` for Zerodha, over Kite Connect 3.

A token lives until 06:00 in India, and is had by a person who signs in on Zerodha's page: the `request_token` that the
page hands back is good for one try within minutes.
"""

import hashlib
import ssl
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NoReturn, TypeVar
from urllib.parse import quote, urlencode

from pydantic import SecretStr

from app.brokerage.adapters.http import BrokerHttp, Reply, Timeouts, broker_words
from app.brokerage.adapters.pace import AccountPace, Rates
from app.brokerage.adapters.unreadable import UnreadableError
from app.brokerage.adapters.values import text
from app.brokerage.adapters.zerodha import mapping
from app.brokerage.adapters.zerodha.instruments import InstrumentReader
from app.brokerage.adapters.zerodha.words import CAPABILITIES, VARIETY, tokens_die
from app.brokerage.errors import BrokerError, BrokerRateLimitedError, BrokerSessionError, OrderRejectedError
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

BASE_URL: Final = "https://api.kite.trade"
LOGIN_URL: Final = "https://kite.zerodha.com/connect/login"
_LABEL: Final = "Zerodha"
RATES: Final[Mapping[str, Rates]] = {"read": ((8, 1.05),), "sign in": ((1, 1.05),)}
"""The vendor's limit is ten requests a second, sign-ins and the list of instruments among them."""
_REFUSALS: Final = frozenset(
    {
        "OrderException",
        "InputException",
        "MarginException",
        "HoldingException",
        "UserException",
        "PermissionException",
        "ValidationException",
    }
)
"""Kite's words for a request that it has understood and will not carry out."""
_T = TypeVar("_T")


class ZerodhaBroker:
    """Fills `app.brokerage.ports.Broker`."""

    def __init__(
        self,
        clock: Clock,
        *,
        base_url: str = BASE_URL,
        login_url: str = LOGIN_URL,
        tls: ssl.SSLContext | None = None,
        timeouts: Timeouts = Timeouts(),  # noqa: B008 (a constant)
        rates: Mapping[str, Rates] = RATES,
    ) -> None:
        """`base_url`: of the list of instruments, which needs no account. `login_url`: the page that people sign in on.

        `tls`: what to trust, the system's authorities by default. `rates`: how often may be read, and signed in.
        """
        self._clock, self._base_url, self._login_url = clock, base_url.rstrip("/"), login_url
        self._http = BrokerHttp(_LABEL, clock, tls=tls, timeouts=timeouts)
        self._pace = AccountPace(_LABEL, clock, rates)

    @property
    def capabilities(self) -> Capabilities:
        """See `Broker`."""
        return CAPABILITIES

    # Sessions

    def login_url(self, account: BrokerAccount) -> str | None:
        """See `Broker`. It names the API key, as Zerodha wants it: a name, which opens nothing without the secret."""
        key = _secret(account, "api_key")
        return f"{self._login_url}?{urlencode({'v': 3, 'api_key': key})}" if key else None

    async def sign_in(self, account: BrokerAccount) -> BrokerSession:
        """See `Broker`."""
        key, secret, request = (_secret(account, name) for name in ("api_key", "api_secret", "request_token"))
        held = {"api_key": key, "api_secret": secret, "request_token": request}
        if missing := [name for name, value in held.items() if not value]:
            raise self._session_error(account, f"It lacks the {' and the '.join(missing)}.")
        await self._pace.turn(account.account_id, "sign in")
        checksum = hashlib.sha256(f"{key}{request}{secret}".encode()).hexdigest()
        form: mapping.Form = {"api_key": key, "request_token": request, "checksum": checksum}
        reply = await self._http.ask("POST", f"{_base(account)}/session/token", headers=_headers(), form=form)
        if _refused(reply) is not None:
            raise self._session_error(account, f"Zerodha refused the sign-in: {_reason(account, reply)}.")
        data = self._data(account, reply, changes=False)
        token = text(data.get("access_token"), 512) if isinstance(data, dict) else None
        if token is None:
            self._http.unclear(changes=False)
        return BrokerSession(
            access_token=SecretStr(token),
            expires_at=tokens_die(self._clock.now()),
            broker_user_id=text(data.get("user_id"), 64),
        )

    async def renew(self, account: BrokerAccount, session: BrokerSession) -> BrokerSession:  # noqa: ARG002 (the port)
        """See `Broker`: never without a person."""
        raise self._session_error(account, "Its tokens die at 06:00 in India.")

    # Orders

    async def place(self, account: BrokerAccount, session: BrokerSession, ticket: OrderTicket) -> str:
        """See `Broker`."""
        data = await self._change(account, session, "POST", f"/orders/{VARIETY}", mapping.place_form(ticket))
        order_id = text(data.get("order_id"), 64) if isinstance(data, dict) else None
        if order_id is None:
            self._http.unclear(changes=True)
        return order_id

    async def modify(
        self,
        account: BrokerAccount,
        session: BrokerSession,
        order: BookedOrder,
        listing: Listing,  # noqa: ARG002 (the port; Kite knows it by the order)
        change: OrderChange,
    ) -> None:
        """See `Broker`."""
        await self._change(account, session, "PUT", _path(order), mapping.modify_form(order, change))

    async def cancel(self, account: BrokerAccount, session: BrokerSession, order: BookedOrder) -> None:
        """See `Broker`."""
        await self._change(account, session, "DELETE", _path(order))

    # Books

    async def orders(self, account: BrokerAccount, session: BrokerSession) -> list[BookedOrder]:
        """See `Broker`."""
        return await self._read(account, session, "/orders", mapping.orders_of)

    async def trades(self, account: BrokerAccount, session: BrokerSession) -> list[BookedTrade]:
        """See `Broker`."""
        return await self._read(account, session, "/trades", mapping.trades_of)

    async def positions(self, account: BrokerAccount, session: BrokerSession) -> list[BrokerPosition]:
        """See `Broker`."""
        return await self._read(account, session, "/portfolio/positions", mapping.positions_of)

    async def holdings(self, account: BrokerAccount, session: BrokerSession) -> list[BrokerHolding]:
        """See `Broker`."""
        return await self._read(account, session, "/portfolio/holdings", mapping.holdings_of)

    async def funds(self, account: BrokerAccount, session: BrokerSession) -> Funds:
        """See `Broker`."""
        return await self._read(account, session, "/user/margins", mapping.funds_of)

    async def listings(self) -> Sequence[Listing]:
        """See `Broker`. Raises `BrokerUnavailableError` also for a file that holds no instruments."""
        reader = InstrumentReader()
        try:
            await self._http.download(f"{self._base_url}/instruments", reader.take, headers=_headers())
            reader.end()
        except UnreadableError:
            self._http.unclear(changes=False, because="its list of instruments makes no sense")
        found = reader.listings
        if len(found) <= reader.rejected.total():
            self._http.unclear(changes=False, because="its list of instruments is mostly junk")
        return found

    async def close(self) -> None:
        """See `Broker`."""
        await self._http.close()

    # Requests

    async def _change(
        self, account: BrokerAccount, session: BrokerSession, method: str, path: str, form: mapping.Form | None = None
    ) -> Any:
        url = f"{_base(account)}{path}"
        reply = await self._http.ask(method, url, headers=_headers(account, session), changes=True, form=form)
        return self._data(account, reply, changes=True, session=session)

    async def _read(self, account: BrokerAccount, session: BrokerSession, path: str, read: Callable[[Any], _T]) -> _T:
        await self._pace.turn(account.account_id, "read")
        reply = await self._http.ask("GET", f"{_base(account)}{path}", headers=_headers(account, session))
        data = self._data(account, reply, changes=False, session=session)
        try:
            return read(data)
        except UnreadableError as error:
            self._http.unclear(changes=False, because=f"its answer makes no sense ({error})")

    def _data(
        self, account: BrokerAccount, reply: Reply, *, changes: bool, session: BrokerSession | None = None
    ) -> Any:
        """The data of a success; else what the answer means is raised."""
        kind = _refused(reply)
        if kind is not None:
            self._refuse(account, reply, kind, changes=changes, session=session)
        if reply.status >= 400 or reply.mapping.get("status") != "success":
            # A gateway's words, or Kite's own that it does not know what became of it.
            self._http.unclear(changes=changes, because=f"it answered {reply.status}, and not what it should")
        return reply.mapping.get("data")

    def _refuse(
        self, account: BrokerAccount, reply: Reply, kind: str, *, changes: bool, session: BrokerSession | None
    ) -> NoReturn:
        if kind == "TokenException":
            raise self._session_error(account, "Zerodha does not accept its token any more.")
        reason = _reason(account, reply, session)
        if "too many requests" in reason.lower():
            raise BrokerRateLimitedError("Zerodha has had too many requests. Try again in a second.")
        if changes:
            raise OrderRejectedError(reason, code=kind)
        raise BrokerError(f"Zerodha refused: {reason}.")

    def _session_error(self, account: BrokerAccount, why: str) -> BrokerSessionError:
        url = self.login_url(account)
        how = "Sign in to Zerodha again, and give the request_token that it returns."
        return BrokerSessionError(f"The session with Zerodha cannot be used. {why} {how}", login_url=url)


def _refused(reply: Reply) -> str | None:
    """Kite's word for why it will not, where it is sure of it; None for a success, and for what leaves it open."""
    if reply.mapping.get("status") != "error":
        return None
    kind = reply.mapping.get("error_type")
    if kind == "TokenException" or (reply.status in {401, 403} and kind not in _REFUSALS):
        return "TokenException"
    return kind if kind in _REFUSALS else None


def _reason(account: BrokerAccount, reply: Reply, session: BrokerSession | None = None) -> str:
    secrets = [value.get_secret_value() for value in account.secrets.values()]
    secrets += [session.access_token.get_secret_value()] if session else []
    said = broker_words(reply.mapping.get("message"), *secrets).rstrip(". ")
    return said or f"without words ({reply.mapping.get('error_type') or reply.status})"


def _base(account: BrokerAccount) -> str:
    return account.base_url.rstrip("/")


def _path(order: BookedOrder) -> str:
    return f"/orders/{VARIETY}/{quote(order.broker_order_id, safe='')}"


def _secret(account: BrokerAccount, name: str) -> str:
    held = account.secrets.get(name)
    return held.get_secret_value().strip() if held is not None else ""


def _headers(account: BrokerAccount | None = None, session: BrokerSession | None = None) -> dict[str, str]:
    headers = {"X-Kite-Version": "3"}
    if account is not None and session is not None:
        headers["Authorization"] = f"token {_secret(account, 'api_key')}:{session.access_token.get_secret_value()}"
    return headers
