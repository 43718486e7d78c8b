"""What positions and holdings are worth and have made: pure, exact."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from decimal import Decimal, localcontext
from typing import Any, NamedTuple

from app.brokerage.portfolio.book_rows import Row, average, book_of, expired_note
from app.brokerage.portfolio.broker_view import Seen
from app.brokerage.portfolio.lots import ZERO, Book
from app.brokerage.portfolio.naming import KEPT, Source, same_place
from app.brokerage.portfolio.standing_schemas import BrokerSide, Holding, Position, Totals
from app.brokerage.ports import LastPrice
from app.brokerage.words import BrokerHolding, BrokerPosition, Exchange, Product
from app.core.charges.words import EXACT

Instrument = tuple[Exchange, str]
PriceList = Mapping[Instrument, LastPrice | None]


class Ground(NamedTuple):
    """All that an account's standing is made of."""

    today: str
    books: Sequence[Row]
    """Those that are open, and those that were traded today."""
    seen: Seen
    prices: PriceList
    day: Row
    """Today's row; empty if nothing was traded."""
    before: Row
    """The newest snapshot of a day before today; empty if there is none."""
    sums: Mapping[str, Decimal]
    """`realised`, `charges` and `interest` of all days."""


class Standing(NamedTuple):
    """An account valued."""

    positions: list[Position]
    holdings: list[Holding]
    totals: Totals


def wanted(books: Iterable[Row], seen: Seen) -> set[Instrument]:
    """Whose prices are needed."""
    ours = {(Exchange(row["exchange"]), row["symbol"]) for row in books if row["open"] and expired_note(row) is None}
    theirs = {(one.exchange, one.symbol) for one in seen.positions if one.net_quantity}
    return ours | theirs | {(one.exchange, one.symbol) for one in seen.holdings if one.quantity}


def standing(ground: Ground) -> Standing:
    """Value an account."""
    with localcontext(EXACT):
        fallback = _told_prices(ground.seen)
        prices = {key: ground.prices.get(key) or fallback.get(key) for key in {*ground.prices, *fallback}}
        ground = ground._replace(prices=prices)
        charges = {one["book"]: one["charges"] for one in ground.day.get("books") or ()}
        marks = {one["book"]: one for one in ground.before.get("books") or ()}
        valued = [_position(row, ground, charges.get(row["_id"], ZERO), marks.get(row["_id"])) for row in ground.books]
        holdings = _holdings(valued, ground)
        strange = _strangers(ground)
        totals = _totals(valued, holdings, strange, ground)
    shown = [one for one in valued if one.product not in KEPT or _traded_today(one, ground)]
    shown = sorted([*shown, *strange], key=lambda one: (one.quantity == 0, one.symbol, one.product, one.source))
    return Standing(shown, holdings, totals)


def _traded_today(position: Position, ground: Ground) -> bool:
    return any(
        (one["symbol"], one["product"], one["source"]) == (position.symbol, position.product, position.source)
        and same_place(position.product, one["exchange"], position.exchange)
        for one in ground.day.get("books") or ()
    )


def _told_prices(seen: Seen) -> dict[Instrument, LastPrice]:
    """Brokers tell prices, too: of when they were asked."""
    if seen.at is None:
        return {}
    told: list[BrokerPosition | BrokerHolding] = [*seen.holdings, *seen.positions]
    return {
        (one.exchange, one.symbol): LastPrice(one.last_price, seen.at, live=False) for one in told if one.last_price
    }


def _priced(price: LastPrice | None) -> dict[str, Any]:
    return {
        "last_price": price and price.price,
        "price_at": price and price.at,
        "price_live": price is not None and price.live,
    }


