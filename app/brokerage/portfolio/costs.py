"""What a day's trades of one account cost: the contract note, and its shares by order and by trade.

A note rounds each component once for the whole day, so a trade has no charges of its own: it has a share of the note's,
to the paisa, and the shares add up to the note. They follow what each order would cost exactly, before rounding.

What is traded is told by the product: MIS is intraday, and CNC is delivery but for what was bought and sold on the same
day, on whichever exchange: brokers charge that as intraday. Charges of commodity and currency contracts are not in the
data: there they are nothing, and the note says so. Nobody trades the settlement of a contract that expires: of it there
is only the tax on an option that is exercised.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from decimal import ROUND_FLOOR, ROUND_HALF_UP, Decimal, localcontext
from fractions import Fraction
from typing import Final, NamedTuple

from app.brokerage.portfolio.lots import ZERO, Interest, Lot, no_interest
from app.brokerage.portfolio.naming import Settlement, is_option
from app.brokerage.words import BrokerName, Exchange, Product, Side
from app.core.charges import ChargeEngine, Charges, Segment, TradeForCharges, added, same_day_parts
from app.core.charges import Exchange as ChargedExchange
from app.core.charges import Side as ChargedSide
from app.core.charges.data import holding
from app.core.charges.words import EXACT, NOTHING

NOT_KNOWN: Final = "Charges of commodity and currency contracts are not known here, and are left out."
_PAISA: Final = Decimal("0.01")
_FINE: Final = Decimal(10) ** 9
"""An order so much larger shows what the order itself costs before rounding."""
_LEVIES: Final = ("stt", "transaction", "sebi", "investor_protection", "stamp")
_TAXED: Final = ("brokerage", "transaction", "sebi", "investor_protection", "depository")
_CHARGED: Final = {
    Exchange.NSE: ChargedExchange.NSE,
    Exchange.NFO: ChargedExchange.NSE,
    Exchange.BSE: ChargedExchange.BSE,
    Exchange.BFO: ChargedExchange.BSE,
}
_CASH: Final = {Product.CNC: Segment.DELIVERY, Product.MIS: Segment.INTRADAY, Product.MTF: Segment.MTF}


class CostedTrade(NamedTuple):
    """What the charges of a trade depend on."""

    trade: str
    order: str
    """Fills of one order are charged together."""
    exchange: Exchange
    symbol: str
    product: Product
    side: Side
    quantity: int
    price: Decimal
    brokerage: Decimal | None = None
    """What its owner says that it cost; None: by the broker's plan."""
    settlement: Settlement | None = None
    """Of what ended an expired contract."""

    @property
    def turnover(self) -> Decimal:
        """Rupees, exact."""
        return EXACT.multiply(Decimal(self.quantity), self.price)


class Cost(NamedTuple):
    """A trade's share of its day's note."""

    brokerage: Decimal
    total: Decimal
    """All charges, brokerage included."""


class DayCosts(NamedTuple):
    """A day's note, and each trade's share of it."""

    note: Charges
    by_trade: Mapping[str, Cost]


def segment_of(exchange: Exchange, symbol: str, product: Product) -> Segment | None:
    """How it is charged; None where that is not known."""
    if exchange in {Exchange.NFO, Exchange.BFO}:
        return Segment.OPTIONS if is_option(symbol) else Segment.FUTURES
    if exchange in {Exchange.NSE, Exchange.BSE}:
        return _CASH.get(product, Segment.DELIVERY)
    return None


def shared(total: Decimal, weights: Sequence[Decimal]) -> list[Decimal]:
    """`total` rupees, in whole paise, divided by `weights` (not all 0 where there is something to divide); the shares
    add up to it. The paise that rounding leaves go to the largest remainders."""
    whole = sum(weights, ZERO)
    if not total:
        return [NOTHING] * len(weights)
    if not whole:
        weights, whole = [Decimal(1)] * len(weights), Decimal(len(weights))
    with localcontext(EXACT):
        exact = [total * weight / whole for weight in weights]
        shares = [one.quantize(_PAISA, ROUND_FLOOR) for one in exact]
        left = int((total - sum(shares, ZERO)) / _PAISA)
        order = sorted(range(len(shares)), key=lambda n: (shares[n] - exact[n], n))
        for place in order[:left]:
            shares[place] += _PAISA
    return shares


