"""How fast notifierd is, held against the limits and against what it replaces: ``python -m bench``.

Everything runs in turn: notifierd as a process, the bare loop with the very requests that notifierd made, and the old
batch's shape on the same data. Prints a table, and what its figures come to.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from attrs import define, field, frozen

from bench import look
from bench.application import STAFF, Application, Applications, Size, running_applications
from bench.compare import LEANEST, OURS, Result, Shape, peers
from bench.measure import measured
from bench.members import TOTAL, Together, together
from bench.runs import Row, asleep, bare, beside_one_person, notifierd, old_batch
from bench.servers import Servers, running_servers

ROUNDS = 3
"""How often what is short is measured; the round that took the least counts, as others' work only ever adds to it."""


@frozen
class Figure:
    """A promise, and what was found of it."""

    words: str
    found: float
    limit: float
    at_least: bool = False

    def __str__(self) -> str:
        holds = self.found >= self.limit if self.at_least else self.found <= self.limit
        bound = f"at {'least' if self.at_least else 'most'} {self.limit:g}"
        return f"{'    ' if holds else 'NOT '}{self.words}: {self.found:.3g} ({bound})"


@define
class Bench:
    """What the measurements share, and the table that they fill.

    Attributes:
        start: seconds on a processor that notifierd takes to run for one office.
    """

    applications: Applications
    servers: Servers
    folder: Path
    start: float = 0.0
    rows: list[Row] = field(factory=list)
    results: list[Result] = field(factory=list)

    @property
    def recorded(self) -> Path:
        """Where the requests of a run are."""
        return self.folder / "recorded"

    def row(self, row: Row) -> Row:
        """Print *row* as a line of the table."""
        self.rows.append(row)
        cells = (
            f"{row.what:18}{row.size.offices:8,}{row.size.mail_count:9,}{row.size.push_count:9,}",
            f"{row.latency * 1000:5.0f}",
            f"{row.ideal:8.2f}" if row.ideal else " " * 8,
            f"{row.seconds:8.2f}",
            f"{row.seconds / row.ideal:7.3f}" if row.ideal else " " * 7,
            f"{self.cpu_each(row) * 1000:8.3f}{row.peak:7.1f}",
            "{:7}{:8}".format(*row.statements) if row.statements else " " * 15,
            f"{row.first:7.2f}",
        )
        print("".join(cells), flush=True)
        return row

    def quickest(self, rounds: int, application: Application, *, latency: float, single: bool) -> Row:
        """The run of notifierd that took the least time of so many."""
        runs = (notifierd(application, self.servers, latency=latency, single=single) for _ in range(rounds))
        return min(runs, key=lambda row: row.seconds)

    def shared(self, application: Application, members: int, times: int, channel: str) -> Together:
        """Have so many processes share the day, and print what they came to; see `together`."""
        found = together(application, self.servers, members, times)
        print(f"{channel:15}{found}", flush=True)
        return found

    def cpu_each(self, row: Row) -> float:
        """Seconds on a processor for each delivery; of notifierd without its start."""
        return (row.cpu - (self.start if row.what.startswith("notifierd") else 0.0)) / row.deliveries


HEADING = """\
                                                 lat.   ideal    time  time/ CPU ms   peak     statements  first
                   offices    mails   pushes   ms       s       s  ideal   each    MiB   read   write  after s
"""


def costs(bench: Bench) -> Iterator[Figure]:
    """What a mail and a push cost on a processor, beside a bare POST of the same bytes."""
    with bench.applications.of(Size(1)) as one:
        bench.start = min(notifierd(one, bench.servers).cpu for _ in range(ROUNDS))
    for size, name, limit in ((Size(200), "mail", 1.6), (Size(200, devices=5, mails=False), "push", 1.8)):
        with bench.applications.of(size) as application:
            ours: list[Row] = []
            batches: list[Row] = []
            loops: list[Row] = []
            for _ in range(ROUNDS):
                ours.append(notifierd(application, bench.servers, single=True, record=bench.recorded))
                loops.append(bare(bench.recorded, size, bench.servers))
                if size.mails:
                    batches.append(notifierd(application, bench.servers))
        found = [
            bench.cpu_each(bench.row(min(rows, key=lambda row: row.cpu))) for rows in (loops, ours, batches) if rows
        ]
        yield Figure(f"2. CPU of a {name}, alone in its call, over that of a bare POST", found[1] / found[0], limit)
        if batches:
            yield Figure(f"2. CPU of a {name} in a batch, over that of a bare POST", found[2] / found[0], limit)


