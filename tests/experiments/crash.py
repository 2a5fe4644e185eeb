"""Crash fuzz: ``notifierd once`` killed at random moments and started again, until everybody is told.

    python -m tests.experiments.crash --rounds 200              a mail API that honours idempotency keys
    python -m tests.experiments.crash --rounds 200 --no-keys    one that takes no notice of them
    python -m tests.experiments.crash --rounds 200 --smtp       a mail server, which has none
    python -m tests.experiments.crash --rounds 50 --failover    a replica without the last commits takes over
    python -m tests.experiments.crash --rounds 20 --restore     a base backup from the middle of the run takes over
    python -m tests.experiments.crash --rounds 20 --pool transaction    behind a PgBouncer in that mode

Each round is a day of its own over the same 40 offices, against a PostgreSQL, a mail API and a push service, all real.
A process runs ``once --json`` for the day, and is killed with SIGKILL one to three times: before its plan, or while it
sends. Then it is left to end, and ``verdict`` judges: by what the servers accepted, by the ledger and the audit
rows, and only then by what notifierd says of itself. Pushes never have keys, and are judged so in both modes.

A dead process' lease lasts 15 s, and its tries longer. A round does not wait for that: after a kill ``age`` puts both
to their end, as if the time had passed. Every twentieth round waits for real. The seed decides where and how often to
kill; what a moment hits, the machine decides.

With ``--failover`` or ``--restore`` it is the database that is killed, once a round: see ``failover``.
"""

import argparse
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from notifierd.demo.postgres import running_postgres
from tests.experiments.failover import BACKUP, REPLICA, open_failovers
from tests.experiments.fuzz import BROKEN, Fuzz, open_fuzz, table


@contextmanager
def opened(
    folder: Path, *, successor: str | None, pool_mode: str, keys: bool, seed: int, smtp: bool = False
) -> Iterator[Fuzz]:
    """Set up the rounds that were asked for, with a PostgreSQL of their own."""
    if successor is not None:
        with open_failovers(folder, successor, keys=keys, seed=seed) as fuzz:
            yield fuzz
        return
    with (
        running_postgres(folder / "postgres") as cluster,
        open_fuzz(cluster, folder, keys=keys, seed=seed, pool_mode=pool_mode, smtp=smtp) as fuzz,
    ):
        yield fuzz


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.experiments.crash", description="Kill `once`, start it again, judge."
    )
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-keys", action="store_true", help="a mail API that ignores idempotency keys")
    worlds = parser.add_mutually_exclusive_group()
    for option, successor in (("--failover", REPLICA), ("--restore", BACKUP)):
        worlds.add_argument(option, dest="successor", action="store_const", const=successor, help=successor)
    worlds.add_argument("--smtp", action="store_true", help="mails go by SMTP, which has no keys")
    worlds.add_argument("--pool", choices=["session", "transaction"], default="", help="the mode of a PgBouncer")
    options = parser.parse_args()
    keys = not (options.no_keys or options.smtp)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    total: Counter[str] = Counter()
    with (
        TemporaryDirectory(prefix="notifierd-crash-") as directory,
        opened(
            Path(directory),
            successor=options.successor,
            pool_mode=options.pool,
            keys=keys,
            smtp=options.smtp,
            seed=options.seed,
        ) as fuzz,
        suppress(KeyboardInterrupt),  # what was found so far is told all the same
    ):
        for number in range(1, options.rounds + 1):
            done = fuzz.round()
            total += done.figures
            sys.stderr.write("".join(f"BROKEN: {line}\n" for line in done.broken))
            if number % 10 == 0:
                sys.stderr.write(f"{number} rounds, {total['kills']} kills, {total[BROKEN]} broken\n")
    sys.stdout.write(f"seed {options.seed}\n{table(total, keys=keys)}\n")
    return 1 if total[BROKEN] or total["rounds"] < options.rounds else 0


if __name__ == "__main__":
    sys.exit(main())
