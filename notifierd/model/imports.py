"""Import libraries without those parts that notifierd does not use, and before they are needed."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Thread


@contextmanager
def without(*names: str) -> Iterator[None]:
    """Hide packages from the imports in the block, as if they were not installed.

    It is for packages that a library imports only where they are installed. A package that is loaded already stays
    visible. (Where ``sys.modules`` holds None, an import raises ModuleNotFoundError:
    https://docs.python.org/3/reference/import.html#the-module-cache.)
    """
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # typeshed does not know the None
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


@contextmanager
def standing_in(*names: str) -> Iterator[None]:
    """Have the imports in the block find a stand-in in place of each package.

    It is for packages that a library imports in any case, and of which only functions that are never called make use.
    The library may name the package's classes, also in annotations. A package that is loaded already stays visible.
    """
    missing = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(missing, _StandIn))  # type: ignore[arg-type]  # any object can be imported
    try:
        yield
    finally:
        for name in missing:
            del sys.modules[name]


def load_ahead(*loads: Callable[[], object]) -> None:
    """Call each of *loads* in a thread, which imports or compiles something while the process waits for something else.

    An error is left to whoever then needs what was to be loaded, and meets it again. What a load hides from its imports
    is hidden from all others, too: `await_loads` comes before those of another kind.
    """
    if loads:
        thread = Thread(target=_load, args=loads, name="load ahead")
        _loading.append(thread)
        thread.start()


def await_loads() -> None:
    """Wait until all that was to be loaded is loaded."""
    while _loading:
        _loading.pop().join()


_loading: list[Thread] = []


def _load(*loads: Callable[[], object]) -> None:
    for load in loads:
        with suppress(Exception):
            load()


class _NamesAnything(type):
    """The type of a class whose attributes, all except Python's own, are that class."""

    def __getattr__(cls, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return cls


class _StandIn(metaclass=_NamesAnything):
    """A package, and each class in it."""
