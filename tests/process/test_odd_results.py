"""Odd names and odd configurations end no command: real processes, and what they print."""

import json
import signal
import unicodedata

import pytest

from notifierd.config.load import load
from notifierd.model.errors import ConfigError
from tests.support.daemon_process import AHEAD, running_service
from tests.support.faults import until
from tests.support.processes import DAY, Place, invent, run

ODD = "a\x9b\u202e\u2066\u200b\ufeff\x7f山\U0001f338"


@pytest.mark.parametrize("environ", [{"PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONIOENCODING": "latin-1"}, {}])
@pytest.mark.parametrize("args", [("--json",), ()])
def test_a_plan_is_printed_whatever_the_names_and_the_locale(
    place: Place, args: tuple[str, ...], environ: dict[str, str]
):
    place.load(invent(1))
    place.sql(f"update offices set name = '{ODD}'")
    done = run("plan", "--day", str(DAY), *args, cwd=place.folder, environ=environ, code=0)
    assert not set(done.out) & set("\x9b\u202e\u2066\u200b\ufeff\x7f")
    if args:
        assert ODD in [office["name"] for office in json.loads(done.out)["offices"]]


SEEN_OR_JOINING = {chr(c) for c in (0x200C, 0x200D, *range(0x600, 0x606), 0x6DD, 0x890, 0x891, 0x8E2)} | {
    *map(chr, (0x110BD, 0x110CD, *range(0x13430, 0x13440), *range(0xE0020, 0xE0080)))
}
"""Of category Cf: signs of numbers and of hieroglyphs, joiners, and the tags of flags."""

UNSEEN = sorted(
    {c for c in map(chr, range(0x110000)) if unicodedata.category(c) in {"Cc", "Cf", "Zl", "Zp"}} - SEEN_OR_JOINING
    | set("\u034f\u115f\u1160\u17b4\u17b5\u2065\u2800\u3164\uffa0\ufff0\U000e0000")
)
PLAIN_COMMANDS = (
    *(("plan", "--day", str(DAY)), ("preview", "--day", str(DAY), "--out", "shown"), ("check",), ("db", "status")),
    *(("once", "--force", "--day", str(DAY)), ("status",), ("history",), ("retry", "--failed")),
)


def test_no_command_prints_what_nobody_sees_or_a_terminal_obeys(place: Place):
    """In the names of offices, of people and of roles, and in what the ledger has in words."""
    rows = invent(1)
    place.load(rows)
    odd = "山" + "".join(UNSEEN[1:]) + "[red]:bomb:"  # PostgreSQL has no NUL
    literal = odd.replace("'", "''")
    place.sql(f"update offices set name = '{literal}'")
    place.sql(f"update staffs set full_name = '{literal}'")
    place.sql(f"update welfare_recipients set last_name = '{literal}'")
    commands = [*PLAIN_COMMANDS, ("plan", "--day", str(DAY), "--explain", str(rows.staff[0].id))]
    for command in commands:
        if command == ("status",):
            place.sql(f"update notifierd.runs set reason = '{literal}', holder = '{literal}'")
        as_json = [("--json",)] if command[0] not in {"preview", "db"} else []
        for words in ((), *as_json):
            done = run(*command, *words, cwd=place.folder)
            assert not [c for c in UNSEEN if c != "\n" and c in done.out + done.err], (command, words)
            assert "\U0001f4a3" not in done.out, "a word between colons is no emoji"
            if words and command[0] == "plan":
                assert odd in [office["name"] for office in json.loads(done.out)["offices"]]


def test_a_roles_name_is_printed_with_escapes(place: Place):
    name = "r\x9b\u202e\x1b[31m\n山"
    place.sql(f'create role "{name}"')
    try:
        admin = place.cluster.dsn(place.database)
        done = run("db", "init", "--dsn", admin, "--role", name, cwd=place.folder, code=0)
        assert "role r\\u009b\\u202e\\u001b[31m\\u000a山: has the privileges" in done.out
        lost = run("db", "init", "--dsn", admin, "--role", name + "x", cwd=place.folder, code=2)
        assert "there is no role r\\u009b\\u202e\\u001b[31m\\u000a山x on this server" in lost.err
    finally:
        place.sql(f'drop owned by "{name}"; drop role "{name}"')


NESTED = "x = " + "[" * 5_000 + "]" * 5_000


def test_brackets_without_number_are_a_mistake_in_the_configuration(tmp_path):
    (tmp_path / "config.toml").write_text(NESTED)
    with pytest.raises(ConfigError, match="nested too deeply"):
        load(tmp_path / "config.toml", {})
    (tmp_path / "config.toml").write_text("")
    with pytest.raises(ConfigError, match=r"http\.hosts"):
        load(tmp_path / "config.toml", {"NOTIFIERD_HTTP_HOSTS": "[" * 5_000})


async def test_a_daemon_refuses_them_at_a_reload_and_goes_on(place: Place):
    place.configure(window=AHEAD)
    async with running_service(place) as service:
        await service.ready()
        (place.folder / "config.toml").write_text(NESTED)
        service.tell(signal.SIGHUP)
        await until(lambda: service.said("reload_refused"), "the refusal")
        service.tell(signal.SIGTERM)
        await service.ended(0)
