"""What all commands share: output, error messages and exit codes. No error ends in a traceback.

Help and completion need this module too, so it imports little; `work` has the rest.
"""

import codecs
import errno
import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

import click

from notifierd.messages.text import visible, visible_json
from notifierd.model.errors import (
    ConfigError,
    DatabaseError,
    LeaseHeld,
    LedgerUnavailable,
    NotifierdError,
)
from notifierd.rules.exits import EXIT_INTERRUPTED, EXIT_OK, EXIT_OUT_OF_REACH, EXIT_TROUBLE, EXIT_USAGE
from notifierd.service import stderr
from notifierd.store.connection.advice import advice

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

as_json_option = click.option("--json", "as_json", is_flag=True, help="The result as JSON, alone on stdout.")


class ResultLost(Exception):
    """Stdout cannot be written to, for another reason than a closed pipe; the argument is the error's name."""


class _Results(io.FileIO):
    """Stdout's file, whose errors are distinguished from those of all other files."""

    def write(self, data: "ReadableBuffer") -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise ResultLost(errno.errorcode.get(error.errno or 0, "unknown")) from None


def install_streams() -> None:
    """Replace stderr by a stream that never blocks, and stdout by one with distinguishable errors.

    The errors of stdout are `ResultLost` and BrokenPipeError.
    """
    stderr.install()
    raw = _Results(1, "w", closefd=False)
    encoding = getattr(sys.stdout, "encoding", None)
    # A name that the locale cannot encode must not end a command.
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=encoding, errors="backslashreplace", line_buffering=raw.isatty()
    )


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turn errors into a line on stderr and an exit code: a traceback on a user's terminal is a bug."""
    try:
        yield
    except click.ClickException as error:
        error.show()
        sys.exit(EXIT_USAGE)
    except ConfigError as error:
        complain(*error.problems)
        sys.exit(EXIT_USAGE)
    except LedgerUnavailable as error:
        complain(f"the database is unreachable ({error.reason}): {advice(error.sqlstate)}")
        sys.exit(EXIT_OUT_OF_REACH)
    except LeaseHeld as error:
        complain(f"{error}; wait until that process is done, then run this again")
        sys.exit(EXIT_INTERRUPTED)
    except DatabaseError as error:
        complain(f"the database refused a statement ({error.reason}): {advice(error.sqlstate)}")
        sys.exit(EXIT_USAGE)
    except NotifierdError as error:
        complain(str(error))
        sys.exit(EXIT_USAGE)
    except BrokenPipeError:  # the reader has enough, as `head` does
        abandon_stdout()
        sys.exit(EXIT_OK)
    except ResultLost as error:
        abandon_stdout()
        complain(f"the result could not be written ({error})")
        sys.exit(EXIT_TROUBLE)
    except (KeyboardInterrupt, click.exceptions.Abort):
        complain("interrupted")
        sys.exit(EXIT_INTERRUPTED)


def leave(code: int) -> NoReturn:
    """End the process with *code*, without Python's own clean-up: after a run, it takes 30 ms to free each object."""
    stderr.drain()
    os._exit(code)


def abandon_stdout() -> None:
    """Discard what is still buffered for stdout; otherwise Python's own flush at the exit fails, and exits 120."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def complain(*lines: str) -> None:
    """Print on stderr what is wrong."""
    from rich.console import Console  # noqa: PLC0415 - takes 50 ms, and few commands complain
    from rich.markup import escape  # noqa: PLC0415 - likewise

    console = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)
    for line in lines:
        console.print(f"[red]notifierd:[/] {escape(visible(line))}")


def say(*lines: str) -> None:
    """Print results that are lines of text."""
    for line in lines:
        click.echo(visible(line))


def say_json(found: object) -> None:
    """Print a result as one line of JSON, with escapes for what a terminal would obey, hide or reverse."""
    readable = codecs.lookup(sys.stdout.encoding).name == "utf-8"
    click.echo(visible_json(json.dumps(found, ensure_ascii=not readable)))


def may_be_terminal() -> bool:
    """Return whether rich may take stderr for a terminal, by itself or because a variable says so."""
    return sys.stderr.isatty() or not os.environ.keys().isdisjoint({"FORCE_COLOR", "TTY_COMPATIBLE"})
