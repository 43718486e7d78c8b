"""From what people write to instruments."""

import pytest

from app.market_data.listings import ListingTable, TableBuilder
from app.market_data.naming import UnknownInstrumentError, doubt_of, instrument_of, refer, resolve, unlisted_default
from app.market_data.ports import DEFAULT_INSTRUMENTS, Instrument


def made() -> ListingTable:
    builder = TableBuilder()
    for exchange, token, symbol, name, kind in (
        ("NSE", "26000", "NIFTY", "NIFTY", ""),
        ("NSE", "99926000", "NIFTY 50", "NIFTY", "AMXIDX"),
        ("NSE", "26009", "BANKNIFTY", "BANKNIFTY", ""),
        ("NSE", "99926009", "NIFTY BANK", "BANKNIFTY", "AMXIDX"),
        ("NSE", "99926037", "NIFTY FIN SERVICE", "FINNIFTY", "AMXIDX"),
        ("NSE", "99926074", "NIFTY MID SELECT", "MIDCPNIFTY", "AMXIDX"),
        ("NSE", "99926017", "INDIA VIX", "INDIA VIX", "AMXIDX"),
        ("BSE", "99919000", "SENSEX", "SENSEX", "AMXIDX"),
        ("NSE", "2885", "RELIANCE-EQ", "RELIANCE", ""),
        ("NSE", "9999", "RELIANCE-BE", "RELIANCE", ""),
        ("BSE", "500325", "RELIANCE", "RELIANCE", ""),
        ("NFO", "2885", "NIFTY26NOVFUT", "NIFTY", "FUTIDX"),
        ("NFO", "77", "RELIANCE26NOVFUT", "RELIANCE", "FUTSTK"),
    ):
        builder.add(exchange, token, symbol, name, kind, "2026-11-26" if kind.startswith("FUT") else "")
    return builder.build()


TABLE = made()


@pytest.mark.parametrize(
    ("text", "place", "symbol"),
    [
        ("RELIANCE", "NSE:2885", "RELIANCE-EQ"),
        ("reliance-eq", "NSE:2885", "RELIANCE-EQ"),
        ("RELIANCE-BE", "NSE:9999", "RELIANCE-BE"),
        ("BSE:RELIANCE", "BSE:500325", "RELIANCE"),
        ("NSE:2885", "NSE:2885", "RELIANCE-EQ"),
        (" nse : 2885 ", "NSE:2885", "RELIANCE-EQ"),
        ("BSE:500325", "BSE:500325", "RELIANCE"),
        ("500325", "BSE:500325", "RELIANCE"),
        ("RELIANCE26NOVFUT", "NFO:77", "RELIANCE26NOVFUT"),
        ("NIFTY", "NSE:99926000", "NIFTY 50"),
        ("Nifty  50", "NSE:99926000", "NIFTY 50"),
        ("BANKNIFTY", "NSE:99926009", "BANKNIFTY"),
        ("Nifty Bank", "NSE:99926009", "BANKNIFTY"),
        ("FINNIFTY", "NSE:99926037", "FINNIFTY"),
        ("MIDCPNIFTY", "NSE:99926074", "MIDCPNIFTY"),
        ("SENSEX", "BSE:99919000", "SENSEX"),
        ("NSE:99926017", "NSE:99926017", "INDIA VIX"),
    ],
)
def test_what_people_write(text: str, place: str, symbol: str):
    listing = resolve(refer(text), TABLE)
    assert (listing.place, instrument_of(listing).symbol) == (place, symbol)


@pytest.mark.parametrize(
    ("text", "reason", "near"),
    [
        ("RELAINCE", "no such instrument; RELIANCE", "RELIANCE"),
        ("NFO:RELIANCE-EQ", "no such instrument on NFO", None),
        ("2885", "NSE:2885 and NFO:2885 are different", "NFO:2885"),
        ("NSE:1", "NSE lists no such token", None),
        ("123456", "there is no such token", None),
        ("MCX:GOLD", "MCX cannot be followed", None),
        ("NYSE:IBM", "NYSE is no exchange", None),
        ("", "no such instrument", None),
    ],
)
def test_what_cannot_be_found(text: str, reason: str, near: str | None):
    with pytest.raises(UnknownInstrumentError, match=reason) as caught:
        resolve(refer(text), TABLE)
    assert near is None or near in caught.value.near


