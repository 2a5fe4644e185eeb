"""The command line as a process: exit codes, one line for each mistake, JSON alone on stdout, and never a traceback."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Any
from uuid import UUID

import click
import pytest

from notifierd import __version__
from notifierd.cli.main import cli
from notifierd.config.checks import parse_vapid_key
from notifierd.config.sources import SYSTEM_CONFIG
from notifierd.demo.postgres import Cluster
from notifierd.send.vapid import Vapid
from notifierd.store.contract import VIEWS
from notifierd.store.migrations.versions import migrations
from tests.support.documented import differences, documented
from tests.support.processes import DAY, PASSWORD, VAPID_KEY, Place, ended, invent, run, running, write_config

pytestmark = pytest.mark.usefixtures("_forked_commands")

HOLIDAY = "2026-11-23"


def commands(group: click.Group = cli) -> Iterator[list[str]]:
    """Every command there is, by its words."""
    for name, command in group.commands.items():
        yield [name]
        if isinstance(command, click.Group):
            yield from ([name, *inner] for inner in commands(command))


# ------------------------------------------------------------------------------------ arguments


@pytest.mark.parametrize("words", [[], *commands()], ids=" ".join)
def test_every_command_explains_itself_and_teaches_by_examples_that_are_right(words: list[str], tmp_path: Path):
    done = run(*words, "--help", cwd=tmp_path, code=0)
    assert re.match(rf"Usage: .*{' '.join(words)}", done.out)
    assert done.err == ""
    found = examples(done.out)
    assert words == ["db"] or any(example[: len(words)] == words for example in found)
    for example in found:
        parse(cli, example)


def examples(text: str) -> list[list[str]]:
    """The commands in *text*: up to a pipe, a redirection, or what is explained behind them."""
    lines = re.findall(r"^ +notifierd ((?:[^\s|>]| (?![ |>#]))+)", text, re.MULTILINE)
    return [[str(DEVICE) if word.endswith("-...") else word for word in shlex.split(line)] for line in lines]


DEVICE = UUID("18072e8c-35bf-492d-89e9-c616612e7696")


def parse(command: click.Command, words: list[str]) -> None:
    """Raise click's complaint about *words*, if it has one."""
    if isinstance(command, click.Group):
        command, words = command.commands[words[0]], words[1:]
        parse(command, words)
    else:
        command.make_context(str(command.name), words)


# ------------------------------------------------------------------------------------ completion


