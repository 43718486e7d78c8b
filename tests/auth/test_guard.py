"""The guard on a real database: guessing slows down for everybody but the owner."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta

import pytest
from beanie import PydanticObjectId

from app.auth.guard import LONGEST_WAIT, Attempt, SignInGuard, wait_after
from app.auth.places import SignInPlaces
from app.auth.sessions import Client
from app.core.errors import RateLimitedError
from app.core.rate_limit import RateLimiter
from app.core.settings import Settings
from tests.auth.codes_support import LOG, SECRET_KEY, codes_database, make_digests
from tests.support.clocks import StandingClock
from tests.support.mongodb import Db

OWNER = Client("192.0.2.7", "Firefox")
STRANGER = Client("203.0.113.5", "curl")


@pytest.fixture(scope="module", autouse=True)
async def codes_db(mongodb_url: str) -> AsyncIterator[Db]:
    async with codes_database(mongodb_url) as db:
        yield db


@pytest.fixture(autouse=True)
async def clean(codes_db: Db) -> Db:
    """Networks are counted over all accounts, so each test begins with none."""
    await codes_db.sign_in_guards.delete_many({})
    return codes_db


@pytest.fixture
def clock() -> StandingClock:
    return StandingClock()


@pytest.fixture
def places(clock: StandingClock) -> SignInPlaces:
    return SignInPlaces(clock=clock, digests=make_digests())


class TickingClock(StandingClock):
    """No two moments are the same, as on real machines."""

    def now(self) -> datetime:
        self.move(milliseconds=1)
        return super().now()


MakeGuard = Callable[[], SignInGuard]


@pytest.fixture
def another(clock: StandingClock, places: SignInPlaces) -> MakeGuard:
    """Makes guards with the limits of the defaults, each with an empty minute: another process, or a minute later."""
    settings = Settings(secret_key=SECRET_KEY, _env_file=None)
    assert (settings.auth_rate_limit_per_minute, settings.auth_address_rate_limit_per_minute) == (5, 20)
    return lambda: SignInGuard(clock=clock, limiter=RateLimiter(), settings=settings, places=places)


@pytest.fixture
def account() -> PydanticObjectId:
    return PydanticObjectId()


async def fail(
    guard: SignInGuard, account: PydanticObjectId | str, client: Client = STRANGER, *, purpose: str = "password"
) -> None:
    await guard.failed(await guard.admit(purpose, account, client))


async def succeed(guard: SignInGuard, account: PydanticObjectId | str, client: Client = STRANGER) -> None:
    await guard.succeeded(await guard.admit("password", account, client))


async def fail_until_waiting(guard: SignInGuard, account: PydanticObjectId | str, client: Client = STRANGER) -> None:
    for _ in range(5):
        await fail(guard, account, client)


async def refusal(
    guard: SignInGuard, account: PydanticObjectId | str, client: Client = STRANGER, purpose: str = "password"
) -> float:
    """The seconds that an attempt is told to wait."""
    with pytest.raises(RateLimitedError) as refused:
        await guard.admit(purpose, account, client)
    assert int(refused.value.headers["Retry-After"]) >= 1
    return refused.value.retry_after


async def let_through(
    guard: SignInGuard, times: int, account: PydanticObjectId | str, client: Client = STRANGER
) -> list[Attempt]:
    """The attempts that pass of so many at once."""
    tried = [guard.admit("password", account, client) for _ in range(times)]
    answers = await asyncio.gather(*tried, return_exceptions=True)
    assert {type(answer) for answer in answers} <= {Attempt, RateLimitedError}
    return [answer for answer in answers if isinstance(answer, Attempt)]


# The limits a minute. Theirs is real time, so a test may fall into two minutes of the clock, which let one or two more
# through (exactness is the limiter's own test).


async def test_an_account_has_five_attempts_a_minute_right_or_wrong_from_all_strangers_together(
    another: MakeGuard, account: PydanticObjectId | str
) -> None:
    guard, passed = another(), 0
    for number in range(15):
        try:
            await succeed(guard, account, Client(f"203.0.113.{number}"))
        except RateLimitedError as error:
            assert error.limit == 5
        else:
            passed += 1
    assert passed in {5, 6}
    await guard.admit("otp", account, STRANGER)  # each purpose has its own
    await guard.admit("password", PydanticObjectId(), STRANGER)


async def test_a_network_has_twenty_attempts_a_minute_which_do_not_use_up_those_of_others(
    another: MakeGuard, account: PydanticObjectId | str
) -> None:
    guard, passed = another(), 0
    for _ in range(30):
        try:
            await guard.admit("otp", PydanticObjectId(), STRANGER)
        except RateLimitedError as error:
            assert error.limit == 20
        else:
            passed += 1
    assert passed in {20, 21, 22}
    refused = await asyncio.gather(
        *(guard.admit("password", account, STRANGER) for _ in range(10)), return_exceptions=True
    )
    assert sum(isinstance(answer, RateLimitedError) for answer in refused) >= 8
    assert await let_through(guard, 3, account, OWNER)


async def test_addresses_of_one_ipv6_network_are_one(another: MakeGuard) -> None:
    guard = another()
    answers = await asyncio.gather(
        *(guard.admit("otp", PydanticObjectId(), Client(f"2001:db8:1:2::{n:x}")) for n in range(30)),
        return_exceptions=True,
    )
    assert sum(isinstance(answer, RateLimitedError) for answer in answers) >= 8
    await guard.admit("otp", PydanticObjectId(), Client("2001:db8:1:3::1"))


# Waits


async def test_waits_double_up_to_a_quarter_of_an_hour(
    another: MakeGuard, clock: StandingClock, account: PydanticObjectId | str
) -> None:
    await fail_until_waiting(another(), account)
    waits = []
    for _ in range(8):
        waits.append(await refusal(another(), account))
        clock.move(seconds=waits[-1], milliseconds=-1)
        assert await refusal(another(), account) == 1, "at least the second that Retry-After can say"
        clock.move(milliseconds=1)
        await fail(another(), account)
    assert waits == [30, 60, 120, 240, 480, 900, 900, 900]


def test_a_wait_has_its_limit_after_any_number_of_failures() -> None:
    waits = [wait_after(excess) for excess in (0, 1, 5, 1000, 10**9)]
    assert waits == [timedelta(seconds=30), timedelta(minutes=1), LONGEST_WAIT, LONGEST_WAIT, LONGEST_WAIT]


async def test_a_wait_holds_for_every_attempt_in_every_process_and_says_what_to_do(
    another: MakeGuard, account: PydanticObjectId | str
) -> None:
    guard = another()
    await fail_until_waiting(guard, account)
    for client in (STRANGER, Client("198.51.100.1"), Client("2001:db8::1")):
        assert 0 < await refusal(another(), account, client) <= 30
    with pytest.raises(RateLimitedError, match=r"Try again in 30 s, or reset your password by e-mail\.$"):
        await another().admit("password", account, STRANGER)


async def test_success_ends_the_counting(
    another: MakeGuard, clock: StandingClock, account: PydanticObjectId | str
) -> None:
    for _ in range(4):
        await fail(another(), account)
    await succeed(another(), account)
    for _ in range(4):
        await fail(another(), account)
    await succeed(another(), account)
    await fail_until_waiting(another(), account)
    clock.move(seconds=30)
    await succeed(another(), account)
    await fail(another(), account)
    await another().admit("password", account, STRANGER)


async def test_failures_are_forgotten_after_a_day_without_one(
    another: MakeGuard, clock: StandingClock, account: PydanticObjectId | str
) -> None:
    await fail_until_waiting(another(), account)
    clock.move(hours=23)
    await fail(another(), account)
    assert await refusal(another(), account) == 60, "the sixth in a row"
    clock.move(hours=24)
    for _ in range(4):
        await fail(another(), account)
    await another().admit("password", account, STRANGER)


async def test_purposes_and_accounts_wait_by_themselves(another: MakeGuard, account: PydanticObjectId | str) -> None:
    await fail_until_waiting(another(), account)
    await another().admit("otp", account, STRANGER)
    await another().admit("second-factor", account, STRANGER)
    await another().admit("password", PydanticObjectId(), STRANGER)


async def test_a_stranger_who_never_stops_does_not_delay_the_owner_at_a_familiar_place(
    another: MakeGuard, places: SignInPlaces, clock: StandingClock
) -> None:
    owner = PydanticObjectId()
    await places.note(owner, OWNER)
    await fail_until_waiting(another(), owner)
    for number in range(12):
        for client in (STRANGER, Client(f"203.0.113.{100 + number}")):
            assert await refusal(another(), owner, client) <= LONGEST_WAIT.total_seconds()
        await succeed(another(), owner, OWNER)
        clock.move(minutes=15)
        await fail(another(), owner, Client(f"198.51.100.{number}"))
    # At a new network the owner waits as the stranger does, a quarter of an hour at most; then it is familiar.
    cafe = Client("198.51.100.200", "Firefox")
    assert await refusal(another(), owner, cafe) == 900
    clock.move(minutes=15)
    await succeed(another(), owner, cafe)
    await places.note(owner, cafe)
    await fail_until_waiting(another(), owner)
    await succeed(another(), owner, cafe)


async def test_the_owners_own_mistakes_at_a_familiar_place_wait_too_and_only_there(
    another: MakeGuard, places: SignInPlaces
) -> None:
    owner = PydanticObjectId()
    await places.note(owner, OWNER)
    await fail_until_waiting(another(), owner, OWNER)
    assert await refusal(another(), owner, OWNER) == 30
    await another().admit("password", owner, STRANGER)


# Many at once


@pytest.mark.parametrize("clock", [StandingClock(), TickingClock()], ids=["one moment", "different moments"])
async def test_of_fifty_at_once_none_passes_a_wait_and_one_follows_it(
    another: MakeGuard, clock: StandingClock, account: PydanticObjectId | str
) -> None:
    await fail_until_waiting(another(), account)
    for _ in range(2):
        guards = [another() for _ in range(10)]  # ten processes that share no limiter
        blocked = await asyncio.gather(*(let_through(guard, 5, account) for guard in guards))
        assert sum(map(len, blocked)) == 0
        clock.move(minutes=15)
        passed = await asyncio.gather(*(let_through(guard, 5, account) for guard in guards))
        assert sum(map(len, passed)) == 1
        # That one never comes to an end (its process died): it stays counted.


@pytest.mark.parametrize("clock", [TickingClock()])
async def test_after_a_networks_wait_one_of_its_strangers_is_let_through_and_all_who_know_it(
    another: MakeGuard, places: SignInPlaces, clock: StandingClock
) -> None:
    neighbours = [PydanticObjectId() for _ in range(4)]
    for neighbour in neighbours:
        await places.note(neighbour, STRANGER)
    await fail_over_accounts(another, 40)
    clock.move(minutes=14)
    strangers = [let_through(another(), 1, PydanticObjectId()) for _ in range(8)]
    known = [let_through(another(), 1, neighbour) for neighbour in neighbours]
    passed = [len(each) for each in await asyncio.gather(*strangers, *known)]
    assert (sum(passed[:8]), passed[8:]) == (1, [1] * 4)


async def test_fifty_at_once_without_a_wait_are_bounded_by_the_limit_and_every_failure_counts(
    another: MakeGuard, clean: Db, account: PydanticObjectId | str
) -> None:
    guard = another()
    attempts = await let_through(guard, 50, account)
    assert 5 <= len(attempts) <= 6
    await asyncio.gather(*(guard.failed(attempt) for attempt in attempts))
    rows = await clean.sign_in_guards.find({}).to_list()
    assert [row["failures"] for row in rows] == [len(attempts)] * 2, "the account's side and the network"
    assert {row["schema_version"] for row in rows} == {1}
    assert await refusal(another(), account) >= 30


# Networks


async def fail_over_accounts(another: MakeGuard, times: int, client: Client = STRANGER) -> None:
    for _ in range(times):
        await fail(another(), PydanticObjectId(), client)


async def test_one_password_tried_on_many_accounts_makes_the_network_wait(
    another: MakeGuard, clock: StandingClock, account: PydanticObjectId | str
) -> None:
    await fail_over_accounts(another, 39)
    await succeed(another(), account)  # an own account excuses nothing
    await fail_over_accounts(another, 1)
    for purpose in ("password", "otp", "second-factor"):
        assert await refusal(another(), PydanticObjectId(), purpose=purpose) == 30
    await another().admit("password", account, OWNER)
    clock.move(seconds=30)
    await fail(another(), PydanticObjectId())
    assert await refusal(another(), account) == 60


async def test_who_knows_the_network_does_not_wait_with_it(another: MakeGuard, places: SignInPlaces) -> None:
    neighbour = PydanticObjectId()
    await places.note(neighbour, STRANGER)  # behind the same address
    await fail_over_accounts(another, 40)
    await refusal(another(), PydanticObjectId())
    await succeed(another(), neighbour)
    await fail(another(), neighbour)
    assert await refusal(another(), PydanticObjectId()) == 60, "their failures count as everybody's"


async def test_a_success_after_a_networks_wait_takes_its_charge_back(
    another: MakeGuard, clock: StandingClock, account: PydanticObjectId | str
) -> None:
    await fail_over_accounts(another, 40)
    clock.move(seconds=30)
    await succeed(another(), account)
    await fail(another(), PydanticObjectId())
    assert await refusal(another(), account) == 60, "the 41st failure, not the 42nd"


async def test_a_networks_waits_double_too_and_none_is_longer_than_it_says(
    another: MakeGuard, clock: StandingClock
) -> None:
    await fail_over_accounts(another, 40)
    waits = []
    for _ in range(9):
        waits.append(await refusal(another(), PydanticObjectId()))
        clock.move(seconds=waits[-1])
        await fail_over_accounts(another, 1)
    # It forgets a failure in each of the longest waits, and gets a new one after it.
    assert waits == [30, 60, 120, 240, 480, 900, 900, 900, 900]


async def test_a_network_forgets_a_failure_for_each_quarter_of_an_hour(
    another: MakeGuard, clock: StandingClock, account: PydanticObjectId | str
) -> None:
    await fail_over_accounts(another, 40)
    clock.move(minutes=44)
    await fail_over_accounts(another, 1)  # 38 and one
    await another().admit("password", account, STRANGER)
    await fail_over_accounts(another, 1)
    assert await refusal(another(), account) == 30
    clock.move(hours=24)
    await fail_over_accounts(another, 39)
    await another().admit("password", account, STRANGER)
    await fail_over_accounts(another, 1)
    assert await refusal(another(), account) == 30


async def test_failures_at_once_after_a_pause_all_count(
    another: MakeGuard, clock: StandingClock, account: PydanticObjectId | str
) -> None:
    await fail_over_accounts(another, 10)
    clock.move(hours=1)
    attempts = [await another().admit("otp", PydanticObjectId(), STRANGER) for _ in range(8)]
    await asyncio.gather(*(another().failed(attempt) for attempt in attempts))
    await fail_over_accounts(another, 25)  # 10 less 4, 8 and 25 more: 39
    await another().admit("password", account, STRANGER)
    await fail_over_accounts(another, 1)
    assert await refusal(another(), account) == 30


# Names and ids


async def test_a_typed_id_is_a_name_like_any_other(another: MakeGuard, places: SignInPlaces) -> None:
    """Else anybody could make an owner wait, and skip the strangers' side, by typing the id as a username."""
    owner = PydanticObjectId()
    await places.note(owner, OWNER)
    await fail_until_waiting(another(), str(owner), OWNER)
    # One side for all: a name knows no network, not even the owner's.
    for client in (OWNER, STRANGER, Client("198.51.100.3")):
        assert await refusal(another(), str(owner), client) == 30
        await another().admit("password", owner, client)
    await another().forgive(owner)
    assert await refusal(another(), str(owner)) == 30


