"""What ``make`` installs, in which order: with a Python and a uv that note what they are asked to do."""

import os
import subprocess
import tomllib
from pathlib import Path

import pytest
from attrs import frozen

MAKEFILE = Path(__file__).parents[2] / "Makefile"
PIP = "pip -m pip install --no-compile -c constraints.txt -e"
UV = "uv pip install -q --python .venv/bin/python -c constraints.txt -e"


@frozen
class Checkout:
    """A folder with the Makefile, and an environment that was just made."""

    folder: Path

    def make(self, target: str, *, uv: str = "", pip: str = "true") -> "subprocess.CompletedProcess[str]":
        """Make *target* while pip and uv end as those shell commands do; without *uv* there is none."""
        self._script(".venv/bin/python", f'echo "pip $@" >>asked\necho "Collecting one"\n{pip}')
        self._script("uv", f'echo "uv $@" >>asked\n{uv}')
        has_uv = f"UV={self.folder / 'uv' if uv else ''}"
        return subprocess.run(
            ["make", has_uv, target], cwd=self.folder, env=dict(os.environ), capture_output=True, text=True, check=False
        )

    def asked(self) -> list[str]:
        """What the two were asked since the last time."""
        file = self.folder / "asked"
        lines = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return lines

    def _script(self, name: str, text: str) -> None:
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    (tmp_path / "Makefile").write_text(MAKEFILE.read_text(encoding="utf-8"))
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/.made").touch()
    return Checkout(tmp_path)


def test_the_demo_gets_what_it_needs_and_the_tests_add_to_it(checkout: Checkout):
    done = checkout.make(".venv/.demo")
    assert (done.returncode, done.stderr.strip()) == (0, "packages: 1")
    assert checkout.asked() == [f"{PIP} .[demo]"]
    assert checkout.make(".venv/.complete").returncode == 0
    assert checkout.asked() == [f"{PIP} .[demo,dev]"]


def test_after_the_tests_the_demo_needs_nothing(checkout: Checkout):
    checkout.make(".venv/.complete")
    assert checkout.asked() == [f"{PIP} .[demo,dev]"]
    assert checkout.make(".venv/.demo").returncode == 0
    assert checkout.asked() == []


def test_what_ci_needs_is_installed_at_once_and_nothing_is_asked_for_again(checkout: Checkout):
    assert checkout.make("venv-all").returncode == 0
    assert checkout.asked() == [f"{PIP} .[demo,dev,docs,system]"]
    for extra in (".demo", ".complete", ".manual", ".system"):
        assert checkout.make(f".venv/{extra}").returncode == 0
    assert checkout.asked() == []


@pytest.mark.parametrize(("made", "extra"), [(".manual", "docs"), (".system", "system")])
def test_the_manual_and_the_system_tests_add_what_they_need_once(checkout: Checkout, made: str, extra: str):
    for _ in range(2):
        assert checkout.make(f".venv/{made}").returncode == 0
    assert checkout.asked() == [f"{PIP} .[demo,dev]", f"{PIP} .[demo,dev,{extra}]"]


def test_what_could_not_be_installed_is_tried_again(checkout: Checkout):
    assert checkout.make(".venv/.demo", pip="exit 1").returncode == 2
    assert checkout.make(".venv/.demo").returncode == 0
    assert checkout.asked() == [f"{PIP} .[demo]"] * 2


def test_uv_is_used_where_it_is_there_and_pip_where_uv_fails(checkout: Checkout):
    assert checkout.make(".venv/.demo", uv="true").returncode == 0
    assert checkout.asked() == [f"{UV} .[demo]"]
    assert checkout.make(".venv/.complete", uv="exit 1").returncode == 0
    assert checkout.asked() == [f"{UV} .[demo,dev]", f"{PIP} .[demo,dev]"]


def test_the_files_that_mutation_tests_are_made_of_are_there():
    """mutmut ends at the first one that is missing."""
    mutmut = tomllib.loads((MAKEFILE.parent / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mutmut"]
    named = [*mutmut["only_mutate"], *mutmut["pytest_add_cli_args_test_selection"]]
    assert [name for name in named if not (MAKEFILE.parent / name).is_file()] == []