def _position(row: Row, ground: Ground, charges: Decimal, mark: Mapping[str, Any] | None) -> Position:
    book, exchange, product = book_of(row), Exchange(row["exchange"]), Product(row["product"])
    expired = expired_note(row)
    price = ground.prices.get((exchange, row["symbol"])) if book.side and expired is None else None
    today = row.get("last_day") == ground.today
    realised_today = book.day_realised if today else ZERO
    unrealised = ZERO if not book.side else None if price is None else book.unrealised(price.price)
    before = None if expired else _before(book, mark, today=today)
    quantity, cost = book.position, book.cost
    theirs = _of_broker(row, ground.seen)
    return Position(
        exchange=exchange,
        symbol=row["symbol"],
        product=product,
        source=Source(row["source"]),
        tracked=True,
        quantity=quantity,
        average_price=average(cost, abs(quantity)),
        cost=cost,
        value=None if price is None else quantity * price.price,
        realised_pnl=book.realised,
        unrealised_pnl=unrealised,
        day_realised_pnl=realised_today,
        day_pnl=None if unrealised is None or before is None else realised_today + unrealised - before,
        day_charges=charges,
        broker=_side(theirs) if theirs else None,
        expired=expired,
        **_priced(price),
    )


def _before(book: Book, mark: Mapping[str, Any] | None, *, today: bool) -> Decimal | None:
    """What was unrealised when today began; None if that is not known."""
    start = book.day_start if today else book.position
    if not start:
        return ZERO
    if mark is None or mark["quantity"] != start:
        return None
    if not today:  # the lots are those that the day began with
        return book.unrealised(mark["price"])
    unrealised: Decimal = mark["unrealised"]
    return unrealised


def _of_broker(row: Row, seen: Seen) -> BrokerPosition | None:
    """What the broker has of a book; of shares that were traded on both exchanges the sum."""
    if row["source"] != Source.BROKER:
        return None
    theirs = [
        one
        for one in seen.positions
        if (one.symbol, one.product) == (row["symbol"], row["product"])
        and same_place(row["product"], one.exchange, row["exchange"])
    ]
    if len(theirs) < 2:
        return theirs[0] if theirs else None
    net = sum(one.net_quantity for one in theirs)
    value = sum((one.net_quantity * one.average_price for one in theirs), ZERO)
    return theirs[0]._replace(
        net_quantity=net,
        average_price=average(value, net) or ZERO,
        realised=_known_sum(one.realised for one in theirs),
        unrealised=_known_sum(one.unrealised for one in theirs),
    )


def _known_sum(values: Iterable[Decimal | None]) -> Decimal | None:
    """None if any of them is not known."""
    known = list(values)
    return None if None in known else _sum(known)


def _side(theirs: BrokerPosition) -> BrokerSide:
    return BrokerSide(
        quantity=theirs.net_quantity,
        average_price=theirs.average_price,
        realised_pnl=theirs.realised,
        unrealised_pnl=theirs.unrealised,
    )


def _strangers(ground: Ground) -> list[Position]:
    """What the broker tells of and no book here knows; what is kept is among the holdings."""
    known = {(row["exchange"], row["symbol"], row["product"]) for row in ground.books if row["source"] == Source.BROKER}
    found = []
    for one in ground.seen.positions:
        if (one.exchange, one.symbol, one.product) in known or one.product in KEPT:
            continue
        price = ground.prices.get((one.exchange, one.symbol))
        cost = abs(one.net_quantity) * one.average_price
        unrealised = one.unrealised
        if not one.net_quantity:
            unrealised = ZERO
        elif price is not None:
            unrealised = one.net_quantity * (price.price - one.average_price)
        found.append(
            Position(
                exchange=one.exchange,
                symbol=one.symbol,
                product=one.product,
                source=Source.BROKER,
                tracked=False,
                quantity=one.net_quantity,
                average_price=one.average_price if one.net_quantity else None,
                cost=cost,
                value=None if price is None else one.net_quantity * price.price,
                realised_pnl=one.realised or ZERO,
                unrealised_pnl=unrealised,
                day_realised_pnl=ZERO,
                day_pnl=None,
                day_charges=ZERO,
                broker=_side(one),
                **_priced(price),
            )
        )
    return found


def _holdings(positions: Sequence[Position], ground: Ground) -> list[Holding]:
    ours: dict[Instrument, list[Position]] = {}
    for one in positions:
        if one.product in KEPT and one.quantity > 0:
            ours.setdefault((one.exchange, one.symbol), []).append(one)
    found = []
    for theirs in ground.seen.holdings:
        if theirs.quantity:
            mine = ours.pop((theirs.exchange, theirs.symbol), None) or _elsewhere(ours, theirs)
            found.append(_holding(theirs, mine, ground))
    for (exchange, symbol), mine in ours.items():
        found.append(_holding(BrokerHolding(exchange, symbol, None, 0, ZERO, None), mine, ground))
    return sorted(found, key=lambda one: one.symbol)


