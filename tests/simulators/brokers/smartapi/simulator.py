"""SmartAPI on this machine: login, orders and books for one account; the rest as in `tests.simulators.angel_one`.

There are no ends at a time of day here: a token says of itself when it dies, after `token_lifetime`.
"""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, ClassVar, Final

from tests.simulators.angel_one.account import Account, Sessions
from tests.simulators.angel_one.http import Answer, HttpRequest
from tests.simulators.angel_one.instruments import InstrumentFile
from tests.simulators.angel_one.market import Market
from tests.simulators.angel_one.rest import INSTRUMENTS, LOGIN, Rest
from tests.simulators.brokers.book import Book, Order, RefusedError
from tests.simulators.brokers.instruments import Instrument
from tests.simulators.brokers.server import After, BrokerSimulator, Rates
from tests.simulators.brokers.smartapi import rows
from tests.simulators.vendor import Fault, answer

ORDERS: Final = "/rest/secure/angelbroking/order/v1/"
HOLDINGS: Final = "/rest/secure/angelbroking/portfolio/v1/getAllHolding"
FUNDS: Final = "/rest/secure/angelbroking/user/v1/getRMS"
_CODES: Final = {
    "instrument": "AB1009",
    "order": "AB1013",
    "quantity": "AB4001",  # the vendor has more codes than it documents
    "price": "AB4002",
    "state": "AB4003",
}


def error(code: str, message: str) -> Answer:
    """HTTP 200 and `status: false`."""
    return answer({"message": message, "errorcode": code, "status": False, "data": None})


def too_many() -> Fault:
    """403 in plain text."""
    return Fault(Answer(403, b"Access denied because of exceeding access rate", "text/plain"))


def expired() -> Fault:
    """The gateway does not know the token any more."""
    return Fault(answer({"success": False, "message": "Invalid Token", "errorCode": "AG8001", "data": ""}))


def refused(message: str = "TPIN is not validated", code: str = "AB4013") -> Fault:
    """At the door: there is no such order."""
    return Fault(error(code, message))


def internal(code: str = "AB1004", message: str = "Something Went Wrong, Please Try After Sometime") -> Fault:
    """Not carried out, in words that say nothing."""
    return Fault(error(code, message))


def internal_after(code: str = "AB1004", message: str = "Something Went Wrong, Please Try After Sometime") -> Fault:
    """Carried out, in the same words."""
    return After(instead=error(code, message))


def no_data() -> Fault:
    """Carried out, a success, and nothing in it."""
    return After(instead=answer({"status": True, "message": "SUCCESS", "errorcode": "", "data": None}))


