"""A process, measured from its start to its end by the kernel."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from attrs import frozen

REPOSITORY = Path(__file__).parent.parent
LOOK_EVERY, LOOK_AT_FAMILY_EVERY = 0.01, 0.1
"""Seconds. The memory of several processes takes the kernel longer to add up."""
ENVIRON = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY)}


@frozen
class Measured:
    """What a process took.

    Attributes:
        began: when it was started, by CLOCK_MONOTONIC.
        cpu: seconds on a processor, its own and the kernel's for it: rusage, getrusage(2).
        peak: the most memory that it had, in MiB: VmHWM, proc(5). (The kernel's ru_maxrss would count its parent's.)
            While it has children: what all of them have together, each page that they share counted once, as Pss.
    """

    began: float
    seconds: float
    cpu: float
    peak: float
    out: str


def measured(module: str, *arguments: str, folder: Path, good: Collection[int] = (0,)) -> Measured:
    """Run ``python -m module`` to its end; what it writes to stderr goes to *folder*.

    Args:
        good: the exit codes of a good end.
    """
    out, err = folder / "out", folder / "err"
    with out.open("w") as stdout, err.open("w") as stderr:
        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            cwd=folder,
            env=ENVIRON,
        )
    peak, ended = 0, 0
    while not ended:
        family = [process.pid, *_descendants(process.pid)]
        time.sleep(LOOK_EVERY if len(family) == 1 else LOOK_AT_FAMILY_EVERY)
        peak = max(peak, _memory(family))
        ended, status, usage = os.wait4(process.pid, os.WNOHANG)
    seconds = time.monotonic() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in good:
        raise RuntimeError(f"{module} ended with {process.returncode}: {err.read_text()[-2000:]}")
    return Measured(began, seconds, usage.ru_utime + usage.ru_stime, peak / 1024, out.read_text())


def _memory(family: Sequence[int]) -> int:
    """What processes have together, in KiB."""
    return _kib(family[0], "VmHWM") if len(family) == 1 else sum(_kib(one, "Pss", "smaps_rollup") for one in family)


def _descendants(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # it has ended
            for child in map(int, task.read_text().split()):
                yield from (child, *_descendants(child))


def _kib(pid: int, name: str, file: str = "status") -> int:
    """A figure of a *file* in ``/proc/PID``; 0 when the process has ended."""
    with suppress(OSError):
        found = re.search(rf"^{name}:\s+(\d+) kB$", Path(f"/proc/{pid}/{file}").read_text(), re.MULTILINE)
        return int(found[1]) if found else 0
    return 0


def rss_after(event: str, *arguments: str, folder: Path) -> float:
    """Run ``python -m notifierd`` until its log says *event*; its memory then, in MiB: VmRSS, proc(5)."""
    command = [sys.executable, "-m", "notifierd", *arguments]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=folder, env=ENVIRON
    ) as process:
        assert process.stderr
        assert any(json.loads(line)["event"] == event for line in process.stderr), f"it ended without {event}"
        rss = _kib(process.pid, "VmRSS")
        process.terminate()
    return rss / 1024
