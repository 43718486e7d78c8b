"""Lists of entries: everybody their own account's, all of them however they are paged, and never by a scan."""

import itertools
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import pytest_asyncio
from beanie import PydanticObjectId
from bson import ObjectId
from pymongo import AsyncMongoClient

from app.audit.models import DOCUMENTS
from app.audit.schemas import AuditEntry, AuditFilters
from app.audit.service import AuditReader
from app.audit.trail import ChainedAuditTrail
from app.core.audit import Act, Actor, ActorKind, Outcome
from app.core.errors import ForbiddenError
from app.core.pagination import Cursor, PageRequest
from app.core.request_info import RequestInfo
from app.core.security import Principal, Role
from tests.audit.conftest import Watch, during, entries
from tests.support.clocks import StandingClock
from tests.support.mongodb import OPTIONS, Db, empty_database


def account(clock: StandingClock) -> PydanticObjectId:
    """Made when the test begins, as far as its clock can tell."""
    return PydanticObjectId(ObjectId.from_datetime(clock.now()).binary[:4] + ObjectId().binary[4:])


def caller(user: PydanticObjectId, clock: StandingClock, role: Role = Role.USER, *, token: bool = False) -> Principal:
    return Principal(user, PydanticObjectId(), role, clock.now(), api_token=token)


class Trail:
    """Two accounts, an administrator and strangers, over a few months."""

    def __init__(self, db: Db, trail: ChainedAuditTrail, clock: StandingClock) -> None:
        self.db, self.trail, self.clock = db, trail, clock
        self.reader = AuditReader(db, clock)
        self.asha, self.bela, self.root = (account(clock) for _ in range(3))
        self.admin = caller(self.root, clock, Role.ADMIN)

    async def fill(self) -> None:
        for step in range(40):
            user = self.bela if step % 4 == 3 else self.asha
            me = Actor(ActorKind.SESSION, user)
            action = "auth.sign_in" if step % 3 else "strategy_key.bind"
            outcome = Outcome.FAILURE if step % 10 == 5 else Outcome.SUCCESS
            await self.trail.record(Act(action, user, me, outcome))
            self.clock.move(seconds=7 ** (step % 8))
        await self.trail.record(Act("auth.sign_in", None, outcome=Outcome.FAILURE))
        acts = Act("admin.user_update", self.asha, Actor(ActorKind.SESSION, self.root, PydanticObjectId()))
        await during(RequestInfo("by-root", "203.0.113.77", "The administrator's browser"), self.trail.record(acts))
        self.number = {str(row["_id"]): row["number"] for row in await entries(self.db)}

    def numbers(self, found: Sequence[AuditEntry]) -> list[int]:
        """Not everybody is told them."""
        return [self.number[entry.id] for entry in found]

    async def all(
        self, who: Principal, limit: int = 50, reader: AuditReader | None = None, **filters: Any
    ) -> list[AuditEntry]:
        """Every page, as cursors lead."""
        found: list[AuditEntry] = []
        after = None
        for _ in range(200):
            asked = PageRequest(limit, after)
            page = await (reader or self.reader).page(who, AuditFilters(**filters), asked)
            assert len(page.rows) <= limit
            found += page.rows
            if page.next is None:
                return found
            after = Cursor.decode(page.next.encode())
        raise AssertionError("the pages do not end")


@pytest_asyncio.fixture(scope="module")
async def life(mongodb_url: str) -> AsyncIterator[Trail]:
    clock = StandingClock()
    async with empty_database(mongodb_url, DOCUMENTS) as db:
        made = Trail(db, ChainedAuditTrail(db, clock), clock)
        await made.fill()
        yield made


