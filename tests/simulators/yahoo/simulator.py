"""Yahoo's finance service on this machine: cookie, crumb, charts and quotes, as `yfinance` asks for them.

One server stands for all of Yahoo's hosts; their paths do not collide.
"""

import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any, ClassVar, Final
from urllib.parse import unquote

from tests.simulators.angel_one.http import Answer, HttpRequest
from tests.simulators.coins import Coins
from tests.simulators.vendor import Fault, VendorSimulator, answer, query
from tests.simulators.yahoo.market import Listed, Shown, YahooMarket

CHART: Final = "/v8/finance/chart/"
QUOTE: Final = "/v7/finance/quote"
CRUMB: Final = "/v1/test/getcrumb"
_COOKIE_DAYS: Final = 365
_MINUTES: Final = {"1m": 1, "2m": 2, "5m": 5, "15m": 15, "30m": 30, "60m": 60, "90m": 90, "1h": 60}
_FURTHEST: Final = {"1m": 8, "2m": 60, "5m": 60, "15m": 60, "30m": 60, "60m": 730, "90m": 60, "1h": 730}
_RANGES: Final = ["1d", "5d", "1mo", "3mo", "6mo", "1y", "2y", "5y", "10y", "ytd", "max"]


def chart_error(code: str, description: str, status: int) -> Answer:
    """As the chart says what is wrong."""
    return answer({"chart": {"result": None, "error": {"code": code, "description": description}}}, status)


def unauthorized() -> Answer:
    """No crumb, or one that does not hold any more."""
    error = {"code": "Unauthorized", "description": "Invalid Crumb"}
    return answer({"finance": {"result": None, "error": error}}, 401)


def too_many(retry_after: int | None = None) -> Fault:
    """429, in plain text; mostly without a word on how long."""
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return Fault(Answer(429, b"Edge: Too Many Requests", "text/html", headers))


def unavailable(status: int = 503) -> Fault:
    """It is down."""
    return Fault(Answer(status, b"<html><body>Will be right back...</body></html>", "text/html"))


def expired() -> Fault:
    """The crumb does not hold any more; once."""
    return Fault(unauthorized())


def empty_frame() -> Fault:
    """A chart of the right form without a single row."""
    return Fault(change=_without_rows)


def no_result() -> Fault:
    """A chart that is none, and no reason why."""
    return Fault(answer({"chart": {"result": None, "error": None}}))


def _without_rows(content: Any) -> Any:
    for result in content["chart"]["result"]:
        result.pop("timestamp", None)
        result["indicators"] = {"quote": [{}], "adjclose": [{}]}
    return content