def where(bench: Bench) -> Iterator[Figure]:
    """Print where the time of a mail and of a push on a processor goes. Promises nothing."""
    spent: list[dict[str, float]] = []
    for size in (Size(500), Size(500, devices=10, mails=False)):
        with bench.applications.of(size) as application:
            row = notifierd(application, bench.servers, single=True, sampled=bench.folder / "sampled")
        shares = json.loads((bench.folder / "sampled").read_text())
        spent.append({part: share * row.cpu / row.deliveries * 1000 for part, share in shares.items()})
    mail, push = spent
    print(f"\n{'CPU ms each, alone in its call, the start shared by all':60}{'mail':>8}{'push':>8}")
    for part in sorted(mail | push, key=lambda part: -mail.get(part, 0.0)):
        print(f"{part:60}{mail.get(part, 0.0):8.3f}{push.get(part, 0.0):8.3f}")
    print(f"{'':60}{sum(mail.values()):8.3f}{sum(push.values()):8.3f}\n", flush=True)
    yield from ()


PEERS_HEADING = """
                             CPU ms     peak  first  statements
                               each       MB      s
"""

SHAPES: dict[Shape, tuple[Size, str, float]] = {
    "batch": (Size(500), "a mail in a batch", 1.3),
    "single": (Size(500), "a mail alone in its call", 1.1),
    "push": (Size(500, devices=10, mails=False), "a push", 1.3),
}
"""How much there is to tell, what one of it is, and how many times as much of a processor it may take as the leanest
program's, the start included."""


def beside_peers(bench: Bench) -> Iterator[Figure]:
    """What could be used instead, on the same work."""
    with peers(bench.folder) as others:
        print(PEERS_HEADING, end="")
        for shape, (size, one, limit) in SHAPES.items():
            with bench.applications.of(size) as application:
                found = {result.what: result for result in others.best(ROUNDS, application, bench.servers, shape)}
            bench.results += found.values()
            for result in found.values():
                print(
                    f"{result.what:16}{shape:10}{result.cpu * 1000:9.3f}{result.peak:9.1f}{result.first:7.2f}"
                    f"{result.statements:12,}",
                    flush=True,
                )
            ours, leanest = found[OURS], found[LEANEST]
            yield Figure(f"9. CPU of {one}, with the start, over the leanest program's", ours.cpu / leanest.cpu, limit)
            yield Figure(f"9. first send, {shape}, over the leanest program's", ours.first / leanest.first, 1.3)
        for what, why in others.left_out.items():
            print(f"{what} is left out: {why}")


def commands(bench: Bench) -> Iterator[Figure]:
    """What it takes to start a command that does little."""
    with bench.applications.of(Size(1)) as application:
        for arguments, limit in ((("--help",), 0.15), (("status",), 0.35)):
            runs = (measured("notifierd", *arguments, folder=application.folder).cpu for _ in range(2 * ROUNDS))
            yield Figure(f"9. CPU seconds of `notifierd {' '.join(arguments)}`", min(runs), limit)


def rates(bench: Bench, latency: float) -> Iterator[Figure]:
    """How near sending comes to what the slots allow."""
    size = Size(500)
    with bench.applications.of(size) as application:
        single = bench.row(notifierd(application, bench.servers, latency=latency, single=True, record=bench.recorded))
        loop = bench.row(bare(bench.recorded, size, bench.servers, latency=latency))
        batches = bench.row(notifierd(application, bench.servers, latency=latency))
    if latency == 0.1:
        yield Figure("1. rate of single sends, over the bare loop's", single.rate / loop.rate, 0.98, at_least=True)
        yield Figure("1. speed of batches, over single sends", single.seconds / batches.seconds, 8, at_least=True)


def against_old_batch(bench: Bench) -> Iterator[Figure]:
    """The batch that notifierd replaces."""
    size = Size(300, devices=5)
    with bench.applications.of(size) as application:
        for latency, rounds, limit_single, limit_batches in ((0.0, 5, 15, 15), (0.1, 1, 4.5, 30)):
            single, batches = (
                bench.row(bench.quickest(rounds, application, latency=latency, single=single))
                for single in (True, False)
            )
            old = bench.row(old_batch(application, bench.servers, latency=latency))
            words = f"at {latency * 1000:.0f} ms, over the old batch's shape"
            yield Figure(f"6. speed of single sends {words}", old.seconds / single.seconds, limit_single, at_least=True)
            yield Figure(f"6. speed of batches {words}", old.seconds / batches.seconds, limit_batches, at_least=True)


