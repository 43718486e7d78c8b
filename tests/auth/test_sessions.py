"""Sessions, refresh tokens and the authenticator on a real database."""

import asyncio
import random
import secrets
from datetime import timedelta
from typing import Any

import bcrypt
import pytest

from app.auth.accounts import NewAccount, normalise_identifier
from app.auth.authenticator import CACHE_SECONDS, SessionAuthenticator
from app.auth.sessions import Client
from app.auth.tokens import AccessTokens
from app.core.bus import Bus, NullTransport
from app.core.errors import ConflictError, SessionEndedError, UnauthorizedError
from app.core.events import PeersChanged
from app.core.security import Role

HERE = Client("192.0.2.7", "pytest")
PASSWORD = "correct horse battery staple"


async def test_a_session_is_recorded_with_where_it_came_from(parts: Any) -> None:
    user, _ = await parts.session()
    session = await parts.db.sessions.find_one({"user_id": user.id})
    assert session["address"] == "192.0.2.7"
    assert session["user_agent"] == "pytest"
    assert session["expires_at"] - session["created_at"] == timedelta(days=7)
    assert "revoked_at" not in session


async def test_indexes_have_the_agreed_names(parts: Any) -> None:
    users = await parts.db.users.index_information()
    agreed = {"_id_", "email_1", "is_active_1", "created_at_1", "username_1"}
    assert agreed | {"seq_-1", "role_1_seq_-1", "is_active_1_seq_-1"} == set(users)
    assert users["email_1"]["unique"]
    assert users["username_1"]["unique"]
    assert users["username_1"]["sparse"]
    for collection in ("sessions", "refresh_tokens"):
        assert (await parts.db[collection].index_information())["expires_at_1"]["expireAfterSeconds"] == 0
    assert (await parts.db.api_tokens.index_information())["digest_1"]["unique"]
    for collection in ("sessions", "api_tokens"):
        assert "user_id_1_live_1_seq_-1" in await parts.db[collection].index_information()


async def test_the_database_never_sees_a_token_or_a_password(parts: Any) -> None:
    _, pair = await parts.session()
    pair = await parts.sessions.refresh(pair.refresh_token, HERE)
    stored = ""
    for collection in ("users", "sessions", "refresh_tokens"):
        stored += str(await parts.db[collection].find({}).to_list())
    for secret in (pair.refresh_token, pair.access_token, PASSWORD):
        assert secret not in stored


async def test_refreshing_carries_the_session_on(parts: Any) -> None:
    user, pair = await parts.session()
    before = (await parts.authenticator.authenticate(pair.access_token)).session_id
    parts.clock.ahead = timedelta(days=6)
    pair = await parts.sessions.refresh(pair.refresh_token, Client("192.0.2.8"))
    parts.clock.ahead = timedelta(days=12)
    pair = await parts.sessions.refresh(pair.refresh_token, Client("192.0.2.9"))
    principal = await parts.authenticator.authenticate(pair.access_token)
    assert (principal.session_id, principal.user_id, principal.role) == (before, user.id, Role.USER)
    session = await parts.db.sessions.find_one({"_id": before})
    assert session["address"] == "192.0.2.9"
    assert session["expires_at"] > parts.clock.now() + timedelta(days=6, hours=23)


async def test_an_expired_refresh_token_is_refused(parts: Any) -> None:
    _, pair = await parts.session()
    parts.clock.ahead = timedelta(days=7, seconds=1)
    with pytest.raises(UnauthorizedError):
        await parts.sessions.refresh(pair.refresh_token, HERE)


async def test_an_access_token_expires(parts: Any) -> None:
    _, pair = await parts.session()
    await parts.authenticator.authenticate(pair.access_token)
    parts.clock.ahead = timedelta(minutes=30)
    with pytest.raises(UnauthorizedError, match="expired"):
        await parts.authenticator.authenticate(pair.access_token)


