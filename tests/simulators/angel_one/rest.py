"""The REST interface: login, refresh, profile, candles, logout, and the file of instruments.

Errors of the interface itself are HTTP 200 with `status: false`; those of the gateway before it (tokens, API keys) have
members of other names, `success` and `errorCode`, as the vendor's do.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from tests.simulators.angel_one.account import Account, Sessions, Tokens
from tests.simulators.angel_one.http import Answer, HttpRequest, rate_limited
from tests.simulators.angel_one.instruments import InstrumentFile
from tests.simulators.angel_one.market import INTERVALS, IST, Market

LOGIN: Final = "/rest/auth/angelbroking/user/v1/loginByPassword"
REFRESH: Final = "/rest/auth/angelbroking/jwt/v1/generateTokens"
LOGOUT: Final = "/rest/secure/angelbroking/user/v1/logout"
PROFILE: Final = "/rest/secure/angelbroking/user/v1/getProfile"
CANDLES: Final = "/rest/secure/angelbroking/historical/v1/getCandleData"
INSTRUMENTS: Final = "/OpenAPI_File/files/OpenAPIScripMaster.json"

Rates = Mapping[str, tuple[tuple[int, float], ...]]
RATES: Final[Rates] = {LOGIN: ((1, 1.0),), CANDLES: ((3, 1.0), (180, 60.0))}
"""The vendor's limits: so many requests in so many seconds."""

_HEADERS: Final = ("x-privatekey", "x-usertype", "x-sourceid", "x-clientlocalip", "x-clientpublicip", "x-macaddress")


def _fine(data: object) -> Answer:
    return Answer.of({"status": True, "message": "SUCCESS", "errorcode": "", "data": data})


def _wrong(code: str, message: str) -> Answer:
    return Answer.of({"status": False, "message": message, "errorcode": code, "data": None})


def _gateway(code: str, message: str) -> Answer:
    return Answer.of({"success": False, "message": message, "errorCode": code, "data": ""})


class Rest:
    """What is behind the paths."""

    def __init__(
        self,
        account: Account,
        sessions: Sessions,
        market: Market,
        now: Callable[[], datetime],
        *,
        rates: Rates = RATES,
        instruments: InstrumentFile | None = None,
    ) -> None:
        self._account, self._sessions, self._market, self._now = account, sessions, market, now
        self._rates, self._instruments = rates, instruments or InstrumentFile(market.listings.values())
        self._times: dict[str, deque[datetime]] = defaultdict(deque)
        self._routes = {
            ("POST", LOGIN): self._login,
            ("POST", REFRESH): self._refresh,
            ("POST", LOGOUT): self._logout,
            ("GET", PROFILE): self._profile,
            ("POST", CANDLES): self._candles,
        }

    async def handle(self, request: HttpRequest) -> Answer:
        """The answer to a request."""
        if (request.method, request.path) == ("GET", INSTRUMENTS):
            return self._instruments.answer(request)
        route = self._routes.get((request.method, request.path))
        if route is None:
            return Answer.of({"status": False, "message": "Not found", "errorcode": "AB9999", "data": None}, 404)
        if self._too_fast(request.path):
            limited = rate_limited().answer
            assert limited is not None
            return limited
        if missing := [name for name in _HEADERS if not request.headers.get(name)]:
            return _gateway("AG8004", f"Invalid API Key: no {missing[0]}")
        if request.headers["x-privatekey"] != self._account.api_key:
            return _gateway("AG8004", "Invalid API Key")
        if "/secure/" in request.path:
            fault = self._sessions.jwt_fault(self._bearer(request))
            if fault is not None:
                return _gateway(*fault)
        return route(request)

    def _too_fast(self, path: str) -> bool:
        now, times = self._now(), self._times[path]
        limits = self._rates.get(path, ())
        if any(sum(now - time < timedelta(seconds=span) for time in times) >= most for most, span in limits):
            return True
        times.append(now)
        while len(times) > 1000:
            times.popleft()
        return False

    @staticmethod
    def _bearer(request: HttpRequest) -> str | None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        return token if scheme == "Bearer" else None

    def _login(self, request: HttpRequest) -> Answer:
        body = _mapping(request.json())
        fault = self._sessions.password_fault(body.get("clientcode"), body.get("password"), body.get("totp"))
        return _wrong(*fault) if fault else _fine(_shown(self._sessions.issue()))

    def _refresh(self, request: HttpRequest) -> Answer:
        fault = self._sessions.refresh_fault(_mapping(request.json()).get("refreshToken"))
        return _wrong(*fault) if fault else _fine(_shown(self._sessions.issue()))

    def _logout(self, request: HttpRequest) -> Answer:
        if _mapping(request.json()).get("clientcode") != self._account.client_code:
            return _wrong("AB1001", "Invalid client code")
        self._sessions.end(self._bearer(request) or "")
        return _fine("")

    def _profile(self, _request: HttpRequest) -> Answer:
        return _fine(
            {
                "clientcode": self._account.client_code,
                "name": "SIMULATED CLIENT",
                "email": "",
                "mobileno": "",
                "exchanges": '["bse_cm","nse_cm","nse_fo"]',  # JSON within JSON, as the vendor's
                "products": '["MARGIN","MIS","NRML","CNC"]',
                "lastlogintime": "",
                "brokerid": "B2C",
            }
        )

    def _candles(self, request: HttpRequest) -> Answer:
        asked = _mapping(request.json())
        listing = self._market.find(str(asked.get("exchange")), str(asked.get("symboltoken")))
        if listing is None:
            return _wrong("AB1018", "Failed to get symbol details")
        interval = str(asked.get("interval"))
        start, end = _moment(asked.get("fromdate")), _moment(asked.get("todate"))
        if interval not in INTERVALS or start is None or end is None or start > end:
            return _wrong("AB2000", "Error not specified")
        if end - start > timedelta(days=INTERVALS[interval][1]):
            return _wrong("AB2000", "Error not specified")
        return _fine(list(self._market.candles(listing, interval, start, min(end, self._now()))))


def _shown(tokens: Tokens) -> dict[str, str]:
    return {"jwtToken": tokens.jwt, "refreshToken": tokens.refresh, "feedToken": tokens.feed}


def _mapping(content: Any) -> dict[str, Any]:
    return content if isinstance(content, dict) else {}


def _moment(text: object) -> datetime | None:
    try:
        return datetime.strptime(str(text), "%Y-%m-%d %H:%M").replace(tzinfo=IST)
    except ValueError:
        return None
