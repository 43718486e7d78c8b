"""Writes down what Zerodha's own library sends, for the tests to hold our requests against.

The library pulls in Twisted and autobahn and is not installed with the tests. To record anew, after it changes:

    python -m venv /tmp/sdk && /tmp/sdk/bin/pip install kiteconnect
    /tmp/sdk/bin/python tests/brokerage/zerodha/record_sdk.py

It writes `sdk_requests.json` beside itself. Needs no account and no internet: the library talks to a server of its own.
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

HEADERS = ("authorization", "content-type", "x-kite-version")


class Recorder(BaseHTTPRequestHandler):
    """Answers everything with a success that says nothing, and keeps what was asked."""

    seen: list[dict[str, Any]]

    def _take(self) -> None:
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        type(self).seen.append(
            {
                "method": self.command,
                "path": parts.path,
                "query": dict(parse_qsl(parts.query)),
                "headers": {name: self.headers[name] for name in HEADERS if name in self.headers},
                "body": dict(parse_qsl(body)) or None,
            }
        )
        answer = b'{"status": "success", "data": {}}'
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


def requests_of(address: str) -> dict[str, Any]:
    """Everything that we ask of Zerodha, as its library does."""
    from kiteconnect import KiteConnect

    fresh = KiteConnect("the-key", root=address)
    kite = KiteConnect("the-key", access_token="the-token", root=address)

    def place(order_type: str, **more: Any) -> object:
        named = {"variety": "regular", "exchange": "NSE", "tradingsymbol": "RELIANCE", "transaction_type": "BUY"}
        named |= {"quantity": 10, "product": "CNC", "validity": "DAY", "tag": "arrowtag0001"}
        return kite.place_order(order_type=order_type, **named, **more)

    def modify(order_type: str, **more: Any) -> object:
        return kite.modify_order(
            "regular", "261123000000001", quantity=5, order_type=order_type, validity="DAY", **more
        )

    return record(
        {
            "sign_in": lambda: fresh.generate_session("the-request-token", "the-secret"),
            "place_limit": lambda: place("LIMIT", price="1500.1"),
            "place_market": lambda: place("MARKET", market_protection=-1),
            "place_sl": lambda: place("SL", price="1500.1", trigger_price="1499.5"),
            "place_slm": lambda: place("SL-M", trigger_price="1499.5", market_protection=-1),
            "modify": lambda: modify("LIMIT", price="1501.5"),
            "modify_to_market": lambda: modify("MARKET", market_protection=-1),
            "cancel": lambda: kite.cancel_order("regular", "261123000000001"),
            "orders": kite.orders,
            "trades": kite.trades,
            "positions": kite.positions,
            "holdings": kite.holdings,
            "funds": kite.margins,
        }
    )


def main() -> None:
    """Record."""
    server = HTTPServer(("127.0.0.1", 0), Recorder)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    found = requests_of(f"http://127.0.0.1:{server.server_port}")
    found = {"library": f"kiteconnect {metadata.version('kiteconnect')}", "requests": found}
    (Path(__file__).parent / "sdk_requests.json").write_text(json.dumps(found, indent=1) + "\n")
    server.shutdown()


if __name__ == "__main__":
    main()
