"""Import libraries without those parts that nobody uses here."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


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
