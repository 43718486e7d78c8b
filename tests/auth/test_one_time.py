"""One-time secrets on a real database: each works once, for its time, and dies of wrong tries, however many ask."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from beanie import PydanticObjectId

from app.auth.digests import KeyedDigests
from app.auth.models import OneTimeSecretDocument
from app.auth.one_time import OneTimeSecrets
from app.core.clock import SystemClock
from tests.auth.codes_support import LOG, codes_database, in_processes, make_digests
from tests.support.clocks import StandingClock
from tests.support.mongodb import Db

pytestmark = pytest.mark.timeout(180)
"""Services or programs are started here, for which a busy machine needs its time."""

LIFETIME = timedelta(minutes=5)


@pytest.fixture(scope="module", autouse=True)
async def codes_db(mongodb_url: str) -> AsyncIterator[Db]:
    async with codes_database(mongodb_url) as db:
        yield db


@pytest.fixture
def clock() -> StandingClock:
    return StandingClock()


@pytest.fixture
def one_time(clock: StandingClock) -> OneTimeSecrets:
    return OneTimeSecrets(clock=clock, digests=make_digests())


@pytest.fixture
def slot() -> str:
    return f"otp:{secrets.token_hex(8)}"


USER = PydanticObjectId()


async def put(one_time: OneTimeSecrets, slot: str, secret: str = "123456", **more: PydanticObjectId | None) -> None:
    await one_time.put(slot, secret, user_id=more.get("user_id", USER), lifetime=LIFETIME)


async def tries(db: Db, slot: str) -> int:
    return (await db.one_time_secrets.find_one({"_id": slot}))["tries"]


async def test_the_right_secret_is_taken_once_with_what_was_put_beside_it(one_time: OneTimeSecrets, slot: str) -> None:
    await one_time.put(slot, "123456", user_id=USER, lifetime=LIFETIME, details={"method": "password"})
    row = await one_time.take(slot, "123456")
    assert row is not None
    assert (row.user_id, row.details) == (USER, {"method": "password"})
    assert await one_time.take(slot, "123456") is None
    assert await one_time.peek(slot) is None


@pytest.mark.parametrize(("wrong", "survives"), [(4, True), (5, False)])
async def test_wrong_tries_are_counted(
    one_time: OneTimeSecrets, codes_db: Db, slot: str, wrong: int, survives: bool
) -> None:
    await put(one_time, slot)
    for _ in range(wrong):
        assert await one_time.take(slot, "654321") is None
    assert await tries(codes_db, slot) == wrong
    assert (await one_time.take(slot, "123456") is not None) is survives


async def test_the_caller_says_how_many_tries(one_time: OneTimeSecrets, slot: str) -> None:
    await put(one_time, slot)
    assert await one_time.take(slot, "654321", max_tries=1) is None
    assert await one_time.take(slot, "123456", max_tries=1) is None
    assert await one_time.take(slot, "123456", max_tries=2) is not None


async def test_a_secret_dies_at_the_end_of_its_time_whether_it_is_removed_or_not(
    one_time: OneTimeSecrets, codes_db: Db, clock: StandingClock, slot: str
) -> None:
    await put(one_time, slot)
    await put(one_time, f"{slot}:2")
    clock.move(minutes=5, milliseconds=-1)
    assert await one_time.take(slot, "123456") is not None
    clock.move(milliseconds=1)
    assert await one_time.take(f"{slot}:2", "123456") is None
    assert await one_time.peek(f"{slot}:2") is None
    assert await tries(codes_db, f"{slot}:2") == 0, "it is still there"


async def test_a_decoy_matches_nothing_but_counts(one_time: OneTimeSecrets, codes_db: Db, slot: str) -> None:
    await put(one_time, slot, user_id=None)
    for _ in range(8):
        assert await one_time.take(slot, "123456") is None
    assert await tries(codes_db, slot) == 5


async def test_a_new_secret_replaces_the_old_one_and_its_tries(
    one_time: OneTimeSecrets, codes_db: Db, slot: str
) -> None:
    await put(one_time, slot, "111111")
    for _ in range(5):
        await one_time.take(slot, "000000")
    await put(one_time, slot, "222222")
    assert await one_time.take(slot, "111111") is None
    assert await tries(codes_db, slot) == 1
    assert await one_time.take(slot, "222222") is not None


async def test_dropping_empties_a_slot(one_time: OneTimeSecrets, slot: str) -> None:
    await put(one_time, slot)
    await one_time.drop(slot)
    await one_time.drop(slot)
    assert await one_time.take(slot, "123456") is None


class Overtaken(OneTimeSecrets):
    """Another process puts a new secret right after this one has looked for the first time."""

    def __init__(self, other: OneTimeSecrets, clock: StandingClock) -> None:
        super().__init__(clock=clock, digests=make_digests())
        self._other: OneTimeSecrets | None = other

    async def peek(self, slot: str) -> OneTimeSecretDocument | None:
        row = await super().peek(slot)
        if self._other:
            other, self._other = self._other, None
            await put(other, slot, "222222")
        return row


async def test_a_try_that_began_with_the_old_secret_does_not_count_against_the_new_one(
    one_time: OneTimeSecrets, codes_db: Db, clock: StandingClock, slot: str
) -> None:
    await put(one_time, slot, "111111")
    assert await Overtaken(one_time, clock).take(slot, "111111") is None
    assert await tries(codes_db, slot) == 0
    assert await one_time.take(slot, "222222") is not None


@pytest.mark.parametrize("user_id", [USER, None])
async def test_of_fifty_wrong_tries_at_once_at_most_five_are_made(
    one_time: OneTimeSecrets, codes_db: Db, slot: str, user_id: PydanticObjectId | None
) -> None:
    await put(one_time, slot, user_id=user_id)
    compared: list[str] = []

    class Watched(KeyedDigests):
        def matches(self, purpose: str, text: str, digest: str) -> bool:
            if digest.strip("0"):  # not the one that stands in for none
                compared.append(text)
            return super().matches(purpose, text, digest)

    watching = OneTimeSecrets(clock=SystemClock(), digests=Watched("k" * 40))
    found = await asyncio.gather(*(watching.take(slot, f"{number:06d}") for number in range(50)))
    assert found == [None] * 50
    assert len(compared) == 5
    assert await tries(codes_db, slot) == 5
    assert await one_time.take(slot, "123456") is None


async def test_of_eight_right_answers_at_once_exactly_one_gets_it(one_time: OneTimeSecrets) -> None:
    for number in range(5):
        slot = f"otp:{secrets.token_hex(8)}:{number}"
        await put(one_time, slot)
        found = await asyncio.gather(*(one_time.take(slot, "123456") for _ in range(8)))
        assert sum(row is not None for row in found) == 1


async def test_the_right_answer_beside_wrong_ones_is_not_lost_to_the_race(one_time: OneTimeSecrets, slot: str) -> None:
    await put(one_time, slot)
    answers = ["000000", "000001", "123456", "000002", "000003"]
    found = await asyncio.gather(*(one_time.take(slot, answer) for answer in answers))
    assert [row is not None for row in found] == [False, False, True, False, False]


async def test_processes_share_the_tries_and_the_one_success(codes_db: Db, mongodb_url: str, slot: str) -> None:
    real_time = OneTimeSecrets(clock=SystemClock(), digests=make_digests())
    await put(real_time, slot)
    await put(real_time, f"{slot}:wrong")
    right, wrong = await asyncio.gather(
        in_processes(2, mongodb_url, codes_db.name, slot, "123456", "4"),
        in_processes(1, mongodb_url, codes_db.name, f"{slot}:wrong", "000000", "25"),
    )
    assert sum(right) == 1
    assert sum(wrong) == 0
    assert await tries(codes_db, f"{slot}:wrong") == 5
    assert await real_time.take(f"{slot}:wrong", "123456") is None


async def test_many_may_put_at_once_and_one_secret_lies_there(one_time: OneTimeSecrets) -> None:
    for number in range(5):
        slot = f"otp:{secrets.token_hex(8)}:{number}"
        await asyncio.gather(*(put(one_time, slot, f"{secret:06d}") for secret in range(8)))
        found = [await one_time.take(slot, f"{secret:06d}", max_tries=9) for secret in range(8)]
        assert sum(row is not None for row in found) == 1


async def test_the_database_sees_no_secret_and_no_digest_fits_elsewhere(
    one_time: OneTimeSecrets, codes_db: Db, slot: str
) -> None:
    await put(one_time, slot)
    await put(one_time, f"{slot}:2")
    one, two = [await codes_db.one_time_secrets.find_one({"_id": name}) for name in (slot, f"{slot}:2")]
    assert "123456" not in str(one | {"_id": ""})
    assert one["digest"] != two["digest"]
    # Somebody who can write to the database moves a secret that they know into another account's slot.
    await codes_db.one_time_secrets.replace_one({"_id": slot}, two | {"_id": slot, "user_id": USER})
    assert await one_time.take(slot, "123456") is None


async def test_known_and_decoy_slots_cost_the_same_and_empty_or_dead_ones_ask_as_much(
    one_time: OneTimeSecrets, slot: str
) -> None:
    await put(one_time, slot)
    await put(one_time, f"{slot}:decoy", user_id=None)
    await put(one_time, f"{slot}:dead")
    for _ in range(5):
        await one_time.take(f"{slot}:dead", "000000")
    costs = []
    for name in (slot, f"{slot}:decoy", f"{slot}:dead", f"{slot}:empty"):
        with LOG.kept() as asked:
            await one_time.take(name, "000000")
        costs.append(asked)
    assert costs == [["find one_time_secrets", "update one_time_secrets"]] * 4
