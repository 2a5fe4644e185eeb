"""A short form of `make days`."""

from tests.experiments.days import OFFICES, Size, live
from tests.support.processes import Place


def test_a_daemon_has_no_more_tasks_and_files_after_thirty_days_than_after_ten(place: Place):
    """Each of 30 days tells two members of each office by mail and push; memory is for `make days` to show."""
    sizes: list[Size] = []
    assert live(place, 30, sizes.append) == 0
    assert [size.day for size in sizes] == list(range(1, 31))
    assert {(size.tasks, size.files) for size in sizes[10:]} == {(sizes[9].tasks, sizes[9].files)}
    assert place.sql("select state, count(*) from notifierd.runs group by 1") == "completed|30"
    assert (len(place.mails()), len(place.pushes())) == (30 * OFFICES * 2, 30 * OFFICES * 2)
