"""What SmartAPI writes down: orders, trades, positions, holdings and funds. Most numbers are texts."""

from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from tests.simulators.brokers.book import IST, Book, Holding, Order, Position, Status, Trade
from tests.simulators.brokers.instruments import Instrument

STATUSES: Final = {
    Status.RECEIVED: "put order req received",
    Status.TRIGGER_PENDING: "trigger pending",
    Status.OPEN: "open",
    Status.COMPLETE: "complete",
    Status.CANCELLED: "cancelled",
    Status.REJECTED: "rejected",
    Status.EXPIRED: "cancelled",
}
PRODUCTS: Final = {"DELIVERY": "CNC", "INTRADAY": "MIS", "CARRYFORWARD": "NRML", "MARGIN": "MTF"}
PRICE_TYPES: Final = {"MARKET": "MARKET", "LIMIT": "LIMIT", "STOPLOSS_LIMIT": "SL", "STOPLOSS_MARKET": "SL-M"}
_PRODUCT_WORDS: Final = {ours: word for word, ours in PRODUCTS.items()}
_PRICE_TYPE_WORDS: Final = {ours: word for word, ours in PRICE_TYPES.items()}
_NO_CONTRACT: Final = {"instrumenttype": "", "strikeprice": "-1", "optiontype": "", "expirydate": ""}


def written_symbol(instrument: Instrument) -> str:
    """The vendor's: `RELIANCE-EQ`, `NIFTY29DEC2624500CE`, `NIFTY29DEC26FUT`; on BSE the exchange's."""
    if instrument.expiry is not None and instrument.exchange == "NFO":
        day = f"{instrument.expiry:%d%b%y}".upper()
        strike = "" if instrument.strike is None else f"{instrument.strike.normalize():f}"
        return f"{instrument.name}{day}{strike}{instrument.kind}"
    return f"{instrument.symbol}-EQ" if instrument.exchange == "NSE" else instrument.symbol


def master_row(instrument: Instrument) -> dict[str, str]:
    """Of the list of instruments; amounts in paise."""
    kind = ""
    if instrument.kind == "INDEX":
        kind = "AMXIDX"
    elif instrument.derivative:
        kind = "FUTIDX" if instrument.kind == "FUT" else "OPTIDX"
    return {
        "token": instrument.token,
        "symbol": instrument.symbol if instrument.kind == "INDEX" else written_symbol(instrument),
        "name": instrument.name or instrument.symbol,
        "expiry": f"{instrument.expiry:%d%b%Y}".upper() if instrument.expiry else "",
        "strike": f"{(instrument.strike or Decimal('-0.01')) * 100:.6f}",
        "lotsize": str(instrument.lot),
        "instrumenttype": kind,
        "exch_seg": instrument.exchange,
        "tick_size": f"{instrument.tick * 100:.6f}",
    }


def stamp(moment: datetime | None) -> str:
    """A time in India, without saying so."""
    return "" if moment is None else f"{moment.astimezone(IST):%d-%b-%Y %H:%M:%S}"


def _contract(instrument: Instrument) -> dict[str, str]:
    if instrument.expiry is None:
        return _NO_CONTRACT
    option = instrument.kind != "FUT"
    return {
        "instrumenttype": "OPTIDX" if option else "FUTIDX",
        "strikeprice": str(instrument.strike) if option else "-1",
        "optiontype": instrument.kind if option else "",
        "expirydate": f"{instrument.expiry:%d%b%Y}".upper(),
    }


def order_row(order: Order) -> dict[str, Any]:
    """Of the order book, and of the order stream."""
    return {
        "variety": order.extra.get("variety", "NORMAL"),
        "ordertype": _PRICE_TYPE_WORDS[order.price_type],
        "producttype": _PRODUCT_WORDS[order.product],
        "duration": order.validity,
        "price": order.price or 0,
        "triggerprice": order.trigger or 0,
        "quantity": str(order.quantity),
        "disclosedquantity": "0",
        "squareoff": 0,
        "stoploss": 0,
        "trailingstoploss": 0,
        "tradingsymbol": written_symbol(order.instrument),
        "transactiontype": order.side,
        "exchange": order.instrument.exchange,
        "symboltoken": order.instrument.token,
        **_contract(order.instrument),
        "lotsize": str(order.instrument.lot),
        "cancelsize": str(order.cancelled),
        "averageprice": order.average or 0,
        "filledshares": str(order.filled),
        "unfilledshares": str(order.rest),
        "orderid": order.order_id,
        "text": order.reason or "",
        "status": STATUSES[order.status],
        "orderstatus": STATUSES[order.status],
        "updatetime": stamp(order.updated_at),
        "exchtime": stamp(order.updated_at),
        "exchorderupdatetime": stamp(order.updated_at),
        "fillid": "",
        "filltime": "",
        "parentorderid": "",
        "ordertag": order.tag or "",
        "uniqueorderid": f"sim-{order.order_id}",
        "exchangeorderid": order.exchange_order_id or "",
    }


