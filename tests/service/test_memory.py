"""What a process gives back of its memory."""

import gc
import linecache
import os
from pathlib import Path

from attrs import make_class

from notifierd.service.memory import give_back


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_what_is_free_between_what_is_not_goes_back_to_the_system() -> None:
    """100 MB in small pieces; of those that stay, one lies in each tenth megabyte or so."""
    pieces = [bytes(1000) for _ in range(100_000)]
    full = resident()
    staying = pieces[::10_000]
    del pieces
    give_back()
    assert full - resident() > 80_000_000
    assert len(staying) == 10


def test_circles_of_garbage_go_too() -> None:
    class Knot:
        def __init__(self) -> None:
            self.itself = self

    gc.disable()
    try:
        Knot()
        assert any(isinstance(one, Knot) for one in gc.get_objects())
        give_back()
        assert not any(isinstance(one, Knot) for one in gc.get_objects())
    finally:
        gc.enable()


def test_the_source_of_generated_methods_goes_and_that_of_files_can_be_read_again() -> None:
    generated = vars(make_class("Generated", ["field"]))["__init__"].__code__.co_filename
    assert linecache.getlines(generated)
    give_back()
    assert not linecache.getlines(generated)
    assert linecache.getline(__file__, 1).startswith('"""')
