"""Groww as its documentation of October 2026 has it.

Sign in with `key` and the authenticator's `seed`, or with `key` and `secret` once the key is `approved` for the day.
References of orders are unique for ever: GA007 for a second one.
"""

import hashlib
import re
import secrets
from collections.abc import Callable
from datetime import datetime, time, timedelta
from decimal import Decimal
from typing import Any, ClassVar, Final

import pyotp

from tests.simulators.angel_one.http import Answer, HttpRequest
from tests.simulators.brokers.book import IST, Book, Order, RefusedError, Status
from tests.simulators.brokers.groww import layout
from tests.simulators.brokers.instruments import Instrument
from tests.simulators.brokers.server import BrokerSimulator, Rates
from tests.simulators.vendor import Fault, answer, query

_REFERENCE = re.compile(r"(?=.{8,20}$)[A-Za-z0-9]+(?:-[A-Za-z0-9]+){0,2}").fullmatch
_EXCHANGES: Final = {("NSE", "CASH"): "NSE", ("BSE", "CASH"): "BSE", ("NSE", "FNO"): "NFO", ("BSE", "FNO"): "BFO"}
_WORDS: Final = {
    Status.RECEIVED: "NEW",
    Status.TRIGGER_PENDING: "TRIGGER_PENDING",
    Status.OPEN: "OPEN",
    Status.COMPLETE: "EXECUTED",
    Status.CANCELLED: "CANCELLED",
    Status.REJECTED: "REJECTED",
    Status.EXPIRED: "CANCELLED",
}
_CODES: Final = {"order": "GA004", "duplicate": "GA007"}


def failure(code: str, message: str, status: int = 400) -> Answer:
    """How Groww says no."""
    return answer({"status": "FAILURE", "error": {"code": code, "message": message, "metadata": None}}, status)


def too_many() -> Fault:
    """429, in its words."""
    return Fault(failure("GA003", "Rate limit exceeded", 429))


def expired() -> Fault:
    """The token is dead."""
    return Fault(failure("GA005", "Authentication failed or token expired", 401))


def refused(message: str = "Insufficient funds", code: str = "GA001") -> Fault:
    """At the door: there is no such order."""
    return Fault(failure(code, message))


def internal() -> Fault:
    """An internal error, told as a success of HTTP: how far it got is open."""
    return Fault(failure("GA000", "Internal error occurred", 200))


def unable() -> Fault:
    """Cannot serve right now."""
    return Fault(failure("GA003", "Unable to serve request currently", 400))


def forbidden() -> Fault:
    """Not for this account."""
    return Fault(failure("GA005", "User not authorised to perform this operation", 403))


def gateway() -> Fault:
    """Somebody before Groww says no."""
    return Fault(answer({"message": "Forbidden"}, 403))


