"""Memory of the process: collect garbage seldom, and return memory to the system after a run."""

import ctypes
import gc
import linecache

YOUNG = 10_000
"""New objects after which Python collects the youngest generation. One mail makes twelve times its default of 700."""


def collect_seldom() -> None:
    """Have fewer garbage collections, to be called before the imports: they make much, and nearly no garbage."""
    gc.set_threshold(YOUNG, 20, 20)


def settle_in() -> None:
    """Exclude everything that is loaded by now from garbage collections, and forget its source."""
    _forget_source()
    gc.freeze()


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
