"""The file of an export: exact, private, and refused when anything about it is wrong."""

import gzip
import os
import stat
from pathlib import Path
from typing import Any

import bson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.transfer_file import RAW, ExportFile, ExportWriter, TransferError
from tests.core.exports import checked, header, odd_documents, raw, write


@given(st.lists(odd_documents, max_size=5))
@settings(max_examples=60, deadline=None)
def test_a_file_keeps_every_byte(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]) -> None:
    path = tmp_path_factory.mktemp("file") / "x.gz"
    wanted = [raw({"_id": number, **row}) for number, row in enumerate(rows)]
    file = write(path, {"things": wanted, "empty": []})
    file.check()
    assert file.counts == {"things": len(rows), "empty": 0}
    assert [(name, document.raw) for name, document in file.documents()] == [("things", row.raw) for row in wanted]


def test_only_its_owner_reads_a_file_and_none_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    writer = ExportWriter(path, header())
    (draft,) = tmp_path.iterdir()
    assert stat.S_IMODE(draft.stat().st_mode) == 0o600
    with writer:
        assert writer.finish() == path.stat().st_size
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(TransferError, match="exists already"):
        ExportWriter(path, header())
    with pytest.raises(TransferError, match="cannot be written: No such file"):
        ExportWriter(tmp_path / "nowhere" / "x.gz", header())


def test_nothing_is_left_of_an_export_that_failed(tmp_path: Path) -> None:
    def fail() -> None:
        with ExportWriter(tmp_path / "x.gz", header()) as writer:
            writer.begin("things")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_collection_can_be_begun_again(tmp_path: Path) -> None:
    rows = [raw({"_id": n, "text": os.urandom(50)}) for n in range(50)]
    path = tmp_path / "x.gz"
    with ExportWriter(path, header()) as writer:
        for name in ("a", "b"):
            writer.begin(name)
            for row in rows[:30]:
                writer.add(row)
            writer.rewind()
            for row in rows:
                writer.add(row)
        writer.finish()
    file = checked(path)
    assert file.counts == {"a": 50, "b": 50}
    assert [document.raw for _, document in file.documents()] == [row.raw for row in rows] * 2


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_damage_is_noticed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("damage") / "x.gz"
    rows = [raw({"_id": n, "name": f"row {n}"}) for n in range(20)]
    write(path, {"things": rows})
    whole = path.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    how = data.draw(st.sampled_from(["cut", "flip", "insert", "append"]))
    if how == "cut":
        path.write_bytes(whole[:place])
    elif how == "flip":
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << data.draw(st.integers(0, 7))]) + whole[place + 1 :])
    elif how == "insert":
        path.write_bytes(whole[:place] + b"x" + whole[place:])
    else:
        path.write_bytes(whole + whole[place:])
    try:
        found = [document.raw for _, document in ExportFile(path).documents()]
    except TransferError as error:
        assert "nothing was written" in str(error)
    else:  # a byte that says nothing: the time or the system in gzip's own header
        assert how in {"flip", "append"}
        assert found == [row.raw for row in rows]


@pytest.mark.parametrize(
    "change",
    [
        lambda records: records[:-1],
        lambda records: [*records[:2], *records[3:]],
        lambda records: [records[0], records[2], records[1], *records[3:]],
        lambda records: [*records, records[-1]],
        lambda records: records[1:],
        lambda _: [bson.encode({"hello": "world"})],
        lambda _: [b"GIF89a and so on"],
        lambda _: [],
    ],
)
def test_a_proper_gzip_file_with_wrong_content(tmp_path: Path, change: Any) -> None:
    path = tmp_path / "x.gz"
    write(path, {"things": [raw({"_id": n}) for n in range(3)]})
    records = [document.raw for document in bson.decode_all(gzip.decompress(path.read_bytes()), RAW)]
    path.write_bytes(gzip.compress(b"".join(change(records))))
    with pytest.raises(TransferError, match="damaged or incomplete"):
        checked(path)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "x.gz", {}, version=2, service_version="9.0")
    with pytest.raises(TransferError, match=r"written by a newer Arrow \(9\.0\)"):
        checked(tmp_path / "x.gz")
