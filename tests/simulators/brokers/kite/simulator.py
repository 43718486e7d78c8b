"""Kite Connect 3 on this machine: sessions until 06:00, orders, books and the list of instruments, for one account."""

import gzip
import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, time
from decimal import Decimal, InvalidOperation
from typing import Any, ClassVar
from urllib.parse import parse_qsl

from tests.simulators.angel_one.http import Answer, HttpRequest
from tests.simulators.brokers.book import Book, Order, RefusedError
from tests.simulators.brokers.kite import rows
from tests.simulators.brokers.server import After, BrokerSimulator, Rates
from tests.simulators.vendor import Fault, answer, query

_KINDS = {
    "instrument": "InputException",
    "quantity": "InputException",
    "price": "InputException",
    "order": "OrderException",
    "state": "OrderException",
    "funds": "MarginException",
    "holdings": "HoldingException",
}


@dataclass(frozen=True, slots=True)
class KiteAccount:
    """Who may sign in."""

    api_key: str = "kitesimkey000001"
    api_secret: str = "kite-sim-secret-0123456789abcdef"
    user_id: str = "AB1234"


def error(kind: str, message: str, status: int = 400) -> Answer:
    """As Kite writes it."""
    return answer({"status": "error", "message": message, "data": None, "error_type": kind}, status)


def too_many(retry_after: int | None = None) -> Fault:
    """429; Kite does not say for how long."""
    headers = {} if retry_after is None else {"Retry_After": str(retry_after)}
    body = {"status": "error", "message": "Too many requests", "data": None, "error_type": "NetworkException"}
    return Fault(answer(body, 429, **headers))


def expired() -> Fault:
    """The token is dead."""
    return Fault(error("TokenException", "Incorrect `api_key` or `access_token`.", 403))


def refused(message: str = "Insufficient funds. Required margin is 95417.84", kind: str = "MarginException") -> Fault:
    """At the door: there is no such order."""
    return Fault(error(kind, message))


def oms_down() -> Fault:
    """Kite does not reach its order system."""
    return Fault(error("NetworkException", "Request failed (kitetrade-oms)", 503))


def oms_down_after() -> Fault:
    """Kite lost its order system, after that had taken the request."""
    return After(instead=error("NetworkException", "Request failed (kitetrade-oms)", 503))


def general_after(status: int = 400) -> Fault:
    """Carried out; Kite does not know what went wrong then."""
    return After(instead=error("GeneralException", "Something went wrong", status))


def no_order_id() -> Fault:
    """Carried out, a success, and the id is missing."""
    return After(instead=answer({"status": "success", "data": {}}))


