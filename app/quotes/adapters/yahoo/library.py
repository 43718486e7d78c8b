"""`yfinance` and what it needs, in one place: importing this module costs 90 MB and a second or more.

Only `program` imports it, in a process of its own. Everything here blocks.

How the library is kept in check: its requests go through a session of ours, which sends them to `YAHOO_BASE_URL`,
bounds their time and the size of answers, and turns statuses into errors before the library would retry them or take
them for an empty answer. A 401 is left to it: it gets another cookie and crumb, and asks again, once.
"""

import json
import logging
import math
import threading
import warnings
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from datetime import time as wall_time
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import yfinance
from curl_cffi import CurlOpt
from curl_cffi import requests as curl
from curl_cffi.requests.exceptions import RequestException, Timeout
from yfinance import cache
from yfinance.data import SingletonMeta, YfData
from yfinance.exceptions import YFException, YFPricesMissingError, YFRateLimitError, YFTzMissingError

from app.core.settings.quotes import YAHOO
from app.quotes.adapters.yahoo.messages import Failure, History, Timeouts
from app.quotes.bars import Row

# Notes to the library's authors.
warnings.filterwarnings("ignore", module=r"yfinance\b")

MAX_ANSWER: Final = 16 << 20
"""Bytes; twenty years of days are 1 MB."""
_API: Final = ("/v7/", "/v8/")
_QUOTES: Final = f"{YAHOO.replace('query2', 'query1')}/v7/finance/quote"


class StatusError(OSError):
    """An answer that says that Yahoo cannot; the library takes it for a fault of the network."""

    def __init__(self, status: int, retry_after: float | None = None) -> None:
        super().__init__(f"HTTP {status}")
        self.status, self.retry_after = status, retry_after


class TooManyError(YFRateLimitError):  # type: ignore[misc]  # the library has no types
    """429."""

    def __init__(self, retry_after: float | None) -> None:
        super().__init__()
        self.retry_after = retry_after


class RefusedStatusError(YFException):  # type: ignore[misc]
    """Yahoo understood the request, and will not: 404 for an unknown symbol."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status


class NoDataError(Exception):
    """An answer without rows."""


class UnreadableError(Exception):
    """An answer that is not what the library's own requests bring."""


class _Session(curl.Session):  # type: ignore[type-arg]  # of the usual responses
    def __init__(self, base_url: str, timeouts: Timeouts) -> None:
        # Its browser's handshake is what Yahoo expects of clients without a key.
        super().__init__(
            impersonate="chrome",
            max_redirects=5,
            curl_options={CurlOpt.MAXFILESIZE_LARGE: MAX_ANSWER},
        )
        self._base_url = None if base_url == YAHOO else base_url.rstrip("/")
        # Curl takes the second for what comes after the connection.
        self._limit = (timeouts.connect, max(timeouts.request - timeouts.connect, 0.1))
        self._local = threading.local()

    @property
    def last_status(self) -> int:
        """Of the newest answer in this thread."""
        status: int = getattr(self._local, "status", 0)
        return status

    def request(self, method: Any, url: str, *args: Any, **options: Any) -> Any:
        parts = urlsplit(url)
        if self._base_url is not None:
            url = f"{self._base_url}{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
        self._local.status = 0
        answer = super().request(method, url, *args, **(options | {"timeout": self._limit}))
        self._local.status = status = answer.status_code
        if parts.path.startswith(_API):
            if status == 429:
                raise TooManyError(_retry_after(answer))
            if status >= 500:
                raise StatusError(status, _retry_after(answer))
            if 400 <= status != 401:
                raise RefusedStatusError(status)
        return answer


def _retry_after(answer: Any) -> float | None:
    text = answer.headers.get("retry-after") or ""
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
        except (TypeError, ValueError):
            return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