def trade_row(trade: Trade) -> dict[str, Any]:
    """Of the trade book; the time of the day alone."""
    return {
        "exchange": trade.instrument.exchange,
        "producttype": _PRODUCT_WORDS[trade.product],
        "tradingsymbol": written_symbol(trade.instrument),
        **_contract(trade.instrument),
        "symbolgroup": "" if trade.instrument.derivative else "EQ",
        "marketlot": str(trade.instrument.lot),
        "precision": "2",
        "multiplier": "-1",
        "tradevalue": f"{trade.quantity * trade.price:.2f}",
        "transactiontype": trade.side,
        "fillprice": f"{trade.price:.2f}",
        "fillsize": str(trade.quantity),
        "orderid": trade.order_id,
        "fillid": trade.trade_id,
        "filltime": f"{trade.at.astimezone(IST):%H:%M:%S}",
    }


def position_row(position: Position, last: Decimal) -> dict[str, Any]:
    """Of one instrument and product. Negative amounts have a space behind their sign."""
    bought = position.paid / position.bought if position.bought else Decimal(0)
    sold = position.received / position.sold if position.sold else Decimal(0)
    closed, value = min(position.bought, position.sold), position.received - position.paid
    return {
        "exchange": position.instrument.exchange,
        "symboltoken": position.instrument.token,
        "producttype": _PRODUCT_WORDS[position.product],
        "tradingsymbol": written_symbol(position.instrument),
        "symbolname": position.instrument.name,
        **_contract(position.instrument),
        "lotsize": str(position.instrument.lot),
        "buyqty": str(position.bought),
        "sellqty": str(position.sold),
        "buyamount": f"{position.paid:.2f}",
        "sellamount": f"{position.received:.2f}",
        "cfbuyqty": "0",
        "cfsellqty": "0",
        "buyavgprice": f"{bought:.2f}",
        "sellavgprice": f"{sold:.2f}",
        "avgnetprice": f"{position.average:.2f}",
        "netvalue": f"- {-value:.2f}" if value < 0 else f"{value:.2f}",
        "netqty": str(position.net),
        "totalbuyvalue": f"{position.paid:.2f}",
        "totalsellvalue": f"{position.received:.2f}",
        "totalbuyavgprice": f"{bought:.2f}",
        "totalsellavgprice": f"{sold:.2f}",
        "netprice": f"{position.average:.2f}",
        "ltp": f"{last:.2f}",
        "realised": f"{closed * (sold - bought):.2f}",
        "unrealised": f"{position.net * (last - position.average):.2f}",
        "pnl": f"{value + position.net * last:.2f}",
    }


def holding_row(holding: Holding, last: Decimal) -> dict[str, Any]:
    """Of the portfolio."""
    return {
        "tradingsymbol": written_symbol(holding.instrument),
        "exchange": holding.instrument.exchange,
        "isin": holding.instrument.isin,
        "t1quantity": holding.quantity,
        "realisedquantity": 0,
        "quantity": 0,
        "authorisedquantity": 0,
        "product": "DELIVERY",
        "collateralquantity": None,
        "collateraltype": None,
        "haircut": 0,
        "averageprice": holding.average,
        "ltp": last,
        "symboltoken": holding.instrument.token,
        "close": last,
        "profitandloss": holding.quantity * (last - holding.average),
        "pnlpercentage": 0,
    }


def funds(book: Book) -> dict[str, str]:
    """`getRMS`."""
    zeros = ("availableintradaypayin", "availablelimitmargin", "collateral", "m2munrealized", "m2mrealized")
    return {
        "net": f"{book.available:.4f}",
        "availablecash": f"{book.opening_cash:.4f}",
        **dict.fromkeys(zeros, "0.0000"),
        "utiliseddebits": f"{book.used:.4f}",
        "utilisedspan": "0.0000",
    }
