"""What a fill does to an account: trade, cash, holdings, position, charges. Pure."""

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from typing import Final

from app.brokerage.adapters.paper.book import ChargeLine, PaperBook, PaperOrder
from app.brokerage.adapters.paper.rules import MTF_OWN, is_option, is_share
from app.brokerage.words import BookedTrade, Exchange, Listing, OrderState, Product, Side
from app.core.charges import ChargeEngine, Segment, TradeForCharges
from app.core.charges import Exchange as ChargedExchange
from app.core.charges import Side as ChargedSide

PLAN: Final = "paper"
"""The brokerage plan. It takes nothing of single orders, so that turnovers are all that charges need."""
_NOTHING: Final = Decimal(0)
_FINE: Final = Decimal("0.0001")
_SHARES: Final = {Product.CNC: Segment.DELIVERY, Product.MTF: Segment.MTF, Product.MIS: Segment.INTRADAY}


def fill(
    engine: ChargeEngine, book: PaperBook, order: PaperOrder, quantity: int, price: Decimal, now: datetime
) -> None:
    """Fill `quantity` units of `order` at `price`; nobody asks any more whether there are funds for it."""
    value = price * quantity
    order.fills += 1
    order.filled += quantity
    order.turnover += value
    order.change(now, OrderState.PARTIALLY_FILLED if order.remaining else OrderState.COMPLETE)
    book.trades.append(
        BookedTrade(
            trade_id=f"{order.id}-{order.fills}",
            broker_order_id=order.id,
            exchange=order.listing.exchange,
            symbol=order.listing.symbol,
            side=order.side,
            product=order.product,
            quantity=quantity,
            price=price,
            at=now,
        )
    )
    position = book.position(order.listing, order.product)
    signed = order.side.sign * quantity
    if order.product in {Product.CNC, Product.MTF}:
        # Realised is what selling brought over what the shares cost, whenever they were bought.
        realised = position.realised + _deliver(book, order, quantity, value)
        position.add(signed, price)
        position.realised = realised
    elif is_option(order.listing):
        book.cash -= order.side.sign * value
        position.add(signed, price)
    else:
        book.cash += position.add(signed, price)
    _charge(engine, book, order, value)


def _deliver(book: PaperBook, order: PaperOrder, quantity: int, value: Decimal) -> Decimal:
    """Shares in or out of the holdings, and their money; gives what selling realised."""
    holding = book.holding(order.listing, order.product)
    if order.side is Side.BUY:
        lent = value - value * MTF_OWN if order.product is Product.MTF else _NOTHING
        holding.quantity += quantity
        holding.cost += value
        holding.funded += lent
        book.cash -= value - lent
        return _NOTHING
    cost = _part(holding.cost, quantity, holding.quantity)
    lent = _part(holding.funded, quantity, holding.quantity)
    holding.quantity -= quantity
    holding.cost -= cost
    holding.funded -= lent
    book.cash += value - lent
    if not holding.quantity:
        book.holdings.remove(holding)
    return value - cost


def _part(whole: Decimal, quantity: int, of: int) -> Decimal:
    return whole if quantity == of else (whole * quantity / of).quantize(_FINE)


def _charge(engine: ChargeEngine, book: PaperBook, order: PaperOrder, value: Decimal) -> None:
    new = line(order.listing, order.product, order.side, value)
    for known in book.lines:
        if (known.exchange, known.segment, known.side) == (new.exchange, new.segment, new.side):
            known.turnover += value
            break
    else:
        book.lines.append(new)
    charges = charges_of(engine, book, book.lines)
    book.cash -= charges - book.charges
    book.charges = charges


def line(listing: Listing, product: Product, side: Side, turnover: Decimal) -> ChargeLine:
    """How charges see a trade."""
    exchange = ChargedExchange.NSE if listing.exchange in {Exchange.NSE, Exchange.NFO} else ChargedExchange.BSE
    contract = Segment.OPTIONS if is_option(listing) else Segment.FUTURES
    segment = _SHARES[product] if is_share(listing) else contract
    return ChargeLine(exchange.value, segment.value, side, turnover)


def charges_of(engine: ChargeEngine, book: PaperBook, lines: Iterable[ChargeLine]) -> Decimal:
    """Of a day with these turnovers, as its contract note would say."""
    trades = [
        TradeForCharges(
            ChargedExchange(one.exchange),
            Segment(one.segment),
            ChargedSide(one.side.value),
            1,
            one.turnover,
            book.day,
            PLAN,
        )
        for one in lines
        if one.turnover
    ]
    return engine.contract_note(trades).total if trades else _NOTHING
