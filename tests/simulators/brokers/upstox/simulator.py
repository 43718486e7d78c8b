"""Upstox as its documentation of October 2026 has it: orders by version 3, everything else by version 2.

Sign in with `key`, `secret` and a code from `code()`, or with a browser at `/v2/login/authorization/dialog`; each code
is good for one try.
"""

import gzip
import secrets
from collections.abc import Callable
from datetime import datetime, time
from decimal import Decimal, InvalidOperation
from typing import Any, ClassVar, Final
from urllib.parse import parse_qsl, urlencode

from tests.simulators.angel_one.http import Answer, HttpRequest
from tests.simulators.brokers.book import IST, Book, Order, RefusedError, Status, Trade
from tests.simulators.brokers.instruments import Instrument
from tests.simulators.brokers.server import BrokerSimulator, Rates
from tests.simulators.brokers.upstox import layout
from tests.simulators.vendor import Fault, answer, query

_SEGMENTS: Final = {"NSE": "NSE_EQ", "BSE": "BSE_EQ", "NFO": "NSE_FO", "BFO": "BSE_FO"}
_WORDS: Final = {
    Status.RECEIVED: "put order req received",
    Status.TRIGGER_PENDING: "trigger pending",
    Status.OPEN: "open",
    Status.COMPLETE: "complete",
    Status.CANCELLED: "cancelled",
    Status.REJECTED: "rejected",
    Status.EXPIRED: "cancelled",
}
_CODES: Final = {
    "instrument": "UDAPI100011",
    "quantity": "UDAPI1104",
    "price": "UDAPI1037",
    "order": "UDAPI100010",
    "state": "UDAPI100040",
}


def error(code: str, message: str, status: int = 400) -> Answer:
    """How Upstox says no."""
    first = {"errorCode": code, "message": message, "propertyPath": None, "invalidValue": None, "error_code": code}
    first |= {"property_path": None, "invalid_value": None}
    return answer({"status": "error", "errors": [first]}, status)


def too_many() -> Fault:
    """429, in its words."""
    return Fault(error("UDAPI10005", "Too Many Request Sent", 429))


def expired() -> Fault:
    """The token is dead."""
    return Fault(error("UDAPI100050", "Invalid token used to access API", 401))


def refused(message: str = "You need to add Rs. 95417.84 in your account", code: str = "UDAPI1070") -> Fault:
    """At the door: there is no such order."""
    return Fault(error(code, message))


def closed() -> Fault:
    """At night."""
    return Fault(error("UDAPI100072", "The Funds service is accessible from 5:30 AM to 12:00 AM IST daily", 423))


def wrong_address() -> Fault:
    """From a machine that is not registered."""
    return Fault(error("UDAPI1154", "Access to this API is blocked due to static IP restrictions.", 403))


def internal() -> Fault:
    """Something went wrong, and Upstox does not say how far it got."""
    return Fault(error("UDAPI100500", "Something went wrong... please contact us", 400))


def gateway() -> Fault:
    """Somebody before Upstox says no."""
    return Fault(answer({"message": "Forbidden"}, 403))


