"""Waits of a run, by what they leave in its progress."""

import pytest
from trio.testing import MockClock

from notifierd.run.progress import Progress


@pytest.mark.parametrize(("slice_seconds", "slices"), [(1.0, 25), (10.0, 3), (60.0, 1)])
async def test_a_sleep_is_counted_slice_by_slice(autojump_clock: MockClock, slice_seconds: float, slices: int):
    progress = Progress(slice_seconds=slice_seconds)
    await progress.sleep(25.0)
    assert autojump_clock.current_time() == 25.0
    assert progress.steps == slices
