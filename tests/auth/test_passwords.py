"""Hashing: which methods, how old hashes are replaced, and that it neither holds up the loop nor queues for ever."""

import asyncio
import time
from collections.abc import Iterator

import bcrypt
import pytest
from passlib.context import CryptContext

from app.auth.passwords import ARGON2_KIB, ARGON2_PASSES, Passwords
from app.core.errors import UnavailableError

PASSWORD = "correct horse battery staple"


@pytest.fixture
def passwords() -> Iterator[Passwords]:
    hasher = Passwords()
    yield hasher
    hasher.close()


async def test_new_hashes_are_argon2id_with_a_salt_of_their_own(passwords: Passwords) -> None:
    first, second = await asyncio.gather(passwords.hash(PASSWORD), passwords.hash(PASSWORD))
    assert first.startswith(f"$argon2id$v=19$m={ARGON2_KIB},t={ARGON2_PASSES},p=1$")
    assert first != second
    verdict = await passwords.verify(PASSWORD, first)
    assert verdict.correct
    assert verdict.replacement is None
    assert not (await passwords.verify(PASSWORD + "!", first)).correct


@pytest.mark.parametrize("prefix", ["2a", "2b", "2y"])
async def test_bcrypt_hashes_verify_and_are_replaced(passwords: Passwords, prefix: str) -> None:
    old = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode().replace("$2b$", f"${prefix}$")
    assert not (await passwords.verify("another password", old)).correct
    verdict = await passwords.verify(PASSWORD, old)
    assert verdict.correct
    assert verdict.replacement is not None
    assert verdict.replacement.startswith("$argon2id$")
    assert (await passwords.verify(PASSWORD, verdict.replacement)).correct


async def test_a_bcrypt_hash_of_a_long_password_verifies_and_its_replacement_takes_all_of_it(
    passwords: Passwords,
) -> None:
    long = "é" * 60  # 120 bytes; bcrypt reads 72
    old = bcrypt.hashpw(long.encode()[:72], bcrypt.gensalt(4)).decode()
    verdict = await passwords.verify(long, old)
    assert verdict.correct
    assert verdict.replacement is not None
    assert not (await passwords.verify(long[:59] + "x", verdict.replacement)).correct


async def test_weaker_argon2_parameters_are_replaced(passwords: Passwords) -> None:
    weak = CryptContext(["argon2"], argon2__time_cost=1, argon2__memory_cost=1024, argon2__parallelism=1).hash(PASSWORD)
    verdict = await passwords.verify(PASSWORD, weak)
    assert verdict.correct
    assert (verdict.replacement or "").startswith(f"$argon2id$v=19$m={ARGON2_KIB}")


@pytest.mark.parametrize("hashed", ["", "!", "plain text", "$argon2id$broken", "$2b$04$broken", "$1$abc$def"])
async def test_what_is_no_hash_matches_no_password(passwords: Passwords, hashed: str) -> None:
    assert not (await passwords.verify(PASSWORD, hashed)).correct


async def test_a_nul_byte_does_not_cut_a_password_short(passwords: Passwords) -> None:
    bcrypt_hash = bcrypt.hashpw(b"correct", bcrypt.gensalt(4)).decode()
    for hashed in (bcrypt_hash, await passwords.hash("correct")):
        assert not (await passwords.verify("correct\0 horse", hashed)).correct


async def test_composed_and_decomposed_accents_are_one_password(passwords: Passwords) -> None:
    composed, decomposed = "caf\u00e9 au lait", "cafe\u0301 au lait"
    assert (await passwords.verify(decomposed, await passwords.hash(composed))).correct


async def test_nobodys_password_costs_what_anybodys_costs(passwords: Passwords) -> None:
    hashed = await passwords.hash(PASSWORD)
    times: dict[str | None, list[float]] = {hashed: [], None: []}
    for count in range(70):
        for known, taken in times.items():
            began = time.perf_counter()
            assert not (await passwords.verify("wrong password", known)).correct
            taken.append(time.perf_counter() - began)
        wrong, unknown = (min(taken) for taken in times.values())  # without what a busy machine adds
        if count >= 6 and 0.33 < wrong / unknown < 3:
            return
    pytest.fail(f"{wrong} and {unknown} seconds")


async def test_hashing_leaves_the_loop_free(passwords: Passwords) -> None:
    await passwords.hash(PASSWORD)
    work = asyncio.gather(*(passwords.hash(PASSWORD) for _ in range(8)))
    delays = []
    while not work.done():
        began = time.perf_counter()
        await asyncio.sleep(0.005)
        delays.append(time.perf_counter() - began - 0.005)
    await work
    assert len(delays) > 3
    assert sorted(delays)[len(delays) // 2] < 0.25  # a hash on the loop would make every delay longer than all eight


async def test_a_storm_is_refused_at_once_and_room_comes_back() -> None:
    passwords = Passwords(max_pending=3)
    try:
        results = await asyncio.gather(*(passwords.hash(PASSWORD) for _ in range(40)), return_exceptions=True)
        refused = [result for result in results if isinstance(result, UnavailableError)]
        assert len(refused) == 37
        assert all(result.headers["Retry-After"] for result in refused)
        assert (await passwords.hash(PASSWORD)).startswith("$argon2id$")
    finally:
        passwords.close()


async def test_who_gives_up_waiting_frees_the_place() -> None:
    passwords = Passwords(max_pending=3)
    try:
        waiting = [asyncio.ensure_future(passwords.hash(PASSWORD)) for _ in range(3)]
        await asyncio.sleep(0)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            results = await asyncio.gather(*(passwords.hash(PASSWORD) for _ in range(3)), return_exceptions=True)
            if not any(isinstance(result, BaseException) for result in results):
                break
        else:
            pytest.fail("the places were never freed")
    finally:
        passwords.close()


async def test_a_closed_hasher_says_so() -> None:
    passwords = Passwords()
    passwords.close()
    with pytest.raises(UnavailableError):
        await passwords.hash(PASSWORD)
