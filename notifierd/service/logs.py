"""Log lines: readable on a terminal, JSON otherwise, always to stderr. No personal data, no secrets.

Libraries log through ``logging``, and quote data in their messages. So a library's warning is logged with its place
only, and so is an error that nobody handles. If stderr is systemd's journal, each line begins with its priority, which
the journal removes (sd-daemon(3)).
"""

import logging
import os
import sys
from collections.abc import Mapping, MutableMapping
from types import TracebackType
from typing import Any, Literal, TextIO, cast

from notifierd.model.errors import first_of, frame_locations
from notifierd.model.imports import without
from notifierd.service import stderr

with without("rich"):  # only for tracebacks, and no log line has one: this saves 40 ms and 4 MB
    import structlog

PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}


class _Stderr:
    """The stream that is ``sys.stderr`` at the moment of a write: a progress bar replaces it while it is drawn."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


class _PlaceOnly(logging.Handler):
    """Logs the place of a library's warning, without its text."""

    def emit(self, record: logging.LogRecord) -> None:
        place = f"{record.module}.{record.funcName}:{record.lineno}"
        structlog.get_logger("library").warning("library_warning", library=record.name, place=place)


def set_up(level: str = "info", form: Literal["auto", "json", "text"] = "auto") -> None:
    """Send log lines of *level* and above to stderr, in *form*."""
    readable = form == "text" or (form == "auto" and sys.stderr.isatty())
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        if readable
        else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            *([] if readable else [_with_severity]),
            structlog.processors.TimeStamper(fmt="%H:%M:%S" if readable else "iso", utc=not readable),
            renderer,
            *([_with_priority] if is_journal(os.environ) else []),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", _Stderr())),  # it has all methods that are used
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers[:] = [_PlaceOnly()]
    root.setLevel(logging.WARNING)
    sys.excepthook = _log_crash
    if stream := stderr.stand_in():
        stream.again = _log_dropped


def is_journal(environ: Mapping[str, str], stream: int = 2) -> bool:
    """Whether the file descriptor *stream* leads to the journal: systemd.exec(5), $JOURNAL_STREAM."""
    there = os.fstat(stream)
    return environ.get("JOURNAL_STREAM") == f"{there.st_dev}:{there.st_ino}"


def _with_severity(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add the level as Google Cloud Logging reads it: a LogSeverity in the field ``severity``.

    https://cloud.google.com/logging/docs/structured-logging#special-payload-fields
    """
    event["severity"] = event["level"].upper()
    return event


def _with_priority(_logger: object, level: str, line: object) -> str:
    return f"<{PRIORITIES[level]}>{line}"


def _log_dropped(lines: int) -> None:
    """Log how many lines were lost, once lines can be written again."""
    log = structlog.get_logger("notifierd")
    log.error("log_dropped", lines=lines)


def _log_crash(_kind: type[BaseException], error: BaseException, _trace: TracebackType | None) -> None:
    """Log the type and the place of an error that ends the process, without its text."""
    first = first_of(error)
    structlog.get_logger("notifierd").critical("crashed", error=type(first).__name__, where=frame_locations(first))
