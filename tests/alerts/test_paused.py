"""Strategies of deactivated accounts are paused: in every process at once, and whatever was being looked up."""

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
import pytest_asyncio
from beanie import PydanticObjectId, init_beanie

from app.alerts.keys import KeyDirectory, key_digest
from app.alerts.models import DOCUMENTS, KeyDocument
from app.core.bus import Bus, NullTransport
from app.core.clock import SystemClock
from app.core.events import AccountChanged, KeyChanged
from app.core.maintenance import tool_database
from app.core.settings import Settings
from tests.support.administrators import administrator
from tests.support.people import Person, alert, somebody
from tests.support.service import ServiceProcess
from tests.support.workers import one_client_each

DELIVERIES = 10


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    process = ServiceProcess(tmp_path_factory.mktemp("pair"), workers=2)
    try:
        yield process.start()
    finally:
        process.close()


@pytest_asyncio.fixture(scope="module")
async def admin(pair: ServiceProcess) -> AsyncIterator[Person]:
    async with administrator(pair) as person:
        yield person


async def flood(clients: list[httpx.AsyncClient], key: str, word: str) -> Counter[int]:
    """Deliveries to every worker at once: how often each status was answered."""
    answers = await asyncio.gather(
        *(
            client.post(f"/data/{key}", json=alert(comment=f"{word} {number} {turn}"))
            for number, client in enumerate(clients)
            for turn in range(DELIVERIES)
        )
    )
    return Counter(answer.status_code for answer in answers)


@pytest.mark.parametrize("first", [0, 1])
async def test_a_deactivated_accounts_keys_are_paused_in_both_at_once(pair: ServiceProcess, admin: Person, first: int):
    token = {"Authorization": f"Bearer {admin.token}"}
    async with somebody(pair.url) as owner, one_client_each(pair) as each:
        clients = list(each.values())
        here, there = clients[first], clients[1 - first]
        path = f"/api/v1/admin/users/{(await owner.client.get('/api/v1/auth/me')).json()['id']}"
        keys = [await owner.bind(), await owner.bind("Another")]
        for key in keys:  # both workers have both in their caches now
            assert await flood(clients, key, "before") == {201: 2 * DELIVERIES}

        assert (await here.patch(path, json={"is_active": False}, headers=token)).status_code == 200
        paused = [await flood([there, here], key, "paused") for key in keys]
        assert (await there.patch(path, json={"is_active": True}, headers=token)).status_code == 200
        after = await flood([here, there], keys[0], "after")

        login = {"email": owner.email, "password": owner.password}
        tokens = (await here.post("/api/v1/auth/login", json=login)).json()
        mine = {"Authorization": f"Bearer {tokens['access_token']}"}
        stored = (await here.get("/data/", params={"limit": 1000}, headers=mine)).json()
        refused = (await here.get("/alerts/rejected", params={"limit": 1000}, headers=mine)).json()

    assert paused == [{403: 2 * DELIVERIES}] * 2
    assert after == {201: 2 * DELIVERIES}
    words = Counter(row["comment"].split()[0] for row in stored)
    assert words == {"before": 4 * DELIVERIES, "after": 2 * DELIVERIES}
    assert Counter((row["strategy_name"], row["reason"]) for row in refused) == {
        (name, "This strategy is paused: its account is deactivated."): 2 * DELIVERIES
        for name in ("My Strategy", "Another")
    }


class Turnstile:
    """Says who is active, and can be made to take its time between looking and answering."""

    def __init__(self) -> None:
        self.active = True
        self.asked = 0
        self.looked = asyncio.Event()
        self.open = asyncio.Event()
        self.open.set()

    async def is_active(self, user_id: PydanticObjectId) -> bool:  # noqa: ARG002 (the port's)
        self.asked += 1
        seen = self.active
        self.looked.set()
        await self.open.wait()
        return seen


@pytest_asyncio.fixture(scope="module")
async def bus(pair: ServiceProcess) -> AsyncIterator[Bus]:
    """A bus of this process, and the feature's documents in a database of their own beside the pair's."""
    settings = Settings.load(
        secret_key="s" * 40,
        data_dir=pair.data_dir,
        mongodb_url=pair.env.get("MONGODB_URL"),
        database_name=f"test_paused_{secrets.token_hex(4)}",
        _env_file=None,
    )
    bus = Bus(NullTransport())
    await bus.start()
    async with tool_database(settings) as database:
        await init_beanie(database.db, document_models=DOCUMENTS)
        yield bus
        if settings.mongodb_url:  # the embedded one goes with its folder
            await database.client.drop_database(database.db.name)
    await bus.stop()


async def bound(user_id: PydanticObjectId) -> str:
    """A new key of this account."""
    secret_key = secrets.token_urlsafe(32)
    await KeyDocument(
        user_id=user_id,
        strategy_id=PydanticObjectId(),
        strategy_name="S",
        digest=key_digest(secret_key),
        prefix=secret_key[:6],
        seq=1,
        created_at=SystemClock().now(),
    ).insert()
    return secret_key


async def test_a_look_up_under_way_does_not_outlive_the_deactivation(bus: Bus):
    accounts = Turnstile()
    directory = KeyDirectory(bus, SystemClock(), accounts)
    user_id = PydanticObjectId()
    secret_key = await bound(user_id)
    accounts.open.clear()

    early = asyncio.create_task(directory.resolve(secret_key))
    await accounts.looked.wait()  # it has seen an active account
    accounts.active = False
    await bus.publish(AccountChanged(user_id=str(user_id), is_active=False), confirm=True)
    late = asyncio.create_task(directory.resolve(secret_key))  # joins the look-up that began before
    await asyncio.sleep(0)
    accounts.open.set()
    found = [await early, await late, await directory.resolve(secret_key)]

    assert [key.paused for key in found if key] == [True] * 3
    assert accounts.asked == 2  # the last came from the cache


async def test_what_is_known_of_a_key_is_kept_until_its_own_account_changes(bus: Bus):
    accounts = Turnstile()
    directory = KeyDirectory(bus, SystemClock(), accounts)
    user_id, stranger = PydanticObjectId(), PydanticObjectId()
    secret_key = await bound(user_id)

    for asked, event in (
        (1, None),
        (1, AccountChanged(user_id=str(stranger), is_active=False)),
        (1, KeyChanged(digest="0" * 64)),
        (2, AccountChanged(user_id=str(user_id), is_active=True)),
    ):
        if event:
            await bus.publish(event)
        key = await directory.resolve(secret_key)
        assert key is not None
        assert (key.paused, accounts.asked) == (False, asked)
