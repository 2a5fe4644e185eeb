"""A process loads what it needs: each library that is loaded for nothing costs every start, and the daemon's memory."""

import json
import signal
import sys
from collections.abc import Callable, Collection
from pathlib import Path

import pytest

from tests.support.daemon_process import OPEN, TODAY
from tests.support.processes import DAY, Place, ended, invent, run, running, write_config

LOADED = str(Path(__file__).parents[1] / "support/loaded.py")

NEVER = {
    "httpx._main": "httpx' command line",
    "pygments": "colours of source code, for tracebacks",
    "holidays.countries": "the holidays of all countries",
    "dns": "for a check of addresses that we do not make",
    "aiohttp": "what pywebpush sends by, as notifierd does not",
    "requests": "the same",
    "anyio": "what httpcore would use under asyncio",
}
PUSHES = {
    "cryptography": "the encryption of pushes",
    "py_vapid": "the tokens for push services",
    "pywebpush": "their messages",
}
TERMINAL = {"rich": "tables and colours"}
SENDING = {
    "httpx": "requests",
    "jinja2": "messages, and the page",
    "email_validator": "addresses that are out of the ordinary",
}
LOOKING_BACK = {
    "notifierd.store.feedback": "what became of mails after they were accepted",
    "notifierd.store.history": "the days before",
}
ALARM = {"notifierd.messages.alarms": "the words of alarms", "notifierd.send.webhooks": "where they go"}
PAGE = {"prometheus_client": "/metrics", "notifierd.web": "the page"}


def unwanted(loaded: Collection[str], *kinds: dict[str, str]) -> list[str]:
    """Those of *kinds* that are loaded: a module, or the package of one."""
    names = {name for kind in kinds for name in kind}
    return sorted(name for name in names if any(f"{one}.".startswith(f"{name}.") for one in loaded))


def packages(loaded: Collection[str]) -> set[str]:
    """The packages that are not of Python's own library."""
    return {name.partition(".")[0] for name in loaded} - sys.stdlib_module_names


@pytest.fixture
def loaded_by(tmp_path: Path) -> Callable[..., set[str]]:
    """What a command has loaded when it ends with *code*."""

    def loaded_by(*words: str, cwd: Path = tmp_path, code: int = 0) -> set[str]:
        said = tmp_path / "loaded"
        with running(*words, cwd=cwd, program=("-P", LOADED, str(said))) as process:
            ended(process, code)
        return set(said.read_text(encoding="ascii").splitlines())

    return loaded_by


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("--help", 0),
        ("--version", 0),
        ("once --help", 0),
        ("db --help", 0),
        ("completion bash", 0),
        ("onec", 2),
        ("once --dryrun", 2),
        ("db init --rolle", 2),
    ],
)
def test_help_and_wrong_usage_need_click_alone(line: str, code: int, loaded_by: Callable[..., set[str]]):
    loaded = loaded_by(*line.split(), code=code)
    assert packages(loaded) == {"click", "notifierd"}
    assert "asyncio" not in loaded
    assert unwanted(loaded, {"notifierd.config": "", "notifierd.run": "", "notifierd.commands": ""}) == []


def test_what_looks_into_the_ledger_needs_nothing_of_what_sends(place: Place, loaded_by: Callable[..., set[str]]):
    """Nor does the next window, which a public holiday may put off, need the holidays of more than one country."""
    place.configure(window={"holidays": "JP"})
    for words in (["status"], ["history"]):
        loaded = loaded_by(*words, cwd=place.folder)
        assert unwanted(loaded, NEVER, PUSHES, SENDING, PAGE) == []
        assert ("holidays" in loaded) == (words == ["status"])


def test_a_run_of_mails_needs_nothing_of_pushes_and_nothing_of_a_terminal(
    place: Place, loaded_by: Callable[..., set[str]]
):
    place.load(invent(2))
    loaded = loaded_by("once", "--force", "--day", str(DAY), "--json", cwd=place.folder)
    assert len(place.mails()) == 4
    assert {"httpx", "jinja2"} <= loaded
    kinds = (NEVER, PUSHES, TERMINAL, PAGE, LOOKING_BACK, ALARM)
    assert unwanted(loaded, *kinds, {"email_validator": "", "holidays": ""}) == []


def test_a_dry_run_needs_nothing_of_what_sends(place: Place, loaded_by: Callable[..., set[str]]):
    place.load(invent(2))
    loaded = loaded_by("once", "--force", "--day", str(DAY), "--dry-run", "--json", cwd=place.folder)
    assert unwanted(loaded, NEVER, PUSHES, TERMINAL, PAGE, LOOKING_BACK, ALARM, SENDING) == []


def test_a_run_with_pushes_needs_what_encrypts_them(place: Place, loaded_by: Callable[..., set[str]]):
    place.load(invent(1, push_url=place.servers.push_url))
    loaded = loaded_by("once", "--force", "--day", str(DAY), "--json", cwd=place.folder)
    assert len(place.pushes()) == 2
    assert loaded >= PUSHES.keys()
    assert unwanted(loaded, NEVER, TERMINAL, PAGE) == []


def test_a_daemon_asleep_after_a_day_of_mails_has_loaded_no_more_than_it_needed(place: Place, tmp_path: Path):
    """Its page is there, and nobody has asked for its metrics."""
    place.load(invent(2, day=TODAY))
    place.configure(window=OPEN)
    said = tmp_path / "loaded"
    with running("run", cwd=place.folder, program=("-P", LOADED, str(said))) as process:
        assert process.stderr
        events = (json.loads(line)["event"] for line in process.stderr)
        assert any(event == "sleeping" for event in events)
        process.send_signal(signal.SIGTERM)
        ended(process, 0)
    assert len(place.mails()) == 4
    loaded = set(said.read_text(encoding="ascii").splitlines())
    assert {"httpx", "jinja2", "notifierd.web.pages"} <= loaded
    assert unwanted(loaded, NEVER, PUSHES, TERMINAL, {"email_validator": "", "prometheus_client": ""}) == []


def test_a_mistake_is_told_in_colours_where_there_are_some(tmp_path: Path):
    """By rich, though structlog was imported without it."""
    write_config(tmp_path, {"limits": {"offices": 0}})
    done = run("once", cwd=tmp_path, environ={"FORCE_COLOR": "1", "TERM": "xterm"}, code=2)
    assert done.err == "\x1b[31mnotifierd:\x1b[0m limits.offices: 0 is out of range (1 to 100)\n"
