"""The port `Broker` for Angel One, over SmartAPI.

Errors come as HTTP 200 with `status: false`; those of the gateway before it have other names (`success`, `errorCode`).
A 403 can mean a token that is dead or too many requests, and says which in plain text.
"""

import ssl
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, TypeVar

from pydantic import SecretStr

from app.brokerage.adapters.angel_one import mapping
from app.brokerage.adapters.angel_one.listings import ListingReader
from app.brokerage.adapters.angel_one.refusals import Meaning, meaning_of, meaning_of_text
from app.brokerage.adapters.angel_one.words import CAPABILITIES
from app.brokerage.adapters.authenticator import code_at
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
)
from app.brokerage.ports import BrokerAccount, BrokerSession
from app.brokerage.unsaid import unsaid
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
from app.integrations.angel_one.credentials import expiry
from app.integrations.angel_one.errors import AngelOneError, RateLimitedError
from app.integrations.angel_one.instruments import InstrumentFile

INSTRUMENTS_URL: Final = "https://margincalculator.angelone.in/OpenAPI_File/files/OpenAPIScripMaster.json"
LOGIN: Final = "/rest/auth/angelbroking/user/v1/loginByPassword"
REFRESH: Final = "/rest/auth/angelbroking/jwt/v1/generateTokens"
FUNDS: Final = "/rest/secure/angelbroking/user/v1/getRMS"
HOLDINGS: Final = "/rest/secure/angelbroking/portfolio/v1/getAllHolding"
ORDERS: Final = "/rest/secure/angelbroking/order/v1"
_LABEL: Final = "Angel One"
_SLOW: Final = ((1, 1.05),)
RATES: Final[Mapping[str, Rates]] = {
    "sign in": _SLOW,
    "getOrderBook": _SLOW,
    "getTradeBook": _SLOW,
    "getPosition": _SLOW,
    "getAllHolding": _SLOW,
    "getRMS": ((2, 1.05),),
}
"""The vendor's limits."""
_SIGN_IN_NEEDS: Final = ("api_key", "client_id", "password", "totp_key")
_T = TypeVar("_T")


