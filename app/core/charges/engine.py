"""What a trade costs on the Indian exchanges besides its price, by component, exactly.

How it is rounded (halves up, always at the end, never in between):
- A contract note is one broker's trades of one day. Its turnovers are added up exactly first; each component is then
  rounded once for the note. `of` is the note of a single order.
- Securities transaction tax is rounded to the rupee, everything else to the paisa.
- Brokerage is a matter of single orders: each is rounded to the paisa by itself, as its caps are.
- What was bought and sold for delivery on one day is not delivered: that part of its orders is charged as intraday. An
  order of which only a part is pays brokerage for both parts, and never more than the whole would in the dearer of the
  two ways (some brokers take that of intraday for the whole order).
- Goods and services tax is taken of the rounded parts, so that whoever has the note can compute it again from it.

The data says which days it covers. Beyond them the nearest rates are used, and `Charges.note` says so.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import date
from decimal import ROUND_CEILING, ROUND_HALF_UP, Decimal, localcontext
from fractions import Fraction
from typing import Final

from app.core.charges.data import Broker, ChargesData, Interest, Plan, Rate, SidedRate, holding, load_charges
from app.core.charges.words import (
    EXACT,
    NOTHING,
    Charges,
    RoundTrip,
    Segment,
    Side,
    TradeForCharges,
    UnknownBrokerError,
)

_PAISA: Final = Decimal("0.01")
_RUPEE: Final = Decimal(1)
_HUNDRED: Final = Decimal(100)
_YEAR: Final = 365


class ChargeEngine:
    """Answers from the data; without I/O, once made, and from any thread."""

    def __init__(self, data: ChargesData | None = None) -> None:
        """`data`: another file's (`load_charges`) than the one that comes with the service."""
        self._data = load_charges() if data is None else data

    @property
    def data(self) -> ChargesData:
        """Rates, plans, and where they come from."""
        return self._data

    @property
    def brokers(self) -> tuple[str, ...]:
        """Whose plans are known."""
        return tuple(self._data.brokers)

    def covers(self, day: date) -> bool:
        """Whether the data vouches for `day`."""
        return self._data.first <= day <= self._data.last

    def of(self, trade: TradeForCharges) -> Charges:
        """The charges of one order. Raises `UnknownBrokerError`."""
        return self.contract_note([trade])

    def contract_note(self, trades: Sequence[TradeForCharges]) -> Charges:
        """The charges of one broker's orders of one day, each component rounded once. Raises `UnknownBrokerError`,
        and `ValueError` for no orders, or orders of several brokers or days."""
        if len({(trade.broker, trade.on) for trade in trades}) != 1:
            raise ValueError("a contract note has orders, all of one broker and one day")
        broker, on = trades[0].broker, trades[0].on
        plans = self._broker(broker)
        with localcontext(EXACT):
            brokerage = sum((_brokerage(plans, trade) for trade in trades), NOTHING)
            depository = sum((holding(plans.depository, on).amount for t in trades if _leaves(t)), NOTHING)
            charges = self._levies(trades, on)
            taxed = brokerage + depository + charges.transaction + charges.sebi + charges.investor_protection
            gst = _rounded(taxed * holding(self._data.gst, on).percent / _HUNDRED)
            return Charges(
                brokerage=brokerage,
                stt=charges.stt,
                transaction=charges.transaction,
                sebi=charges.sebi,
                investor_protection=charges.investor_protection,
                stamp=charges.stamp,
                depository=_rounded(depository),
                gst=gst,
                note=self._note(on),
            )

    def _levies(self, trades: Iterable[TradeForCharges], on: date) -> Charges:
        """What does not depend on the broker."""
        data = self._data
        trades = list(trades)
        stt = _levied(trades, lambda trade, segment: _sided(data.stt[segment], trade))
        transaction = _levied(trades, lambda trade, segment: _rate(data.transaction[trade.exchange][segment], trade))
        fund = _levied(trades, lambda trade, segment: _rate(data.investor_protection[trade.exchange][segment], trade))
        return Charges(
            stt=_rounded(stt, _RUPEE).quantize(_PAISA),
            transaction=_rounded(transaction),
            sebi=_rounded(_levied(trades, lambda _, __: holding(data.sebi, on).percent)),
            investor_protection=_rounded(fund),
            stamp=_rounded(_levied(trades, lambda trade, segment: _sided(data.stamp[segment], trade))),
        )

    def exercise_stt(self, worth: Decimal, on: date) -> Decimal:
        """The securities transaction tax on options exercised on a day that were worth so many rupees then."""
        with localcontext(EXACT):
            return _rounded(worth * holding(self._data.exercise, on).percent / _HUNDRED, _RUPEE).quantize(_PAISA)

    def round_trip(self, entry: TradeForCharges, exit_price: Decimal, exit_on: date | None = None) -> RoundTrip:
        """The position that `entry` begins and an order of the same quantity at `exit_price` ends, each charged by
        itself; on the same day if nothing else is said. Raises what `of` and `TradeForCharges` raise."""
        ending = TradeForCharges(
            entry.exchange,
            entry.segment,
            entry.side.opposite,
            entry.quantity,
            exit_price,
            entry.on if exit_on is None else exit_on,
            entry.broker,
            entry.depository,
        )
        bought, sold = (entry, ending) if entry.side is Side.BUY else (ending, entry)
        gross = EXACT.subtract(sold.turnover, bought.turnover)
        return RoundTrip(self.of(entry), self.of(ending), entry.turnover, gross)

    def mtf_interest(self, broker: str, funded: Decimal, days: int, on: date) -> Decimal:
        """What the broker takes for lending `funded` rupees for `days`, by the plan that holds on the first of them,
        to the paisa. Raises `UnknownBrokerError`, and `ValueError` for negative or endless numbers."""
        if not funded.is_finite() or funded < 0 or days < 0:
            raise ValueError("what is funded, and for how many days, is not negative")
        plan = holding(self._broker(broker).mtf_interest, on)
        with localcontext(EXACT):
            return _rounded(_interest(plan, funded, days))

    def _broker(self, name: str) -> Broker:
        broker = self._data.brokers.get(name)
        if broker is None:
            raise UnknownBrokerError(
                f"There are no charges of a broker called {name[:40]}: known are {', '.join(self.brokers)}."
            )
        return broker

    def _note(self, on: date) -> str | None:
        if self.covers(on):
            return None
        first, last = self._data.first, self._data.last
        nearest = "oldest" if on < first else "newest"
        return (
            f"The rates of charges here cover {first:%d %b %Y} to {last:%d %b %Y}; "
            f"for {on:%d %b %Y} the {nearest} of them were used."
        )