def growth(bench: Bench, sizes: tuple[int, ...]) -> Iterator[Figure]:
    """What grows with the number of offices."""
    found = {}
    for offices in sizes:
        with bench.applications.of(Size(offices)) as application:
            found[offices] = bench.row(notifierd(application, bench.servers))
    with bench.applications.of(Size(500)) as application:
        single = bench.row(notifierd(application, bench.servers, single=True))
        after_many = asleep(application, bench.servers)
    with bench.applications.of(Size(500, devices=10)) as application:
        after_pushes = asleep(application, bench.servers)
    with bench.applications.of(Size(1)) as application:
        after_one = asleep(application, bench.servers)
    first, largest = found[500], found[sizes[-1]]
    assert first.statements
    assert largest.statements
    assert single.statements
    chunks = sizes[-1] / 500
    yield Figure("3. peak RSS at 500 offices, in MB", first.peak * 1.048576, 80)
    yield Figure(f"3. peak RSS at {sizes[-1]:,} offices, over that at 500", largest.peak / first.peak, 1.2)
    yield Figure("3. RSS of the daemon asleep, after a run of one office, in MB", after_one * 1.048576, 60)
    yield Figure("3. RSS of the daemon asleep, after a run of 500 offices, in MB", after_many * 1.048576, 60)
    yield Figure("3. RSS of the daemon asleep, after a run with pushes, in MB", after_pushes * 1.048576, 70)
    yield Figure("4. statements that read, at 500 offices", first.statements[0], 5)
    yield Figure("4. for each further 500 offices", (largest.statements[0] - first.statements[0]) / (chunks - 1), 4)
    yield Figure(
        "4. statements that write, for each office with batches", largest.statements[1] / largest.size.offices, 4
    )
    yield Figure("4. for each delivery with single sends", single.statements[1] / single.deliveries, 1.5)
    yield Figure("5. seconds to the first send at 500 offices", first.first, 1)


MEMBERS_HEADING = """
                       processes   ideal s    time s  statements
"""

SHARED: dict[int, tuple[float, float]] = {2: (1.9, 0.97), 4: (3.7, 0.97), 8: (7.0, 0.95)}
"""For so many processes on one day, how many times as fast as one they are at least: where each has the same limits,
and where all together have."""


