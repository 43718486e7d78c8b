"""Ends positions in futures and options that have expired: no broker reports a trade for it.

What a broker does report wins: trades of the contract that arrive later take the settlement's place, and where they end
the position themselves it is withdrawn. The paper broker settles by a trade of its own and is left alone; what its
owner entered by hand is settled in every account.

A settlement is a row among the trades, of which there is one for each book (the key of trades is unique). So books can
be computed anew from the trades as always, and it does no harm when two processes come to the same conclusion.
"""

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, NamedTuple

import structlog
from beanie import PydanticObjectId
from pymongo.errors import DuplicateKeyError

from app.brokerage.portfolio.book_rows import Row, book_of, book_rows, trade_rows
from app.brokerage.portfolio.contracts import SETTLED, Contract, EndState, contract_of, ended_by, verdict
from app.brokerage.portfolio.ledger import Ledger
from app.brokerage.portfolio.naming import (
    DERIVATIVES,
    Settlement,
    Source,
    day_begins,
    day_of,
    is_option,
    type_of,
)
from app.brokerage.portfolio.price_list import price_list
from app.brokerage.ports import LastPrice, Listings, Prices
from app.brokerage.words import BrokerName, Exchange, Product, Side
from app.core.audit import SYSTEM, Act, AuditTrail
from app.core.charges.words import EXACT
from app.core.clock import Clock, to_micros
from app.core.errors import DomainError
from app.core.market_calendar import MarketCalendar

log = structlog.get_logger("arrow.portfolio")

WAIT: Final = timedelta(minutes=15)
"""After the close: by then an index has its closing value, and brokers have told the day's last trades."""
PATIENT: Final = timedelta(minutes=45)
"""After the close: until then a price of after it is waited for, as an index ends at a value of its own (an average of
the last half hour), not at its last one in trading."""
LAST: Final = timedelta(minutes=1)
"""Before the close: an older price is not the one that a contract ended at."""
IN_TRADING: Final = "That was its last price in trading: the exchange's closing value may differ."
_PATIENCE: Final = 20.0


class _Ended(NamedTuple):
    """A book whose contract has ended."""

    book: Row
    contract: Contract | None
    """None where only the end is known."""
    day: date
    at: datetime
    """The close of that day."""


