"""Packages that are hidden from an import."""

import importlib
import importlib.util
import sys
import time
import types
from pathlib import Path
from threading import Event

import pytest

from notifierd.model.imports import await_loads, load_ahead, standing_in, without


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


@pytest.fixture
def strict_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module that imports a package in any case, and names its classes."""
    (tmp_path / "strict_library.py").write_text(
        "import heavy\nfrom heavy import Answer\n"
        "def send(session: None | heavy.client.Session = None) -> Answer | str: return heavy.post(session)\n"
        "def encode(): return 'encoded'\n"
    )
    (tmp_path / "heavy.py").write_text("loaded = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("heavy", "strict_library"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return "strict_library"


def test_a_library_is_imported_with_a_stand_in_and_others_get_the_package_afterwards(strict_library: str) -> None:
    with standing_in("heavy"):
        assert importlib.import_module(strict_library).encode() == "encoded"
    assert "heavy" not in sys.modules
    assert importlib.import_module("heavy").loaded


def test_there_is_no_stand_in_for_what_is_loaded_already(strict_library: str) -> None:
    sys.modules["heavy"] = real = types.ModuleType("heavy")
    real.Answer, real.client = str, types.SimpleNamespace(Session=int)  # type: ignore[attr-defined]
    with standing_in("heavy"):
        assert importlib.import_module(strict_library).heavy is real
    assert sys.modules["heavy"] is real


def test_what_is_hidden_from_a_load_is_there_for_whoever_waits_for_it():
    """A load in a thread hides a package that the main thread imports next."""
    hides = Event()

    def load() -> None:
        with without("this"):
            hides.set()
            time.sleep(0.1)

    load_ahead(load)
    assert hides.wait(10.0)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("this")
    await_loads()
    assert importlib.util.find_spec("this") is not None
