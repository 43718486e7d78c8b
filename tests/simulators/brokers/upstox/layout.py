"""How Upstox writes things down."""

import json
from collections.abc import Callable, Iterable
from datetime import datetime
from decimal import Decimal
from typing import Any

from tests.simulators.brokers.book import IST, Book, Order, Trade
from tests.simulators.brokers.instruments import Instrument

KeyOf = Callable[[Instrument], str]


def exchange_word(instrument: Instrument) -> str:
    """The file that it is in."""
    return {"NFO": "NSE", "BFO": "BSE"}.get(instrument.exchange, instrument.exchange)


def symbol(instrument: Instrument) -> str:
    """As in books: with the series on NSE."""
    return f"{instrument.symbol}-EQ" if instrument.exchange == "NSE" else instrument.symbol


def product(word: str, instrument: Instrument) -> str:
    """The book's word for Upstox's."""
    delivery = "NRML" if instrument.derivative else "CNC"
    return {"D": delivery, "I": "MIS"}.get(word, word)


def product_word(product: str) -> str:
    """Upstox's for the book's."""
    return {"CNC": "D", "NRML": "D", "MIS": "I"}.get(product, product)


def order(order: Order, key: str, status: str, said: str | None) -> dict[str, Any]:
    """A row of the order book."""
    return {
        "exchange": order.instrument.exchange,
        "product": product_word(order.product),
        "price": order.price or 0,
        "quantity": order.quantity,
        "status": status,
        "guid": None,
        "tag": order.tag,
        "instrument_token": key,
        "placed_by": "7ABCDE",
        "trading_symbol": symbol(order.instrument),
        "tradingsymbol": symbol(order.instrument),
        "order_type": order.price_type,
        "validity": order.validity,
        "trigger_price": order.trigger or 0,
        "disclosed_quantity": 0,
        "transaction_type": order.side,
        "average_price": order.average or 0,
        "filled_quantity": order.filled,
        "pending_quantity": order.rest,
        "status_message": said,
        "status_message_raw": said,
        "exchange_order_id": order.exchange_order_id,
        "parent_order_id": None,
        "order_id": order.order_id,
        "variety": "SIMPLE",
        "order_timestamp": _time(order.placed_at),
        "exchange_timestamp": _time(order.updated_at) if order.exchange_order_id and order.updated_at else None,
        "is_amo": False,
        "order_request_id": "1",
        "order_ref_id": f"GTT{order.order_id}",
    }


def trade(trade: Trade, order: Order, key: str) -> dict[str, Any]:
    """A row of the trade book."""
    at = trade.at.astimezone(IST).strftime("%d-%b-%Y %H:%M:%S")
    return {
        "exchange": trade.instrument.exchange,
        "product": product_word(trade.product),
        "trading_symbol": symbol(trade.instrument),
        "tradingsymbol": symbol(trade.instrument),
        "instrument_token": key,
        "order_type": order.price_type,
        "transaction_type": trade.side,
        "quantity": trade.quantity,
        "exchange_order_id": order.exchange_order_id,
        "order_id": trade.order_id,
        "exchange_timestamp": at,
        "average_price": trade.price,
        "trade_id": trade.trade_id,
        "order_ref_id": "udapi-aqwsed14356",
        "order_timestamp": at,
    }


def positions(book: Book, key_of: KeyOf) -> list[dict[str, Any]]:
    """Of the day."""
    rows = []
    for each in book.positions():
        last = book.prices[each.instrument.key]
        bought = each.paid / each.bought if each.bought else Decimal(0)
        sold = each.received / each.sold if each.sold else Decimal(0)
        closed = min(each.bought, each.sold) * (sold - bought)
        unrealised = each.net * (last - each.average)
        rows.append(
            {
                "exchange": each.instrument.exchange,
                "multiplier": 1.0,
                "value": each.paid - each.received,
                "pnl": closed + unrealised,
                "product": product_word(each.product),
                "instrument_token": key_of(each.instrument),
                "average_price": each.average if each.net else None,
                "buy_value": each.paid,
                "overnight_quantity": 0,
                "day_buy_value": each.paid,
                "day_buy_price": bought,
                "overnight_buy_amount": 0.0,
                "overnight_buy_quantity": 0,
                "day_buy_quantity": each.bought,
                "day_sell_value": each.received,
                "day_sell_price": sold,
                "overnight_sell_amount": 0.0,
                "overnight_sell_quantity": 0,
                "day_sell_quantity": each.sold,
                "quantity": each.net,
                "last_price": last,
                "unrealised": unrealised,
                "realised": closed,
                "sell_value": each.received,
                "trading_symbol": symbol(each.instrument),
                "tradingsymbol": symbol(each.instrument),
                "close_price": last,
                "buy_price": bought,
                "sell_price": sold,
            }
        )
    return rows