class Expiries:
    """The job that does it, again and again; what is settled, and what cannot be, is left alone."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        prices: Prices,
        listings: Listings,
        calendar: MarketCalendar,
        clock: Clock,
        audit: AuditTrail,
    ) -> None:
        self._ledger, self._prices, self._listings = ledger, prices, listings
        self._calendar, self._clock, self._audit = calendar, clock, audit

    async def run(self) -> Mapping[str, int]:
        """Settle, or mark, what was open when its contract ended; how many books of which fate."""
        query = {"open": True, "exchange": {"$in": sorted(one.value for one in DERIVATIVES)}}
        ended = [
            found
            for row in await book_rows().find(query).to_list()
            if not _of_paper(row) and (found := await self._ended(row)) is not None
        ]
        todo = [one for one in ended if not self._is_final(one)]
        wanted = {one.contract.priced_by(Exchange(one.book["exchange"])) for one in todo if one.contract}
        prices = await price_list(self._prices, wanted, _PATIENCE) if wanted else {}
        counts: dict[str, int] = {}
        for one in todo:
            fate = await self._end(one, prices)
            if fate is not None:
                counts[fate] = counts.get(fate, 0) + 1
        return counts

    async def _ended(self, row: Row) -> _Ended | None:
        """The book as one of an ended contract; None as long as it lives, or nobody knows."""
        contract = await self._terms(row)
        now = self._clock.now()
        if contract is None:
            last = ended_by(row["symbol"], date.fromisoformat(row["last_day"])) if row.get("last_day") else None
            if last is None or now < day_begins(last + timedelta(days=1)):
                return None
            return _Ended(row, None, last, self._close(last))
        close = self._close(contract.expiry)
        # Commodities and currencies have hours of their own: their last day is over at its end.
        over = close + WAIT if Exchange(row["exchange"]) in SETTLED else day_begins(contract.expiry + timedelta(days=1))
        if now >= over:
            return _Ended(row, contract, contract.expiry, close)
        if row.get("expired"):  # the exchange has put its end off
            await book_rows().update_one({"_id": row["_id"]}, {"$unset": {"expired": ""}, "$inc": {"revision": 1}})
        return None

    def _close(self, day: date) -> datetime:
        session = self._calendar.session_of(day) or self._calendar.previous_session(day)
        return session.closes

    async def _terms(self, row: Row) -> Contract | None:
        """By the broker's list, as exchanges move expiries; it forgets contracts that have ended, so the terms are kept
        with the book."""
        known = row.get("contract")
        try:
            listing = await self._listings.find(BrokerName(row["broker"]), Exchange(row["exchange"]), row["symbol"])
        except DomainError as error:
            log.info("no list of instruments", broker=row["broker"], error=type(error).__name__)
            listing = None
        contract = contract_of(listing) if listing else None
        if contract is None:
            return _kept(known) if known else None
        kept = {**contract._asdict(), "expiry": contract.expiry.isoformat()}
        kept = {name: value for name, value in kept.items() if value is not None}
        if kept != known:
            # Without a new revision: whoever changes the book meanwhile writes it without the terms, and they come
            # with the next run.
            await book_rows().update_one({"_id": row["_id"]}, {"$set": {"contract": kept}})
        return contract

    def _is_final(self, one: _Ended) -> bool:
        """Whether it was marked, and no price of that day can come any more."""
        mark = one.book.get("expired")
        if not mark or mark["state"] == EndState.SETTLED:
            return False  # settled, and open again: there are other trades
        return day_of(self._clock.now()) > one.day

    async def _end(self, one: _Ended, prices: Mapping[tuple[Exchange, str], LastPrice]) -> str | None:
        """End it, or say why not; what became of it, if that is new."""
        # What was begun and not ended by somebody else would be counted twice.
        await self._ledger.settle(one.book["account_id"])
        book = await book_rows().find_one({"_id": one.book["_id"], "open": True, "dirty": False})
        if book is None:
            return None
        old = await trade_rows().find_one({"key": _key(book)})
        if old is not None:
            return await self._correct(book, old)
        last = self._price(one, prices)
        if (last is None or last.at < one.at) and self._clock.now() < one.at + PATIENT:
            return None
        judged = verdict(Exchange(book["exchange"]), one.contract, last.price if last else None)
        if judged.price and last is not None and last.at < one.at:
            judged = judged._replace(note=f"{judged.note} {IN_TRADING}")
        position = book_of(book).position
        mark = {"day": one.day.isoformat(), "state": judged.state.value, "note": judged.note}
        if judged.price is None and book.get("expired") == mark:
            return None
        # Said before it is done: who dies in between does it again, and nothing is done that nobody wrote down.
        await self._note(book, position, judged.state.value, judged.price)
        await book_rows().update_one({"_id": book["_id"]}, {"$set": {"expired": mark}, "$inc": {"revision": 1}})
        if judged.price is not None:
            await self._settle(self._row(book, one.at, judged.note, judged.price, position))
        return judged.state.value

    def _price(self, one: _Ended, prices: Mapping[tuple[Exchange, str], LastPrice]) -> LastPrice | None:
        """The underlying's, if it is the last one of the day."""
        if one.contract is None:
            return None
        last = prices.get(one.contract.priced_by(Exchange(one.book["exchange"])))
        if last is None or last.at < one.at - LAST or day_of(last.at) != day_of(one.at):
            return None
        return last

    async def _settle(self, row: Row) -> None:
        async def write() -> Sequence[Row] | None:
            try:
                await trade_rows().insert_one(row)
            except DuplicateKeyError:
                log.debug("another process has settled the book", book=row["book"])
                return None
            return [row]

        await self._ledger.change([row], write)

    async def _correct(self, book: Row, old: Row) -> str | None:
        """There are other trades than when it was settled: settle what they leave, at the same price."""
        before = book_of(book).position - Side(old["order_type"]).sign * old["quantity"]
        same = {"_id": old["_id"], "revision": old["revision"]}
        if before:
            row = {**old, **_amounts(book["symbol"], before, old["price"]), "revision": old["revision"] + 1}
            row["updated_at"] = self._clock.now()

        async def write() -> None:
            if before:
                await trade_rows().replace_one(same, row)
            else:
                await trade_rows().delete_one(same)

        fate = "corrected" if before else "withdrawn"
        await self._note(book, before, fate, old["price"])
        await self._ledger.change([old], write)
        return fate

    def _row(self, book: Row, at: datetime, note: str, price: Decimal, position: int) -> Row:
        exchange, product, now = Exchange(book["exchange"]), Product(book["product"]), self._clock.now()
        return {
            "_id": PydanticObjectId(),
            "schema_version": 1,
            **{name: book[name] for name in ("user_id", "account_id", "broker", "source")},
            "book": book["_id"],
            "key": _key(book),
            "ref": "expiry",
            "exchange": exchange.value,
            "stock_ticker": book["symbol"],
            "product": product.value,
            "type": type_of(exchange, book["symbol"], product).value,
            **_amounts(book["symbol"], position, price),
            "note": note,
            "day": day_of(at).isoformat(),
            "seq": to_micros(at),
            "order_executed_at": at,
            "created_at": now,
            "updated_at": now,
            "revision": 1,
        }

    async def _note(self, book: Row, position: int, fate: str, price: Decimal | None) -> None:
        details = {
            "symbol": book["symbol"],
            "quantity": position,
            "state": fate,
            "price": None if price is None else str(price),
        }
        act = Act("position.expire", book["user_id"], SYSTEM, target=("book", book["_id"]), details=details)
        await self._audit.note(act)


def _kept(terms: Mapping[str, Any]) -> Contract:
    return Contract(terms["underlying"], terms["kind"], terms.get("strike"), date.fromisoformat(terms["expiry"]))


def _of_paper(row: Mapping[str, Any]) -> bool:
    return bool(row["broker"] == BrokerName.PAPER and row["source"] == Source.BROKER)


def _key(book: Mapping[str, Any]) -> str:
    return f"{book['_id']}|expiry"


def _amounts(symbol: str, position: int, price: Decimal) -> Row:
    """What ends such a position."""
    exercised = position > 0 and price > 0 and is_option(symbol)
    return {
        "order_type": (Side.SELL if position > 0 else Side.BUY).value,
        "quantity": abs(position),
        "price": price,
        "capital_used": EXACT.multiply(Decimal(abs(position)), price),
        "settlement": (Settlement.EXERCISED if exercised else Settlement.CASH).value,
    }
