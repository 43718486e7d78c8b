"""What a fill does to an account: trade, cash, holdings, position, charges. Pure."""

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from typing import Final

from app.brokerage.adapters.paper.book import ChargeLine, PaperBook, PaperLot, PaperOrder
from app.brokerage.adapters.paper.rules import MTF_OWN, is_option, is_share
from app.brokerage.words import BookedTrade, Exchange, Listing, OrderState, Product, Side
from app.core.charges import ChargeEngine, Segment, TradeForCharges, same_day_parts
from app.core.charges import Exchange as ChargedExchange
from app.core.charges import Side as ChargedSide

PLAN: Final = "paper"
"""The brokerage plan. It takes nothing of single orders, so that turnovers are all that charges need."""
_NOTHING: Final = Decimal(0)
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
    _charge(engine, book, order, quantity, value)


def _deliver(book: PaperBook, order: PaperOrder, quantity: int, value: Decimal) -> Decimal:
    """Shares in or out of the holdings, and their money; gives what selling realised."""
    holding = book.holding(order.listing, order.product)
    if order.side is Side.BUY:
        lent = value - value * MTF_OWN if order.product is Product.MTF else _NOTHING
        holding.add(PaperLot(quantity, value, lent))
        book.cash -= value - lent
        return _NOTHING
    sold = holding.take(quantity)
    book.cash += value - sold.funded
    if not holding.quantity:
        book.holdings.remove(holding)
    return value - sold.cost


def _charge(engine: ChargeEngine, book: PaperBook, order: PaperOrder, quantity: int, value: Decimal) -> None:
    new = line(order.listing, order.product, order.side, value, quantity)
    for known in book.lines:
        if (known.exchange, known.segment, known.side, known.symbol) == (
            new.exchange,
            new.segment,
            new.side,
            new.symbol,
        ):
            known.turnover += value
            known.quantity += new.quantity
            break
    else:
        book.lines.append(new)
    charges = charges_of(engine, book, book.lines)
    book.cash -= charges - book.charges
    book.charges = charges


def line(listing: Listing, product: Product, side: Side, turnover: Decimal, quantity: int) -> ChargeLine:
    """How charges see a trade."""
    exchange = ChargedExchange.NSE if listing.exchange in {Exchange.NSE, Exchange.NFO} else ChargedExchange.BSE
    contract = Segment.OPTIONS if is_option(listing) else Segment.FUTURES
    segment = _SHARES[product] if is_share(listing) else contract
    if segment is not Segment.DELIVERY:
        return ChargeLine(exchange.value, segment.value, side, turnover)
    return ChargeLine(exchange.value, segment.value, side, turnover, listing.symbol, quantity)


def charges_of(engine: ChargeEngine, book: PaperBook, lines: Iterable[ChargeLine]) -> Decimal:
    """Of a day with these turnovers, as its contract note would say."""
    lines = [one for one in lines if one.turnover]
    parts = _same_day(lines)
    trades = [
        TradeForCharges(
            ChargedExchange(one.exchange),
            Segment(one.segment),
            ChargedSide(one.side.value),
            1,
            one.turnover,
            book.day,
            PLAN,
            same_day=parts.get((one.symbol, one.side), Fraction(0)),
        )
        for one in lines
    ]
    return engine.contract_note(trades).total if trades else _NOTHING


def _same_day(lines: Iterable[ChargeLine]) -> dict[tuple[str, Side], Fraction]:
    """Which part of a share's trades for delivery was bought and sold on this day."""
    sums: defaultdict[tuple[str, Side], int] = defaultdict(int)
    for one in lines:
        if one.symbol:  # lines that an older version wrote have none
            sums[one.symbol, one.side] += one.quantity
    parts: dict[tuple[str, Side], Fraction] = {}
    for symbol in {symbol for symbol, _ in sums}:
        both = same_day_parts(sums[symbol, Side.BUY], sums[symbol, Side.SELL])
        parts[symbol, Side.BUY], parts[symbol, Side.SELL] = both
    return parts
