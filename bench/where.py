"""Where a run's time on a processor goes: ``python -m bench.where FILE once ...`` is `bench.single`, sampled.

The kernel interrupts the process whenever it has worked for a while, its own work and the kernel's for it (ITIMER_PROF,
setitimer(2)). The innermost of the modules below that is at work then is what the while went to; FILE gets each part's
share, as JSON. It is the shares that matter: a while is a tick of the kernel's at least, whatever is asked for.
"""

import json
import signal
import sys
from collections import Counter
from pathlib import Path
from types import FrameType

from bench import single
from notifierd.cli.main import main as command_line

EVERY = 0.004
"""Seconds: the tick of a kernel with CONFIG_HZ=250, time(7)."""

PARTS = {
    "POST: httpx, httpcore, h11": ("httpx", "httpcore", "h11"),
    "senders: bodies, answers, keys, encryption": ("notifierd.send", "pywebpush", "http_ece"),
    "database: asyncpg, trio-asyncio": ("asyncpg", "trio_asyncio", "asyncio", "notifierd.store.database"),
    "rendering: jinja2, names, addresses": (
        "notifierd.messages.render",
        "notifierd.messages.text",
        "notifierd.model.address",
        "jinja2",
    ),
    "rows to objects, who is told what": ("notifierd.store.source", "notifierd.rules.due"),
    "calls, circuit breakers, ledger, recorder": ("notifierd",),
}
"""Which modules, with all below them, make a part; the first that fits counts."""

TRIO = "trio: tasks, limiters, channels"
IMPORTS = "start: imports"
ABOVE_ALL = {"notifierd.cli.main", "notifierd.cli.work", "notifierd.commands.once"}
"""What trio.run itself is called by, so that each frame has it above."""


def part_of(frame: FrameType | None) -> str:
    """What the work in *frame* is a part of. To Trio goes only what no other part asked it for."""
    otherwise = "other"
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if name.startswith("importlib."):
            return IMPORTS
        if name.startswith("trio."):
            otherwise = TRIO
        elif name not in ABOVE_ALL:
            for part, modules in PARTS.items():
                if any(f"{name}.".startswith(f"{module}.") for module in modules):
                    return part
        frame = frame.f_back
    return otherwise


def main() -> None:
    """The command line."""
    found = Path(sys.argv.pop(1))
    went = Counter[str]()
    signal.signal(signal.SIGPROF, lambda _signal, frame: went.update([part_of(frame)]))
    signal.setitimer(signal.ITIMER_PROF, EVERY, EVERY)
    try:
        single.main(command_line)  # which comes back, where `run` ends the process
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        found.write_text(json.dumps({part: count / went.total() for part, count in went.items()}))


if __name__ == "__main__":
    main()