def day_costs(engine: ChargeEngine, broker: BrokerName, on: date, trades: Iterable[CostedTrade]) -> DayCosts:
    """The note of one account's trades of one day, in the order of their execution."""
    orders: dict[tuple[str, ...], list[CostedTrade]] = {}
    strange: list[CostedTrade] = []
    settled: list[CostedTrade] = []
    for trade in trades:
        if trade.settlement is not None:
            settled.append(trade)
        elif segment_of(trade.exchange, trade.symbol, trade.product) is None:
            strange.append(trade)
        else:
            key = (trade.order, trade.exchange, trade.symbol, trade.product, trade.side)
            orders.setdefault(key, []).append(trade)
    drafts = _drafts(orders.values(), broker, on)
    note, shares = _noted(engine, drafts, on)
    by_trade: dict[str, Cost] = {one.trade: Cost(NOTHING, NOTHING) for one in strange}
    for fills, cost in zip(orders.values(), shares, strict=True):
        weights = [fill.turnover for fill in fills]
        brokerages, rests = shared(cost.brokerage, weights), shared(cost.total - cost.brokerage, weights)
        for fill, brokerage, rest in zip(fills, brokerages, rests, strict=True):
            by_trade[fill.trade] = Cost(brokerage, brokerage + rest)
    if settled:
        tax, taxes = _exercised(engine, settled, on)
        note = note + Charges(stt=tax)
        by_trade |= {one.trade: Cost(NOTHING, part) for one, part in zip(settled, taxes, strict=True)}
    if strange:
        note = added([note, Charges(note=NOT_KNOWN)])
    return DayCosts(note, by_trade)


def _exercised(engine: ChargeEngine, settled: Sequence[CostedTrade], on: date) -> tuple[Decimal, list[Decimal]]:
    """The tax on options that were exercised, and each settlement's part of it."""
    with localcontext(EXACT):
        worth = [one.turnover if one.settlement is Settlement.EXERCISED else ZERO for one in settled]
        tax = engine.exercise_stt(sum(worth, ZERO), on)
    return tax, shared(tax, worth)


class _Draft(NamedTuple):
    order: TradeForCharges
    given: Decimal | None


def _same_day(orders: Iterable[Sequence[CostedTrade]]) -> dict[tuple[str, Side], Fraction]:
    """Which part of a share's orders for delivery was bought and sold on this day."""
    sums: defaultdict[tuple[str, Side], int] = defaultdict(int)
    for fills in orders:
        if segment_of(fills[0].exchange, fills[0].symbol, fills[0].product) is Segment.DELIVERY:
            sums[fills[0].symbol, fills[0].side] += sum(fill.quantity for fill in fills)
    parts: dict[tuple[str, Side], Fraction] = {}
    for symbol in {symbol for symbol, _ in sums}:
        both = same_day_parts(sums[symbol, Side.BUY], sums[symbol, Side.SELL])
        parts[symbol, Side.BUY], parts[symbol, Side.SELL] = both
    return parts


def _drafts(orders: Collection[Sequence[CostedTrade]], broker: BrokerName, on: date) -> list[_Draft]:
    same_day = _same_day(orders)
    sold: set[str] = set()
    drafts = []
    for fills in orders:
        first = fills[0]
        segment = segment_of(first.exchange, first.symbol, first.product)
        assert segment is not None  # noqa: S101 (the others were left out)
        with localcontext(EXACT):
            turnover = sum((fill.turnover for fill in fills), ZERO)
        told = [fill.brokerage for fill in fills if fill.brokerage is not None]
        side = ChargedSide(first.side)
        part = same_day[first.symbol, first.side] if segment is Segment.DELIVERY else Fraction(0)
        delivered = side is ChargedSide.SELL and segment.levied_as is Segment.DELIVERY and part < 1
        order = TradeForCharges(
            _CHARGED[first.exchange],
            segment,
            side,
            1,
            turnover,  # as one unit, so that no average price is rounded
            on,
            "none" if told else str(broker),
            depository=delivered and first.symbol not in sold,
            same_day=part,
        )
        if delivered:
            sold.add(first.symbol)
        drafts.append(_Draft(order, sum(told, ZERO) if told else None))
    return drafts


