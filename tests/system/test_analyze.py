"""What systemd's own tools say of the units."""

import pytest

from tests.system.machine import REPOSITORY, UNIT, Machine

UNITS = (UNIT, "notifierd@1.service")


@pytest.fixture
def several(machine: Machine) -> Machine:
    """A machine with the unit for several daemons, too."""
    unit = "notifierd@.service"
    machine.write(f"/etc/systemd/system/{unit}", (REPOSITORY / "systemd" / unit).read_text(encoding="utf-8"))
    machine.systemctl("daemon-reload")
    return machine


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_has_nothing_to_say_against_a_unit(unit: str, several: Machine):
    """The exit code tells nothing: it is 0 for an unknown key, too."""
    done = several.run("systemd-analyze", "verify", unit)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize("unit", UNITS)
def test_a_units_exposure_is_low(unit: str, several: Machine):
    """At most 1.1 of 10, where 0 is no exposure at all; the threshold is in tenths."""
    several.run("systemd-analyze", "security", "--no-pager", "--offline=true", "--threshold=11", unit)
