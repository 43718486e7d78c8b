"""The file that `scripts/export_data.py` writes: a gzip-compressed row of BSON documents.

The first is the header, the last the end mark with the count of each collection and the SHA-256 of all bytes before it,
uncompressed. Between them is `{"c": collection, "d": document}` for each document, collection after collection, with
the document's bytes exactly as the database gave them: no type, no field order and no precision can change on the way.
`zcat FILE | bsondump` shows it, and so does `scripts/import_data.py FILE --print`.
"""

import contextlib
import gzip
import hashlib
import os
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import bson
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument

FORMAT, VERSION = "arrow-export", 1
LEVEL = 6
MAX_RECORD = 17 * 1024 * 1024
"""A document may have 16 MiB."""
RAW: CodecOptions[RawBSONDocument] = CodecOptions(
    document_class=RawBSONDocument, tz_aware=True, datetime_conversion=DatetimeConversion.DATETIME_AUTO
)
"""Reads documents without decoding them; dates beyond Python's years are no error."""
_NEW_FILE = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)


class TransferError(Exception):
    """The export or import cannot be done; the message is one line for the person who asked for it."""


class ExportWriter:
    """Writes an export under a temporary name, readable by its owner only, and renames it when it is complete.

    Used as a context manager: without `finish` nothing is left of it.
    """

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        if path.exists():
            raise TransferError(f"{path} exists already; choose another name")
        self.counts: Counter[str] = Counter()
        self.collection = ""
        self._path = path
        self._draft = path.with_name(f".{path.name}.{os.getpid()}.part")
        self._digest = hashlib.sha256()
        try:
            # It holds password hashes: nobody else may read it, not even while it is written.
            self._file = os.fdopen(os.open(self._draft, _NEW_FILE, 0o600), "r+b")
        except OSError as error:
            raise TransferError(f"{path} cannot be written: {error.strerror}") from error
        self._zip = self._member()
        self._mark = (0, self._digest)
        self._put({"kind": "header", "format": FORMAT, "version": VERSION, **header})

    def _member(self) -> gzip.GzipFile:
        return gzip.GzipFile(filename="", mode="wb", compresslevel=LEVEL, fileobj=self._file, mtime=0)

    def _put(self, record: dict[str, Any]) -> None:
        data = bson.encode(record)
        self._digest.update(data)
        self._zip.write(data)

    def begin(self, collection: str) -> None:
        """What follows is of `collection`; it is a gzip member of its own."""
        self._zip.close()
        self.collection = collection
        self.counts[collection] = 0
        self._mark = (self._file.tell(), self._digest.copy())
        self._zip = self._member()

    def add(self, document: RawBSONDocument) -> None:
        """Write one document."""
        self._put({"c": self.collection, "d": document})
        self.counts[self.collection] += 1

    def rewind(self) -> None:
        """Forget what came since `begin`, to read the collection again."""
        self._zip.close()
        position, self._digest = self._mark[0], self._mark[1].copy()
        self._file.seek(position)
        self._file.truncate()
        self.counts[self.collection] = 0
        self._zip = self._member()

    def finish(self) -> int:
        """Write the end mark, make all of it durable, and give it its name; returns its bytes."""
        self._put({"kind": "end", "counts": dict(self.counts), "sha256": self._digest.hexdigest()})
        self._zip.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        size = self._file.tell()
        self._file.close()
        self._draft.rename(self._path)
        with contextlib.suppress(OSError):  # not every system opens folders
            folder = os.open(self._path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
        return size

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._zip.close()
        with contextlib.suppress(OSError):
            self._file.close()
        self._draft.unlink(missing_ok=True)


class ExportFile:
    """Reads an export, one document at a time. Every error is a `TransferError`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header: dict[str, Any] = {}
        self.counts: dict[str, int] = {}

    def check(self) -> None:
        """Read all of it without keeping it: header, every byte against the SHA-256, the counts, the end."""
        for _ in self.documents():
            pass

    def documents(self) -> Iterator[tuple[str, RawBSONDocument]]:
        """Each document with its collection. Not to be trusted before the end was reached once: see `check`."""
        try:
            with gzip.open(self.path, "rb") as stream:
                yield from self._read(stream)
        except gzip.BadGzipFile:
            raise TransferError(self._damaged("it is no gzip file, or its checksum is wrong")) from None
        except EOFError:
            raise TransferError(self._damaged("its end is missing")) from None
        except (zlib.error, BSONError, KeyError, TypeError, AttributeError) as error:
            raise TransferError(self._damaged(str(error) or type(error).__name__)) from None
        except OSError as error:
            raise TransferError(f"{self.path} cannot be read: {error.strerror or error}") from None

    def _damaged(self, why: str) -> str:
        return f"{self.path} is not an export of Arrow, or is damaged or incomplete ({why}); nothing was written"

    def _read(self, stream: gzip.GzipFile) -> Iterator[tuple[str, RawBSONDocument]]:
        digest, counts = hashlib.sha256(), Counter[str]()
        data = self._record(stream)
        self.header = self._checked_header(bson.decode(data, CodecOptions(tz_aware=True)))
        while True:
            digest.update(data)
            data = self._record(stream)
            record = RawBSONDocument(data, RAW)
            if "kind" in record:
                break
            name = str(record["c"])
            counts[name] += 1
            yield name, record["d"]
        end = bson.decode(data)
        if end["sha256"] != digest.hexdigest():
            raise TransferError(self._damaged("its content does not match its SHA-256"))
        if {name: count for name, count in end["counts"].items() if count} != dict(counts):
            raise TransferError(self._damaged("its counts are wrong"))
        if stream.read(1):
            raise TransferError(self._damaged("something follows its end"))
        self.counts = dict(end["counts"])

    def _checked_header(self, header: dict[str, Any]) -> dict[str, Any]:
        if header["kind"] != "header" or header["format"] != FORMAT:
            raise TransferError(self._damaged("another header"))
        if header["version"] > VERSION:
            raise TransferError(
                f"{self.path} was written by a newer Arrow ({header['service_version']}), nothing was written: "
                "update this one first"
            )
        return header

    @staticmethod
    def _record(stream: gzip.GzipFile) -> bytes:
        head = stream.read(4)
        size = int.from_bytes(head, "little")
        if len(head) < 4:
            raise EOFError
        if not 5 <= size <= MAX_RECORD:
            raise KeyError("a document of an impossible size")
        body = stream.read(size - 4)
        if len(body) < size - 4:
            raise EOFError
        return head + body