def completed(line: str, tmp_path: Path) -> list[str]:
    """What bash offers for the last word of *line*, once it has read what ``completion bash`` prints."""
    script = f"""
        source <(notifierd completion bash)
        COMP_WORDS=({line}) COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
        $(complete -p notifierd | sed 's/.*-F //; s/ .*//') notifierd
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environ = os.environ | {"PATH": path}
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environ, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("notifierd pl", ["plan"]),
        ("notifierd plan --ex", ["--explain"]),
        ("notifierd db ''", ["init", "migrate", "status", "views"]),
        ("notifierd completion f", ["fish"]),
    ],
)
def test_bash_completes_commands_and_options(line: str, offered: list[str], tmp_path: Path):
    assert completed(line, tmp_path) == offered


@pytest.mark.parametrize(
    ("shell", "function"), [("zsh", "compdef _notifierd_completion"), ("fish", "complete --no-files")]
)
def test_other_shells_have_theirs(shell: str, function: str, tmp_path: Path):
    assert function in run("completion", shell, cwd=tmp_path, code=0).out


def test_a_shell_that_is_not_known_is_refused(tmp_path: Path):
    assert "'tcsh' is not one of 'bash', 'zsh', 'fish'" in run("completion", "tcsh", cwd=tmp_path, code=2).err


def test_the_version_is_told(tmp_path: Path):
    assert run("--version", cwd=tmp_path, code=0).out == f"notifierd, version {__version__}\n"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["onec"], "No such command 'onec'"),
        (["once", "--dryrun"], "No such option"),
        (["once", "--day", "tomorrow"], "Invalid value for '--day': 'tomorrow'"),
        (["once", "--for", "0"], "Invalid value for '--for': 0"),
        (["--config"], "Option '--config' requires an argument"),
    ],
)
def test_a_command_that_is_none_is_refused(words: list[str], complaint: str, tmp_path: Path):
    done = run(*words, cwd=tmp_path, code=2)
    assert complaint.casefold() in done.err.casefold()
    assert done.out == ""


# ------------------------------------------------------------------------------------ configuration

MISTAKES: dict[str, tuple[str, dict[str, object], str]] = {
    "unknown key": ("limits", {"office": 5}, r'limits\.office: unknown key \(did you mean "offices"\?\)'),
    "wrong type": ("limits", {"offices": "ten"}, r"limits\.offices: expected a whole number, not a string"),
    "out of range": ("limits", {"offices": 0}, r"limits\.offices: 0 is out of range \(1 to 100\)"),
    "unknown zone": (
        "window",
        {"timezone": "Asia/Tokio"},
        r'window\.timezone: "Asia/Tokio" is not a time zone such as Asia/Tokyo \(did you mean "Asia/Tokyo"\?\)',
    ),
    "malformed key": (
        "push",
        {"vapid_private_key": f"{VAPID_KEY}x"},
        r"push\.vapid_private_key: the value is not a VAPID private key .*",
    ),
    "no secret file": (
        "email.resend",
        {"api_key": "", "api_key_file": "nowhere"},
        r"email\.resend\.api_key: \S+/nowhere cannot be read \(No such file or directory\)",
    ),
    "unreadable secret file": (
        "email.resend",
        {"api_key": "", "api_key_file": "folder"},
        r"email\.resend\.api_key: \S+/folder cannot be read \(Is a directory\)",
    ),
    "malformed DSN": (
        "database",
        {"dsn": f"mysql://me:{PASSWORD}@/app"},
        r"database\.dsn: the value is not of the form postgresql://.*",
    ),
}


@pytest.mark.parametrize(("table", "keys", "line"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_in_the_configuration_is_one_line_that_names_its_key(
    tmp_path: Path, table: str, keys: dict[str, object], line: str
):
    (tmp_path / "folder").mkdir()
    write_config(tmp_path, {table: keys})
    done = run("once", "--json", cwd=tmp_path, code=2)
    assert re.fullmatch(f"notifierd: {line}\n", done.err), done.err
    assert done.out == ""


def test_all_mistakes_are_told_at_once_by_every_command_that_needs_the_configuration(tmp_path: Path):
    write_config(tmp_path, {"limits": {"offices": 0, "email": 0}, "log": {"level": "loud"}})
    for words in (["once"], ["check"], ["db", "status"]):
        done = run(*words, cwd=tmp_path, code=2)
        lines = done.err.splitlines()
        assert [line.split(":")[1].strip() for line in lines] == ["limits.offices", "limits.email", "log.level"]
        assert done.out == ""


def test_a_bad_environment_variable_is_named(tmp_path: Path):
    write_config(tmp_path, {})
    done = run("once", cwd=tmp_path, environ={"NOTIFIERD_LIMITS_OFFICES": "many"}, code=2)
    assert done.err == (
        "notifierd: limits.offices: expected a whole number, not a string, from NOTIFIERD_LIMITS_OFFICES\n"
    )


def test_without_a_configuration_it_is_said_where_one_was_looked_for(tmp_path: Path):
    done = run("once", cwd=tmp_path, code=2)
    assert f"looked for {tmp_path / 'config.toml'} and {SYSTEM_CONFIG}" in done.err
    assert len(done.err.splitlines()) == 1


def test_a_configuration_that_is_named_and_not_there_is_no_other_one(tmp_path: Path):
    write_config(tmp_path, {})
    done = run("--config", "other.toml", "check", cwd=tmp_path, code=2)
    assert done.err == "notifierd: other.toml: no such file\n"


def test_check_tells_where_the_configuration_comes_from(tmp_path: Path):
    environ = {"NOTIFIERD_DATABASE_DSN": "postgresql:///nowhere?host=/nowhere", "NOTIFIERD_SERVICE_HOST": "10.0.0.11"}
    done = run("check", cwd=tmp_path, environ=environ, code=2)
    assert "ok   config: comes from 1 environment variable alone: there is no configuration file\n" in done.out
    write_config(tmp_path, {})
    done = run("check", cwd=tmp_path, environ=environ, code=2)
    assert f"ok   config: comes from {tmp_path / 'config.toml'} and 1 environment variable\n" in done.out


def test_what_is_missing_for_sending_is_said_before_the_database_is_looked_for(tmp_path: Path):
    write_config(tmp_path, {"database": {"dsn": "postgresql:///nowhere?host=/nowhere"}})
    done = run("once", cwd=tmp_path, code=2)
    keys = [line.split(":")[1].strip() for line in done.err.splitlines()]
    assert keys == ["email.sender", "email.resend.api_key", "push.vapid_private_key"]


def test_a_view_without_a_column_is_named(place: Place):
    place.sql("drop view notifierd.alerts; create view notifierd.alerts as select id as office_id from public.offices")
    lines = place.once(code=2).err.splitlines()
    assert len(lines) == len(VIEWS["alerts"]) - 1
    assert "notifierd: notifierd.alerts: column due_on (date) is missing" in lines


def test_a_template_that_cannot_be_used_is_found_before_anything_is_planned(place: Place):
    place.load(invent(1))
    (place.folder / "mail.ja.txt").write_text("{{ offcie }}")
    place.configure(content={"templates": "."})
    before = place.content()
    done = place.once(code=2)
    assert re.fullmatch(r"notifierd: content\.templates: .*offcie.*\n", done.err)
    assert place.content() == before


# ------------------------------------------------------------------------------------ the database


@pytest.mark.parametrize("where", ["no such server", "no such database"])
def test_a_database_out_of_reach_is_exit_3_and_a_failed_report(place: Place, where: str):
    host = place.folder if where == "no such server" else place.cluster.socket_dir
    place.configure(database={"dsn": f"postgresql://me:{PASSWORD}@/nowhere?host={host}"})
    for words in ((), ("--dry-run",)):
        done = place.once(*words, code=3)
        assert (done.report["status"], done.report["day"]) == ("failed", str(DAY))
        assert done.report["reason"].startswith("database_unavailable:")
        assert re.fullmatch(r"notifierd: the database is unreachable \(database_unavailable:\w+\): .+\n", done.err)


@pytest.mark.parametrize(
    "words", [["status"], ["plan"], ["preview", "--out", "preview"], ["db", "status"]], ids=" ".join
)
def test_ctrl_c_while_a_database_is_waited_for_is_exit_4_in_a_word(words: list[str], tmp_path: Path):
    """It takes the connection, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        write_config(tmp_path, {"database": {"dsn": f"postgresql://me@127.0.0.1:{silent.getsockname()[1]}/app"}})
        with running(*words, cwd=tmp_path) as process:
            connection, _ = silent.accept()
            with connection:
                connection.recv(1)  # asked for, and waited for
                process.send_signal(signal.SIGINT)
                done = ended(process, 4)
    assert (done.out, done.err.strip()) == ("", "notifierd: interrupted")


