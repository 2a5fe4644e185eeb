"""What systemd's own tools say of the unit."""

from tests.system.machine import UNIT, Machine


def test_systemd_has_nothing_to_say_against_the_unit(machine: Machine):
    """The exit code tells nothing: it is 0 for an unknown key, too."""
    done = machine.run("systemd-analyze", "verify", f"/etc/systemd/system/{UNIT}")
    assert (done.stdout, done.stderr) == ("", "")


def test_the_units_exposure_is_low(machine: Machine):
    """At most 1.1 of 10, where 0 is no exposure at all; the threshold is in tenths."""
    machine.run(
        "systemd-analyze", "security", "--no-pager", "--offline=true", "--threshold=11", f"/etc/systemd/system/{UNIT}"
    )