class UpstoxSimulator(BrokerSimulator):
    """One client's account at Upstox."""

    vendor = "UPSTOX"
    dies_at = time(3, 30)
    rates: ClassVar[Rates] = {
        "POST /v3/order/place": ((10, 1.0), (500, 60.0)),
        "PUT /v3/order/modify": ((10, 1.0), (500, 60.0)),
        "DELETE /v3/order/cancel": ((10, 1.0), (500, 60.0)),
        "GET ": ((50, 1.0), (500, 60.0)),
    }
    own_faults: ClassVar[dict[str, Callable[..., Fault]]] = {
        fault.__name__: fault for fault in (too_many, expired, refused, closed, wrong_address, internal, gateway)
    }
    secret = "u8s3cr3tOfTheApp"
    redirect_uri, user_id = "https://127.0.0.1/upstox", "7ABCDE"

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.key = "615b1297-d443-3b39-ba19-1927fbcdddc7"
        self._codes: set[str] = set()
        self._tokens: dict[str, datetime] = {}

    def make_book(self) -> Book:
        """Ids as Upstox makes them: 15 digits."""
        return Book(now=self.now, new_id=lambda count, now: f"{now.astimezone(IST):%y%m%d}{count:09d}")

    def environment(self) -> dict[str, str]:
        """See `BrokerSimulator`."""
        return {
            **super().environment(),
            "UPSTOX_INSTRUMENTS_URL": self.instruments_url,
            "UPSTOX_REDIRECT_URI": self.redirect_uri,
        }

    @property
    def instruments_url(self) -> str:
        """Where the lists of instruments are."""
        return f"{self.base_url}/market-quote/instruments/exchange"

    def credentials(self) -> dict[str, str]:
        """What an account enters; each call is a sign-in on Upstox's page."""
        held = {"api_key": self.key or "", "api_secret": self.secret, "redirect_uri": self.redirect_uri}
        return {**held, "request_token": self.code()}

    def code(self) -> str:
        """What a person gets who has signed in."""
        code = secrets.token_urlsafe(5)
        self._codes.add(code)
        return code

    def end_sessions(self) -> None:
        """No token holds any more."""
        self._tokens.clear()

    async def handle(self, request: HttpRequest) -> Answer:
        """See `VendorSimulator`."""
        open_to_all = {
            "GET /v2/login/authorization/dialog": self._dialog,
            "POST /v2/login/authorization/token": self._token,
        }
        asked = f"{request.method} {request.path}"
        if asked in open_to_all:
            return open_to_all[asked](request)
        if request.path.startswith("/market-quote/instruments/exchange/"):
            return self._instruments(request)
        if self.too_fast(request):
            return error("UDAPI10005", "Too Many Request Sent", 429)
        if not self._signed_in(request):
            return error("UDAPI100050", "Invalid token used to access API", 401)
        return self._answer(asked, request)

    def _answer(self, asked: str, request: HttpRequest) -> Answer:
        answers: dict[str, Callable[[HttpRequest], Any]] = {
            "POST /v3/order/place": self._place,
            "PUT /v3/order/modify": self._modify,
            "DELETE /v3/order/cancel": self._cancel,
            "GET /v2/order/retrieve-all": lambda _: [self._order(order) for order in self.book.orders.values()],
            "GET /v2/order/trades/get-trades-for-day": lambda _: [self._trade(trade) for trade in self.book.trades],
            "GET /v2/portfolio/short-term-positions": lambda _: layout.positions(self.book, self.instrument_key),
            "GET /v2/portfolio/long-term-holdings": lambda _: layout.holdings(self.book, self.instrument_key),
            "GET /v2/user/get-funds-and-margin": lambda _: layout.funds(self.book),
        }
        if asked not in answers:
            return error("UDAPI100060", "Resource not Found.", 404)
        try:
            data = answers[asked](request)
        except RefusedError as refused:
            code = _CODES.get(refused.kind, refused.kind)
            return error(code, str(refused), 404 if refused.kind == "order" else 400)
        if request.path.startswith("/v3/"):
            return answer({"status": "success", "data": data, "metadata": {"latency": 30}})
        return answer({"status": "success", "data": data})

    # Sessions

    def _dialog(self, request: HttpRequest) -> Answer:
        asked = query(request)
        if asked.get("client_id") != self.key or asked.get("redirect_uri") != self.redirect_uri:
            return error("UDAPI100068", "Check your 'client_id' and 'redirect_uri'; one or both are incorrect.")
        back = urlencode({"code": self.code(), **({"state": asked["state"]} if "state" in asked else {})})
        return Answer(302, b"", headers={"Location": f"{self.redirect_uri}?{back}"})

    def _token(self, request: HttpRequest) -> Answer:
        form = dict(parse_qsl(request.body.decode()))
        expected = {"client_id": self.key, "client_secret": self.secret, "redirect_uri": self.redirect_uri}
        if request.headers.get("content-type") != "application/x-www-form-urlencoded":
            return error("UDAPI100036", "Invalid Input", 400)
        if form.get("grant_type") != "authorization_code" or any(form.get(k) != v for k, v in expected.items()):
            return error("UDAPI100069", "Invalid Credentials", 401)
        if form.get("code") not in self._codes:
            return error("UDAPI100057", "Invalid Auth code", 401)
        self._codes.remove(form["code"])
        token = f"eyJ0eXAiOiJKV1QiLCJrZXlfaWQiOiJza192MS4wIn0.{secrets.token_urlsafe(32)}"
        self._tokens[token] = self.now()
        return answer(layout.signed_in(self.user_id, token))

    def _signed_in(self, request: HttpRequest) -> bool:
        made_at = self._tokens.get(request.headers.get("authorization", "").removeprefix("Bearer "))
        return made_at is not None and self.now() < self.dead_by(made_at)

    # Orders

    def _place(self, request: HttpRequest) -> dict[str, Any]:
        body = _object(request)
        for name in ("quantity", "product", "validity", "price", "instrument_token", "order_type", "transaction_type"):
            if name not in body:
                raise RefusedError("UDAPI1026", f"{name} is required")
        if body["product"] not in {"I", "D", "MTF"}:
            raise RefusedError("UDAPI1058", "The 'product' is invalid")
        if len(body.get("tag") or "") > 40:
            raise RefusedError("UDAPI1119", "The tag cannot be longer than 40 characters")
        if body.get("slice"):
            raise RefusedError("UDAPI1113", "This simulator does not slice")
        _check_words(body)
        instrument = self._instrument(body["instrument_token"])
        order = self.book.place(
            *instrument.key,
            body["transaction_type"],
            body["quantity"],
            product=layout.product(body["product"], instrument),
            price_type=body["order_type"],
            price=_price(body["price"]),
            trigger=_price(body.get("trigger_price", 0)),
            validity=body["validity"],
            tag=body.get("tag"),
        )
        return {"order_ids": [order.order_id]}

    def _modify(self, request: HttpRequest) -> dict[str, Any]:
        body = _object(request)
        for name in ("validity", "price", "order_id", "order_type", "trigger_price"):
            if name not in body:
                raise RefusedError("UDAPI1023", f"{name} is required")
        if body.get("disclosed_quantity") == 0:
            raise RefusedError("UDAPI1112", "disclosed_quantity, if given, must not be 0")
        _check_words(body)
        order = self.book.modify(
            body["order_id"],
            quantity=body.get("quantity"),
            price_type=body["order_type"],
            price=_price(body["price"]),
            trigger=_price(body["trigger_price"]),
            validity=body["validity"],
        )
        return {"order_id": order.order_id}

    def _cancel(self, request: HttpRequest) -> dict[str, Any]:
        order = self.book.cancel(query(request).get("order_id", ""))
        return {"order_id": order.order_id}

    # Rows

    def instrument_key(self, instrument: Instrument) -> str:
        """What Upstox calls it."""
        segment = _SEGMENTS[instrument.exchange]
        if instrument.kind == "INDEX":
            return f"{instrument.exchange}_INDEX|{instrument.name.title()}"
        return f"{segment}|{instrument.isin or instrument.token}"

    def _instrument(self, key: Any) -> Instrument:
        for instrument in self.book.instruments.values():
            if self.instrument_key(instrument) == key:
                return instrument
        raise RefusedError("instrument", "Invalid Instrument key")

    def _order(self, order: Order) -> dict[str, Any]:
        said = "Order expired at the end of the session" if order.status is Status.EXPIRED else order.reason
        return layout.order(order, self.instrument_key(order.instrument), _WORDS[order.status], said)

    def _trade(self, trade: Trade) -> dict[str, Any]:
        return layout.trade(trade, self.book.orders[trade.order_id], self.instrument_key(trade.instrument))

    def _instruments(self, request: HttpRequest) -> Answer:
        exchange = request.path.rpartition("/")[2].removesuffix(".json.gz")
        mine = [each for each in self.book.instruments.values() if layout.exchange_word(each) == exchange]
        rows = layout.instruments(mine, self.instrument_key)
        return Answer(200, gzip.compress(rows), "application/gzip") if mine else Answer(404, b"", "text/html")


