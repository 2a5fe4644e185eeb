"""Memory of the process: collect garbage seldom, and return memory to the system after a run."""

import ctypes
import gc
import linecache

YOUNG, YOUNG_AT_START = 20_000, 200_000
"""New objects after which Python collects the youngest generation. One mail makes twelve times its default of 700, and
the imports make 150,000 objects, and nearly no garbage."""


def collect_seldom() -> None:
    """Have no garbage collections during the imports, before which it is to be called."""
    gc.set_threshold(YOUNG_AT_START, 20, 20)


def settle_in() -> None:
    """Exclude everything that is loaded by now from garbage collections, and forget its source."""
    _forget_source()
    gc.freeze()
    gc.set_threshold(YOUNG, 20, 20)


def give_back() -> None:
    """Return free memory to the system. The C library would keep the pages of a run (malloc_trim(3), of glibc)."""
    _forget_source()
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _forget_source() -> None:
    """Forget the source of the methods that attrs made: a megabyte for tracebacks, which notifierd does not show."""
    linecache.clearcache()
