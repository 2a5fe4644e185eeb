"""Log lines: where they go, what they look like, and what of a library's words they keep."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr
from io import StringIO
from typing import Any

import pytest
import structlog

from notifierd.service import logs


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    """Give logging and structlog back as they were."""
    root, hook = logging.getLogger(), sys.excepthook
    handlers, level, config = root.handlers[:], root.level, structlog.get_config()
    yield
    sys.excepthook = hook
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**config)
    structlog.contextvars.clear_contextvars()


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """What went to stderr, line by line; nothing went to stdout."""
    out, err = capsys.readouterr()
    assert out == ""
    return [json.loads(line) for line in err.splitlines()]


def test_lines_are_json_on_stderr_where_there_is_no_terminal(capsys):
    logs.set_up()
    structlog.get_logger("notifierd.run.day").info("planned", offices=3, name="青木")
    err = capsys.readouterr().err
    assert err.endswith("\n")
    assert "青木" in err
    line = json.loads(err)
    assert {key: line[key] for key in ("event", "level", "offices")} == {
        "event": "planned",
        "level": "info",
        "offices": 3,
    }
    assert line["timestamp"].endswith("Z")


def test_lines_are_for_people_on_a_terminal():
    with redirect_stderr(Terminal()) as terminal:
        logs.set_up()
        structlog.get_logger().warning("waiting_for_database", reason="database_unavailable:08006")
    text = terminal.getvalue()
    assert "\x1b[" in text
    assert "severity" not in text
    assert "waiting_for_database" in text
    assert not text.lstrip().startswith("{")


@pytest.mark.parametrize("stderr", [StringIO, Terminal])
def test_the_form_can_be_chosen(stderr: type[StringIO]):
    with redirect_stderr(stderr()) as err:
        logs.set_up(form="json")
        structlog.get_logger().info("planned")
        assert json.loads(err.getvalue())["event"] == "planned"
    with redirect_stderr(stderr()) as err:
        logs.set_up(form="text")
        structlog.get_logger().info("planned", offices=3)
        assert "planned" in err.getvalue()
        assert not err.getvalue().startswith("{")
        assert ("\x1b[" in err.getvalue()) == (stderr is Terminal)


@pytest.mark.parametrize(
    ("level", "kept"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_a_level_keeps_itself_and_what_is_above(level, kept, capsys):
    logs.set_up(level)
    log = structlog.get_logger()
    for said in ("debug", "info", "warning", "error"):
        getattr(log, said)("event")
    found = lines(capsys)
    assert [line["level"] for line in found] == kept
    assert [line["severity"] for line in found] == [word.upper() for word in kept]


def test_labels_of_the_context_are_on_every_line(capsys):
    logs.set_up()
    with structlog.contextvars.bound_contextvars(day="2026-11-24"):
        structlog.get_logger().info("planned")
    structlog.get_logger().info("ended")
    assert [line.get("day") for line in lines(capsys)] == ["2026-11-24", None]


def test_lines_follow_stderr_when_something_stands_in_for_it(capsys):
    logs.set_up(form="json")
    with redirect_stderr(StringIO()) as bars:
        structlog.get_logger().info("drawn_over")
    structlog.get_logger().info("plain")
    assert json.loads(bars.getvalue())["event"] == "drawn_over"
    assert [line["event"] for line in lines(capsys)] == ["plain"]
    sys.stderr.flush()


def test_of_a_librarys_warning_only_the_place_is_kept(capsys):
    """Libraries quote what they met: an asyncpg error prints the failing row."""
    logs.set_up()
    secret = 'DETAIL: Failing row contains (taro@example.jp, 青木太郎, "https://push.example/secret").'
    library = logging.getLogger("asyncpg.pool")
    library.warning("could not insert: %s", secret, extra={"row": secret})
    library.error(secret, exc_info=ValueError(secret))
    err = capsys.readouterr().err
    for word in ("taro", "青木", "push.example", "Failing", "Traceback"):
        assert word not in err
    kept = [json.loads(line) for line in err.splitlines()]
    assert [(line["event"], line["library"], line["level"]) for line in kept] == [
        ("library_warning", "asyncpg.pool", "warning"),
    ] * 2
    module, function = kept[0]["place"].split(":")[0].split(".")
    assert (module, function) == ("test_logs", "test_of_a_librarys_warning_only_the_place_is_kept")


def test_what_a_library_says_below_a_warning_is_not_kept(capsys):
    """Httpx logs the whole URL of every request at INFO: push endpoints are secrets."""
    logs.set_up("debug")
    for name in ("httpx", "httpcore.http11", "hpack"):
        logging.getLogger(name).info("HTTP Request: POST https://push.example/secret")
        logging.getLogger(name).debug("send_request_headers")
    assert lines(capsys) == []


def test_setting_up_again_says_nothing_twice(capsys):
    for _ in range(3):
        logs.set_up()
    logging.getLogger("asyncio").warning("slow")
    structlog.get_logger().info("planned")
    assert [line["event"] for line in lines(capsys)] == ["library_warning", "planned"]


def test_lines_for_the_journal_begin_with_their_priority(tmp_path):
    """sd-daemon(3): <3> is an error, <4> a warning, <6> information."""
    program = "import structlog; from notifierd.service import logs; logs.set_up(); log = structlog.get_logger()"
    program += "; log.info('ready'); log.warning('slow'); log.error('untold')"
    with (tmp_path / "journal").open("w+b") as journal:
        there = os.fstat(journal.fileno())
        for stream, ours in ((f"{there.st_dev}:{there.st_ino}", True), ("1:2", False)):
            journal.truncate(0)
            journal.seek(0)
            subprocess.run(
                [sys.executable, "-c", program], stderr=journal, env={"JOURNAL_STREAM": stream}, check=True, timeout=30
            )
            journal.seek(0)
            written = journal.read().decode().splitlines()
            assert [line.partition("{")[0] for line in written] == (["<6>", "<4>", "<3>"] if ours else [""] * 3)
            assert [json.loads(line[line.index("{") :])["event"] for line in written] == ["ready", "slow", "untold"]


def test_a_crash_is_one_line_that_says_where_and_quotes_nobody():
    program = """
import trio
from notifierd.service import logs
logs.set_up()

async def fail():
    async with trio.open_nursery() as nursery:
        raise KeyError("taro@example.jp")

trio.run(fail)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    (line,) = ended.stderr.splitlines()
    said = json.loads(line)
    assert (ended.returncode, said["event"], said["level"], said["error"]) == (1, "crashed", "critical", "KeyError")
    assert said["where"][-1] == "<string>:8 fail"
    assert "taro" not in ended.stderr