async def test_a_spent_refresh_token_ends_the_whole_session(parts: Any) -> None:
    _, first = await parts.session()
    second = await parts.sessions.refresh(first.refresh_token, HERE)
    third = await parts.sessions.refresh(second.refresh_token, HERE)
    await parts.authenticator.authenticate(third.access_token)
    with pytest.raises(UnauthorizedError):
        await parts.sessions.refresh(first.refresh_token, HERE)
    with pytest.raises(UnauthorizedError):
        await parts.sessions.refresh(third.refresh_token, HERE)
    for pair in (first, second, third):
        with pytest.raises(UnauthorizedError, match="ended"):
            await parts.authenticator.authenticate(pair.access_token)


async def test_other_sessions_of_the_account_go_on(parts: Any) -> None:
    user, one = await parts.session()
    other = await parts.sessions.open(user, HERE)
    await parts.sessions.end(one.refresh_token)
    await parts.authenticator.authenticate(other.access_token)
    await parts.sessions.refresh(other.refresh_token, HERE)


async def test_of_concurrent_refreshes_exactly_one_wins_and_the_session_ends(parts: Any, outcome: Any) -> None:
    _, pair = await parts.session()
    attempts = (parts.sessions.refresh(pair.refresh_token, HERE) for _ in range(8))
    results = await asyncio.gather(*map(outcome, attempts))
    assert results.count(None) == 1
    assert results.count(UnauthorizedError) == 7
    with pytest.raises(UnauthorizedError):
        await parts.authenticator.authenticate(pair.access_token)


async def test_a_session_can_be_ended_twice_and_by_a_spent_token(parts: Any) -> None:
    _, first = await parts.session()
    second = await parts.sessions.refresh(first.refresh_token, HERE)
    await parts.sessions.end(first.refresh_token)
    await parts.sessions.end(second.refresh_token)
    for token in (first.access_token, second.access_token):
        with pytest.raises(UnauthorizedError):
            await parts.authenticator.authenticate(token)


async def test_an_unknown_refresh_token_ends_nothing_and_says_so(parts: Any) -> None:
    with pytest.raises(UnauthorizedError, match="not known"):
        await parts.sessions.end(secrets.token_urlsafe(32))


async def test_inactive_accounts_are_refused_everywhere(parts: Any) -> None:
    user, pair = await parts.session()
    await parts.authenticator.authenticate(pair.access_token)
    await parts.db.users.update_one({"_id": user.id}, {"$set": {"is_active": False}})
    parts.clock.ahead = timedelta(seconds=CACHE_SECONDS + 1)
    with pytest.raises(UnauthorizedError):
        await parts.authenticator.authenticate(pair.access_token)
    with pytest.raises(UnauthorizedError):
        await parts.sessions.refresh(pair.refresh_token, HERE)
    # The attempt ended the session: activating the account again does not bring it back.
    await parts.db.users.update_one({"_id": user.id}, {"$set": {"is_active": True}})
    with pytest.raises(UnauthorizedError):
        await parts.sessions.refresh(pair.refresh_token, HERE)


async def test_the_cache_spares_the_database_and_forgets_in_time(parts: Any) -> None:
    user, pair = await parts.session()
    await parts.authenticator.authenticate(pair.access_token)
    # Behind the service's back, so that no event empties the cache:
    await parts.db.users.update_one({"_id": user.id}, {"$set": {"role": "admin"}})
    assert (await parts.authenticator.authenticate(pair.access_token)).role is Role.USER
    parts.clock.ahead = timedelta(seconds=CACHE_SECONDS + 1)
    assert (await parts.authenticator.authenticate(pair.access_token)).role is Role.ADMIN


async def test_missed_events_empty_the_cache(parts: Any) -> None:
    user, pair = await parts.session()
    await parts.authenticator.authenticate(pair.access_token)
    await parts.db.sessions.update_one({"user_id": user.id}, {"$set": {"revoked_at": parts.clock.now()}})
    await parts.authenticator.authenticate(pair.access_token)
    await parts.bus.publish(PeersChanged("test"))
    with pytest.raises(UnauthorizedError):
        await parts.authenticator.authenticate(pair.access_token)