class AngelOneBroker:
    """Fills `app.brokerage.ports.Broker`."""

    def __init__(
        self,
        clock: Clock,
        *,
        instruments_url: str = INSTRUMENTS_URL,
        tls: ssl.SSLContext | None = None,
        timeouts: Timeouts = Timeouts(),  # noqa: B008 (a constant)
        rates: Mapping[str, Rates] = RATES,
    ) -> None:
        """`instruments_url`: of the list of instruments. `tls`: what to trust, the system's authorities by default.

        `rates`: how often what is read and signed in may be asked, by the last part of the path or `sign in`.
        """
        self._clock = clock
        self._http = BrokerHttp(_LABEL, clock, tls=tls, timeouts=timeouts, judge_text=_judge_text)
        self._pace = AccountPace(_LABEL, clock, rates)
        self._file = InstrumentFile(instruments_url, tls=tls)

    @property
    def capabilities(self) -> Capabilities:
        """See `Broker`."""
        return CAPABILITIES

    # Sessions

    def login_url(self, account: BrokerAccount) -> str | None:  # noqa: ARG002 (the port)
        """See `Broker`: none, it signs in by itself."""
        return None

    async def sign_in(self, account: BrokerAccount) -> BrokerSession:
        """See `Broker`. Whoever calls it again and again with what was refused has the account locked."""
        held = {name: _secret(account, name) for name in _SIGN_IN_NEEDS}
        if missing := [name for name, value in held.items() if not value]:
            raise _session_error(f"It lacks {', '.join(missing)}.")
        try:
            code = code_at(held["totp_key"], self._clock.now())
        except ValueError:
            raise _session_error("The totp_key is not the Base32 text that Angel One shows with the QR code.") from None
        await self._pace.turn(account.account_id, "sign in")
        body = {"clientcode": held["client_id"], "password": held["password"], "totp": code}
        reply = await self._http.ask("POST", f"{_base(account)}{LOGIN}", headers=_headers(account), json=body)
        return self._session(account, self._tokens(account, reply), held["client_id"])

    async def renew(self, account: BrokerAccount, session: BrokerSession) -> BrokerSession:
        """See `Broker`. Where a refresh is refused it does not sign in by itself: sign-ins are counted, and by whom is
        for the caller to say."""
        if session.refresh_token is not None:
            await self._pace.turn(account.account_id, "sign in")
            body = {"refreshToken": session.refresh_token.get_secret_value()}
            headers = _headers(account, session)
            reply = await self._http.ask("POST", f"{_base(account)}{REFRESH}", headers=headers, json=body)
            data = self._tokens(account, reply)
            return self._session(account, data, session.broker_user_id, refresh=session.refresh_token)
        return await self.sign_in(account)

    def _tokens(self, account: BrokerAccount, reply: Reply) -> Any:
        envelope = reply.mapping
        if _succeeded(reply):
            return envelope.get("data")
        meaning = meaning_of(_code(envelope), str(envelope.get("message")), signing_in=True)
        if meaning is Meaning.SESSION:
            raise _session_error(f"Angel One refused the sign-in: {_reason(account, envelope)}.")
        raise self._error(account, envelope, meaning, changes=False)

    def _session(
        self, account: BrokerAccount, data: Any, client: str | None, *, refresh: SecretStr | None = None
    ) -> BrokerSession:
        given = data if isinstance(data, dict) else {}
        jwt, feed = (text(given.get(name), 8000) for name in ("jwtToken", "feedToken"))
        kept = text(given.get("refreshToken"), 8000) or (refresh.get_secret_value() if refresh else None)
        if jwt is None or kept is None:
            self._http.unclear(changes=False)
        jwt = jwt.removeprefix("Bearer ")
        return BrokerSession(
            access_token=SecretStr(jwt),
            expires_at=expiry(jwt) or self._clock.now() + timedelta(days=1),
            refresh_token=SecretStr(kept),
            feed_token=SecretStr(feed) if feed else None,
            broker_user_id=client or _secret(account, "client_id") or None,
        )

    # Orders

    async def place(self, account: BrokerAccount, session: BrokerSession, ticket: OrderTicket) -> str:
        """See `Broker`."""
        data = await self._change(account, session, "placeOrder", mapping.place_body(ticket))
        order_id = text(data.get("orderid"), 64) if isinstance(data, dict) else None
        if order_id is None:
            self._http.unclear(changes=True)
        return order_id

    async def modify(
        self, account: BrokerAccount, session: BrokerSession, order: BookedOrder, listing: Listing, change: OrderChange
    ) -> None:
        """See `Broker`."""
        await self._change(account, session, "modifyOrder", mapping.modify_body(order, listing, change))

    async def cancel(self, account: BrokerAccount, session: BrokerSession, order: BookedOrder) -> None:
        """See `Broker`."""
        await self._change(account, session, "cancelOrder", mapping.cancel_body(order))

    # Books

    async def orders(self, account: BrokerAccount, session: BrokerSession) -> list[BookedOrder]:
        """See `Broker`. A book that says it is empty is asked for twice: so much depends on its being true."""
        path = f"{ORDERS}/getOrderBook"
        found = await self._read(account, session, path, mapping.orders_of)
        found = found or await self._read(account, session, path, mapping.orders_of)
        return [unsaid(order, account) for order in found]

    async def trades(self, account: BrokerAccount, session: BrokerSession) -> list[BookedTrade]:
        """See `Broker`."""
        now = self._clock.now()
        return await self._read(account, session, f"{ORDERS}/getTradeBook", lambda data: mapping.trades_of(data, now))

    async def positions(self, account: BrokerAccount, session: BrokerSession) -> list[BrokerPosition]:
        """See `Broker`."""
        return await self._read(account, session, f"{ORDERS}/getPosition", mapping.positions_of)

    async def holdings(self, account: BrokerAccount, session: BrokerSession) -> list[BrokerHolding]:
        """See `Broker`."""
        return await self._read(account, session, HOLDINGS, mapping.holdings_of)

    async def funds(self, account: BrokerAccount, session: BrokerSession) -> Funds:
        """See `Broker`."""
        return await self._read(account, session, FUNDS, mapping.funds_of)

    async def listings(self) -> Sequence[Listing]:
        """See `Broker`. Raises `BrokerUnavailableError` also for a file that holds no instruments."""
        reader = ListingReader()
        try:
            fetched = await self._file.fetch(reader.take)
        except RateLimitedError as error:
            raise BrokerRateLimitedError(
                "Angel One has had too many requests.", retry_after=error.retry_after or 5
            ) from None
        except AngelOneError as error:
            raise BrokerUnavailableError(
                f"The list of instruments of Angel One cannot be read right now: {error.word}. Try again soon."
            ) from None
        found = reader.listings
        # Sound rows are also those that nobody trades here: indices.
        junk = reader.rejected + sum(fetched.rejected.values() if fetched else ())
        if fetched is None or not found or fetched.rows - reader.rejected <= junk:
            self._http.unclear(changes=False, because="its list of instruments is mostly junk")
        return found

    async def close(self) -> None:
        """See `Broker`."""
        await self._http.close()

    # Requests

    async def _change(self, account: BrokerAccount, session: BrokerSession, call: str, body: dict[str, str]) -> Any:
        url, headers = f"{_base(account)}{ORDERS}/{call}", _headers(account, session)
        reply = await self._http.ask("POST", url, headers=headers, changes=True, json=body)
        return self._data(account, session, reply, changes=True)

    async def _read(self, account: BrokerAccount, session: BrokerSession, path: str, read: Callable[[Any], _T]) -> _T:
        await self._pace.turn(account.account_id, path.rpartition("/")[2])
        reply = await self._http.ask("GET", f"{_base(account)}{path}", headers=_headers(account, session))
        data = self._data(account, session, reply, changes=False)
        try:
            return read(data)
        except UnreadableError as error:
            self._http.unclear(changes=False, because=f"its answer makes no sense ({error})")

    def _data(self, account: BrokerAccount, session: BrokerSession, reply: Reply, *, changes: bool) -> Any:
        """The data of a success; else what the answer means is raised."""
        envelope = reply.mapping
        if _succeeded(reply):
            return envelope.get("data")
        meaning = meaning_of(_code(envelope), str(envelope.get("message")))
        if not changes and meaning is Meaning.EMPTY:
            return None
        raise self._error(account, envelope, meaning, changes=changes, session=session)

    def _error(
        self,
        account: BrokerAccount,
        envelope: dict[str, Any],
        meaning: Meaning,
        *,
        changes: bool,
        session: BrokerSession | None = None,
    ) -> BrokerError:
        reason, code = _reason(account, envelope, session), _code(envelope)
        if meaning is Meaning.SESSION:
            return _session_error("Angel One does not accept its token any more.")
        if meaning is Meaning.TOO_MANY:
            return BrokerRateLimitedError("Angel One has had too many requests. Try again in a second.")
        if meaning is Meaning.UNSURE:
            try:
                self._http.unclear(changes=changes, because=f"it answered: {reason}")
            except BrokerError as error:
                return error
        return (
            OrderRejectedError(reason, code=code or None) if changes else BrokerError(f"Angel One refused: {reason}.")
        )