class SmartApiSimulator(BrokerSimulator):
    """Use as an asynchronous context manager; then give the service `environment()`."""

    vendor = "ANGEL_ONE"
    rates: ClassVar[Rates] = {
        LOGIN: ((1, 1.0),),
        **{f"{ORDERS}{call}": ((1, 1.0),) for call in ("getOrderBook", "getTradeBook", "getPosition")},
        HOLDINGS: ((1, 1.0),),
        FUNDS: ((2, 1.0),),
        **{f"{ORDERS}{call}": ((20, 1.0), (500, 60.0)) for call in ("placeOrder", "modifyOrder", "cancelOrder")},
    }
    own_faults: ClassVar[dict[str, Callable[..., Fault]]] = {
        fault.__name__: fault for fault in (too_many, expired, refused, internal, internal_after, no_data)
    }

    def __init__(
        self,
        book: Book | None = None,
        *,
        account: Account | None = None,
        token_lifetime: timedelta = timedelta(hours=24),
        **options: Any,
    ) -> None:
        """`options`: see `BrokerSimulator`."""
        super().__init__(book, **options)
        self.account = account or Account()
        self.sessions = Sessions(self.account, self.now, token_lifetime)
        self.streams: list[asyncio.Queue[dict[str, Any]]] = []
        """Order events go into each of these."""
        listed = self.book.instruments.values()
        # The junk of market data's file is good here, too.
        file = InstrumentFile(Market().listings.values())
        file.rows = [*(rows.master_row(each) for each in listed), *file.rows[-7:]]
        self._rest = Rest(self.account, self.sessions, Market(), self.now, rates={}, instruments=file)
        self._by_token = {(each.exchange, each.token): each for each in listed}
        self.book.on_change(self._tell)

    def environment(self) -> dict[str, str]:
        """See `BrokerSimulator`."""
        return {
            "ANGEL_ONE_BASE_URL": self.base_url,
            "ANGEL_ONE_INSTRUMENTS_URL": f"{self.base_url}{INSTRUMENTS}",
        }

    def credentials(self) -> dict[str, str]:
        """See `BrokerSimulator`."""
        account = self.account
        return {
            "api_key": account.api_key,
            "client_id": account.client_code,
            "password": account.pin,
            "totp_key": account.totp_secret,
        }

    def event(self, order: Order) -> dict[str, Any]:
        """What the order stream says of this order now."""
        codes = {"open": "AB01", "complete": "AB05", "rejected": "AB03", "cancelled": "AB02"}
        row = rows.order_row(order)
        return {
            "user-id": self.account.client_code,
            "status-code": "200",
            "order-status": codes.get(row["orderstatus"], "AB09"),
            "error-message": "",
            "orderData": row,
        }

    def _tell(self, order: Order) -> None:
        for stream in self.streams:
            stream.put_nowait(self.event(order))

    async def handle(self, request: HttpRequest) -> Answer:
        """See `VendorSimulator`."""
        path = request.path
        if self.too_fast(request):
            limited = too_many().answer
            assert limited is not None
            return limited
        if not (path.startswith(ORDERS) or path in {HOLDINGS, FUNDS}):
            return await self._rest.handle(request)
        if request.headers.get("x-privatekey") != self.account.api_key:
            return answer({"success": False, "message": "Invalid API Key", "errorCode": "AG8004", "data": ""})
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        fault = self.sessions.jwt_fault(token if scheme == "Bearer" else None)
        if fault is not None:
            return answer({"success": False, "message": fault[1], "errorCode": fault[0], "data": ""})
        return self._answered(request)

    def _answered(self, request: HttpRequest) -> Answer:
        try:
            data = self._done(request)
        except RefusedError as refusal:
            return error(_CODES[refusal.kind], refusal.reason)
        except (KeyError, InvalidOperation, ValueError, TypeError) as wrong:
            return error("AB1007", f"INVALID PARAMETERS: {wrong}")
        # An empty list is null there.
        return answer({"status": True, "message": "SUCCESS", "errorcode": "", "data": data or None})

    def _done(self, request: HttpRequest) -> Any:
        book, path = self.book, request.path
        reads: dict[str, Callable[[], Any]] = {
            f"{ORDERS}getOrderBook": lambda: [rows.order_row(order) for order in book.orders.values()],
            f"{ORDERS}getTradeBook": lambda: [rows.trade_row(trade) for trade in book.trades],
            f"{ORDERS}getPosition": lambda: [
                rows.position_row(each, book.prices[each.instrument.key]) for each in book.positions()
            ],
            HOLDINGS: self._holdings,
            FUNDS: lambda: rows.funds(book),
        }
        if request.method == "GET" and path in reads:
            return reads[path]()
        acts = {f"{ORDERS}{name}": act for name, act in self._acts().items()}
        body = request.json()
        if request.method != "POST" or path not in acts or not isinstance(body, dict):
            raise ValueError(f"no {request.method} {path}")
        if not all(isinstance(value, str) for value in body.values()):
            raise TypeError("values are texts")
        order = acts[path](body)
        return {"script": rows.written_symbol(order.instrument), **_ids(order)}

    def _acts(self) -> dict[str, Callable[[dict[str, str]], Order]]:
        return {"placeOrder": self._place, "modifyOrder": self._modify, "cancelOrder": self._cancel}

    def _holdings(self) -> dict[str, Any] | None:
        held = self.book.holdings
        if not held:
            return None
        found = [rows.holding_row(each, self.book.prices[each.instrument.key]) for each in held]
        return {"holdings": found, "totalholding": {"totalholdingvalue": 0}}

    def _place(self, body: dict[str, str]) -> Order:
        if len(body.get("ordertag", "")) >= 20:
            raise ValueError("ordertag length should be less than 20 characters")
        instrument = self._instrument(body)
        return self.book.place(
            instrument.exchange,
            instrument.symbol,
            body["transactiontype"],
            int(body["quantity"]),
            product=rows.PRODUCTS[body["producttype"]],
            price_type=_price_type(body),
            price=_amount(body.get("price")),
            trigger=_amount(body.get("triggerprice")),
            validity=body["duration"],
            tag=body.get("ordertag") or None,
            variety=body["variety"],
        )

    def _modify(self, body: dict[str, str]) -> Order:
        self._instrument(body)
        self._same_variety(body)
        return self.book.modify(
            body["orderid"],
            quantity=int(body["quantity"]),
            price_type=rows.PRICE_TYPES[body["ordertype"]],
            price=_amount(body.get("price")),
            trigger=_amount(body.get("triggerprice")),
            validity=body["duration"],
        )

    def _cancel(self, body: dict[str, str]) -> Order:
        self._same_variety(body)
        return self.book.cancel(body["orderid"])

    def _same_variety(self, body: dict[str, str]) -> None:
        order = self.book.orders.get(body["orderid"])
        if order is None or order.extra.get("variety") != body["variety"]:
            raise RefusedError("order", "Order not found")

    def _instrument(self, body: dict[str, str]) -> Instrument:
        found = self._by_token.get((body["exchange"], body["symboltoken"]))
        if found is None or rows.written_symbol(found) != body["tradingsymbol"]:
            raise RefusedError("instrument", "Symbol Not Found")
        return found


def _price_type(body: dict[str, str]) -> str:
    price_type = rows.PRICE_TYPES[body["ordertype"]]
    if (body["variety"] == "STOPLOSS") != price_type.startswith("SL"):
        raise ValueError("variety and ordertype do not fit")
    return price_type


def _ids(order: Order) -> dict[str, str]:
    return {"orderid": order.order_id, "uniqueorderid": f"sim-{order.order_id}"}


def _amount(text: str | None) -> Decimal | None:
    read = Decimal(text) if text else None
    return read or None
