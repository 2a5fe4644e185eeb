"""What systemd/ says, held against the configuration; tests/system runs it."""

from collections import defaultdict
from pathlib import Path

from notifierd.config import keys
from notifierd.fields import key_of
from notifierd.settings import Settings

FOLDER = Path(__file__).parents[1] / "systemd"


def directives(name: str) -> dict[str, list[str]]:
    """Every value of each key of a unit file, in order; sections do not matter here."""
    found = defaultdict(list)
    for line in (FOLDER / name).read_text(encoding="utf-8").splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            found[key].append(value)
    return dict(found)


UNIT = directives("notifierd.service")


def test_every_secret_has_its_credential():
    secrets = [name for name, field in keys() if key_of(field).secret]
    assert UNIT["LoadCredential"] == [f"{name}:notifierd.{name}" for name in secrets]


def test_the_watchdog_is_slower_than_the_longest_step():
    settings = Settings()
    [minutes] = UNIT["WatchdogSec"]
    longest = max(settings.database.plan_timeout, settings.limits.send_timeout)
    assert int(minutes.removesuffix("min")) * 60 > longest


def test_the_drop_in_for_newer_systemd_changes_how_it_reloads_and_nothing_else():
    """Read only: Debian 12's systemd knows no such type, so nothing here runs it."""
    assert directives("notify-reload.conf") == {"Type": ["notify-reload"], "ExecReload": [""]}
