"""That the service remembers where somebody stays signed in, put together as it runs."""

from datetime import timedelta

from beanie import PydanticObjectId

from app.auth.places import REMEMBERED
from app.core.clock import SystemClock
from app.core.maintenance import tool_database
from app.core.settings import Settings
from tests.support.people import Person
from tests.support.service import ServiceProcess


async def test_a_refresh_renews_the_place_it_comes_from(service: ServiceProcess, user: Person) -> None:
    account = PydanticObjectId((await user.client.get("/api/v1/auth/me")).json()["id"])
    settings = Settings.load(
        environment="test",
        data_dir=service.data_dir,
        mongodb_url=service.env.get("MONGODB_URL"),
        database_name=service.env.get("DATABASE_NAME", "arrow"),
        _env_file=None,
    )
    now = SystemClock().now()
    async with tool_database(settings) as database:
        place = {"_id": f"{account}:127.0.0.1"}
        found = await database.db.sign_in_places.update_one(place, {"$set": {"expires_at": now + timedelta(days=3)}})
        assert found.matched_count == 1

        tokens = {"refresh_token": user.tokens["refresh_token"]}
        assert (await user.client.post("/api/v1/auth/refresh", json=tokens)).status_code == 200

        row = await database.db.sign_in_places.find_one(place)
    assert row is not None
    assert row["expires_at"] >= now + REMEMBERED
