"""A log that cannot be written costs the log: real processes whose stderr is full, dead, unread, slow or not there."""

import json
import os
import select
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from notifierd.demo.servers.trouble import MailConfig
from tests.support.daemon_process import OPEN, TODAY
from tests.support.processes import API_KEY, PATIENCE, Place, invent, run, running, until

MAILS = 20
METRIC = "notifierd_log_lines_dropped_total"


def to(where: str) -> tuple[str, ...]:
    """A command that runs the one that follows it with this redirection."""
    return ("sh", "-c", f'exec "$0" "$@" {where}')


def all_sent(place: Place) -> bool:
    """Whether the run is over, and everybody was told once."""
    over = place.sql("select state from notifierd.runs") == "completed"
    return over and place.states() == {"sent": MAILS} and len(place.mails()) == MAILS


@contextmanager
def pipe(folder: Path, *, filled: bool = False) -> Iterator[tuple[Path, int]]:
    """A named pipe and the descriptor that reads it; *filled*, it takes nothing more until somebody reads."""
    path = folder / "stderr"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if filled:
        writer = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        try:
            while True:
                os.write(writer, b"\n" * 4096)
        except BlockingIOError:
            os.close(writer)
    try:
        yield path, reader
    finally:
        os.close(reader)


@contextmanager
def a_daemon(place: Place, where: str) -> "Iterator[tuple[subprocess.Popen[str], str]]":
    """Start the daemon in its window, with twenty mails to send and its stderr redirected; its page's origin too."""
    rows = invent(MAILS, staff=1, day=TODAY)
    place.load(rows)
    place.serve(rows, MailConfig(API_KEY, latency_ms=200.0, keep_eml=False))
    port = 20_000 + os.getpid() % 10_000
    place.configure(window=OPEN, http={"bind": f"127.0.0.1:{port}"})
    with running("run", cwd=place.folder, by=to(where)) as process:
        yield process, f"http://127.0.0.1:{port}"


def stopped(process: "subprocess.Popen[str]") -> int:
    """The exit code after SIGTERM; the daemon is idle, so nothing is waited for but the log."""
    process.send_signal(signal.SIGTERM)
    return process.wait(PATIENCE)


def metric(url: str) -> float:
    text = httpx.get(f"{url}/metrics", timeout=PATIENCE).text
    return next(
        one.value for family in text_string_to_metric_families(text) for one in family.samples if one.name == METRIC
    )


def read_all(reader: int) -> bytes:
    """What is in a pipe to its end."""
    os.set_blocking(reader, True)
    found = b""
    while data := os.read(reader, 65_536):
        found += data
    return found


def lines(written: bytes) -> list[dict[str, Any]]:
    """Every line, whole; empty ones are the test's own filling."""
    return [json.loads(line) for line in written.decode().splitlines() if line]


@pytest.mark.parametrize("where", ["2>/dev/full", "2>&-", "2>&- >/dev/full"])
def test_once_sends_everything_where_stderr_takes_nothing(place: Place, where: str):
    place.load(invent(MAILS, staff=1))
    with running("once", "--force", "--day", "2026-11-24", "--json", cwd=place.folder, by=to(where)) as process:
        out, _ = process.communicate(timeout=PATIENCE)
    assert all_sent(place)
    if where.endswith(">/dev/full") and where.startswith("2>&-"):
        assert (process.returncode, out) == (1, "")
    else:
        assert (process.returncode, json.loads(out)["email"]["sent"]) == (0, MAILS)


def test_once_sends_everything_and_says_how_it_went_where_nobody_reads_its_results(place: Place):
    place.load(invent(MAILS, staff=1))
    with running("once", "--force", "--day", "2026-11-24", cwd=place.folder) as process:
        assert process.stdout
        process.stdout.close()
        assert process.stderr
        err = process.stderr.read()
        assert process.wait(PATIENCE) == 0, err
    assert all_sent(place)
    assert "Traceback" not in err
    assert "BrokenPipe" not in err