def _elsewhere(ours: dict[Instrument, list[Position]], theirs: BrokerHolding) -> list[Position]:
    """Shares are the same on both exchanges: bought on one, they may be listed under the other."""
    other = {Exchange.NSE: Exchange.BSE, Exchange.BSE: Exchange.NSE}.get(theirs.exchange)
    return ours.pop((other, theirs.symbol), []) if other else []


def _holding(theirs: BrokerHolding, mine: Sequence[Position], ground: Ground) -> Holding:
    tracked = sum(one.quantity for one in mine)
    tracked_cost = sum((one.cost for one in mine), ZERO)
    price = ground.prices.get((theirs.exchange, theirs.symbol))
    # By the broker's trades; what was entered by hand stands in no broker's books.
    told = sum(one.quantity for one in mine if one.source is Source.BROKER)
    rest = max(theirs.quantity - told, 0)
    quantity = tracked + rest
    cost = tracked_cost + rest * theirs.average_price
    return Holding(
        exchange=theirs.exchange,
        symbol=theirs.symbol,
        isin=theirs.isin,
        quantity=quantity,
        tracked_quantity=tracked,
        average_price=average(cost, quantity),
        cost=cost,
        value=None if price is None else quantity * price.price,
        unrealised_pnl=None if price is None else quantity * price.price - cost,
        **_priced(price),
    )


def _totals(
    positions: Sequence[Position], holdings: Sequence[Holding], strange: Sequence[Position], ground: Ground
) -> Totals:
    # Longs that are kept are among the holdings, with what came from elsewhere.
    alive = [one for one in positions if one.expired is None]
    apart = [one for one in alive if one.quantity and not (one.product in KEPT and one.quantity > 0)] + [
        one for one in strange if one.quantity
    ]
    long = [one for one in apart if one.quantity > 0]
    owned: list[Position | Holding] = [*long, *holdings]
    valued: list[Position | Holding] = [*apart, *holdings]
    unrealised = _sum(one.unrealised_pnl for one in valued)
    realised = ground.sums["realised"]
    charges, interest = ground.sums["charges"], ground.sums["interest"]
    overall = realised + unrealised
    return Totals(
        invested=_sum(one.cost for one in owned),
        value=_sum(one.value for one in owned),
        realised_pnl=realised,
        unrealised_pnl=unrealised,
        day_pnl=_sum(one.day_pnl for one in positions),
        day_charges=(ground.day.get("charges") or {}).get("total", ZERO),
        charges=charges,
        interest=interest,
        overall_pnl=overall,
        net_pnl=overall - charges - interest,
        unpriced=sum(one.unrealised_pnl is None for one in valued),
        day_unknown=sum(one.day_pnl is None for one in [*alive, *strange]),
        expired=len(positions) - len(alive),
    )


def _sum(values: Iterable[Decimal | None]) -> Decimal:
    return sum((value for value in values if value is not None), ZERO)


def snapshot_books(
    books: Iterable[Row], prices: PriceList, over: date | None = None
) -> tuple[list[Row], Decimal, list[str]]:
    """Of open positions what a snapshot keeps, what is unrealised in all, and which have no price; `over`: the day is,
    and nothing that was delivered on it is bought back any more."""
    kept, total, unpriced = [], ZERO, list[str]()
    with localcontext(EXACT):
        for row in books:
            book = book_of(row)
            if over is not None:
                book.rest(over + timedelta(days=1))
            price = prices.get((Exchange(row["exchange"]), row["symbol"]))
            if not book.side or expired_note(row) is not None:
                continue
            if price is None:
                unpriced.append(row["_id"])
                continue
            unrealised = book.unrealised(price.price)
            total += unrealised
            kept.append({"book": row["_id"], "quantity": book.position, "price": price.price, "unrealised": unrealised})
    return kept, total, unpriced