def _noted(engine: ChargeEngine, drafts: Sequence[_Draft], on: date) -> tuple[Charges, list[Cost]]:
    """The note of the orders and each one's share."""
    notes: list[Charges] = []
    costs: dict[int, Cost] = {}
    for told in (False, True):
        places = [place for place, draft in enumerate(drafts) if (draft.given is not None) is told]
        if not places:
            continue
        orders = [drafts[place].order for place in places]
        note = engine.contract_note(orders)
        singles = [engine.of(order) for order in orders]
        if told:
            # The owner's own figure, which is taxed as the broker's plan would be.
            given = [(drafts[place].given or ZERO).quantize(_PAISA, ROUND_HALF_UP) for place in places]
            note, singles = _with_brokerage(engine, note, singles, given, on)
        notes.append(note)
        costs |= zip(places, _order_costs(engine, note, singles, orders), strict=True)
    return added(notes), [costs[place] for place in range(len(drafts))]


def _with_brokerage(
    engine: ChargeEngine, note: Charges, singles: Sequence[Charges], given: Sequence[Decimal], on: date
) -> tuple[Charges, list[Charges]]:
    brokerage = sum(given, NOTHING)
    tax = (brokerage * holding(engine.data.gst, on).percent / 100).quantize(_PAISA, ROUND_HALF_UP)
    whole = note + Charges(brokerage=brokerage, gst=tax)
    return whole, [one + Charges(brokerage=amount) for one, amount in zip(singles, given, strict=True)]


def _order_costs(
    engine: ChargeEngine, note: Charges, singles: Sequence[Charges], orders: Sequence[TradeForCharges]
) -> list[Cost]:
    fine = [engine.of(_enlarged(order)) for order in orders]
    parts = {name: shared(getattr(note, name), [getattr(one, name) for one in fine]) for name in _LEVIES}
    parts["depository"] = shared(note.depository, [one.depository for one in singles])
    parts["brokerage"] = shared(note.brokerage, [one.brokerage for one in singles])
    taxed = [
        sum(
            (parts[name][n] for name in ("brokerage", "transaction", "sebi", "investor_protection", "depository")), ZERO
        )
        for n in range(len(orders))
    ]
    parts["gst"] = shared(note.gst, taxed)
    return [
        Cost(parts["brokerage"][n], sum((amounts[n] for amounts in parts.values()), NOTHING))
        for n in range(len(orders))
    ]


def _enlarged(order: TradeForCharges) -> TradeForCharges:
    return replace(order, price=EXACT.multiply(order.price, _FINE))


def interest_of(engine: ChargeEngine, broker: BrokerName, product: Product, funded_share: Decimal) -> Interest:
    """What credit costs under margin trading; nothing for other products.

    Each purchase is a loan of `funded_share` of its value for the calendar days from its day to that of the sale, at
    the rate of its day; a part that is sold bears its part. An estimate: how much is funded differs by share.
    """
    if product is not Product.MTF:
        return no_interest

    def interest(lot: Lot, quantity: int, until: date) -> Decimal:
        days = max((until - lot.day).days, 0)
        with localcontext(EXACT):
            funded = lot.original * lot.price * funded_share
            whole = engine.mtf_interest(str(broker), funded, days, lot.day)
            return (whole * quantity / lot.original).quantize(_PAISA, ROUND_HALF_UP)

    return interest