@pytest.mark.parametrize("command", [("status",), ("status", "--json"), ("plan",), ("history", "--json")])
def test_a_result_that_cannot_be_written_is_a_line_and_exit_1(place: Place, command: tuple[str, ...]):
    with running(*command, cwd=place.folder, by=to(">/dev/full")) as process:
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert err == "notifierd: the result could not be written (ENOSPC)\n"


def test_a_daemon_on_a_full_disk_sends_everything_counts_its_lost_lines_and_ends_well(place: Place):
    with a_daemon(place, "2>/dev/full") as (process, url):
        until(lambda: all_sent(place), "the mails")
        assert metric(url) >= 3
        assert stopped(process) == 0


def test_a_daemon_whose_log_loses_its_reader_sends_everything_counts_its_lost_lines_and_ends_well(place: Place):
    with pipe(place.folder) as (path, reader), a_daemon(place, f"2>{path}") as (process, url):
        until(lambda: bool(select.select([reader], [], [], 0)[0]), "the first line")
        nowhere = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nowhere, reader)
        os.close(nowhere)
        until(lambda: all_sent(place), "the mails")
        assert metric(url) >= 1
        assert stopped(process) == 0


def test_a_daemon_whose_log_nobody_reads_sends_everything_and_obeys_sigterm(place: Place):
    with pipe(place.folder, filled=True) as (path, reader):
        with a_daemon(place, f"2>{path}") as (process, url):
            until(lambda: all_sent(place), "the mails")
            assert httpx.get(f"{url}/healthz", timeout=PATIENCE).status_code == 200
            assert stopped(process) == 0
        assert lines(read_all(reader)) == []


def test_a_log_that_is_read_late_has_every_line_whole_and_in_order(place: Place):
    with pipe(place.folder, filled=True) as (path, reader), a_daemon(place, f"2>{path}") as (process, _):
        until(lambda: all_sent(place), "the mails")
        written: list[bytes] = []
        reading = Thread(target=lambda: written.append(read_all(reader)))
        reading.start()
        assert stopped(process) == 0
        reading.join(PATIENCE)
    events = [line["event"] for line in lines(written[0])]
    wanted = ["ready", "planned", "ended", "report", "stopping", "stopped"]
    assert [event for event in events if event in wanted] == wanted


def test_a_slow_reader_holds_nothing_up(place: Place):
    """64 bytes in a tenth of a second, with a full pipe before them."""
    place.load(invent(MAILS, staff=1))
    done = Event()

    def read_slowly() -> None:
        while not done.wait(0.1):
            os.read(reader, 64)

    args = ("once", "--force", "--day", "2026-11-24", "--json")
    with pipe(place.folder, filled=True) as (path, reader):
        reading = Thread(target=read_slowly)
        reading.start()
        with running(*args, cwd=place.folder, by=to(f"2>{path}")) as process:
            out, _ = process.communicate(timeout=PATIENCE)
        done.set()
        reading.join(PATIENCE)
    assert (process.returncode, json.loads(out)["email"]["sent"]) == (0, MAILS)
    assert all_sent(place)


def test_a_terminal_that_is_stopped_holds_nothing_up(place: Place):
    """As by Ctrl-S: the bars find no room, and the run goes on."""
    place.load(invent(MAILS, staff=1))
    ours, theirs = os.openpty()
    os.set_blocking(theirs, False)
    with suppress(BlockingIOError):
        while True:
            os.write(theirs, b"." * 64)
    os.set_blocking(theirs, True)
    args = ("once", "--force", "--day", "2026-11-24", "--json")
    with running(*args, cwd=place.folder, by=to(f"2>{os.ttyname(theirs)}")) as process:
        out, _ = process.communicate(timeout=PATIENCE)
    os.close(ours)
    os.close(theirs)
    assert (process.returncode, json.loads(out)["email"]["sent"]) == (0, MAILS)
    assert all_sent(place)


@pytest.mark.parametrize("where", ["2>/dev/full", "2>&-"])
def test_a_mistake_in_the_configuration_keeps_its_exit_code_where_it_cannot_be_told(place: Place, where: str):
    place.configure(limits={"offices": 0})
    with running("once", cwd=place.folder, by=to(where)) as process:
        assert process.wait(PATIENCE) == 2
    assert run("once", cwd=place.folder).code == 2
