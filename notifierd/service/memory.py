"""What a process does about its memory: it looks for garbage seldom, and gives back what a run no longer needs."""

import ctypes
import gc

YOUNG = 10_000
"""Objects made before Python looks for circles among the young ones: with its own 700, that is a twelfth of a mail."""


def settle_in() -> None:
    """Keep what is loaded by now out of every search for garbage, as it stays."""
    gc.freeze()
    gc.set_threshold(YOUNG, 20, 20)


def give_back() -> None:
    """Give the system what is free: the C library keeps the pages of a run otherwise (malloc_trim(3), of glibc)."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
