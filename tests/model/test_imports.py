"""Packages that are hidden from an import."""

import importlib
import sys
from pathlib import Path

import pytest

from notifierd.model.imports import without


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two modules: one uses the other if it is installed."""
    (tmp_path / "nicety.py").write_text("")
    (tmp_path / "library.py").write_text("try:\n    import nicety\nexcept ImportError:\n    nicety = None\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("nicety", "library"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def test_a_library_does_without_what_is_hidden_and_others_get_it_afterwards(library: Path) -> None:
    with without("nicety"):
        assert importlib.import_module("library").nicety is None
    assert importlib.import_module("nicety").__file__ == str(library / "nicety.py")


@pytest.mark.usefixtures("library")
def test_what_is_loaded_already_stays() -> None:
    nicety = importlib.import_module("nicety")
    with without("nicety"):
        assert importlib.import_module("library").nicety is nicety
    assert sys.modules["nicety"] is nicety


@pytest.mark.usefixtures("library")
def test_nothing_stays_hidden_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), without("nicety"):
        raise ZeroDivisionError
    assert "nicety" not in sys.modules