def test_a_database_without_the_schema_is_exit_2_with_what_to_do(cluster: Cluster, database: str, tmp_path: Path):
    write_config(tmp_path, {"database": {"dsn": database}})
    done = run("once", "--dry-run", cwd=tmp_path, code=2)
    assert done.err == "notifierd: the schema notifierd is not in this database: run `notifierd db init`\n"


# ------------------------------------------------------------------------------------ once


def test_the_report_has_the_promised_shape(place: Place):
    place.load(invent(1))
    done = place.once()
    report = done.report
    assert differences(report, documented("once --json")) == []
    counts = ["planned", "sent", "failed", "unknown", "expired", "open"]
    assert {key: sorted(value) if isinstance(value, dict) else type(value) for key, value in report.items()} == {
        "day": str,
        "status": str,
        "reason": type(None),
        "offices": ["failed", "ok", "total"],
        "email": sorted(counts),
        "push": sorted([*counts, "gone"]),
        "untold": ["alerts", "offices", "overdue"],
        "feedback": type(None),
        "statements": ["read", "write"],
        "seconds": float,
        "failures": list,
        "failures_omitted": int,
    }
    for line in done.err.splitlines():
        assert isinstance(json.loads(line), dict)  # log lines, as that is no terminal


def test_without_json_the_report_is_for_people(place: Place):
    place.load(invent(2, push_url=place.servers.push_url))
    done = run("once", "--force", "--day", str(DAY), cwd=place.folder, code=0)
    assert re.match(rf"{DAY}: completed in \d+\.\d s\n2 offices with something due\n", done.out)
    assert re.search(r"^ *mails +4 +4 +0 +0 +0 +0 +0 *$", done.out, re.MULTILINE)
    assert re.search(r"^ *pushes +4 +4 +0 +0 +0 +0 +0 *$", done.out, re.MULTILINE)


def test_a_closed_day_is_skipped_with_its_reason(place: Place):
    place.load(invent(1))
    today = datetime.now(UTC).date()
    near = [str(today + timedelta(days=days)) for days in (-1, 0, 1)]  # whatever the zone, and the stroke of midnight
    place.configure(window={"closed_dates": near})
    report = run("once", "--json", cwd=place.folder, code=0).report
    assert (report["status"], report["reason"], report["email"]["planned"]) == ("skipped", "closed_dates", 0)
    assert report["day"] in near
    runs = place.sql("select day, state, reason, holder is null, finished_at is null from notifierd.runs")
    assert runs == f"{report['day']}|skipped|closed_dates|t|f"
    assert run("once", "--json", cwd=place.folder, code=0).report["status"] == "skipped"
    assert place.mails() == []


