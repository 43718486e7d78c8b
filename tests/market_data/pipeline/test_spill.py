"""What is on the disk while the database is away."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import bson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.core.clock import SystemClock
from app.market_data.spill import MAGIC, Spill, SpilledBatch
from tests.market_data.pipeline.spilling_process import numbered

FIXTURE_IS_FINE = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def open_spill(folder: Path, **more: int) -> Spill:
    return Spill(folder, clock=SystemClock(), **more)


def batches(spill: Spill) -> Iterator[SpilledBatch]:
    while (batch := spill.read()) is not None:
        yield batch
        spill.done(batch)


def drained(spill: Spill) -> list[int]:
    return [bson.decode(raw)["n"] for batch in batches(spill) for raw in batch.rows]


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.bin"))


def test_what_is_put_in_comes_out_in_order_and_leaves_nothing(tmp_path: Path) -> None:
    spill = open_spill(tmp_path / "spill", file_bytes=20_000)
    assert not spill.pending
    assert spill.read() is None
    for first in range(0, 3000, 600):
        assert spill.append(numbered(first, 600)) == 600
    assert len(files(tmp_path / "spill")) > 3
    assert spill.bytes == sum(path.stat().st_size for path in files(tmp_path / "spill"))
    assert drained(spill) == list(range(3000))
    assert files(tmp_path / "spill") == []
    assert (spill.bytes, spill.pending, spill.damaged) == (0, False, 0)
    assert spill.append(numbered(3000, 5)) == 5
    assert drained(spill) == [3000, 3001, 3002, 3003, 3004]
    spill.close()
    assert list((tmp_path / "spill").iterdir()) == []


def test_the_same_batch_until_it_is_done(tmp_path: Path) -> None:
    spill = open_spill(tmp_path)
    spill.append(numbered(0, 300), tried=True)
    spill.append(numbered(300, 10))
    first = spill.read()
    assert first is not None
    spill.append(numbered(310, 10))
    assert spill.read() is first
    assert [(len(batch.rows), batch.tried) for batch in batches(spill)] == [
        (250, True),
        (50, True),
        (10, False),
        (10, False),
    ]
    spill.done(first)
    assert spill.append(numbered(0, 1)) == 1
    assert drained(spill) == [0]
    spill.close()


def test_a_bound_for_all_files_together(tmp_path: Path) -> None:
    spill = open_spill(tmp_path, max_bytes=60_000, file_bytes=20_000)
    kept = spill.append(numbered(0, 5000))
    assert 250 <= kept < 1000
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 60_000
    assert (spill.append(numbered(9, 250)), spill.last_error) == (0, "full")
    other = open_spill(tmp_path, max_bytes=60_000)
    assert other.append(numbered(0, 250)) == 0, "another process shares the bound"
    other.close()
    assert drained(spill) == list(range(kept))
    assert (spill.append(numbered(0, 1)), spill.last_error) == (1, None)
    spill.close()


def test_files_of_the_living_are_theirs_and_those_of_the_gone_anybody_s(tmp_path: Path) -> None:
    alive, gone, heir = open_spill(tmp_path), open_spill(tmp_path), open_spill(tmp_path)
    gone.append(numbered(0, 300))
    time.sleep(0.002)
    alive.append(numbered(300, 10))
    assert heir.adopt() == 0
    assert not heir.pending
    gone.close()
    heir.append(numbered(1000, 1))
    assert heir.adopt() == 1
    assert open_spill(tmp_path).adopt() == 0, "it has an owner again"
    assert drained(heir) == [*range(300), 1000], "the oldest first"
    assert drained(alive) == list(range(300, 310))
    heir.close()
    alive.close()
    assert list(tmp_path.iterdir()) == []


def test_adoption_in_the_middle_of_reading(tmp_path: Path) -> None:
    gone, heir = open_spill(tmp_path), open_spill(tmp_path)
    gone.append(numbered(0, 10))
    heir.append(numbered(100, 300))
    batch = heir.read()
    assert batch is not None
    gone.close()
    assert heir.adopt() == 1
    assert heir.read() is batch
    heir.append(numbered(500, 1))
    assert sorted(drained(heir)) == [*range(10), *range(100, 400), 500]
    heir.close()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, bytes]:
    """A folder, and the bytes of a file of three records with the rows 0–2, 3–4 and 5."""
    spill = open_spill(tmp_path / "first")
    for first, count in ((0, 3), (3, 2), (5, 1)):
        spill.append(numbered(first, count))
    spill.close()
    [path] = files(tmp_path / "first")
    return tmp_path, path.read_bytes()


def read_as_file(folder: Path, data: bytes) -> tuple[list[int], Spill]:
    target = folder / "next"
    target.mkdir(exist_ok=True)
    (target / "ticks-0000000000001-1-abcd-000001.bin").write_bytes(data)
    spill = open_spill(target)
    assert spill.adopt() == 1
    found = drained(spill)
    spill.close()
    for left in target.iterdir():
        left.unlink()
    return found, spill


@FIXTURE_IS_FINE
@given(st.data())
def test_a_torn_file_gives_its_whole_records_and_no_more(written: tuple[Path, bytes], data: st.DataObject) -> None:
    folder, whole = written
    cut = data.draw(st.integers(0, len(whole) - 1))
    found, spill = read_as_file(folder, whole[:cut])
    assert found in ([], [0, 1, 2], [0, 1, 2, 3, 4])
    assert found == [0, 1, 2, 3, 4, 5][: len(found)]
    assert spill.damaged == (0 if cut in _ends(whole) else 1)


def _ends(whole: bytes) -> list[int]:
    ends, at = [len(MAGIC)], len(MAGIC)
    while at < len(whole):
        at += 8 + int.from_bytes(whole[at : at + 4], "little")
        ends.append(at)
    return ends


@FIXTURE_IS_FINE
@given(st.data())
def test_no_wrong_row_ever_comes_out(written: tuple[Path, bytes], data: st.DataObject) -> None:
    folder, whole = written
    at = data.draw(st.integers(0, len(whole) - 1))
    changed = bytearray(whole)
    changed[at] ^= 1 << data.draw(st.integers(0, 7))
    found, spill = read_as_file(folder, bytes(changed))
    records = [[0, 1, 2], [3, 4], [5]]
    kept = [record for record in records if record[0] in found]
    assert found == [number for record in kept for number in record]
    assert len(kept) < 3
    assert spill.damaged >= 1


@FIXTURE_IS_FINE
@given(st.binary(max_size=200))
def test_any_bytes_at_all_are_survived(written: tuple[Path, bytes], noise: bytes) -> None:
    folder, _ = written
    assert read_as_file(folder, noise)[0] == []
    assert read_as_file(folder, MAGIC + noise)[0] == []


def test_a_file_of_another_kind_is_left_to_a_person(tmp_path: Path) -> None:
    path = tmp_path / "ticks-0000000000001-1-abcd-000001.bin"
    path.write_bytes(b"ARROWT9\nsomething newer")
    spill = open_spill(tmp_path)
    spill.adopt()
    assert drained(spill) == []
    assert path.with_suffix(".damaged").read_bytes() == b"ARROWT9\nsomething newer"
    assert (spill.damaged, spill.bytes) == (1, 0)
    spill.close()


def start(folder: Path, mode: str) -> subprocess.Popen[str]:
    program = [sys.executable, "-m", "tests.market_data.pipeline.spilling_process", str(folder), mode]
    return subprocess.Popen(program, stdout=subprocess.PIPE, text=True, bufsize=1)


def test_a_kill_in_the_middle_of_spilling_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    heir = open_spill(tmp_path)
    with start(tmp_path, "kill") as process:
        assert process.stdout is not None
        acknowledged = 0
        while acknowledged < 8_000:
            acknowledged = int(process.stdout.readline())
        assert heir.adopt() == 0, "it is alive"
        process.kill()
        rest = process.stdout.read().split()
    acknowledged = int(rest[-1]) if rest else acknowledged
    assert heir.adopt() >= 1
    # As a kill in the middle of a write leaves it, however the system cut it.
    last = files(tmp_path)[-1]
    if last.stat().st_size >= len(MAGIC):
        with last.open("ab") as end:
            end.write(b"\xf0\x01\x00\x00\x12\x34")
    found = drained(heir)
    heir.close()
    assert found == list(range(len(found)))
    assert acknowledged <= len(found) <= acknowledged + 400
    assert heir.damaged == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit of a file's size")
def test_a_disk_that_refuses(tmp_path: Path) -> None:
    with start(tmp_path, "full") as process:
        output, _ = process.communicate(timeout=50)
    *_, kept, error = output.split()
    assert error == "EFBIG"
    heir = open_spill(tmp_path)
    heir.adopt()
    assert drained(heir) == list(range(int(kept))), "what was said to be there, whole"
    assert heir.damaged == 0
    heir.close()
