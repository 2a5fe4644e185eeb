"""Several ``notifierd once`` on one day: how much faster they are together than one of them alone."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from math import ceil
from pathlib import Path

from attrs import frozen

from bench.application import Application
from bench.measure import ENVIRON
from bench.runs import SECONDS, check_accepted
from bench.servers import Orders, Servers
from tests.support.processes import DAY

LATENCY = 0.5
SLOTS = {"email": 5, "push": 20}
"""The calls at once that one process has, where each has the same."""
TOTAL = 8
"""How many times as many calls all processes have together, where the total stays the same."""


@frozen
class Together:
    """What processes came to that shared a day.

    Attributes:
        sending: seconds from the first request to the answer to the last one.
        ideal: what the calls take at least, through as many slots as all have together.
        statements: how many that read or write the server saw, without those that belong to the leases.
    """

    members: int
    sending: float
    ideal: float
    statements: int

    def __str__(self) -> str:
        return f"{self.members:8}{self.ideal:10.2f}{self.sending:10.2f}{self.statements:12,}"


def together(application: Application, servers: Servers, members: int, times: int) -> Together:
    """Have so many processes share the day, and see that each delivery was accepted once.

    Args:
        times: how many times SLOTS all of them have together.
    """
    limits = {name: slots * times for name, slots in SLOTS.items()}
    application.forget()
    servers.next(Orders(LATENCY))
    with ExitStack() as stack:
        processes = [
            stack.enter_context(_started(application, application.folder / f"member-{number}", limits))
            for number in range(members)
        ]
        ends = [process.communicate()[0] for process in processes]
    for process, out in zip(processes, ends, strict=True):
        report = json.loads(out)
        assert (process.returncode, report["status"]) == (0, "completed"), report
    accepted, size = servers.next(), application.size
    check_accepted(size, accepted)
    ideal = LATENCY * max(ceil(size.mail_count / limits["email"]), ceil(size.push_count / limits["push"]))
    return Together(members, accepted.last - accepted.first + LATENCY, ideal, sum(application.statements()))


@contextmanager
def _started(application: Application, folder: Path, limits: dict[str, int]) -> "Iterator[subprocess.Popen[bytes]]":
    folder.mkdir(exist_ok=True)
    application.configure(folder, {"cluster": {"share": True}, "limits": limits})
    command = [sys.executable, "-m", "bench.single", "once", "--force", "--day", str(DAY), "--for", SECONDS, "--json"]
    with (
        (folder / "err").open("wb") as err,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=err, cwd=folder, env=ENVIRON
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()