class YahooSimulator(VendorSimulator):
    """Give the service `environment()`."""

    vendor = "YAHOO"
    own_faults: ClassVar[dict[str, Callable[..., Fault]]] = {
        fault.__name__: fault for fault in (too_many, unavailable, expired, empty_frame, no_result)
    }

    def __init__(
        self,
        market: YahooMarket | None = None,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        at_hour: bool = False,
        lag: timedelta = timedelta(),
        port: int = 0,
    ) -> None:
        """`at_hour`: candles of 30 minutes and more begin as the clock strikes. `lag`: by how much trades come late."""
        super().__init__(Coins(1), now=now, port=port)
        self.at_hour, self.lag = at_hour, lag
        self.market = market or YahooMarket(lambda: self.now() - self.lag)
        self.crumb, self._cookies = secrets.token_urlsafe(8), set[str]()

    @property
    def base_url(self) -> str:
        """See `VendorSimulator`."""
        return f"http://127.0.0.1:{self.port}"

    def renew_crumb(self) -> None:
        """From now on the old one is refused."""
        self.crumb = secrets.token_urlsafe(8)

    async def handle(self, request: HttpRequest) -> Answer:
        """See `VendorSimulator`."""
        path = unquote(request.path)
        if path in {"/", "/copyConsent"}:
            return self._cookie(404 if path == "/" else 200, request)
        if path == "/consent":
            form = '<form><input name="csrfToken" value="c"/><input name="sessionId" value="s"/></form>'
            return Answer(200, form.encode(), "text/html")
        if path == "/v2/collectConsent":
            return Answer(200, b"", "text/html")
        if path == CRUMB:
            known = self._known(request)
            return Answer(200, self.crumb.encode(), "text/plain") if known else Answer(401, b"", "text/plain")
        asked = query(request)
        if asked.get("crumb", self.crumb) != self.crumb:
            return unauthorized()
        if path.startswith(CHART):
            return self._chart(path.removeprefix(CHART), asked)
        if path == QUOTE:
            if "crumb" not in asked or not self._known(request):
                return unauthorized()
            return self._quotes(asked.get("symbols", "").split(","))
        return Answer(404, b"<html>Not Found</html>", "text/html")

    def _cookie(self, status: int, request: HttpRequest) -> Answer:
        value = f"d={secrets.token_hex(8)}&S=AQAAA"
        self._cookies.add(value)
        # Yahoo's has Domain=.yahoo.com, SameSite=None and Secure: clients take a host's own domain alone, and the last
        # two with TLS alone. Its end is by the client's clock, which is the machine's.
        domain = request.headers.get("host", "").rpartition(":")[0]
        ends = format_datetime(datetime.now(UTC) + timedelta(days=_COOKIE_DAYS), usegmt=True)
        words = f"Expires={ends}; Max-Age={_COOKIE_DAYS * 86_400}; Domain={domain}; Path=/; HttpOnly"
        # As at fc.yahoo.com: an error page, and the cookie with it.
        return Answer(status, b"<html></html>", "text/html", {"Set-Cookie": f"A3={value}; {words}"})

    def _known(self, request: HttpRequest) -> bool:
        parts = (part.strip().partition("=") for part in request.headers.get("cookie", "").split(";"))
        return any(name == "A3" and value in self._cookies for name, _, value in parts)

    # Charts

    def _chart(self, symbol: str, asked: dict[str, str]) -> Answer:
        listed = self.market.listed.get(symbol)
        if listed is None:
            return chart_error("Not Found", "No data found, symbol may be delisted", 404)
        now, interval = self.market.now(), asked.get("interval", "1d")
        if "period1" in asked:
            start = datetime.fromtimestamp(int(asked["period1"]), UTC)
            end = datetime.fromtimestamp(int(asked["period2"]), UTC)
        else:
            start, end = now - timedelta(days=7 if asked.get("range") == "1d" else 31), now
        if interval in _MINUTES:
            if start < self.now() - timedelta(days=_FURTHEST[interval]):
                text = f"{interval} data not available for startTime={asked.get('period1')}"
                return chart_error("Unprocessable Entity", text, 422)
            minutes = _MINUTES[interval]
            rows = self.market.bars(listed, minutes, start, end, at_hour=self.at_hour and minutes >= 30)
        elif interval == "1d":
            rows = self.market.days(listed, start, end)
        else:
            return chart_error("Bad Request", f"Invalid input - interval={interval} is not supported.", 422)
        return answer({"chart": {"result": [self._result(listed, rows, interval, start, end)], "error": None}})

    def _result(self, listed: Listed, rows: list[Shown], interval: str, start: datetime, end: datetime) -> Any:
        columns = {name: [getattr(row, name) for row in rows] for name in ("open", "high", "low", "close", "volume")}
        result: dict[str, Any] = {"meta": self._meta(listed, interval)}
        if rows:
            result["timestamp"] = [int(row.at.timestamp()) for row in rows]
        result["indicators"] = {"quote": [columns if rows else {}]}
        if interval == "1d":
            result["indicators"]["adjclose"] = [{"adjclose": [row.adjusted_close for row in rows]} if rows else {}]
        else:
            days = [day.day for day in listed.days if start <= listed.session(day.day)[1] and day.day <= end.date()]
            periods = [[_period(listed, *listed.session(day))] for day in days]
            result["meta"]["tradingPeriods"] = periods
        if events := _events(listed, start, end):
            result["events"] = events
        return result

    def _meta(self, listed: Listed, interval: str) -> dict[str, Any]:
        now = self.market.now()
        newest = next(day for day in reversed(listed.days) if listed.session(day.day)[0] <= now)
        opens, closes = listed.session(newest.day)
        traded = min(now, closes - timedelta(seconds=1))
        regular = _period(listed, opens, closes)
        return {
            "currency": listed.currency,
            "symbol": listed.symbol,
            "exchangeName": listed.exchange,
            "fullExchangeName": listed.exchange,
            "instrumentType": listed.kind,
            "firstTradeDate": int(listed.session(listed.days[0].day)[0].timestamp()),
            "regularMarketTime": int(traded.timestamp()),
            "gmtoffset": regular["gmtoffset"],
            "timezone": regular["timezone"],
            "exchangeTimezoneName": listed.zone,
            "regularMarketPrice": newest.close,
            "chartPreviousClose": newest.open,
            "priceHint": 2,
            "currentTradingPeriod": {"pre": {**regular}, "regular": regular, "post": {**regular}},
            "dataGranularity": interval,
            "range": "",
            "validRanges": _RANGES,
        }

    # Quotes

    def _quotes(self, symbols: list[str]) -> Answer:
        listed = (self.market.listed[symbol] for symbol in symbols if symbol in self.market.listed)
        return answer({"quoteResponse": {"result": [self._quote(one) for one in listed], "error": None}})

    def _quote(self, listed: Listed) -> dict[str, Any]:
        now = self.market.now()
        *_, before, newest = self.market.days(listed, now - timedelta(days=30), now + timedelta(days=1))
        opens, closes = listed.session(newest.at.astimezone(UTC).date())
        year = listed.days[-250:]
        return {
            "language": "en-US",
            "region": "US",
            "quoteType": listed.kind,
            "symbol": listed.symbol,
            "shortName": listed.name.upper(),
            "longName": listed.name,
            "currency": listed.currency,
            "exchange": listed.exchange,
            "fullExchangeName": "NSE" if listed.exchange == "NSI" else listed.exchange,
            "exchangeTimezoneName": listed.zone,
            "marketState": "REGULAR" if opens <= now < closes else "POSTPOST",
            "exchangeDataDelayedBy": round(self.lag.total_seconds() / 60),
            "regularMarketPrice": newest.close,
            "regularMarketTime": int(min(now, closes).timestamp()),
            "regularMarketPreviousClose": before.close,
            "regularMarketOpen": newest.open,
            "regularMarketDayHigh": newest.high,
            "regularMarketDayLow": newest.low,
            "regularMarketVolume": newest.volume,
            "fiftyTwoWeekHigh": max(day.high for day in year),
            "fiftyTwoWeekLow": min(day.low for day in year),
            "marketCap": None if listed.kind == "INDEX" else round(newest.close * 1e9),
        }


def _period(listed: Listed, opens: datetime, closes: datetime) -> dict[str, Any]:
    from zoneinfo import ZoneInfo

    local = opens.astimezone(ZoneInfo(listed.zone))
    offset = local.utcoffset() or timedelta()
    return {
        "timezone": local.tzname(),
        "start": int(opens.timestamp()),
        "end": int(closes.timestamp()),
        "gmtoffset": int(offset.total_seconds()),
    }


def _events(listed: Listed, start: datetime, end: datetime) -> dict[str, Any]:
    splits, _ = listed.factors()
    events: dict[str, Any] = {}
    for day, since in zip(listed.days, splits, strict=True):
        opens = listed.session(day.day)[0]
        if not start <= opens < end:
            continue
        stamp = int(opens.timestamp())
        if day.dividend:
            # Like prices, divided by the splits since.
            events.setdefault("dividends", {})[str(stamp)] = {"amount": day.dividend / since, "date": stamp}
        if day.split:
            row = {"date": stamp, "numerator": day.split, "denominator": 1.0, "splitRatio": f"{day.split:g}:1"}
            events.setdefault("splits", {})[str(stamp)] = row
    return events
