"""Models as files: whole, private, bounded, and never another one than was asked for."""

import asyncio
import hashlib
import secrets
from pathlib import Path

import pytest

from app.predictions.model_files import ModelFiles
from tests.support.clocks import StandingClock


@pytest.fixture
def clock() -> StandingClock:
    return StandingClock()


def files(folder: Path, clock: StandingClock, *, max_bytes: int = 1 << 20, max_files: int = 100) -> ModelFiles:
    return ModelFiles(folder / "models", clock, max_bytes=max_bytes, max_files=max_files)


def names(folder: Path) -> set[str]:
    return {path.name for path in (folder / "models").iterdir()}


async def test_what_is_saved_is_loaded_by_its_content(tmp_path: Path, clock: StandingClock):
    kept, blob = files(tmp_path, clock), secrets.token_bytes(5000)
    name = await kept.save(blob)
    assert name == hashlib.sha256(blob).hexdigest()
    assert await kept.save(blob) == name
    assert await files(tmp_path, clock).load(name) == blob
    assert names(tmp_path) == {name}
    assert (tmp_path / "models").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "models" / name).stat().st_mode & 0o777 == 0o600
    other = await kept.save(b"another")
    assert await kept.load(other) == b"another"


async def test_many_at_once_are_one(tmp_path: Path, clock: StandingClock):
    blob = secrets.token_bytes(200_000)
    [name] = set(await asyncio.gather(*(files(tmp_path, clock).save(blob) for _ in range(20))))
    assert names(tmp_path) == {name}
    assert await files(tmp_path, clock).load(name) == blob


async def test_only_models_are_read(tmp_path: Path, clock: StandingClock):
    kept = files(tmp_path, clock)
    await kept.save(b"a model")
    (tmp_path / "secret").write_bytes(b"not for you")
    for name in ("../secret", str(tmp_path / "secret"), "", ".", "0" * 63, "0" * 64, "0" * 64 + "/../../secret"):
        assert await kept.load(name) is None


@pytest.mark.parametrize("damage", [b"", b"cut", b"longer than it was before"])
async def test_a_damaged_one_is_noticed_and_goes(tmp_path: Path, clock: StandingClock, damage: bytes):
    kept = files(tmp_path, clock)
    name = await kept.save(b"a whole model")
    (tmp_path / "models" / name).write_bytes(damage)
    assert await kept.load(name) is None
    assert names(tmp_path) == set()
    assert await kept.save(b"a whole model") == name
    assert await kept.load(name) == b"a whole model"


async def test_those_that_nobody_asked_for_longest_make_room(tmp_path: Path, clock: StandingClock):
    kept, blobs = files(tmp_path, clock, max_bytes=3000), [bytes([number]) * 1000 for number in range(5)]
    saved = []
    for blob in blobs[:3]:
        saved.append(await kept.save(blob))
        clock.move(seconds=1)
    await kept.load(saved[0])
    clock.move(seconds=1)
    saved.append(await kept.save(blobs[3]))
    assert names(tmp_path) == {saved[0], saved[2], saved[3]}
    few = files(tmp_path, clock, max_files=2)
    saved.append(await few.save(blobs[4]))
    assert names(tmp_path) == {saved[3], saved[4]}
    # What is larger than all that there may be is kept all the same: it is wanted now.
    large = await kept.save(b"x" * 4000)
    assert names(tmp_path) == {large}


async def test_what_nothing_names_goes_after_a_while(tmp_path: Path, clock: StandingClock):
    kept = files(tmp_path, clock)
    assert await kept.prune(frozenset()) == 0  # there is no folder yet
    named, forgotten = await kept.save(b"named"), await kept.save(b"forgotten")
    draft = tmp_path / "models" / f"{forgotten}.{'0' * 16}.draft"
    draft.write_bytes(b"never finished")
    kept._touch(draft)
    mine = tmp_path / "models" / "README"
    mine.write_text("somebody put this here", encoding="utf-8")
    kept._touch(mine)
    assert await kept.prune(frozenset([named])) == 0
    clock.move(hours=2)
    fresh = await kept.save(b"fresh")
    assert await kept.prune(frozenset([named])) == 2
    assert names(tmp_path) == {named, fresh, "README"}


async def test_a_disk_that_takes_nothing_costs_the_model_only(tmp_path: Path, clock: StandingClock):
    (tmp_path / "models").write_text("no folder", encoding="utf-8")
    kept = files(tmp_path, clock)
    name = await kept.save(b"a model")
    assert name == hashlib.sha256(b"a model").hexdigest()
    assert await kept.load(name) is None
