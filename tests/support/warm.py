"""Commands in processes that need no start: each is forked from one that has imported notifierd already.

A command costs a tenth of what it costs from nothing, so that a test can afford a hundred of them.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from threading import Lock

from attrs import field, frozen

from tests.support.processes import Done, presentable


@frozen
class Warm:
    """The process that forks."""

    _process: "subprocess.Popen[str]"
    _turn: Lock = field(factory=Lock)

    def run(self, *args: str, cwd: Path, environ: Mapping[str, str]) -> Done:
        """Run ``notifierd`` with *args* to its end; it shows neither a traceback nor a secret."""
        out, err = cwd / "stdout", cwd / "stderr"
        began = time.monotonic()
        order = {"args": args, "cwd": str(cwd), "environ": dict(environ), "out": str(out), "err": str(err)}
        with self._turn:
            assert self._process.stdin
            assert self._process.stdout
            self._process.stdin.write(f"{json.dumps(order)}\n")
            self._process.stdin.flush()
            code = int(self._process.stdout.readline())
        return presentable(Done(code, out.read_text("utf-8"), err.read_text("utf-8"), time.monotonic() - began))


@contextmanager
def warm() -> Iterator[Warm]:
    """Start the process that forks."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.warm"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "COLUMNS": "200"},
    ) as process:
        try:
            yield Warm(process)
        finally:
            process.kill()


def _command(args: Sequence[str], cwd: str, environ: Mapping[str, str], out: str, err: str) -> None:
    """Be the command."""
    from notifierd.cli.main import main

    for descriptor, name in ((0, os.devnull), (1, out), (2, err)):
        opened = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(opened, descriptor)
    os.chdir(cwd)
    os.environ.update(environ)
    sys.argv = ["notifierd", *args]
    main()


def _forked(order: Mapping[str, object]) -> int:
    """Fork a command, and return how it ended."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    _command(**order)  # type: ignore[arg-type]
    sys.exit(0)  # unseen: a command always ends with an exit of its own


if __name__ == "__main__":
    for name in ("check", "display.feedback", "once", "plan", "preview", "providers.feedback", "retry", "status"):
        import_module(f"notifierd.commands.{name}")
    for name in ("main", "tables", "work"):
        import_module(f"notifierd.cli.{name}")
    for line in sys.stdin:
        print(_forked(json.loads(line)), flush=True)  # noqa: T201 - to the test
