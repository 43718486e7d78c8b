"""What Kite Connect writes down: orders, trades, positions, holdings, margins and the list of instruments."""

import csv
import io
from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from tests.simulators.brokers.book import IST, Book, Holding, Order, Position, Status, Trade
from tests.simulators.brokers.instruments import Instrument

STATUSES: Final = {
    Status.RECEIVED: "PUT ORDER REQ RECEIVED",
    Status.TRIGGER_PENDING: "TRIGGER PENDING",
    Status.OPEN: "OPEN",
    Status.COMPLETE: "COMPLETE",
    Status.CANCELLED: "CANCELLED",
    Status.REJECTED: "REJECTED",
    Status.EXPIRED: "CANCELLED",  # so Kite has it at the end of the day
}
_COLUMNS: Final = (
    "instrument_token", "exchange_token", "tradingsymbol", "name", "last_price", "expiry", "strike", "tick_size",
    "lot_size", "instrument_type", "segment", "exchange",
)  # fmt: skip


def stamp(moment: datetime | None) -> str | None:
    """A time in India, without saying so."""
    return None if moment is None else f"{moment.astimezone(IST):%Y-%m-%d %H:%M:%S}"


def token_of(instrument: Instrument) -> int:
    """Kite's own number."""
    return int(instrument.token) * 256 + 1


def order_row(order: Order, user_id: str) -> dict[str, Any]:
    """Of the order book, and of a postback."""
    reached = order.exchange_order_id is not None
    return {
        "placed_by": user_id,
        "order_id": order.order_id,
        "exchange_order_id": order.exchange_order_id,
        "parent_order_id": None,
        "status": STATUSES[order.status],
        "status_message": order.reason,
        "status_message_raw": order.reason,
        "order_timestamp": stamp(order.placed_at),
        "exchange_update_timestamp": stamp(order.updated_at) if reached else None,
        "exchange_timestamp": stamp(order.placed_at) if reached else None,
        "variety": "regular",
        "modified": bool(order.extra.get("modified")),
        "exchange": order.instrument.exchange,
        "tradingsymbol": order.instrument.symbol,
        "instrument_token": token_of(order.instrument),
        "order_type": order.price_type,
        "transaction_type": order.side,
        "validity": order.validity,
        "validity_ttl": 0,
        "product": order.product,
        "quantity": order.quantity,
        "disclosed_quantity": 0,
        "price": order.price or 0,
        "trigger_price": order.trigger or 0,
        "average_price": order.average or 0,
        "filled_quantity": order.filled,
        "pending_quantity": order.rest,
        "cancelled_quantity": order.cancelled,
        "market_protection": 0,
        "meta": {},
        "tag": order.tag,
        "tags": [order.tag] if order.tag else [],
        "guid": f"1sim{order.order_id}",
    }


def trade_row(trade: Trade, order: Order | None) -> dict[str, Any]:
    """Of the trade book."""
    return {
        "trade_id": trade.trade_id,
        "order_id": trade.order_id,
        "exchange_order_id": order.exchange_order_id if order else None,
        "exchange": trade.instrument.exchange,
        "tradingsymbol": trade.instrument.symbol,
        "instrument_token": token_of(trade.instrument),
        "product": trade.product,
        "average_price": trade.price,
        "quantity": trade.quantity,
        "transaction_type": trade.side,
        "fill_timestamp": stamp(trade.at),
        "order_timestamp": f"{trade.at.astimezone(IST):%H:%M:%S}",
        "exchange_timestamp": stamp(trade.at),
    }


def position_row(position: Position, last: Decimal) -> dict[str, Any]:
    """Of `net`."""
    net, closed = position.net, min(position.bought, position.sold)
    bought = position.paid / position.bought if position.bought else Decimal(0)
    sold = position.received / position.sold if position.sold else Decimal(0)
    realised = closed * (sold - bought)
    return {
        "tradingsymbol": position.instrument.symbol,
        "exchange": position.instrument.exchange,
        "instrument_token": token_of(position.instrument),
        "product": position.product,
        "quantity": net,
        "overnight_quantity": 0,
        "multiplier": 1,
        "average_price": position.average,
        "close_price": 0,
        "last_price": last,
        "value": position.received - position.paid,
        "pnl": position.received - position.paid + net * last,
        "m2m": position.received - position.paid + net * last,
        "unrealised": net * (last - position.average),
        "realised": realised,
        "buy_quantity": position.bought,
        "buy_price": bought,
        "buy_value": position.paid,
        "sell_quantity": position.sold,
        "sell_price": sold,
        "sell_value": position.received,
    }


def holding_row(holding: Holding, last: Decimal) -> dict[str, Any]:
    """Of the portfolio; what was bought yesterday is under `t1_quantity`."""
    return {
        "tradingsymbol": holding.instrument.symbol,
        "exchange": holding.instrument.exchange,
        "instrument_token": token_of(holding.instrument),
        "isin": holding.instrument.isin,
        "product": "CNC",
        "price": 0,
        "quantity": 0,
        "used_quantity": 0,
        "t1_quantity": holding.quantity,
        "realised_quantity": 0,
        "opening_quantity": holding.quantity,
        "collateral_quantity": 0,
        "collateral_type": "",
        "discrepancy": False,
        "average_price": holding.average,
        "last_price": last,
        "close_price": last,
        "pnl": holding.quantity * (last - holding.average),
    }


def margins(book: Book) -> dict[str, Any]:
    """Both segments."""
    zeros = dict.fromkeys(("exposure", "m2m_realised", "m2m_unrealised", "option_premium", "payout", "span"), 0)
    equity = {
        "enabled": True,
        "net": book.available,
        "available": {
            "adhoc_margin": 0,
            "cash": book.opening_cash,
            "opening_balance": book.opening_cash,
            "live_balance": book.available,
            "collateral": 0,
            "intraday_payin": 0,
        },
        "utilised": {"debits": book.used, **zeros},
    }
    commodity = {"enabled": False, "net": 0, "available": {"cash": 0}, "utilised": {"debits": 0, **zeros}}
    return {"equity": equity, "commodity": commodity}


def instruments(listed: Iterable[Instrument]) -> bytes:
    """The list, junk and other exchanges among it, as in every day's."""
    written = io.StringIO()
    rows = csv.writer(written, lineterminator="\n")
    rows.writerow(_COLUMNS)
    for each in listed:
        segment = "INDICES" if each.kind == "INDEX" else each.exchange
        if each.derivative:
            segment = f"{each.exchange}-{'FUT' if each.kind == 'FUT' else 'OPT'}"
        rows.writerow(
            [
                token_of(each),
                each.token,
                each.symbol,
                each.name,
                0,
                each.expiry.isoformat() if each.expiry else "",
                each.strike or 0,
                each.tick,
                each.lot,
                "EQ" if each.kind == "INDEX" else each.kind,
                segment,
                each.exchange,
            ]
        )
    rows.writerow([1, 1, "SILVER26DECFUT", "SILVER", 0, "2026-12-04", 0, 1, 1, "FUT", "MCX-FUT", "MCX"])
    rows.writerow([2, 2, "NO TICK", "JUNK", 0, "", 0, 0, 1, "EQ", "NSE", "NSE"])
    rows.writerow([3, 3, "SHORT"])
    return written.getvalue().encode()
