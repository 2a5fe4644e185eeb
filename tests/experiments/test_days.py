"""A short form of `make days`."""

from tests.experiments.days import OFFICES, Size, live
from tests.support.processes import Place


def test_a_daemon_has_no_more_tasks_and_files_after_fifteen_days_than_after_five(place: Place):
    """Each of 15 days tells two members of each office by mail and push; memory is for `make days` to show."""
    sizes: list[Size] = []
    assert live(place, 15, sizes.append) == 0
    assert [size.day for size in sizes] == list(range(1, 16))
    assert {(size.tasks, size.files) for size in sizes[5:]} == {(sizes[4].tasks, sizes[4].files)}
    assert place.sql("select state, count(*) from notifierd.runs group by 1") == "completed|15"
    assert (len(place.mails()), len(place.pushes())) == (15 * OFFICES * 2, 15 * OFFICES * 2)