class KiteSimulator(BrokerSimulator):
    """Use as an asynchronous context manager; then give the service `environment()`."""

    vendor = "ZERODHA"
    dies_at = time(6, 0)
    rates: ClassVar[Rates] = {"POST /orders/regular": ((10, 1.0), (400, 60.0)), "": ((10, 1.0),)}
    own_faults: ClassVar[dict[str, Callable[..., Fault]]] = {
        fault.__name__: fault
        for fault in (too_many, expired, refused, oms_down, oms_down_after, general_after, no_order_id)
    }

    def __init__(self, book: Book | None = None, *, account: KiteAccount | None = None, **options: Any) -> None:
        """`options`: see `BrokerSimulator`."""
        super().__init__(book, **options)
        self.account = account or KiteAccount()
        self._request_tokens: set[str] = set()
        self._tokens: dict[str, datetime] = {}

    def environment(self) -> dict[str, str]:
        """See `BrokerSimulator`."""
        return {"ZERODHA_BASE_URL": self.base_url, "ZERODHA_LOGIN_URL": f"{self.base_url}/connect/login"}

    def credentials(self) -> dict[str, str]:
        """See `BrokerSimulator`; each call is a sign-in on the vendor's page."""
        account = self.account
        return {
            "api_key": account.api_key,
            "api_secret": account.api_secret,
            "request_token": self.request_token(),
        }

    def request_token(self) -> str:
        """What the vendor's page hands back to a person who signs in; good for one try."""
        token = secrets.token_hex(16)
        self._request_tokens.add(token)
        return token

    def issue(self) -> str:
        """An access token, as a sign-in gives it."""
        token = secrets.token_urlsafe(24)
        self._tokens[token] = self.dead_by(self.now())
        return token

    def end_sessions(self) -> None:
        """All tokens die: somebody signed in elsewhere."""
        self._tokens.clear()

    def postback(self, order: Order) -> dict[str, Any]:
        """What Kite would push about this order now."""
        row = rows.order_row(order, self.account.user_id)
        signed = f"{row['order_id']}{row['order_timestamp']}{self.account.api_secret}"
        checksum = hashlib.sha256(signed.encode()).hexdigest()
        return {
            "user_id": self.account.user_id,
            "unfilled_quantity": order.rest,
            "app_id": 1234,
            "checksum": checksum,
        } | row

    async def handle(self, request: HttpRequest) -> Answer:
        """See `VendorSimulator`."""
        method, path = request.method, request.path
        if self.too_fast(request):
            limited = too_many().answer
            assert limited is not None
            return limited
        if (method, path) == ("GET", "/instruments"):
            return self._instruments(request)
        if (method, path) == ("GET", "/connect/login"):
            return Answer(302, headers={"Location": f"/?status=success&request_token={self.request_token()}"})
        if request.headers.get("x-kite-version") != "3":
            return error("InputException", "Missing or invalid `X-Kite-Version` header.")
        if (method, path) == ("POST", "/session/token"):
            return self._session(_form(request))
        if not self._authorized(request):
            return error("TokenException", "Incorrect `api_key` or `access_token`.", 403)
        try:
            return answer({"status": "success", "data": self._done(method, path, request)})
        except RefusedError as refusal:
            return error(_KINDS[refusal.kind], refusal.reason)
        except (KeyError, InvalidOperation, ValueError) as wrong:
            return error("InputException", f"Invalid or missing parameter: {wrong}.")

    def _authorized(self, request: HttpRequest) -> bool:
        scheme, _, pair = request.headers.get("authorization", "").partition(" ")
        key, _, token = pair.partition(":")
        dies = self._tokens.get(token)
        return scheme == "token" and key == self.account.api_key and dies is not None and self.now() < dies

    def _session(self, form: dict[str, str]) -> Answer:
        token = form.get("request_token", "")
        right = hashlib.sha256(f"{self.account.api_key}{token}{self.account.api_secret}".encode()).hexdigest()
        known = token in self._request_tokens
        self._request_tokens.discard(token)
        if form.get("api_key") != self.account.api_key:
            return error("InputException", "Invalid `api_key`.", 403)
        if not known or form.get("checksum") != right:
            return error(
                "TokenException", "Token is invalid or has expired." if not known else "Invalid `checksum`.", 403
            )
        data = {
            "user_type": "individual",
            "user_id": self.account.user_id,
            "user_name": "SIMULATED CLIENT",
            "broker": "ZERODHA",
            "exchanges": ["NSE", "NFO", "BFO", "BSE"],
            "products": ["CNC", "NRML", "MIS", "MTF"],
            "order_types": ["MARKET", "LIMIT", "SL", "SL-M"],
            "api_key": self.account.api_key,
            "access_token": self.issue(),
            "public_token": secrets.token_urlsafe(24),
            "refresh_token": "",
            "enctoken": secrets.token_urlsafe(24),
            "login_time": rows.stamp(self.now()),
            "meta": {"demat_consent": "consent"},
        }
        return answer({"status": "success", "data": data})

    def _done(self, method: str, path: str, request: HttpRequest) -> Any:
        book = self.book
        if path.startswith("/orders/regular"):
            return self._order(method, path.removeprefix("/orders/regular").strip("/"), _form(request))
        if method != "GET":
            raise ValueError(f"no {method} here")
        if path == "/orders":
            return [rows.order_row(order, self.account.user_id) for order in book.orders.values()]
        if path == "/trades":
            return [rows.trade_row(trade, book.orders.get(trade.order_id)) for trade in book.trades]
        if path == "/portfolio/positions":
            found = [rows.position_row(each, book.prices[each.instrument.key]) for each in book.positions()]
            return {"net": found, "day": found}
        if path == "/portfolio/holdings":
            return [rows.holding_row(each, book.prices[each.instrument.key]) for each in book.holdings]
        if path == "/user/margins":
            return rows.margins(book)
        raise ValueError(f"no path {path}")

    def _order(self, method: str, order_id: str, form: dict[str, str]) -> dict[str, str]:
        if method == "DELETE":
            return {"order_id": self.book.cancel(order_id).order_id}
        _check_protection(form)
        if len(form.get("tag", "")) > 20:
            raise ValueError("`tag` is longer than 20 characters")
        prices = {
            "price": _amount(form.get("price")),
            "trigger": _amount(form.get("trigger_price")),
        }
        if method == "PUT":
            changed = self.book.modify(
                order_id,
                quantity=int(form["quantity"]) if "quantity" in form else None,
                price_type=form.get("order_type"),
                validity=form.get("validity"),
                **prices,
            )
            changed.extra["modified"] = True
            return {"order_id": changed.order_id}
        if method != "POST" or order_id:
            raise ValueError(f"no {method} here")
        placed = self.book.place(
            form["exchange"],
            form["tradingsymbol"],
            form["transaction_type"],
            int(form["quantity"]),
            product=form["product"],
            price_type=form["order_type"],
            validity=form.get("validity", "DAY"),
            tag=form.get("tag"),
            **prices,
        )
        return {"order_id": placed.order_id}

    def _instruments(self, request: HttpRequest) -> Answer:
        body = rows.instruments(self.book.instruments.values())
        if "gzip" not in request.headers.get("accept-encoding", ""):
            return Answer(200, body, "text/csv")
        return Answer(200, gzip.compress(body, 1), "text/csv", {"Content-Encoding": "gzip"})


def _check_protection(form: dict[str, str]) -> None:
    if form.get("order_type") not in {"MARKET", "SL-M"}:
        return
    given = Decimal(form.get("market_protection", "0"))
    if not (given == -1 or 0 < given <= 100):
        raise RefusedError(
            "price",
            "Market orders without market protection are not allowed via API. Please set market protection or use a"
            " Limit order.",
        )


def _form(request: HttpRequest) -> dict[str, str]:
    kind = request.headers.get("content-type", "")
    return dict(parse_qsl(request.body.decode())) if "form" in kind else query(request)


def _amount(text: str | None) -> Decimal | None:
    return Decimal(text) if text else None
