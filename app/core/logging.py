"""Structured logs: JSON in production, readable lines in development, never a secret in either.

Everything passes one pipeline: our own structlog loggers, and those of the libraries (uvicorn, PyMongo, asyncio) by
a bridge. Log lines of requests are built in `core.middleware` from values that cannot hold a secret, and skip the
scrubbing for speed.
"""

import json
import logging
import sys
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import structlog
from structlog.typing import Processor, WrappedLogger

from app.core.redaction import scrub, scrub_value
from app.core.settings import Settings, SettingsError

_encode = msgspec.json.Encoder(enc_hook=str).encode


class _Streams:
    """Writes each line to standard output and, when asked for, to the log file."""

    def __init__(self, log_file: Path | None) -> None:
        self._file: BinaryIO | None = None
        if log_file:
            try:
                log_file.parent.mkdir(parents=True, exist_ok=True)
                self._file = log_file.open("ab", buffering=0)
            except OSError as error:
                raise SettingsError(f"LOG_FILE: cannot be written ({error.strerror}: {error.filename})") from None

    def msg(self, line: bytes) -> None:
        # Standard output may be closed or replaced, the disk full: there is nobody left to tell, and whoever logs must
        # not fail because of it.
        with suppress(ValueError, OSError, AttributeError):
            sys.stdout.buffer.write(line + b"\n")
            sys.stdout.buffer.flush()
        if self._file:
            with suppress(ValueError, OSError):
                self._file.write(line + b"\n")

    debug = info = warning = error = critical = exception = log = fatal = warn = msg


def _scrub_event(_: WrappedLogger, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace credentials in every field, the exception's text included."""
    if event.pop("safe", False):
        return event
    clean = scrub_value(event)
    assert isinstance(clean, MutableMapping)  # noqa: S101 (a mapping goes in)
    return clean


def _json(_: WrappedLogger, __: str, event: MutableMapping[str, Any]) -> bytes:
    try:
        return _encode(event)
    except UnicodeEncodeError:  # half a surrogate pair, from somebody's JSON
        return json.dumps(event, default=str).encode()


def _console() -> Callable[[WrappedLogger, str, MutableMapping[str, Any]], bytes]:
    renderer = structlog.dev.ConsoleRenderer(
        colors=sys.stdout.isatty(), exception_formatter=structlog.dev.plain_traceback
    )

    def render(logger: WrappedLogger, name: str, event: MutableMapping[str, Any]) -> bytes:
        return renderer(logger, name, event).encode("utf-8", "replace")

    return render


class _Bridge(logging.Handler):
    """Hands the records of other libraries to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 (a library's broken format string must not break the program)
            message = str(record.msg)
        logger = structlog.get_logger(record.name)
        # structlog knows the standard levels only; libraries have others between them.
        level = min(max(record.levelno // 10 * 10, logging.DEBUG), logging.CRITICAL)
        logger.log(level, message, logger=record.name, exc_info=record.exc_info or None)


class _NoHandshakes(logging.Filter):
    """Drops uvicorn's lines about WebSocket handshakes: they carry the query string, where a token may stand."""

    def filter(self, record: logging.LogRecord) -> bool:
        return '"WebSocket ' not in str(record.msg)


def configure_logging(settings: Settings) -> None:
    """Route all logs of this process into the one pipeline; may be called again."""
    level = logging.getLevelNamesMapping()[settings.log_level]
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and settings.environment != "development")
    processors: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso" if as_json else "%Y-%m-%d %H:%M:%S", utc=as_json),
        structlog.processors.format_exc_info,
        _scrub_event,
        _json if as_json else _console(),
    ]
    streams = _Streams(settings.log_file)
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: streams,
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers = [_Bridge()]
    root.setLevel(max(level, logging.WARNING))
    for name in ("uvicorn", "uvicorn.error", "uvicorn.asgi"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
        logger.setLevel(max(level, logging.INFO))
    # The request line names the full path, and with it strategy keys: requests are logged by core.middleware instead.
    logging.getLogger("uvicorn.access").disabled = True
    error = logging.getLogger("uvicorn.error")
    if not any(isinstance(known, _NoHandshakes) for known in error.filters):
        error.addFilter(_NoHandshakes())


def clean_text(text: str) -> str:
    """Text that is safe to log or to show: see `core.redaction.scrub`."""
    return scrub(text)
