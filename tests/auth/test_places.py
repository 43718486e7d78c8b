"""Places on a real database: what is familiar, what is news to the owner, and how little is kept."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from beanie import PydanticObjectId

from app.auth.digests import KeyedDigests
from app.auth.places import MAX_DEVICES, MAX_PLACES, SignInPlaces
from app.auth.sessions import Client
from app.core.client_address import network_of
from tests.auth.codes_support import LOG, SECRET_KEY, codes_database, make_digests
from tests.support.clocks import StandingClock
from tests.support.mongodb import Db

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0"
UPDATED = "Mozilla/5.0 (X11; Linux x86_64; rv:146.0) Gecko/20100101 Firefox/146.0.1"
PHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 19_1 like Mac OS X) AppleWebKit/605.1.15 Version/19.1 Mobile/15E148"
HOME = Client("192.0.2.7", FIREFOX)
CAFE = Client("198.51.100.9", FIREFOX)


@pytest.fixture(scope="module", autouse=True)
async def codes_db(mongodb_url: str) -> AsyncIterator[Db]:
    async with codes_database(mongodb_url) as db:
        yield db


@pytest.fixture
def clock() -> StandingClock:
    return StandingClock()


@pytest.fixture
def places(clock: StandingClock) -> SignInPlaces:
    return SignInPlaces(clock=clock, digests=make_digests())


@pytest.fixture
def user() -> PydanticObjectId:
    return PydanticObjectId()


async def test_the_first_sign_in_ever_is_no_news_and_a_new_network_is(
    places: SignInPlaces, user: PydanticObjectId
) -> None:
    assert [await places.note(user, client) for client in (HOME, HOME, CAFE, CAFE, HOME)] == [
        False,
        False,
        True,
        False,
        False,
    ]
    assert not await places.note(PydanticObjectId(), HOME), "another account's first"


async def test_a_new_device_in_a_known_network_is_news_but_a_browser_that_updated_itself_is_not(
    places: SignInPlaces, user: PydanticObjectId
) -> None:
    devices = [FIREFOX, UPDATED, PHONE, FIREFOX, None, None]
    news = [await places.note(user, Client(HOME.address, device)) for device in devices]
    assert news == [False, False, True, False, True, False]


async def test_a_network_is_familiar_for_ninety_days_after_the_last_sign_in(
    places: SignInPlaces, clock: StandingClock, user: PydanticObjectId
) -> None:
    assert not await places.familiar(str(user), HOME.address)
    await places.note(user, HOME)
    assert await places.familiar(str(user), HOME.address)
    assert not await places.familiar(str(user), CAFE.address)
    assert not await places.familiar(str(PydanticObjectId()), HOME.address)
    assert not await places.familiar("asha@example.com", HOME.address)
    clock.move(days=89)
    await places.note(user, HOME)
    clock.move(days=89)
    assert await places.familiar(str(user), HOME.address)
    clock.move(days=1)
    assert not await places.familiar(str(user), HOME.address)


@pytest.mark.parametrize("removed", [True, False], ids=["removed by the database", "not yet removed"])
async def test_a_sign_in_after_everything_was_forgotten_is_news(
    places: SignInPlaces, codes_db: Db, clock: StandingClock, user: PydanticObjectId, removed: bool
) -> None:
    await places.note(user, HOME)
    clock.move(days=91)
    if removed:  # as its index of expiry does
        gone = await codes_db.sign_in_places.delete_many({"user_id": user, "expires_at": {"$lte": clock.now()}})
        assert gone.deleted_count == 1
    assert await places.note(user, HOME)
    assert await places.familiar(str(user), HOME.address)
    assert not await places.note(user, HOME)


async def test_addresses_of_one_ipv6_network_are_one_place(places: SignInPlaces, user: PydanticObjectId) -> None:
    await places.note(user, Client("2001:db8:1:2::1", FIREFOX))
    assert not await places.note(user, Client("2001:db8:1:2:ffff::9", FIREFOX))
    assert await places.note(user, Client("2001:db8:1:3::1", FIREFOX))
    assert await places.familiar(str(user), network_of("2001:db8:1:2:aaaa::1"))


async def test_forgetting_makes_every_place_strange_and_the_next_sign_in_news(
    places: SignInPlaces, user: PydanticObjectId
) -> None:
    other = PydanticObjectId()
    for client in (HOME, CAFE):
        await places.note(user, client)
    await places.note(other, HOME)
    await places.forget(user)
    assert not await places.familiar(str(user), HOME.address)
    assert not await places.familiar(str(user), CAFE.address)
    assert await places.familiar(str(other), HOME.address)
    assert await places.note(user, HOME)


async def test_places_are_bounded_and_those_longest_unseen_give_way(
    places: SignInPlaces, codes_db: Db, clock: StandingClock, user: PydanticObjectId
) -> None:
    begin = clock.now()
    for number in range(MAX_PLACES):
        await places.note(user, Client(f"203.0.113.{number}", FIREFOX))
        clock.move(minutes=1)
    await places.note(user, Client("203.0.113.0", FIREFOX))
    clock.move(minutes=1)
    await places.note(user, HOME)
    rows = await codes_db.sign_in_places.find({"user_id": user}).to_list()
    assert len(rows) == MAX_PLACES + 1
    marker = next(row for row in rows if row["_id"] == str(user))
    assert marker["last_seen_at"] == begin, "what says that there was a first sign-in is no place that could give way"
    known = [number for number in range(MAX_PLACES) if await places.familiar(str(user), f"203.0.113.{number}")]
    assert known == [0, *range(2, MAX_PLACES)]
    assert await places.familiar(str(user), HOME.address)


async def test_devices_are_bounded_newest_last(places: SignInPlaces, codes_db: Db, user: PydanticObjectId) -> None:
    names = ["".join(chr(ord("a") + int(digit)) for digit in str(number)) for number in range(MAX_DEVICES + 2)]
    for name in names:
        await places.note(user, Client(HOME.address, name))
    row = await codes_db.sign_in_places.find_one({"_id": f"{user}:{HOME.address}"})
    digests = make_digests()
    assert row["devices"] == [digests.make("device", name) for name in names[2:]]
    assert await places.note(user, Client(HOME.address, names[0])), "forgotten"
    assert not await places.note(user, Client(HOME.address, names[-1]))


async def test_devices_are_known_after_a_change_of_the_key(
    places: SignInPlaces, clock: StandingClock, user: PydanticObjectId
) -> None:
    await places.note(user, HOME)
    between = SignInPlaces(clock=clock, digests=KeyedDigests("n" * 40, [SECRET_KEY]))
    assert not await between.note(user, HOME)
    # Seen again, it is known by the new key alone.
    assert not await SignInPlaces(clock=clock, digests=KeyedDigests("n" * 40)).note(user, HOME)
    assert await places.note(user, HOME), "by the old one no more"


async def test_eight_first_sign_ins_at_once_are_one_place_and_no_news(
    places: SignInPlaces, codes_db: Db, user: PydanticObjectId
) -> None:
    assert await asyncio.gather(*(places.note(user, HOME) for _ in range(8))) == [False] * 8
    assert await codes_db.sign_in_places.count_documents({"user_id": user}) == 2


async def test_new_devices_at_once_are_all_news_and_all_kept(places: SignInPlaces, user: PydanticObjectId) -> None:
    await places.note(user, HOME)
    clients = [Client(HOME.address, name) for name in ("curl", "httpx", "wget")]
    assert await asyncio.gather(*(places.note(user, client) for client in clients)) == [True] * 3
    assert [await places.note(user, client) for client in [*clients, HOME]] == [False] * 4, "none was lost"


async def test_no_user_agent_is_stored(places: SignInPlaces, codes_db: Db, user: PydanticObjectId) -> None:
    await places.note(user, HOME)
    assert "Firefox" not in str(await codes_db.sign_in_places.find({"user_id": user}).to_list())


async def test_a_sign_in_from_a_known_place_costs_a_read_and_a_write(
    places: SignInPlaces, user: PydanticObjectId
) -> None:
    await places.note(user, HOME)
    with LOG.kept() as asked:
        await places.note(user, HOME)
    assert asked == ["find sign_in_places", "update sign_in_places"]