async def test_who_is_forgiven_need_not_wait_anywhere(another: MakeGuard, places: SignInPlaces, clean: Db) -> None:
    owner, other = PydanticObjectId(), PydanticObjectId()
    await places.note(owner, OWNER)
    for purpose in ("password", "otp", "second-factor"):
        for client in (OWNER, STRANGER):
            for _ in range(5):
                await fail(another(), owner, client, purpose=purpose)
            await refusal(another(), owner, client, purpose)
    await fail_until_waiting(another(), other)
    await another().forgive(owner)
    for purpose in ("password", "otp", "second-factor"):
        for client in (OWNER, STRANGER):
            await another().admit(purpose, owner, client)
    assert await refusal(another(), other) == 30
    left = [row["_id"] for row in await clean.sign_in_guards.find({}).to_list()]
    assert sorted(key.partition(":")[0] for key in left) == ["network", "network", "password"]
    await another().forgive(owner, OWNER.address, STRANGER.address)
    left = [row["_id"] for row in await clean.sign_in_guards.find({}).to_list()]
    assert [key.partition(":")[0] for key in left] == ["password"]


# What it tells


async def test_unknown_accounts_are_asked_for_and_counted_as_known(another: MakeGuard, places: SignInPlaces) -> None:
    owner = PydanticObjectId()
    await places.note(owner, OWNER)
    reads = ["find sign_in_places", "find sign_in_guards", "find sign_in_guards"]
    counts = ["update sign_in_guards", "update sign_in_guards"]
    waits = []
    for name in (owner, "nobody@example.com", "nobody", str(PydanticObjectId())):
        for expected in [reads + counts] * 5 + [reads]:
            with LOG.kept() as asked:
                try:
                    await fail(another(), name, Client("198.51.100.77"))
                except RateLimitedError as error:
                    waits.append(error.retry_after)
            assert asked == expected
    assert waits == [30, 30, 30, 30]


async def test_what_people_type_as_their_name_is_not_stored(another: MakeGuard, clean: Db) -> None:
    await fail(another(), "my-password-in-the-wrong-field")
    rows = await clean.sign_in_guards.find({}).to_list()
    assert len(rows) == 2
    assert "my-password" not in str(rows)


async def test_a_sign_in_without_failures_writes_nothing(another: MakeGuard, account: PydanticObjectId | str) -> None:
    with LOG.kept() as asked:
        await succeed(another(), account)
    assert asked == ["find sign_in_places", "find sign_in_guards", "find sign_in_guards"]