JUNK = ("NSE", "2", "NIFTY 50", "NIFTY", "AMXIDX")


@pytest.mark.parametrize("text", ["NIFTY 50", "nifty 50", "NSE:NIFTY 50", "NIFTY"])
def test_a_junk_row_takes_the_place_of_no_built_in_index(text: str):
    """The row before in the list, and the like of the index in all but its token: nothing would ever come of it."""
    builder = TableBuilder()
    for row in (JUNK, ("NSE", "99926000", *JUNK[2:]), ("NSE", "999999999", *JUNK[2:])):
        builder.add(*row)
    assert resolve(refer(text), builder.build()).place == "NSE:99926000"


def test_of_two_that_are_alike_none_is_taken():
    builder = TableBuilder()
    builder.add("NSE", "2", "NIFTY REALTY", "NIFTY REALTY", "AMXIDX")
    builder.add("NSE", "99926999", "NIFTY REALTY", "NIFTY REALTY", "AMXIDX")
    for token, symbol in (("11", "NHAI-N1"), ("12", "NHAI-N2"), ("13", "NHAI-N3"), ("21", "ABC-BE"), ("22", "ABC-EQ")):
        builder.add("NSE", token, symbol, symbol.partition("-")[0], "")
    table = builder.build()
    for text, reason, near in (
        (
            "Nifty Realty",
            "NSE:2 (NIFTY REALTY) and NSE:99926999 (NIFTY REALTY) are equally likely: name one",
            ["NSE:2", "NSE:99926999"],
        ),
        (
            "NHAI",
            "NSE:11 (NHAI-N1) and NSE:12 (NHAI-N2) are equally likely, like 1 more: name one",
            ["NSE:11", "NSE:12", "NSE:13"],
        ),
    ):
        with pytest.raises(UnknownInstrumentError) as caught:
            resolve(refer(text), table)
        assert (caught.value.reason, caught.value.near) == (reason, near)
        assert [resolve(refer(place), table).place for place in near] == near, "what is offered can be named"
    assert resolve(refer("NHAI-N2"), table).place == "NSE:12"
    assert resolve(refer("ABC"), table).place == "NSE:22"


def test_without_a_list_the_six_indices_are_known():
    with pytest.raises(UnknownInstrumentError, match="not here yet"):
        resolve(refer("RELIANCE"), None)
    assert unlisted_default(refer("bankNifty")) == DEFAULT_INSTRUMENTS[1]
    assert unlisted_default(refer("NSE:99926000")) == DEFAULT_INSTRUMENTS[0]
    assert unlisted_default(refer("BSE:SENSEX")) is None
    assert unlisted_default(refer("RELIANCE")) is None


def test_the_list_speaks_against_tokens():
    doubts = {default.symbol: doubt_of(default, TABLE) for default in DEFAULT_INSTRUMENTS}
    assert {symbol for symbol, doubt in doubts.items() if doubt is None} == {
        "NIFTY 50", "BANKNIFTY", "FINNIFTY", "MIDCPNIFTY",
    }  # fmt: skip
    assert doubts["SENSEX"] == (
        "NSE:99926017 is INDIA VIX by the list of instruments, not SENSEX. SENSEX is BSE:99919000."
    )
    assert doubts["BANKEX"] == "NSE:99926018 is not in the list of instruments."
    assert doubt_of(DEFAULT_INSTRUMENTS[4], None) is None
    assert doubt_of(Instrument("RELIANCE-EQ", "2885", "NSE", 1, "EQ"), TABLE) is None