def _judge_text(status: int, said: str) -> BrokerError | None:
    """What an answer that is no JSON means."""
    meaning = meaning_of_text(status, said)
    if meaning is Meaning.TOO_MANY:
        return BrokerRateLimitedError("Angel One has had too many requests. Try again in a second.")
    return _session_error("Angel One does not accept its token any more.") if meaning is Meaning.SESSION else None


def _session_error(why: str) -> BrokerSessionError:
    how = "It is renewed by itself while client_id, PIN, totp_key and api_key hold; else enter them again."
    return BrokerSessionError(f"The session with Angel One cannot be used. {why} {how}")


def _succeeded(reply: Reply) -> bool:
    envelope = reply.mapping
    return reply.status < 300 and (envelope.get("status") is True or envelope.get("success") is True)


def _code(envelope: dict[str, Any]) -> str:
    return text(envelope.get("errorcode"), 16) or text(envelope.get("errorCode"), 16) or ""


def _reason(account: BrokerAccount, envelope: dict[str, Any], session: BrokerSession | None = None) -> str:
    secrets = [value.get_secret_value() for value in account.secrets.values()]
    if session is not None:
        held = (session.access_token, session.refresh_token, session.feed_token)
        secrets += [token.get_secret_value() for token in held if token is not None]
    said = broker_words(envelope.get("message"), *secrets).rstrip(". ")
    return said or f"without words ({_code(envelope) or 'no code'})"


def _base(account: BrokerAccount) -> str:
    return account.base_url.rstrip("/")


def _secret(account: BrokerAccount, name: str) -> str:
    held = account.secrets.get(name)
    return held.get_secret_value().strip() if held is not None else ""


def _headers(account: BrokerAccount, session: BrokerSession | None = None) -> dict[str, str]:
    """What every request needs, reading ones too. The addresses are those that the vendor's SDK sends, whoever asks."""
    headers = {
        "Content-Type": "application/json",
        "Accept": "application/json",
        "X-ClientLocalIP": "127.0.0.1",
        "X-ClientPublicIP": "106.193.147.98",
        "X-MACAddress": "00:00:00:00:00:00",
        "X-PrivateKey": _secret(account, "api_key"),
        "X-UserType": "USER",
        "X-SourceID": "WEB",
    }
    if session is not None:
        headers["Authorization"] = f"Bearer {session.access_token.get_secret_value()}"
    return headers
