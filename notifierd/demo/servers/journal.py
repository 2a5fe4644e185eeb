"""A journal of what a local server accepted, as JSON lines: readable while it runs, and after it was killed."""

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TextIO, TypeVar

import attrs
from attrs import define, field

FILE_NAME = "accepted.jsonl"


class _Line(attrs.AttrsInstance, Protocol):
    """Any attrs class of plain values."""


T = TypeVar("T", bound=_Line)


@define
class Journal(Generic[T]):
    """An append-only file of what was accepted, and a list in memory of all calls with their answers."""

    _file: TextIO
    _accepted: list[dict[str, Any]]
    _calls: list[dict[str, Any]] = field(factory=list)
    _in_progress: Counter[float] = field(factory=Counter)

    @classmethod
    def open(cls, directory: Path, kind: type[T]) -> Self:
        """Continue the journal in *directory*, or begin it."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        accepted = [attrs.asdict(line) for line in read(directory, kind)]
        # Line buffering: the kernel has each line before its call is answered.
        return cls((directory / FILE_NAME).open("a", encoding="utf-8", buffering=1), accepted)

    @property
    def count(self) -> int:
        """The number of accepted messages."""
        return len(self._accepted)

    def add(self, line: T) -> None:
        """Add an accepted message."""
        data = attrs.asdict(line)
        self._file.write(json.dumps(data, ensure_ascii=False) + "\n")
        self._accepted.append(data)

    def begin(self) -> float:
        """Note that a call has come; return when, for `call`."""
        began = time.time()
        self._in_progress[began] += 1
        return began

    def call(self, path: str, status: int | None, began: float) -> None:
        """Add a call to *path* and its answer; None: there was no answer."""
        self._in_progress -= Counter({began: 1})
        self._calls.append({"path": path, "status": status, "began": began, "time": time.time()})

    def told(self) -> dict[str, Any]:
        """Return the whole journal, for ``GET /_received``, and when the calls began that are in progress."""
        in_progress = list(self._in_progress.elements())
        return {"accepted": self._accepted, "calls": self._calls, "in_progress": in_progress}


def read(directory: Path, kind: type[T]) -> list[T]:
    """Return the accepted messages in *directory*."""
    try:
        with (directory / FILE_NAME).open(encoding="utf-8") as lines:
            return [kind(**json.loads(line)) for line in lines]
    except FileNotFoundError:
        return []