async def expected(life: Trail, who: Principal, **filters: Any) -> list[int]:
    """The numbers that `filters` leave, newest first, by looking at every entry."""
    kept = []
    for row in reversed(await entries(life.db)):
        mine = who.role is Role.ADMIN or row.get("account_id") == who.user_id
        action = filters.get("action")
        matches = [
            "account_id" not in filters or row.get("account_id") == filters["account_id"],
            "actor_id" not in filters or row["actor"].get("user_id") == filters["actor_id"],
            "actor_id" not in filters or who.role is Role.ADMIN or filters["actor_id"] == who.user_id,
            "outcome" not in filters or row["outcome"] == filters["outcome"],
            action is None or (row["action"].startswith(action) if action.endswith(".") else row["action"] == action),
            "start" not in filters or row["at"] >= filters["start"],
            "end" not in filters or row["at"] <= filters["end"],
        ]
        if mine and all(matches):
            kept.append(row["number"])
    return kept


@pytest.mark.parametrize("limit", [1, 7, 1000])
async def test_everybody_sees_their_own_accounts_trail(life: Trail, limit: int) -> None:
    for user in (life.asha, life.bela):
        found = await life.all(caller(user, life.clock), limit)
        assert {entry.account_id for entry in found} == {str(user)}
        assert life.numbers(found) == await expected(life, caller(user, life.clock))
    everything = await life.all(life.admin, limit)
    assert life.numbers(everything) == list(range(42, 0, -1))
    assert None in {entry.account_id for entry in everything}


async def test_filters_hold_together(life: Trail) -> None:
    middle = (await entries(life.db))[20]["at"]
    asha = caller(life.asha, life.clock)
    filters: list[dict[str, Any]] = [
        {"action": "auth.sign_in"},
        {"action": "auth."},
        {"action": "nothing.like_it"},
        {"outcome": "failure"},
        {"outcome": "success", "action": "auth.sign_in"},
        {"actor_id": life.root},
        {"actor_id": life.asha, "action": "strategy_key."},
        {"start": middle},
        {"end": middle, "outcome": "failure"},
        {"start": middle, "end": middle},
        {"account_id": life.asha, "action": "strategy_key.bind"},
    ]
    for each in filters:
        for who, limit in ((asha, 2), (life.admin, 50)):
            assert life.numbers(await life.all(who, limit, **each)) == await expected(life, who, **each), each
    bela: dict[str, Any] = {"account_id": life.bela, "outcome": "failure"}
    assert life.numbers(await life.all(life.admin, **bela)) == await expected(life, life.admin, **bela)


async def test_a_request_is_found(life: Trail) -> None:
    await life.db["audit_entries"].update_many({"number": {"$gte": 30, "$lte": 35}}, {"$set": {"request_id": "r1"}})
    assert life.numbers(await life.all(life.admin, request_id="r1")) == [35, 34, 33, 32, 31, 30]
    assert life.numbers(await life.all(life.admin, request_id="r1", outcome="failure")) == []
    mine = life.numbers(await life.all(caller(life.bela, life.clock), request_id="r1"))
    assert mine == [number for number in await expected(life, caller(life.bela, life.clock)) if 30 <= number <= 35]
    assert 0 < len(mine) < 6


async def test_nobody_but_a_signed_in_administrator_sees_others(life: Trail) -> None:
    curious = [
        caller(life.asha, life.clock),
        caller(life.asha, life.clock, Role.OPERATOR),
        caller(life.root, life.clock, Role.ADMIN, token=True),
    ]
    for who in curious:
        with pytest.raises(ForbiddenError, match="Only a signed-in administrator"):
            await life.all(who, account_id=life.bela)
        for filters in ({}, {"action": "auth.sign_in"}, {"actor_id": life.bela}, {"outcome": "failure"}):
            found = await life.all(who, **filters)
            assert {entry.account_id for entry in found} <= {str(who.user_id)}
    assert await life.all(caller(life.asha, life.clock), account_id=life.asha)


async def test_a_request_id_that_everybody_uses_leads_to_nothing_of_others(life: Trail) -> None:
    """Clients choose it. What others have under it costs nothing, and no cursor is made of it."""
    everything = {"number": {"$gte": 1, "$lte": 40}}
    await life.db["audit_entries"].update_many(everything, {"$set": {"request_id": "shared"}})
    for user in (life.asha, life.bela):
        who = caller(user, life.clock)
        mine = [number for number in await expected(life, who) if number <= 40]
        assert len(mine) in {10, 30}
        reader = AuditReader(life.db, life.clock, reach=len(mine))
        page = await reader.page(who, AuditFilters(request_id="shared"), PageRequest(50))
        assert (life.numbers(page.rows), page.next) == (mine, None)


