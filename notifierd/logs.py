"""Log lines: readable on a terminal, JSON otherwise, always to stderr. No personal data, no secrets.

Libraries speak through ``logging``, and quote what they met, so of their warnings only the place is kept.
"""

import logging
import sys
from typing import Literal, TextIO, cast

import structlog

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class _Stderr:
    """Whatever stderr is at the moment: a progress bar stands in for it while it is drawn."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


class _PlaceOnly(logging.Handler):
    """Passes on where a library warned, without its words."""

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
            structlog.processors.TimeStamper(fmt="%H:%M:%S" if readable else "iso", utc=not readable),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", _Stderr())),  # all it uses is there
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers[:] = [_PlaceOnly()]
    root.setLevel(logging.WARNING)
