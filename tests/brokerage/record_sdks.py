"""Writes down what Upstox's and Groww's own libraries send, for the tests to hold our requests against.

The libraries pull in pandas, NATS and protobuf and are not installed with the tests. To record anew, after they change:

    python -m venv /tmp/sdks && /tmp/sdks/bin/pip install upstox-python-sdk growwapi
    /tmp/sdks/bin/python tests/brokerage/record_sdks.py

It writes `upstox/sdk_requests.json` and `groww/sdk_requests.json` beside itself. Needs no account and no internet: the
libraries talk to a server of its own.
"""

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

HEADERS = ("authorization", "content-type", "x-api-version")


class Recorder(BaseHTTPRequestHandler):
    """Answers everything with an empty success, and keeps what was asked."""

    seen: list[dict[str, Any]]

    def _take(self) -> None:
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        is_form = "form-urlencoded" in self.headers.get("Content-Type", "")
        type(self).seen.append(
            {
                "method": self.command,
                "path": parts.path,
                "query": dict(parse_qsl(parts.query)),
                "headers": {name: self.headers[name] for name in HEADERS if name in self.headers},
                "body": (dict(parse_qsl(body)) if is_form else json.loads(body)) if body else None,
            }
        )
        answer = b'{"status": "success", "payload": {}, "token": "t", "data": null}'
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = do_PUT = do_DELETE = _take  # noqa: N815 (the library's names)

    def log_message(self, *_arguments: Any) -> None:
        """Nothing."""


def record(calls: dict[str, Callable[[], object]]) -> dict[str, Any]:
    """What each call sends."""
    found = {}
    for name, call in calls.items():
        Recorder.seen = []
        with suppress(Exception):  # what the library makes of the answer does not matter
            call()
        assert len(Recorder.seen) == 1, (name, Recorder.seen)
        found[name] = Recorder.seen[0]
    return found


def upstox(address: str) -> dict[str, Any]:
    """Upstox's library."""
    import upstox_client as sdk

    settings = sdk.Configuration()
    settings.host = settings.order_host = address
    settings.access_token = "the-token"
    client = sdk.ApiClient(settings)
    orders, portfolio = sdk.OrderApiV3(client), sdk.PortfolioApi(client)

    def place(order_type: str, price: float, trigger: float, **more: Any) -> object:
        body = sdk.PlaceOrderV3Request(
            quantity=10, product="D", validity="DAY", price=price, tag="arrowtag0001", slice=False,
            instrument_token="NSE_EQ|INE002A01018", order_type=order_type, transaction_type="BUY",
            disclosed_quantity=0, trigger_price=trigger, is_amo=False, **more,
        )  # fmt: skip
        return orders.place_order(body)

    changed = sdk.ModifyOrderRequest(
        quantity=5, validity="DAY", price=1501.5, order_id="250101000000001", order_type="LIMIT", trigger_price=0
    )
    return record(
        {
            "sign_in": lambda: sdk.LoginApi(sdk.ApiClient(settings)).token(
                "2.0", code="the-code", client_id="the-key", client_secret="the-secret",
                redirect_uri="https://127.0.0.1/upstox", grant_type="authorization_code",
            ),
            "place_limit": lambda: place("LIMIT", 1500.1, 0),
            "place_market": lambda: place("MARKET", 0, 0, market_protection=-1),
            "place_sl": lambda: place("SL", 1500.1, 1499.5),
            "place_slm": lambda: place("SL-M", 0, 1499.5, market_protection=-1),
            "modify": lambda: orders.modify_order(changed),
            "cancel": lambda: orders.cancel_order("250101000000001"),
            "orders": lambda: sdk.OrderApi(client).get_order_book("2.0"),
            "trades": lambda: sdk.OrderApi(client).get_trade_history("2.0"),
            "positions": lambda: portfolio.get_positions("2.0"),
            "holdings": lambda: portfolio.get_holdings("2.0"),
            "funds": lambda: sdk.UserApi(client).get_user_fund_margin("2.0"),
        }
    )  # fmt: skip


def groww(address: str) -> dict[str, Any]:
    """Groww's library."""
    import time

    import requests
    from growwapi import GrowwAPI

    plain, now = requests.post, time.time
    # Its address of sign-ins is a constant; and it asks for news, and prints, when it is made.
    requests.post = lambda url, **named: plain(url.replace("https://api.groww.in", address), **named)
    GrowwAPI._display_changelog = lambda *_: None
    api = GrowwAPI("the-token")
    api.domain = f"{address}/v1"
    time.time = lambda: 1_790_000_000.7
    common = {"validity": "DAY", "exchange": "NSE", "product": "CNC", "quantity": 10, "segment": "CASH"}
    common |= {"trading_symbol": "RELIANCE", "transaction_type": "BUY", "order_reference_id": "arrowtag0001"}
    try:
        return record(
            {
                "sign_in_totp": lambda: GrowwAPI.get_access_token("the-key", totp="123456"),
                "sign_in_secret": lambda: GrowwAPI.get_access_token("the-key", secret="the-secret"),
                "place_limit": lambda: api.place_order(order_type="LIMIT", price=1500.1, **common),
                "place_market": lambda: api.place_order(order_type="MARKET", **common),
                "place_sl": lambda: api.place_order(order_type="SL", price=1500.1, trigger_price=1499.5, **common),
                "place_slm": lambda: api.place_order(order_type="SL_M", trigger_price=1499.5, **common),
                "modify": lambda: api.modify_order("LIMIT", "CASH", "GMK39039RDT001CCVRO", 5, price=1501.5),
                "cancel": lambda: api.cancel_order("GMK39039RDT001CCVRO", "CASH"),
                "by_reference": lambda: api.get_order_status_by_reference("CASH", "arrowtag0001"),
                "orders": lambda: api.get_order_list(segment="CASH"),
                "trades": lambda: api.get_trade_list_for_order("GMK39039RDT001CCVRO", "CASH"),
                "positions": lambda: api.get_positions_for_user("CASH"),
                "holdings": api.get_holdings_for_user,
                "funds": api.get_available_margin_details,
            }
        )
    finally:
        requests.post, time.time = plain, now


def main() -> None:
    """Record both."""
    server = HTTPServer(("127.0.0.1", 0), Recorder)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    for name, package, ask in (("upstox", "upstox-python-sdk", upstox), ("groww", "growwapi", groww)):
        found = {"library": f"{package} {metadata.version(package)}", "requests": ask(address)}
        (Path(__file__).parent / name / "sdk_requests.json").write_text(json.dumps(found, indent=1) + "\n")
    server.shutdown()


if __name__ == "__main__":
    main()