def members(bench: Bench, deliveries: int) -> Iterator[Figure]:
    """Several processes that share a day, of as many deliveries as one sends in some minutes."""
    print(MEMBERS_HEADING, end="")
    mails, pushes = Size(deliveries // STAFF), Size(4 * deliveries // STAFF, devices=STAFF, mails=False)
    for size, channel in ((mails, "mails"), (pushes, "pushes")):
        with bench.applications.of(size) as application:
            alone = {times: bench.shared(application, 1, times, channel) for times in (1, TOTAL)}
            for number, (each, total) in SHARED.items():
                what = f"of {number} processes, {channel}"
                found = bench.shared(application, number, number, channel)
                speed, more = alone[1].sending / found.sending, found.statements - alone[1].statements
                yield Figure(f"10. speed {what}, the same limits each, over one", speed, each, at_least=True)
                yield Figure(f"10. statements for an office {what}, beyond those of one", more / size.offices, 1)
                speed = alone[TOTAL].sending / bench.shared(application, number, TOTAL, channel).sending
                yield Figure(f"10. speed {what}, the same limits together, over one", speed, total, at_least=True)


def large(bench: Bench) -> Iterator[Figure]:
    """What one office takes that is as large as others together: by its staff, and by its alerts."""
    many = 26  # recipients more, so that a mail lists some 30 alerts
    peaks: dict[Size, float] = {}
    for size in (Size(500, more=many), Size(1, staff=5000, more=many), Size(1, more=500_000)):
        with bench.applications.of(size) as application:
            rows = [bench.row(notifierd(application, bench.servers, single=single)) for single in (False, True)]
        peaks[size] = max(row.peak for row in rows)
    usual, staff, alerts = peaks.values()
    yield Figure("3. peak RSS at an office of 5,000 staff, over that at 500 offices of 10", staff / usual, 1.3)
    yield Figure("3. peak RSS at an office of 500,000 alerts, over the same", alerts / usual, 1.3)


ASKED = {"count what is open": 0.5, "claim offices": 0.5, "count at the end": 10.0}
"""What `bench.counting` measures, and how many seconds it may take."""


def planning(bench: Bench, offices: int) -> Iterator[Figure]:
    """One statement for all deliveries; then what a pass asks when most of them are sent."""
    with bench.applications.of(Size(offices, devices=10)) as application:
        deliveries, seconds, *_ = measured("bench.planning", folder=application.folder).out.split()
        application.finish(0.97)
        asked = map(float, measured("bench.counting", folder=application.folder).out.split())
    yield Figure(f"5. seconds to plan {int(deliveries):,} deliveries", float(seconds), 30)
    for (what, limit), took in zip(ASKED.items(), asked, strict=True):
        yield Figure(f"9. seconds to {what}, at {int(deliveries):,} deliveries of which 97 % are sent", took, limit)


def reminders(bench: Bench, offices: int) -> Iterator[Figure]:
    """The same where the three keys decide who has a reason on the day, which everybody has."""
    seconds: dict[tuple[str, ...], list[float]] = {(): [], ("--selective",): []}
    with bench.applications.of(Size(offices, devices=10)) as application:
        for _ in range(2):
            for arguments, taken in seconds.items():
                application.forget()
                deliveries, took, *_ = measured("bench.planning", *arguments, folder=application.folder).out.split()
                assert int(deliveries) == application.size.mail_count + application.size.push_count
                taken.append(float(took))
    without, with_keys = map(min, seconds.values())
    yield Figure(
        f"5. time to plan {int(deliveries):,} deliveries with three keys, over that without", with_keys / without, 1.5
    )


def steps(bench: Bench) -> Iterator[Figure]:
    """Print what it takes to plan days that are planned in steps. Promises nothing."""
    print(f"\n{'deliveries':>12}{'s':>9}{'first step, s':>15}{'WAL, MB':>9}{'database, MB':>14}")
    for offices in (300_000, 1_000_000):
        with bench.applications.of(Size(offices)) as application:
            before = application.megabytes()
            deliveries, seconds, first = measured("bench.planning", folder=application.folder).out.split()
            wal, size = (now - then for now, then in zip(application.megabytes(), before, strict=True))
            print(f"{int(deliveries):12,}{seconds:>9}{first:>15}{wal:9,}{size:14,}", flush=True)
    yield from ()


def explain(bench: Bench) -> Iterator[Figure]:
    """Print PostgreSQL's plan of the planning statement. Promises nothing."""
    for offices in (500, 50_000):
        with bench.applications.of(Size(offices, devices=10)) as application:
            print(f"\n{offices:,} offices\n{measured('bench.planning', '--explain', folder=application.folder).out}")
    yield from ()


def latencies(bench: Bench, latency: float) -> Iterator[Figure]:
    """What a provider that takes so long makes of the sizes. Promises nothing."""
    for offices in (10, 100, 500, 5_000):
        with bench.applications.of(Size(offices)) as application:
            bench.row(notifierd(application, bench.servers, latency=latency))
            if offices <= 100:
                bench.row(notifierd(application, bench.servers, latency=latency, single=True))
    yield from ()


HOSTILE = {"60 keys of 1 MB": (1_000_000, 60), "20 keys of 60 MB": (60_000_000, 20), "20,000 devices": (20, 20_000)}
"""What one person has: how long their devices' keys are, and how many devices there are."""


def one_person(bench: Bench) -> Iterator[Figure]:
    """What the rows of one person cost a run, the first of the most urgent office."""
    with bench.applications.of(Size(500, devices=5)) as application:
        alone = bench.row(bench.quickest(ROUNDS, application, latency=0.0, single=False))
        for what, (length, number) in HOSTILE.items():
            script = f"""
                insert into push_subscriptions (staff_id, endpoint, p256dh_key, auth_key)
                select md5('staff 1.1')::uuid, 'https://push.example/' || n, repeat(chr(1), {length}), 'x'
                from generate_series(1, {number}) n
            """
            with application.with_devices(script):
                seconds = min(beside_one_person(application, bench.servers) for _ in range(ROUNDS))
            yield Figure(f"8. time with {what} of one person, over that without", seconds / alone.seconds, 1.5)


def smtp(bench: Bench) -> Iterator[Figure]:
    """How near notifierd comes to bare sessions with a real Postfix. Needs root, and Debian's packages."""
    from bench.smtp.rates import MailRates
    from bench.smtp.relay import relaying
    from tests.system.mail_servers import running_postfix

    folder = bench.folder / "smtp"
    folder.mkdir()
    with bench.applications.of(Size(500)) as application, running_postfix() as postfix:
        rates = MailRates(application, bench.servers, postfix, folder)
        for latency, rounds in ((0.0, ROUNDS), (0.02, 1)):
            with relaying(postfix.port, latency) as relay:
                pairs = [(rates.notifierd(relay, latency), rates.bare(relay, latency)) for _ in range(rounds)]
            ours, loop = (bench.row(max(rows, key=lambda row: row.rate)) for rows in zip(*pairs, strict=True))
            words = f"1. rate of mails by SMTP, {latency * 1000:.0f} ms added to each reply, over bare sessions'"
            yield Figure(words, ours.rate / loop.rate, 0.95, at_least=True)


def looks(bench: Bench) -> Iterator[Figure]:
    """What it costs to ask what became of 20,000 mails, beside a look at ten."""
    with bench.applications.of(Size(1)) as application:
        few = {name: look.look(application, name) for name in look.PROVIDERS}
    with bench.applications.of(size := Size(2000)) as application:
        for name, provider in look.PROVIDERS.items():
            many = look.look(application, name)
            print(
                f"look, {name:12}{size.offices:8,}{size.mail_count:9,} mails {many.seconds:8.1f} s"
                f" {many.cpu:6.2f} s CPU {many.peak:6.1f} MiB {many.calls:6,} calls",
                flush=True,
            )
            needed = provider.calls(size.mail_count)
            more = (many.peak - few[name].peak) * 1.048576
            yield Figure(f"9. CPU seconds of a look at 20,000 mails, {name}", many.cpu, 20)
            yield Figure(f"9. its peak RSS over that of a look at ten mails, in MB, {name}", more, 30)
            yield Figure(f"9. its calls, over those that full pages need, {name}", many.calls / needed, 1)


def year(bench: Bench) -> Iterator[Figure]:
    """The business days of a year, in one process."""
    lines = measured("tests.experiments.days", "--days", "250", "--every", "10", folder=bench.folder).out.splitlines()
    rss = {int(day): int(kib.replace(",", "")) for day, _tasks, _files, kib in map(str.split, lines[1:-1])}
    yield Figure("7. RSS after day 250, over that after day 20", rss[250] / rss[20], 1.02)


def main() -> None:
    """The command line."""
    parts: dict[str, Callable[[Bench], Iterator[Figure]]] = {
        "costs": costs,
        "peers": beside_peers,
        "commands": commands,
        "where": where,
        "rates-100": lambda bench: rates(bench, 0.1),
        "old": against_old_batch,
        "growth": lambda bench: growth(bench, (500, 50_000)),
        "large": large,
        "planning": lambda bench: planning(bench, 50_000),
        "one-person": one_person,
        "look": looks,
        "year": year,
    }
    more: dict[str, Callable[[Bench], Iterator[Figure]]] = {
        "rates-20": lambda bench: rates(bench, 0.02),
        "latencies-0": lambda bench: latencies(bench, 0.0),
        "latencies-20": lambda bench: latencies(bench, 0.02),
        "latencies-100": lambda bench: latencies(bench, 0.1),
        "reminders": lambda bench: reminders(bench, 50_000),
        "smtp": smtp,
        "members": lambda bench: members(bench, 4_000),
        "members-short": lambda bench: members(bench, 1_500),
        "explain": explain,
    }
    apart: dict[str, Callable[[Bench], Iterator[Figure]]] = {"steps": steps}
    parser = argparse.ArgumentParser(prog="python -m bench", description="How fast notifierd is.")
    parser.add_argument("--only", choices=[*parts, *more, *apart], metavar="PART", help="%(choices)s")
    parser.add_argument("--full", action="store_true", help="with more latencies and sizes, and PostgreSQL's plans")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="where to draw the table; needs matplotlib")
    options = parser.parse_args()
    if options.full or options.only in more:
        parts |= more
    if options.only in apart:
        parts |= apart
    with (
        TemporaryDirectory(prefix="notifierd-bench-") as folder,
        running_servers() as servers,
        running_applications(Path(folder), servers) as applications,
    ):
        bench = Bench(applications, servers, Path(folder))
        print(HEADING, end="")
        figures = [figure for name, part in parts.items() if options.only in {None, name} for figure in part(bench)]
    print("", *figures, sep="\n")
    if options.plots:
        from bench.plots import draw

        draw(bench.rows, bench.results, options.plots)


if __name__ == "__main__":
    main()