def _rounded(value: Decimal | Fraction, unit: Decimal = _PAISA) -> Decimal:
    if isinstance(value, Fraction):
        return ((value / Fraction(unit) + Fraction(1, 2)).__floor__() * unit).quantize(unit)
    return value.quantize(unit, ROUND_HALF_UP)


def _levied(
    trades: Iterable[TradeForCharges], rate: Callable[[TradeForCharges, Segment], Decimal]
) -> Decimal | Fraction:
    """Rupees, exact; as a fraction where orders are charged in parts, which may be thirds."""
    whole, parts = NOTHING, Fraction(0)
    for trade in trades:
        if not trade.same_day:
            whole += trade.turnover * rate(trade, trade.segment.levied_as) / _HUNDRED
            continue
        intraday, delivered = (Fraction(rate(trade, segment)) for segment in (Segment.INTRADAY, Segment.DELIVERY))
        percent = trade.same_day * intraday + (1 - trade.same_day) * delivered
        parts += Fraction(trade.turnover) * percent / 100
    return Fraction(whole) + parts if parts else whole


def _leaves(trade: TradeForCharges) -> bool:
    """Whether sold shares leave the account at the depository."""
    delivered = trade.segment.levied_as is Segment.DELIVERY and trade.same_day < 1
    return trade.depository and trade.side is Side.SELL and delivered


def _rate(rows: Sequence[Rate], trade: TradeForCharges) -> Decimal:
    return holding(rows, trade.on).percent


def _sided(rows: Sequence[SidedRate], trade: TradeForCharges) -> Decimal:
    row = holding(rows, trade.on)
    return row.buy if trade.side is Side.BUY else row.sell


def _brokerage(plans: Broker, trade: TradeForCharges) -> Decimal:
    """Of one order."""
    plan, turnover = holding(plans.brokerage[trade.segment], trade.on), trade.turnover
    if not trade.same_day:
        return _taken(plan, turnover)
    intraday = holding(plans.brokerage[Segment.INTRADAY], trade.on)
    if trade.same_day == 1:
        return _taken(intraday, turnover)
    part = turnover * trade.same_day.numerator / trade.same_day.denominator
    dearer = max(_taken(intraday, turnover), _taken(plan, turnover))
    return min(_taken(intraday, part) + _taken(plan, turnover - part), dearer)


def _taken(plan: Plan, turnover: Decimal) -> Decimal:
    if plan.flat is not None:
        return _rounded(plan.flat)
    percent = plan.percent or NOTHING
    least = plan.least
    if plan.bound_percent is not None:
        least = min(least, turnover * plan.bound_percent / _HUNDRED)
    amount = max(turnover * percent / _HUNDRED, least)
    return _rounded(amount if plan.most is None else min(amount, plan.most))


def _interest(plan: Interest, funded: Decimal, days: int) -> Decimal:
    if plan.percent_a_year is not None:
        return funded * plan.percent_a_year * days / (_HUNDRED * _YEAR)
    slab, amount = plan.slab or _RUPEE, plan.a_day or NOTHING
    slabs = (funded / slab).to_integral_value(ROUND_CEILING)
    return slabs * amount * days