def holdings(book: Book, key_of: KeyOf) -> list[dict[str, Any]]:
    """Of before today."""
    return [
        {
            "isin": each.instrument.isin,
            "cnc_used_quantity": 0,
            "collateral_type": "WC",
            "company_name": each.instrument.name,
            "haircut": 0.2,
            "product": "D",
            "quantity": each.quantity,
            "trading_symbol": each.instrument.symbol,
            "tradingsymbol": each.instrument.symbol,
            "last_price": book.prices[each.instrument.key],
            "close_price": book.prices[each.instrument.key],
            "pnl": each.quantity * (book.prices[each.instrument.key] - each.average),
            "day_change": 0,
            "day_change_percentage": 0,
            "instrument_token": key_of(each.instrument),
            "average_price": each.average,
            "collateral_quantity": 0,
            "collateral_update_quantity": 0,
            "t1_quantity": 0,
            "exchange": each.instrument.exchange,
        }
        for each in book.holdings
    ]


def funds(book: Book) -> dict[str, Any]:
    """All of it under `equity`, as since July 2025."""
    nothing = dict.fromkeys(("payin_amount", "span_margin", "adhoc_margin", "notional_cash", "exposure_margin"), 0.0)
    return {
        "equity": {**nothing, "used_margin": book.used, "available_margin": book.available},
        "commodity": {**nothing, "used_margin": 0, "available_margin": 0},
    }


def signed_in(user_id: str, token: str) -> dict[str, Any]:
    """The answer to a sign-in: without an envelope."""
    return {
        "email": "someone@example.com",
        "exchanges": ["NSE", "NFO", "BSE", "CDS", "BFO", "BCD"],
        "products": ["D", "CO", "I"],
        "broker": "UPSTOX",
        "user_id": user_id,
        "user_name": "Some One",
        "order_types": ["MARKET", "LIMIT", "SL", "SL-M"],
        "user_type": "individual",
        "poa": False,
        "is_active": True,
        "access_token": token,
        "extended_token": None,
    }


def instruments(mine: Iterable[Instrument], key_of: KeyOf) -> bytes:
    """A file; with rows, as every day's, that make no sense or are of no use here."""
    rows: list[Any] = [_instrument(each, key_of(each)) for each in mine]
    first = next(row for row in rows if "isin" in row)
    rows += [
        # A debenture with the symbol of a share; it must not take its place.
        {**first, "instrument_key": f"{first['segment']}|INE002A08ZZ9", "isin": "INE002A08ZZ9", "lot_size": 100},
        {**first, "trading_symbol": "071NSETEST", "tick_size": 0.0},
        {**first, "trading_symbol": 'A "QUOTED", {BRACED} NAME', "lot_size": 999_999_999},
        {"segment": "NCD_FO", "name": "USDINR", "exchange": "NSE", "instrument_type": "FUT", "tick_size": 0.25}
        | {"instrument_key": "NCD_FO|1", "exchange_token": "1", "trading_symbol": "USDINR FUT 27 MAR 26"},
    ]
    return json.dumps(rows, default=float, separators=(",", ":")).encode()


def _instrument(each: Instrument, key: str) -> dict[str, Any]:
    row: dict[str, Any] = {
        "segment": key.partition("|")[0],
        "name": each.name,
        "exchange": exchange_word(each),
        "instrument_type": each.kind,
        "instrument_key": key,
        "exchange_token": each.token,
        "trading_symbol": each.symbol,
    }
    if each.kind == "INDEX":
        return row
    row |= {"lot_size": each.lot, "tick_size": each.tick * 100, "qty_multiplier": 1.0}
    if each.expiry is None:
        return row | {
            "isin": each.isin,
            "freeze_quantity": 100000.0,
            "short_name": each.name,
            "security_type": "NORMAL",
        }
    ends = datetime(each.expiry.year, each.expiry.month, each.expiry.day, 23, 59, 59, tzinfo=IST)
    when = f"{each.expiry:%d %b %y}".upper()
    middle = "FUT" if each.kind == "FUT" else f"{each.strike} {each.kind}"
    return row | {
        "weekly": False,
        "expiry": int(ends.timestamp()) * 1000,
        "asset_symbol": each.name,
        "underlying_symbol": each.name,
        "freeze_quantity": float(each.freeze or 0),
        "minimum_lot": each.lot,
        "asset_type": "INDEX",
        "underlying_type": "INDEX",
        "trading_symbol": f"{each.name} {middle} {when}",
        "strike_price": each.strike or 0.0,
    }


def _time(moment: datetime) -> str:
    return f"{moment.astimezone(IST):%Y-%m-%d %H:%M:%S}"