class GrowwSimulator(BrokerSimulator):
    """One client's account at Groww."""

    vendor = "GROWW"
    dies_at = time(6, 0)
    rates: ClassVar[Rates] = {
        "POST /v1/token/api/access": ((5, 1.0),),
        "POST ": ((10, 1.0), (250, 60.0)),
        "GET ": ((20, 1.0), (500, 60.0)),
    }
    own_faults: ClassVar[dict[str, Callable[..., Fault]]] = {
        fault.__name__: fault for fault in (too_many, expired, refused, internal, unable, forbidden, gateway)
    }
    secret, seed = "gr0wwS3cretOfTheKey", "JBSWY3DPEHPK3PXPJBSWY3DP"
    page_limit = 100
    """The most rows that a page has, whatever is asked for."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.key = "eyJraWQiOiJaTUtjVXcifQ.growwkey"
        self._tokens: dict[str, datetime] = {}
        self.approved = False
        """Whether a person has approved the key and its secret today."""
        self.derivatives = True
        """Whether the account has futures and options."""

    def make_book(self) -> Book:
        """Ids as Groww makes them, and references that are taken once."""
        return Book(
            now=self.now, new_id=lambda count, _: f"GMK{39_038 + count:05d}RDT{count:03d}CCVRO", unique_tags=True
        )

    def environment(self) -> dict[str, str]:
        """See `BrokerSimulator`."""
        return {**super().environment(), "GROWW_INSTRUMENTS_URL": self.instruments_url}

    @property
    def instruments_url(self) -> str:
        """Where the list of instruments is."""
        return f"{self.base_url}/instruments/instrument.csv"

    def credentials(self) -> dict[str, str]:
        """What an account enters that needs no person."""
        return {"api_key": self.key or "", "totp_key": self.seed}

    def end_sessions(self) -> None:
        """No token holds any more."""
        self._tokens.clear()

    async def handle(self, request: HttpRequest) -> Answer:
        """See `VendorSimulator`."""
        if request.path == "/instruments/instrument.csv":
            return Answer(200, layout.instruments(self.book.instruments.values()), "text/csv")
        if request.headers.get("x-api-version") != "1.0":
            return failure("GA001", "X-API-VERSION is missing")
        if self.too_fast(request):
            return failure("GA003", "Rate limit exceeded", 429)
        asked = f"{request.method} {request.path}"
        if asked == "POST /v1/token/api/access":
            return self._token(request)
        made_at = self._tokens.get(_bearer(request))
        if made_at is None or self.now() >= self.dead_by(made_at):
            return failure("GA005", "Authentication failed or token expired", 401)
        return self._answer(asked, request)

    def _answer(self, asked: str, request: HttpRequest) -> Answer:
        answers: dict[str, Callable[[HttpRequest], dict[str, Any]]] = {
            "POST /v1/order/create": self._create,
            "POST /v1/order/modify": self._modify,
            "POST /v1/order/cancel": self._cancel,
            "GET /v1/order/list": self._list,
            "GET /v1/order/trades": self._trades,
            "GET /v1/order/status/reference": self._by_reference,
            "GET /v1/positions/user": self._positions,
            "GET /v1/holdings/user": lambda _: layout.holdings(self.book),
            "GET /v1/margins/detail/user": lambda _: layout.margins(self.book),
        }
        found = answers.get(asked) or answers.get(asked.rpartition("/")[0])
        if found is None:
            return failure("GA004", "Requested entity does not exist", 404)
        try:
            return answer({"status": "SUCCESS", "payload": found(request)})
        except RefusedError as refused:
            code = _CODES.get(refused.kind, "GA005" if refused.kind == "segment" else "GA001")
            said = "Duplicate order reference id" if code == "GA007" else str(refused)
            return failure(code, said, {"GA004": 404, "GA005": 403}.get(code, 400))

    # Sessions

    def _token(self, request: HttpRequest) -> Answer:
        body = request.json()
        if _bearer(request) != self.key or not isinstance(body, dict):
            return failure("GA005", "Invalid API key", 401)
        if not (self._code_holds(body) or self._checksum_holds(body)):
            return failure("GA001", "Invalid TOTP, or the key is not approved")
        token = f"eyJraWQiOiJaTUtjVXcifQ.{secrets.token_urlsafe(32)}"
        self._tokens[token] = self.now()
        until = f"{self.dead_by(self.now()).astimezone(IST):%Y-%m-%dT%H:%M:%S}"
        return answer({"token": token, "tokenRefId": "1f2e", "sessionName": "arrow", "expiry": until, "isActive": True})

    def _code_holds(self, body: dict[str, Any]) -> bool:
        if body.get("key_type") != "totp" or set(body) != {"key_type", "totp"}:
            return False
        return pyotp.TOTP(self.seed).verify(str(body["totp"]), for_time=self.now(), valid_window=1)

    def _checksum_holds(self, body: dict[str, Any]) -> bool:
        if body.get("key_type") != "approval" or not isinstance(body.get("timestamp"), int) or not self.approved:
            return False
        fresh = abs(self.now().timestamp() - body["timestamp"]) < timedelta(minutes=10).total_seconds()
        return (
            fresh and body.get("checksum") == hashlib.sha256(f"{self.secret}{body['timestamp']}".encode()).hexdigest()
        )

    # Orders

    def _create(self, request: HttpRequest) -> dict[str, Any]:
        body = _object(request)
        if not isinstance(body.get("order_reference_id"), str) or not _REFERENCE(body["order_reference_id"]):
            raise RefusedError("reference", "order_reference_id must have 8 to 20 letters and digits")
        exchange = self._exchange(body)
        _check_words(body)
        if body.get("product") not in {"CNC", "MIS", "NRML", "MTF"}:
            raise RefusedError("product", "Invalid product")
        order = self.book.place(
            exchange,
            str(body.get("trading_symbol")),
            body["transaction_type"],
            body["quantity"],
            product=body["product"],
            price_type=body["order_type"].replace("_", "-"),
            price=_price(body.get("price")),
            trigger=_price(body.get("trigger_price")),
            tag=body["order_reference_id"],
        )
        return {**self._status(order), "remark": order.reason or "Order placed successfully"}

    def _modify(self, request: HttpRequest) -> dict[str, Any]:
        body = _object(request)
        self._owned(body)
        _check_words(body)
        order = self.book.modify(
            body["groww_order_id"],
            quantity=body.get("quantity"),
            price_type=body["order_type"].replace("_", "-"),
            price=_price(body.get("price")),
            trigger=_price(body.get("trigger_price")),
        )
        return {"groww_order_id": order.order_id, "order_status": "MODIFICATION_REQUESTED"}

    def _cancel(self, request: HttpRequest) -> dict[str, Any]:
        order = self.book.cancel(self._owned(_object(request)).order_id)
        return {"groww_order_id": order.order_id, "order_status": "CANCELLATION_REQUESTED"}

    def _owned(self, body: dict[str, Any]) -> Order:
        order = self.book.orders.get(str(body.get("groww_order_id")))
        if order is None or body.get("segment") != layout.segment(order.instrument):
            raise RefusedError("order", "Requested entity does not exist")
        return order

    def _exchange(self, body: dict[str, Any]) -> str:
        exchange = _EXCHANGES.get((body.get("exchange", ""), body.get("segment", "")))
        if exchange is None:
            raise RefusedError("instrument", "Invalid exchange or segment")
        return exchange

    def _status(self, order: Order) -> dict[str, Any]:
        return {
            "groww_order_id": order.order_id,
            "order_status": _WORDS[order.status],
            "order_reference_id": order.tag,
        }

    # Books

    def _list(self, request: HttpRequest) -> dict[str, Any]:
        self._allowed(request)
        orders = [order for order in self.book.orders.values() if _in_segment(order.instrument, request)]
        rows = [layout.order(order, _WORDS[order.status]) for order in reversed(orders)]
        return {"order_list": self._page(rows, request)}

    def _trades(self, request: HttpRequest) -> dict[str, Any]:
        order_id = request.path.rpartition("/")[2]
        self._owned({"groww_order_id": order_id, "segment": query(request).get("segment")})
        rows = [layout.trade(trade) for trade in self.book.trades if trade.order_id == order_id]
        return {"trade_list": self._page(rows, request)}

    def _by_reference(self, request: HttpRequest) -> dict[str, Any]:
        found = self.book.with_tag(request.path.rpartition("/")[2])
        if not found or not _in_segment(found[0].instrument, request):
            raise RefusedError("order", "Requested entity does not exist")
        return {**self._status(found[0]), "filled_quantity": found[0].filled, "remark": found[0].reason}

    def _positions(self, request: HttpRequest) -> dict[str, Any]:
        self._allowed(request)
        mine = [each for each in self.book.positions() if _in_segment(each.instrument, request)]
        return {"positions": [layout.position(each) for each in mine]}

    def _allowed(self, request: HttpRequest) -> None:
        if query(request).get("segment") == "FNO" and not self.derivatives:
            raise RefusedError("segment", "User not authorised to perform this operation")

    def _page(self, rows: list[Any], request: HttpRequest) -> list[Any]:
        asked = query(request)
        size = min(int(asked.get("page_size", "25")), self.page_limit)
        start = int(asked.get("page", "0")) * size
        return rows[start : start + size]


def _in_segment(instrument: Instrument, request: HttpRequest) -> bool:
    return layout.segment(instrument) == query(request).get("segment")


def _bearer(request: HttpRequest) -> str:
    return request.headers.get("authorization", "").removeprefix("Bearer ")


def _object(request: HttpRequest) -> dict[str, Any]:
    body = request.json()
    if not isinstance(body, dict) or request.headers.get("content-type") != "application/json":
        raise RefusedError("body", "Bad request")
    return body


def _check_words(body: dict[str, Any]) -> None:
    if body.get("order_type") not in {"MARKET", "LIMIT", "SL", "SL_M"} or body.get("validity", "DAY") != "DAY":
        raise RefusedError("words", "Invalid order_type or validity")
    if body.get("transaction_type", "BUY") not in {"BUY", "SELL"} or not isinstance(body.get("quantity"), int):
        raise RefusedError("words", "Invalid transaction_type or quantity")


def _price(value: Any) -> Decimal | None:
    """Numbers or null; 0 is none."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise RefusedError("price", "Invalid price")
    return Decimal(str(value)) if value else None
