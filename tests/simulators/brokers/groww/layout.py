"""How Groww writes things down."""

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from tests.simulators.brokers.book import IST, Book, Order, Position, Trade
from tests.simulators.brokers.instruments import Instrument

_COLUMNS: Final = (
    "exchange,exchange_token,trading_symbol,groww_symbol,name,instrument_type,segment,series,isin,underlying_symbol,"
    "underlying_exchange_token,expiry_date,strike_price,lot_size,tick_size,freeze_quantity,is_reserved,buy_allowed,"
    "sell_allowed,internal_trading_symbol,is_intraday"
)


def exchange(instrument: Instrument) -> str:
    """NSE or BSE."""
    return {"NFO": "NSE", "BFO": "BSE"}.get(instrument.exchange, instrument.exchange)


def segment(instrument: Instrument) -> str:
    """CASH or FNO."""
    return "FNO" if instrument.derivative else "CASH"


def order(order: Order, status: str) -> dict[str, Any]:
    """A row of the order list."""
    return {
        "groww_order_id": order.order_id,
        "trading_symbol": order.instrument.symbol,
        "order_status": status,
        "remark": order.reason or "Order placed successfully",
        "quantity": order.quantity,
        "price": order.price or 0,
        "trigger_price": order.trigger or 0,
        "filled_quantity": order.filled,
        "remaining_quantity": order.rest,
        "average_fill_price": order.average or 0,
        "deliverable_quantity": 0,
        "amo_status": "NA",
        "validity": order.validity,
        "exchange": exchange(order.instrument),
        "order_type": order.price_type.replace("-", "_"),
        "transaction_type": order.side,
        "segment": segment(order.instrument),
        "product": order.product,
        "created_at": _time(order.placed_at),
        "exchange_time": _time(order.updated_at) if order.updated_at else None,
        "trade_date": None,
        "order_reference_id": order.tag,
    }


def trade(trade: Trade) -> dict[str, Any]:
    """A row of an order's trades."""
    return {
        "price": trade.price,
        "isin": trade.instrument.isin,
        "quantity": trade.quantity,
        "groww_order_id": trade.order_id,
        "groww_trade_id": f"ASV2{trade.trade_id}",
        "exchange_trade_id": trade.trade_id,
        "exchange_order_id": "1100000000000001",
        "trade_status": "EXECUTED",
        "trading_symbol": trade.instrument.symbol,
        "remark": None,
        "exchange": exchange(trade.instrument),
        "segment": segment(trade.instrument),
        "product": trade.product,
        "transaction_type": trade.side,
        "created_at": _time(trade.at),
        "trade_date_time": _time(trade.at),
        "settlement_number": "2026224",
    }


def position(position: Position) -> dict[str, Any]:
    """Of the day."""
    bought = position.paid / position.bought if position.bought else Decimal(0)
    sold = position.received / position.sold if position.sold else Decimal(0)
    return {
        "trading_symbol": position.instrument.symbol,
        "segment": segment(position.instrument),
        "credit_quantity": position.bought,
        "credit_price": bought,
        "debit_quantity": position.sold,
        "debit_price": sold,
        "carry_forward_credit_quantity": 0,
        "carry_forward_credit_price": 0,
        "carry_forward_debit_quantity": 0,
        "carry_forward_debit_price": 0,
        "exchange": exchange(position.instrument),
        "symbol_isin": position.instrument.isin,
        "quantity": position.net,
        "product": position.product,
        "net_carry_forward_quantity": 0,
        "net_price": position.average,
        "net_carry_forward_price": 0,
        "realised_pnl": min(position.bought, position.sold) * (sold - bought),
    }


def holdings(book: Book) -> dict[str, Any]:
    """Of before today."""
    zeros = (
        "pledge_quantity",
        "demat_locked_quantity",
        "groww_locked_quantity",
        "repledge_quantity",
        "t1_quantity",
        "corporate_action_additional_quantity",
        "active_demat_transfer_quantity",
    )
    rows = [
        {
            "isin": each.instrument.isin,
            "trading_symbol": each.instrument.symbol,
            "quantity": float(each.quantity),
            "average_price": each.average,
            "demat_free_quantity": each.quantity,
            **dict.fromkeys(zeros, 0),
        }
        for each in book.holdings
    ]
    return {"holdings": rows}


def margins(book: Book) -> dict[str, Any]:
    """Money."""
    return {
        "clear_cash": book.available + book.used,
        "net_margin_used": book.used,
        "brokerage_and_charges": 0.0,
        "collateral_used": 0.0,
        "collateral_available": 0.0,
        "adhoc_margin": 0.0,
        "fno_margin_details": {"net_fno_margin_used": 0.0, "future_balance_available": book.available},
        "equity_margin_details": {
            "net_equity_margin_used": book.used,
            "cnc_margin_used": book.used,
            "mis_margin_used": 0.0,
            "cnc_balance_available": book.available,
            "mis_balance_available": book.available,
        },
    }


def instruments(every: Iterable[Instrument]) -> bytes:
    """The file; with rows, as every day's, that make no sense or are of no use here."""
    lines = [_COLUMNS, *(_line(each) for each in every)]
    lines += [
        # A debenture with the symbol of a share; it must not take its place.
        'NSE,99901,RELIANCE,NSE-RELIANCE,"RELIANCE, 7.25 %",EQ,CASH,N1,INE002A08ZZ9,,,,,100,0.01,0,0,1,1,RELIANCE,0',
        "NSE,99902,NOTICK,NSE-NOTICK,No tick,EQ,CASH,EQ,INE000A01000,,,,,1,0,0,0,1,1,NOTICK,0",
        "NSE,99903,NOTRADE,NSE-NOTRADE,Not traded,EQ,CASH,EQ,INE000A01001,,,,,1,0.05,0,0,0,0,NOTRADE,0",
        "MCX,99904,CRUDEOIL26DECFUT,MCX-CRUDEOIL,Crude,FUT,COMMODITY,,,CRUDEOIL,,2026-12-18,,100,1,0,0,1,1,CRUDE,0",
    ]
    return "\n".join(lines).encode()


def _line(each: Instrument) -> str:
    kind = "IDX" if each.kind == "INDEX" else each.kind
    series = "EQ" if each.exchange == "NSE" and kind == "EQ" else "A" if kind == "EQ" else ""
    # The file names the first quantity that is frozen.
    frozen = each.freeze + 1 if each.freeze and each.derivative else 0
    lot, tick = ("", "") if kind == "IDX" else (each.lot, each.tick)
    values = (
        exchange(each), each.token, each.symbol, f"{exchange(each)}-{each.symbol}", each.name, kind, segment(each),
        series, each.isin or "", each.name if each.derivative else "", "", each.expiry or "", each.strike or "", lot,
        tick, frozen, 0, 1, 1, each.symbol, 1,
    )  # fmt: skip
    return ",".join(str(value) for value in values)


def _time(moment: datetime) -> str:
    return f"{moment.astimezone(IST):%Y-%m-%dT%H:%M:%S}"