class Library:
    """One session with Yahoo; one in a process, as the library keeps its cookie and crumb in one place."""

    def __init__(self, base_url: str, cache_dir: Path, timeouts: Timeouts) -> None:
        cache_dir.mkdir(parents=True, exist_ok=True)
        # What it may hold of a session before: it has no words for letting go.
        SingletonMeta._instances.clear()  # noqa: SLF001
        cache._TzCacheManager._tz_cache = cache._CookieCacheManager._Cookie_cache = None  # noqa: SLF001
        yfinance.set_tz_cache_location(str(cache_dir))
        # Else an error is an empty answer.
        yfinance.config.debug.hide_exceptions = False
        logging.getLogger("yfinance").setLevel(logging.CRITICAL)
        self._session = _Session(base_url, timeouts)
        self._data = YfData(session=self._session)

    def history(self, symbol: str, interval: str, start: datetime, end: datetime, zone: str | None = None) -> History:
        """Candles of a symbol from `start` to before `end`, which is ahead of now; raises what `client` sorts.

        `zone`: of its exchange, where it is known.
        """
        try:
            zones = cache.get_tz_cache()
            if zone is not None and zones.lookup(symbol) is None:
                zones.store(symbol, zone)  # else the library asks Yahoo for it first
            ticker = yfinance.Ticker(symbol, session=self._session)
            frame = ticker.history(interval=interval, start=start, end=end, auto_adjust=False, prepost=False)
            told = ticker.get_history_metadata()
        except YFTzMissingError:
            raise RefusedStatusError(404) from None
        except YFPricesMissingError:
            if self._session.last_status == 401:
                raise StatusError(401) from None
            raise NoDataError from None
        finally:
            # The library would remember answers of the past for ever, refusals too.
            YfData.cache_get.cache_clear()
        if frame.empty:
            raise NoDataError
        return _history(frame, told)

    def quotes(self, symbols: Sequence[str]) -> list[dict[str, Any]]:
        """What Yahoo says of each symbol that it knows, in one request."""
        asked = {
            "symbols": ",".join(symbols),
            "formatted": "false",
            "lang": yfinance.config.locale.lang,
            "region": yfinance.config.locale.region,
        }
        answer = self._data.get(_QUOTES, params=asked)
        if answer.status_code != 200:
            raise StatusError(answer.status_code)
        try:
            rows = answer.json()["quoteResponse"]["result"]
        except (ValueError, KeyError, TypeError):
            raise UnreadableError from None
        if not isinstance(rows, list):
            raise UnreadableError
        return [row for row in rows if isinstance(row, dict)]

    def close(self) -> None:
        """Close its connections."""
        self._session.close()


def _history(frame: Any, told: Mapping[str, Any]) -> History:
    # Never the whole of what is told: what is not there yet would be fetched.
    columns = ("Open", "High", "Low", "Close", "Adj Close", "Volume", "Dividends", "Stock Splits")
    moments = frame.index.tz_convert("UTC").to_pydatetime()
    values = (frame[column].astype("float64").tolist() for column in columns)
    rows = [Row(moment, *row) for moment, row in zip(moments, zip(*values, strict=True), strict=True)]
    regular = (told.get("currentTradingPeriod") or {}).get("regular") or {}
    currency: Any = told.get("currency")
    traded: Any = told.get("regularMarketTime")
    return History(
        rows,
        currency if isinstance(currency, str) else None,
        str(told["exchangeTimezoneName"]),
        _wall(regular.get("start")),
        _wall(regular.get("end")),
        traded.to_pydatetime().astimezone(UTC) if hasattr(traded, "to_pydatetime") else None,
    )


def _wall(moment: Any) -> wall_time | None:
    """Of a time in the exchange's zone."""
    return moment.time() if hasattr(moment, "time") else None


def sorted_error(error: Exception) -> Failure:
    """What an exception of the library means. Its text is left behind: it may quote what was sent."""
    match error:
        case YFRateLimitError():
            return Failure("RateLimitedError", "429", getattr(error, "retry_after", None))
        case StatusError():
            return Failure("UnreachableError", str(error.status), error.retry_after)
        case RefusedStatusError():
            return Failure("NoSuchSymbolError" if error.status == 404 else "RefusedError", str(error.status))
        case NoDataError():
            return Failure("NothingFoundError", "empty")
        case UnreadableError() | json.JSONDecodeError():
            return Failure("NonsenseError", "no JSON" if isinstance(error, ValueError) else "another form")
        case TimeoutError() | Timeout():
            return Failure("UnreachableError", "timeout")
        case RequestException():
            return Failure("UnreachableError", "connection")
        case OSError():
            return Failure("UnreachableError", "system")
        case _:
            # The library reads answers without looking first: whatever breaks in it, the answer was not right.
            return Failure("NonsenseError", "another form", detail=type(error).__name__)