def test_an_open_day_runs_without_force(place: Place):
    place.load(invent(1))
    place.configure(window={"closed_weekdays": [], "holidays": ""})
    report = run("once", "--json", cwd=place.folder, code=0).report
    assert (report["status"], report["email"]["sent"]) == ("completed", 2)


def test_force_runs_a_closed_day_as_if_it_were_today(place: Place):
    place.load(invent(1))
    report = run("once", "--json", "--force", "--day", HOLIDAY, cwd=place.folder, code=0).report
    assert (report["status"], report["day"], report["email"]["sent"]) == ("completed", HOLIDAY, 2)
    assert place.sql("select day, state from notifierd.runs") == f"{HOLIDAY}|completed"


def test_a_closed_day_is_skipped_by_a_dry_run_which_writes_nothing(place: Place):
    report = run("once", "--json", "--dry-run", "--day", HOLIDAY, cwd=place.folder, code=0).report
    assert (report["status"], report["reason"]) == ("skipped", "holiday: 勤労感謝の日")
    assert place.sql("select count(*) from notifierd.runs") == "0"


def test_another_day_needs_force(place: Place):
    place.load(invent(1))
    before = place.content()
    done = run("once", "--json", "--day", "2020-01-06", cwd=place.folder, code=2)
    assert re.fullmatch(r"notifierd: --day: 2020-01-06 is not today \(\S+\); add --force .*\n", done.err)
    assert done.out == ""
    assert place.content() == before


def test_secrets_may_come_from_the_environment(place: Place):
    place.load(invent(1))
    place.configure(push={"enabled": False}, **{"email.resend": {"api_key": ""}})
    words = ("once", "--json", "--force", "--day", str(DAY))
    assert run(*words, cwd=place.folder, code=2).err.startswith("notifierd: email.resend.api_key: required")
    (place.folder / "key").write_text("re_secret_of_the_tests\n")
    environ = {"NOTIFIERD_EMAIL_RESEND_API_KEY_FILE": str(place.folder / "key")}
    assert run(*words, cwd=place.folder, environ=environ, code=0).report["email"]["sent"] == 2


# ------------------------------------------------------------------------------------ check


def findings(place: Place, code: int) -> list[dict[str, Any]]:
    """Run ``check --json``."""
    found = json.loads(run("check", "--json", cwd=place.folder, code=code).out)
    assert differences(found, documented("check --json")) == []
    return list(found)


def test_check_finds_nothing_to_mend_where_a_run_goes_well(place: Place):
    before = place.content()
    assert {finding["level"] for finding in findings(place, 0)} == {"ok", "warn"}
    lines = run("check", cwd=place.folder, code=0).out.splitlines()
    assert {line.split()[0] for line in lines} == {"ok", "warn"}
    assert "ok   schema: has the version that this program needs" in lines
    assert place.content() == before


def test_check_names_what_is_to_be_mended(place: Place):
    place.sql("alter view notifierd.staff rename column email_days to mail_days")
    bad = [finding for finding in findings(place, 2) if finding["level"] == "bad"]
    assert bad == [{"subject": "notifierd.staff", "level": "bad", "text": "column email_days (int) is missing"}]
    assert "bad  notifierd.staff: column email_days (int) is missing\n" in run("check", cwd=place.folder, code=2).out


def test_check_tells_a_database_out_of_reach_from_a_mistake(place: Place):
    place.configure(database={"dsn": f"postgresql://me:{PASSWORD}@/nowhere?host={place.folder}"})
    assert [f["subject"] for f in findings(place, 3) if f["level"] == "away"] == ["database"]


# ------------------------------------------------------------------------------------ db