def _object(request: HttpRequest) -> dict[str, Any]:
    body = request.json()
    if not isinstance(body, dict) or request.headers.get("content-type") != "application/json":
        raise RefusedError("UDAPI100036", "Invalid Input")
    return body


def _check_words(body: dict[str, Any]) -> None:
    for name, allowed, code in (
        ("order_type", {"MARKET", "LIMIT", "SL", "SL-M"}, "UDAPI1056"),
        ("validity", {"DAY", "IOC"}, "UDAPI1055"),
        ("transaction_type", {"BUY", "SELL", None}, "UDAPI1059"),
    ):
        if body.get(name) not in allowed:
            raise RefusedError(code, f"The '{name}' is invalid")
    protection = body.get("market_protection", 0)
    if body["order_type"] in {"MARKET", "SL-M"} and not protection:
        raise RefusedError("UDAPI1158", "Market orders without market protection are blocked")
    if not isinstance(protection, int | float) or not -1 <= protection <= 25:
        raise RefusedError("UDAPI1157", "market_protection must be -1, or between 0 and 25")


def _price(value: Any) -> Decimal | None:
    """Numbers only; 0 is none."""
    try:
        read = Decimal(str(value)) if isinstance(value, int | float) and not isinstance(value, bool) else None
    except InvalidOperation:
        read = None
    if read is None:
        raise RefusedError("UDAPI100036", "Invalid Input")
    return read or None
