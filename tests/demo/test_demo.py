"""``notifierd demo``, as a person runs it: by itself, kept, and interrupted."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes, policy
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from attrs import evolve

from notifierd.demo.feedback import surprises
from notifierd.demo.keep import has_display
from notifierd.demo.sample import MINIMUM_OFFICES, sample
from notifierd.demo.servers.journal import read
from notifierd.demo.servers.mail_api import AcceptedMail
from notifierd.demo.servers.process import Servers
from notifierd.demo.show import judge
from notifierd.rules.report import RunReport
from notifierd.store.feedback import FeedbackDay
from tests.support.samples import DAY

PATIENCE = 120.0


@contextmanager
def demo(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run the demo with its directories in *folder*; it is ended at the end of the block, if it was not before."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("NOTIFIERD_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "notifierd", "demo", *arguments],
        env=environ | {"TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def read_until(process: "subprocess.Popen[str]", words: str) -> str:
    """What the process says, up to the line with *words*."""
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if words in line:
            return said
    pytest.fail(f"it ended without saying {words!r}:\n{said}")


def children(pid: int) -> set[int]:
    """The processes that *pid* started and that still run."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return {int(child) for child in found}


def served(url: str) -> str:
    """What the page at *url* says, once it is there."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            with urlopen(url, timeout=PATIENCE) as answer:
                return str(answer.read().decode())
        except URLError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def gone(pid: int) -> bool:
    """Whether the process ends."""
    deadline = time.monotonic() + PATIENCE
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    return not Path(f"/proc/{pid}").exists()


def test_the_demo_ends_well_and_says_what_the_servers_received(tmp_path: Path) -> None:
    with demo(tmp_path, "--offices", "8") as process:
        said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    assert "Everything as expected" in said
    assert "the mail API told of three that it had accepted" in said
    assert "error" not in re.sub(r"office_error:\w+", "", said.lower()), "the injected faults are in the summary"
    (out,) = tmp_path.glob("notifierd-demo-*")
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    mails = read(out / "mails", AcceptedMail)
    assert f"The mail API received {len(mails)} mails" in said
    assert len(mails) == report["email"]["sent"] > 20
    assert report["offices"]["failed"] == 1
    assert (report["push"]["gone"], report["email"]["open"], report["push"]["open"]) == (1, 0, 0)
    first = message_from_bytes((out / "mails" / "0001.eml").read_bytes(), policy=policy.default)
    assert first["subject"].startswith("期限超過")
    assert not (out / "config.toml").exists(), "nothing is left that names a database which is gone"


def test_a_demo_that_is_kept_can_be_looked_into_and_ends_all_it_started(tmp_path: Path) -> None:
    with demo(tmp_path, "--offices", "5", "--keep") as process:
        said = read_until(process, "Ctrl-C ends")
        page = re.search(r"The page: +(http://127\.0\.0\.1:\d+/)", said)
        assert page is not None
        shown = re.sub(r"<[^>]+>|\s+", " ", served(page[1]))
        assert "notifierd" in shown
        assert re.search(r" resend +\d+ +\d+ +0 +1 +0 +1 +1 +0 ", shown), "what became of the mails"
        started = children(process.pid)
        assert len(started) == 2
        config = re.search(r"--config (\S+)", said)
        assert config is not None
        command = [sys.executable, "-m", "notifierd", "--config", config[1], "once", "--force", "--json"]
        again = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
        report = json.loads(again.stdout)
        assert (again.returncode, report["status"], report["reason"]) == (0, "completed", "already_completed")
        assert report["offices"]["failed"] == 1, "the first run's failures are still the day's"
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE)
        assert process.returncode == 0
        assert all(map(gone, started))


@pytest.mark.parametrize("offices", [1, 3, 4])
def test_fewer_offices_than_there_are_cases_are_refused_with_the_least_number(tmp_path: Path, offices: int) -> None:
    with demo(tmp_path, "--offices", str(offices)) as process:
        said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert f"{offices} is not in the range {MINIMUM_OFFICES}<=x<=5000" in said


def test_a_browser_is_opened_only_where_it_has_a_window() -> None:
    assert has_display({"DISPLAY": ":0"})
    assert has_display({"WAYLAND_DISPLAY": "wayland-0"})
    assert not has_display({"TERM": "xterm"})


def test_an_interrupted_demo_says_so_and_leaves_nothing_running(tmp_path: Path) -> None:
    with demo(tmp_path, "--offices", "60") as process:
        read_until(process, "ready:")
        started = children(process.pid)
        deadline = time.monotonic() + PATIENCE
        while not list(tmp_path.glob("notifierd-demo-*/mails/*.eml")) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 4, said
        assert "interrupted" in said
        assert "Traceback" not in said
        assert len(started) == 2
        assert all(map(gone, started))


def test_what_became_of_mails_is_compared_with_what_was_to_become_of_them() -> None:
    nothing = dict.fromkeys(("delayed", "refused"), 0)
    found = FeedbackDay(DAY, "resend", delivered=7, bounced=1, suppressed=1, complained=1, **nothing, not_known=0)
    assert surprises(10, found) == ()
    assert surprises(11, found) == ("mails delivered: 7 and not 8",)
    assert surprises(10, evolve(found, complained=0, refused=1)) == (
        "mails refused: 1 and not 0",
        "mails complained: 0 and not 1",
    )
    assert len(surprises(10, None)) == 4


def test_whatever_is_not_as_it_should_be_is_named() -> None:
    """Servers that received nothing, from a run that says it sent nothing: everything is a surprise."""
    invented = sample(5, DAY, "http://127.0.0.1:9")
    servers = cast("Servers", SimpleNamespace(mails=list, pushes=list))
    nothing: dict[str, Any] = dict.fromkeys(("sent", "failed", "gone", "open"), 0)
    report = {"email": nothing, "push": nothing, "offices": {"failed": 0}}
    verdict = judge(invented, servers, cast("RunReport", SimpleNamespace(as_json=lambda: report)))
    assert {line.partition(":")[0] for line in verdict.surprises} >= {"mails sent", "mails failed", "offices failed"}
    assert "the mail API received other mails than the data require" in verdict.surprises
    twice = AcceptedMail(1, "id", "one", ("a@example.jp",), "", "", "", "")
    servers = cast("Servers", SimpleNamespace(mails=lambda: [twice, evolve(twice, number=2)], pushes=list))
    verdict = judge(invented, servers, cast("RunReport", SimpleNamespace(as_json=lambda: report)))
    assert "1 mail accepted twice" in verdict.surprises