def test_init_makes_everything_and_once_more_changes_nothing(cluster: Cluster, database: str, tmp_path: Path):
    cluster.psql("create role cli_daemon login")
    try:
        words = ("db", "init", "--preset", "keikakun", "--role", "cli_daemon", "--dsn", database)
        *done, limits = run(*words, cwd=tmp_path, code=0).out.splitlines()
        assert done == [
            *(f"migration {step}: applied" for step in migrations()),
            "views for keikakun: in place",
            "role cli_daemon: has the privileges that the daemon needs",
            "schema notifierd: ready",
        ]
        assert re.match("role cli_daemon: has these limits in the database .*: lock_timeout = 2s, ", limits)
        assert "migration" not in run(*words, cwd=tmp_path, code=0).out
        as_daemon = database.replace("postgres@", "cli_daemon@")
        status = run("db", "status", "--dsn", as_daemon, cwd=tmp_path, code=0).out.splitlines()
        assert status == [
            f"schema notifierd: version {migrations()[-1].version}",
            *(f"view notifierd.{view}: good" for view in VIEWS),
            "role cli_daemon: has every privilege it needs",
        ]
    finally:
        cluster.psql("drop owned by cli_daemon", database)
        cluster.psql("drop role cli_daemon")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--preset", "kekakun"], "there is no preset kekakun; the presets are: keikakun"),
        (["--role", "nobody_here"], "there is no role nobody_here on this server"),
    ],
)
def test_init_says_what_it_cannot_do(database: str, tmp_path: Path, words: list[str], complaint: str):
    done = run("db", "init", "--dsn", database, *words, cwd=tmp_path, code=2)
    assert done.err.startswith(f"notifierd: {complaint}")
    assert len(done.err.splitlines()) == 1


def test_init_finds_its_database_in_the_configuration(database: str, tmp_path: Path):
    write_config(tmp_path, {"database": {"dsn": database}})
    assert "schema notifierd: ready\n" in run("db", "init", cwd=tmp_path, code=0).out
    assert run("db", "migrate", cwd=tmp_path, code=0).out == "up to date\n"
    assert "view notifierd.alerts: the view is missing" in run("db", "status", cwd=tmp_path, code=0).out


def test_migrate_applies_what_is_pending(cluster: Cluster, database: str, tmp_path: Path):
    words = ("--dsn", database)
    done = run("db", "migrate", *words, cwd=tmp_path, code=2)
    assert done.err == "notifierd: the schema notifierd is not in this database: run `notifierd db init`\n"
    table = (
        "create table notifierd.migrations (version int primary key, name text, applied_at timestamptz default now())"
    )
    cluster.psql(f"create schema notifierd; {table}", database.partition("@/")[2].partition("?")[0])
    assert "migration 0001_ledger: pending" in run("db", "status", *words, cwd=tmp_path, code=0).out
    applied = run("db", "migrate", *words, cwd=tmp_path, code=0).out
    assert applied.splitlines() == [f"{step}: applied" for step in migrations()]
    assert run("db", "migrate", *words, cwd=tmp_path, code=0).out == "up to date\n"


def test_migrate_takes_a_right_from_the_daemons_role_and_says_what_it_could_not_take(place: Place, tmp_path: Path):
    """First as the daemon's own role, which database.dsn names, then as the admin."""
    place.sql(f"revoke all on notifierd.audit_log from {place.role}")
    place.sql(f"grant select, insert on notifierd.audit_log to {place.role}")
    write_config(tmp_path, {"database": {"dsn": place.dsn}})
    poor = run("db", "migrate", cwd=tmp_path, code=0)
    assert poor.out == "up to date\n"
    (line,) = poor.err.splitlines()
    assert line.startswith(f"notifierd: role {place.role}: may read notifierd.audit_log")
    admin = ("db", "migrate", "--dsn", place.cluster.dsn(place.database))
    done = run(*admin, cwd=tmp_path, code=0)
    assert done.out.startswith(f"role {place.role}: has no more right on notifierd.audit_log than to insert")
    assert done.err == ""
    assert run(*admin, cwd=tmp_path, code=0).out == "up to date\n"


@pytest.mark.parametrize("command", ["init", "migrate", "status"])
def test_a_database_out_of_reach_is_exit_3_for_db_too(command: str, tmp_path: Path):
    done = run("db", command, "--dsn", f"postgresql://me:{PASSWORD}@/app?host={tmp_path}", cwd=tmp_path, code=3)
    assert done.err.startswith("notifierd: the database is unreachable")


# ------------------------------------------------------------------------------------ vapid


def test_vapid_makes_a_pair_that_belongs_together_and_says_what_goes_where(tmp_path: Path):
    first, second = (run("vapid", cwd=tmp_path, code=0) for _ in range(2))
    pairs = [dict(line.split(": ") for line in done.out.splitlines()) for done in (first, second)]
    for pair in pairs:
        assert pair.keys() == {"private", "public"}
        parse_vapid_key(pair["private"].strip())
        assert Vapid(pair["private"].strip(), "mailto:ops@example.jp").public_key == pair["public"].strip()
    assert len(set(chain(*(pair.values() for pair in pairs)))) == 4
    assert "push.vapid_private_key_file" in first.err
