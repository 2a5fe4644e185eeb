"""What somebody without a token can do to a run: 500 offices under each attack on the page's port, and a fuzzer's.

The real daemon on a real PostgreSQL with mails over real HTTP; the attack is a process of its own. Printed for each:
how long the run took, and how many times as long as without an attack; the slowest answer of /healthz, which is asked
over a new connection ten times a second; the daemon's memory and descriptors before and after.

    python -m bench.strangers --offices 500 --requests 100000
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio
from attrs import define, frozen

from notifierd.demo.postgres import running_postgres
from notifierd.demo.servers.process import Servers, running_servers
from notifierd.demo.servers.trouble import MailConfig
from tests.support.attacks import ATTACKS, HOST, open_to
from tests.support.daemon_process import AHEAD, OPEN, TODAY, Service, running_service
from tests.support.faults import until
from tests.support.processes import API_KEY, Place, Template, invent, running_template

TOKEN = "a-token-of-the-bench"
STAFF = 4
ASK_EVERY = 0.1


@frozen
class Row:
    """What came of one attack.

    Attributes:
        seconds: from the run's beginning to its end, as the ledger has it.
        cpu: seconds of the daemon's CPU time from the reload that opens the window to the run's end; who else is at
            work on the machine has no part in it.
        slowest: the longest that /healthz took, in seconds.
        unanswered: how often it did not answer at all.
        rss: in MiB, at the start and when all is over.
        errors: lines of the log at that level.
    """

    attack: str
    seconds: float
    cpu: float
    slowest: float
    unanswered: int
    rss: tuple[float, float]
    descriptors: tuple[int, int]
    errors: int
    said: str = ""


@define
class Health:
    """Asks for /healthz, over a new connection each time."""

    url: str
    slowest: float = 0.0
    unanswered: int = 0

    async def ask(self) -> None:
        while True:
            began, answer = trio.current_time(), b""
            try:
                with trio.move_on_after(10.0):
                    async with await open_to(self.url) as stream:
                        await stream.send_all(b"GET /healthz" + HOST + b"Connection: close\r\n\r\n")
                        answer = bytes(await stream.receive_some())
            except (OSError, trio.BrokenResourceError):
                answer = b""
            self.slowest = max(self.slowest, trio.current_time() - began)
            self.unanswered += b" 200 " not in answer
            await trio.sleep(ASK_EVERY)


@contextmanager
def attacking(url: str, name: str, requests: int) -> "Iterator[subprocess.Popen[str] | None]":
    """Have the attack go on in another process."""
    if name == "none":
        yield None
        return
    more = ["16", str(requests)] if name == "fuzz" else []
    command = [sys.executable, "-m", "tests.support.attacks", url, name, *more]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "begun\n"
            yield process
        finally:
            process.kill()


def memory(service: Service) -> float:
    """In MiB: VmRSS, proc(5)."""
    text = Path(f"/proc/{service.process.pid}/status").read_text(encoding="ascii")
    found = re.search(r"VmRSS:\s+(\d+) kB", text)
    assert found
    return int(found[1]) / 1024


def cpu_time(service: Service) -> float:
    """In seconds: utime and stime, proc(5)."""
    fields = Path(f"/proc/{service.process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def descriptors(service: Service) -> int:
    return len(list(Path(f"/proc/{service.process.pid}/fd").iterdir()))


async def measure(place: Place, name: str, offices: int, requests: int) -> Row:
    rows = invent(offices, staff=STAFF, day=TODAY)
    place.load(rows)
    place.serve(rows, MailConfig(API_KEY, keep_eml=False))
    place.configure(window=AHEAD, http={"token": TOKEN})
    async with running_service(place) as service:
        await service.ready()
        await service.get("/healthz")
        health, before = Health(service.url), (memory(service), descriptors(service))
        said = ""
        with attacking(service.url, name, requests) as attacker:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(health.ask)
                place.configure(window=OPEN, http={"token": TOKEN})
                cpu = cpu_time(service)
                service.tell(signal.SIGHUP)
                over = "select state from notifierd.runs"
                await until(lambda: place.sql(over) == "completed", "the run's end")
                cpu = cpu_time(service) - cpu
                if attacker and name == "fuzz":
                    said, _ = await trio.to_thread.run_sync(attacker.communicate)
                nursery.cancel_scope.cancel()
        await until(lambda: descriptors(service) <= before[1] + 4, "the connections to be gone")
        after = memory(service), descriptors(service)
        took = place.sql("select extract(epoch from finished_at - started_at) from notifierd.runs")
        assert place.states() == {"sent": offices * STAFF}
        service.tell(signal.SIGTERM)
        await service.ended(0)
        errors = sum(line.get("level") == "error" for line in service.lines)
    return Row(
        name,
        float(took),
        cpu,
        health.slowest,
        health.unanswered,
        (before[0], after[0]),
        (before[1], after[1]),
        errors,
        said.strip(),
    )


def attack_all(template: Template, servers: Servers, options: argparse.Namespace) -> None:
    """Measure one after the other, and print a line for each."""
    alone, cpu_alone = 0.0, 0.0
    for number, name in enumerate(["none", "none", *(options.only or (*ATTACKS, "fuzz")), "none"]):
        with tempfile.TemporaryDirectory() as folder, template.place(Path(folder), servers) as place:
            row = trio.run(measure, place, name, options.offices, options.requests)
        if number <= 1:
            alone, cpu_alone = row.seconds, row.cpu
        print(
            f"{row.attack:>13}  run {row.seconds:6.2f} s  x {row.seconds / alone:4.2f}, "
            f"CPU {row.cpu:5.2f} s  x {row.cpu / cpu_alone:4.2f}  "
            f"/healthz at most {row.slowest:5.2f} s, unanswered {row.unanswered}  "
            f"MiB {row.rss[0]:.0f} -> {row.rss[1]:.0f}  descriptors {row.descriptors[0]} -> {row.descriptors[1]}  "
            f"error lines {row.errors}  {row.said}",
            flush=True,
        )


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.strangers", description="What strangers cost a run.")
    parser.add_argument("--offices", type=int, default=500)
    parser.add_argument("--requests", type=int, default=100_000, help="the fuzzer's")
    parser.add_argument("--only", nargs="*", choices=[*ATTACKS, "fuzz"])
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="notifierd-strangers-") as directory,
        running_postgres(Path(directory) / "postgres") as cluster,
        running_servers(Path(directory) / "servers") as servers,
        running_template(cluster, Path(directory)) as template,
    ):
        attack_all(template, servers, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
