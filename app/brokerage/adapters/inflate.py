"""Unpacks answers in pieces of bounded size, however much a few bytes may stand for."""

import zlib
from collections.abc import Iterator
from typing import Final

_PIECE: Final = 64 << 10


class TooLargeError(Exception):
    """More than anybody wants to read."""


class UnknownEncodingError(Exception):
    """Packed in a way that nobody asked for, or not as it says, or cut off."""


class Inflate:
    """Undoes gzip, or nothing."""

    def __init__(self, encoding: str, most: int) -> None:
        """`encoding`: as in `Content-Encoding`. Raises `UnknownEncodingError`. `most`: bytes after unpacking."""
        encoding = encoding.strip().lower() or "identity"
        if encoding not in {"gzip", "identity"}:
            raise UnknownEncodingError
        self._packed, self._most = encoding == "gzip", most
        self._gzip = zlib.decompressobj(wbits=31)
        self.size = 0
        """Bytes so far, unpacked."""

    def feed(self, raw: bytes) -> Iterator[bytes]:
        """What the next bytes stand for. Raises `TooLargeError`, `UnknownEncodingError`."""
        if not self._packed:
            yield self._counted(raw)
            return
        try:
            while raw:
                yield self._counted(self._gzip.decompress(raw, _PIECE))
                raw = self._gzip.unconsumed_tail
                if self._gzip.eof:
                    raw = self._next_member()
        except zlib.error:
            raise UnknownEncodingError from None

    def close(self) -> None:
        """There is no more; raises `UnknownEncodingError` if that was not all of it."""
        if self._packed and not self._gzip.eof:
            raise UnknownEncodingError

    def _next_member(self) -> bytes:
        """Gzip files may be several, one after the other."""
        rest = self._gzip.unused_data
        if rest:
            self._gzip = zlib.decompressobj(wbits=31)
        return rest

    def _counted(self, data: bytes) -> bytes:
        self.size += len(data)
        if self.size > self._most:
            raise TooLargeError
        return data
