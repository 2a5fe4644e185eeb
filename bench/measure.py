"""A process, measured from its start to its end by the kernel."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path

from attrs import frozen

REPOSITORY = Path(__file__).parent.parent
LOOK_EVERY = 0.01
ENVIRON = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY)}


@frozen
class Measured:
    """What a process took.

    Attributes:
        began: when it was started, by CLOCK_MONOTONIC.
        cpu: seconds on a processor, its own and the kernel's for it: rusage, getrusage(2).
        peak: the most memory that it had, in MiB: VmHWM, proc(5). (The kernel's ru_maxrss would count its parent's.)
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
        time.sleep(LOOK_EVERY)
        peak = max(peak, _kib(process.pid, "VmHWM"))
        ended, status, usage = os.wait4(process.pid, os.WNOHANG)
    seconds = time.monotonic() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in good:
        raise RuntimeError(f"{module} ended with {process.returncode}: {err.read_text()[-2000:]}")
    return Measured(began, seconds, usage.ru_utime + usage.ru_stime, peak / 1024, out.read_text())


def _kib(pid: int, name: str) -> int:
    """A figure of ``/proc/PID/status``; 0 when the process has ended."""
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) if found else 0


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