async def test_every_query_has_an_index_of_its_own(life: Trail, mongodb_url: str) -> None:
    asked: list[dict[str, Any]] = []
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(
        mongodb_url, event_listeners=[Watch(asked.append)], **OPTIONS
    )
    reader = AuditReader(client[life.db.name], life.clock)
    values = {"action": "auth.sign_in", "outcome": "failure", "request_id": "r1", "actor_id": life.asha}
    chosen = [dict(pairs) for size in range(3) for pairs in itertools.combinations(values.items(), size)]
    for filters in [*chosen, {"account_id": life.bela, "request_id": "r1"}, {"action": "auth."}]:
        for who in (caller(life.asha, life.clock), life.admin):
            if who is life.admin or "account_id" not in filters:
                await reader.page(who, AuditFilters(**filters), PageRequest(3))
    indexes = await life.db["audit_entries"].index_information()
    await client.close()
    assert len(asked) > len(chosen)
    served = [({name for name, _ in index["key"][:-1]}, index["key"][-1][0]) for index in indexes.values()]
    for query in asked:
        span = query.pop("seq")
        assert set(span) == {"$gte", "$lte"}
        assert (set(query), "seq") in served


async def test_whoever_is_no_administrator_learns_nothing_of_others(life: Trail) -> None:
    """Neither how much goes on elsewhere, nor who administers, nor from where."""
    bare: list[AuditEntry] = []
    for role, token in ((Role.USER, False), (Role.OPERATOR, False), (Role.ADMIN, True)):
        [entry] = await life.all(caller(life.asha, life.clock, role, token=token), action="admin.user_update")
        bare.append(entry)
        own = (await life.all(caller(life.asha, life.clock, role, token=token), action="auth."))[0]
        assert (own.number, own.hash) == (None, None)
        assert (own.actor.user_id, own.actor.administrator) == (str(life.asha), False)
        assert not await life.all(caller(life.asha, life.clock, role, token=token), actor_id=life.root)
    for entry in bare:
        assert (entry.actor.kind, entry.actor.administrator) == (ActorKind.SESSION, True)
        hidden = (entry.number, entry.hash, entry.address, entry.user_agent)
        assert {*hidden, entry.actor.user_id, entry.actor.credential_id} == {None}
    [whole] = await life.all(life.admin, action="admin.user_update")
    assert (whole.id, whole.number, whole.address) == (bare[0].id, 42, "203.0.113.77")
    assert (whole.user_agent, len(whole.hash or "")) == ("The administrator's browser", 64)
    assert (whole.actor.user_id, whole.actor.administrator) == (str(life.root), True)
    assert whole.actor.credential_id


async def test_ids_tell_nothing_of_how_many_others_were_made(life: Trail) -> None:
    """The driver's own ids hold a time, the same five bytes in a process, and a count."""
    ids = [bytes.fromhex(entry.id) for entry in await life.all(caller(life.asha, life.clock))]
    assert len({one[4:9] for one in ids}) == len({one[:4] for one in ids}) == len(ids)


async def test_a_page_reaches_only_so_far_and_its_cursor_goes_on(life: Trail) -> None:
    reader = AuditReader(life.db, life.clock, reach=6)
    filters = AuditFilters(actor_id=life.bela)
    first = await reader.page(life.admin, filters, PageRequest(50))
    assert first.next is not None
    assert len(first.rows) < 6
    for each in ({"actor_id": life.bela, "outcome": "failure"}, {"actor_id": life.root}, {"action": "strategy_key."}):
        found = life.numbers(await life.all(life.admin, reader=reader, **each))
        assert found == await expected(life, life.admin, **each)


async def test_without_a_head_the_list_is_there(life: Trail) -> None:
    heads = life.db["audit_chain"]
    removed = await heads.find_one({"_id": "head"})
    assert removed is not None
    await heads.delete_one({"_id": "head"})
    assert len(await life.all(life.admin)) == 42
    await heads.insert_one(removed)
