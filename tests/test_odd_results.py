"""Odd names and odd configurations end no command: real processes, and what they print."""

import json
import signal

import pytest

from notifierd.config import load
from notifierd.errors import ConfigError
from tests.faults import until
from tests.processes import DAY, Place, invent, run
from tests.services import AHEAD, running_service

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


NESTED = "x = " + "[" * 5_000 + "]" * 5_000


def test_brackets_without_number_are_a_mistake_in_the_configuration(tmp_path):
    (tmp_path / "config.toml").write_text(NESTED)
    with pytest.raises(ConfigError, match="too many brackets"):
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