async def test_without_contact_to_the_other_processes_the_cache_is_not_used(parts: Any) -> None:
    user, pair = await parts.session()
    await parts.authenticator.authenticate(pair.access_token)
    await parts.bus.stop()
    assert not parts.bus.connected
    await parts.authenticator.authenticate(pair.access_token)
    await parts.db.sessions.update_one({"user_id": user.id}, {"$set": {"revoked_at": parts.clock.now()}})
    with pytest.raises(UnauthorizedError):
        await parts.authenticator.authenticate(pair.access_token)


async def test_a_read_that_runs_while_a_session_ends_does_not_bring_it_back(parts: Any, outcome: Any) -> None:
    """The cache is filled from a read that began before the revocation and ends after it: as often as chance allows."""
    user = await parts.user()
    for _ in range(25):
        pair = await parts.sessions.open(user, HERE)
        session_id = (await parts.authenticator.authenticate(pair.access_token)).session_id
        await parts.bus.publish(PeersChanged("an empty cache"))

        async def end(session: Any) -> None:
            await asyncio.sleep(random.uniform(0, 0.003))  # noqa: S311 (chance, not a secret)
            await parts.sessions.revoke(user.id, session, "test")

        reads = [outcome(parts.authenticator.authenticate(pair.access_token)) for _ in range(4)]
        await asyncio.gather(end(session_id), *reads)
        assert await outcome(parts.authenticator.authenticate(pair.access_token)) is SessionEndedError


async def test_a_token_for_anothers_session_is_refused(parts: Any) -> None:
    victim, pair = await parts.session()
    session_id = (await parts.authenticator.authenticate(pair.access_token)).session_id
    thief = await parts.user()
    mixed = AccessTokens(secret_key="k" * 32, lifetime=timedelta(minutes=30), clock=parts.clock)
    bus = Bus(NullTransport())
    authenticator = SessionAuthenticator(
        tokens=mixed, api_tokens=parts.api_tokens, uses=parts.uses, clock=parts.clock, bus=bus
    )
    end = parts.clock.now() + timedelta(days=1)
    await authenticator.authenticate(mixed.issue(victim.id, session_id, not_after=end).token)
    with pytest.raises(UnauthorizedError):
        await authenticator.authenticate(mixed.issue(thief.id, session_id, not_after=end).token)


async def test_a_bcrypt_hash_is_replaced_at_the_next_login(parts: Any) -> None:
    user = await parts.user()
    old = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    await parts.db.users.update_one({"_id": user.id}, {"$set": {"hashed_password": old}})

    async def login(password: str) -> Any:
        return await parts.accounts.verify(await parts.accounts.find(user.email), password)

    assert await login("not the password") is None
    assert (await parts.db.users.find_one({"_id": user.id}))["hashed_password"] == old
    assert (await login(PASSWORD)).id == user.id
    assert (await parts.db.users.find_one({"_id": user.id}))["hashed_password"].startswith("$argon2id$")
    assert (await login(PASSWORD)).id == user.id


async def test_the_unique_index_decides_who_gets_an_address(parts: Any, outcome: Any) -> None:
    email = f"{secrets.token_hex(8)}@example.com"
    results = await asyncio.gather(*(outcome(parts.accounts.create(NewAccount(email, PASSWORD))) for _ in range(8)))
    assert sorted(results, key=str) == [ConflictError] * 7 + [None]
    assert await parts.db.users.count_documents({"email": email}) == 1


async def test_accounts_without_a_username_do_not_collide(parts: Any) -> None:
    await parts.user()
    await parts.user()


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        (" Asha@EXAMPLE.com ", "asha@example.com"),
        ("ASHA", "asha"),
        ("no@dot", "no@dot"),
        ("@", "@"),
        ("A@b@C.com", "a@b@c.com"),
    ],
)
def test_identifiers_have_one_form(text: str, stored: str) -> None:
    assert normalise_identifier(text) == stored
