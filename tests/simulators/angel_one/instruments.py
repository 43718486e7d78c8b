"""The file of instruments: rows of all kinds, junk among them, and the ways in which it arrives wrong."""

import gzip
import hashlib
import json
from collections.abc import Iterable
from typing import Any

from tests.simulators.angel_one.http import Answer, HttpFault, HttpRequest
from tests.simulators.angel_one.market import Listing, master

FileRow = dict[str, Any]


class InstrumentFile:
    """Serves the file; a test changes `rows`, the file's entity tag follows."""

    def __init__(self, listings: Iterable[Listing], *, rows: int = 0, tagged: bool = True, packed: bool = True) -> None:
        """`rows`: how many options beside the listings. `tagged`: with an `ETag`. `packed`: gzip for who takes it."""
        self._rows: list[FileRow] = master(listings, rows)
        self._bodies: dict[bool, bytes] = {}
        self.tagged, self.packed = tagged, packed

    @property
    def rows(self) -> list[FileRow]:
        """What is in it; assign another list to change it."""
        return self._rows

    @rows.setter
    def rows(self, rows: Iterable[FileRow]) -> None:
        self._rows = list(rows)
        self._bodies.clear()

    def body(self, *, packed: bool = False) -> bytes:
        """The file."""
        if not self._bodies:
            text = json.dumps(self._rows).encode()
            self._bodies = {False: text, True: gzip.compress(text, 1)}
        return self._bodies[packed]

    def answer(self, request: HttpRequest) -> Answer:
        """To a GET."""
        packed = self.packed and "gzip" in request.headers.get("accept-encoding", "")
        body = self.body(packed=packed)
        headers = {"ETag": f'"{hashlib.sha256(self.body()).hexdigest()[:16]}"'} if self.tagged else {}
        if self.tagged and request.headers.get("if-none-match") == headers["ETag"]:
            return Answer(304, headers=headers)
        return Answer(200, body, headers=headers | ({"Content-Encoding": "gzip"} if packed else {}))

    def cut(self, after: int) -> HttpFault:
        """A file that ends in the middle, by its headers whole."""
        return HttpFault(Answer(200, self.body()[:after]))

    def with_rows(self, rows: Iterable[FileRow]) -> HttpFault:
        """Another file, once."""
        return HttpFault(Answer(200, json.dumps(list(rows)).encode()))


def share(token: str, symbol: str, name: str = "", *, exchange: str = "NSE", **more: str) -> FileRow:
    """A row of the cash segment, as the vendor writes it."""
    return {
        "token": token,
        "symbol": symbol,
        "name": name or symbol.partition("-")[0],
        "expiry": "",
        "strike": "-1.000000",
        "lotsize": "1",
        "instrumenttype": "",
        "exch_seg": exchange,
        "tick_size": "10.000000",
        **more,
    }


def index(token: str, symbol: str, name: str, *, exchange: str = "NSE") -> FileRow:
    """A row of an index."""
    return share(token, symbol, name, exchange=exchange, instrumenttype="AMXIDX", tick_size="0.000000")


def option(token: str, symbol: str, name: str, expiry: str, strike: int, *, exchange: str = "NFO") -> FileRow:
    """A row of an option; `strike` in rupees, `expiry` as `26NOV2026`."""
    more = {"expiry": expiry, "strike": f"{strike * 100}.000000", "lotsize": "65"}
    return share(token, symbol, name, exchange=exchange, instrumenttype="OPTIDX", tick_size="5.000000", **more)


REAL_INDICES = (
    share("26000", "NIFTY"),
    index("99926000", "Nifty 50", "NIFTY"),
    share("26009", "BANKNIFTY"),
    index("99926009", "Nifty Bank", "BANKNIFTY"),
    index("99926017", "India VIX", "INDIA VIX"),
    index("99926018", "Nifty Realty", "NIFTY REALTY"),
    index("99926037", "Nifty Fin Service", "FINNIFTY"),
    index("99926074", "NIFTY MID SELECT", "MIDCPNIFTY"),
    index("99919000", "SENSEX", "SENSEX", exchange="BSE"),
    index("99919012", "BANKEX", "BANKEX", exchange="BSE"),
)
"""The indices as the vendor lists them: 99926017 and 99926018 are not what the service's defaults call them."""
