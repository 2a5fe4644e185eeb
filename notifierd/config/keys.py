"""A key of the configuration: its default, what it allows, its unit, and whether it is a secret; and a table of keys.

The loader, the validators and the generated documentation all use this one description.
"""

from collections.abc import Iterator
from typing import Any, TypeVar

import attrs

from notifierd.config.checks import ANYTHING, BASE_URL, BASE_URL_OR_NONE, ONE_LINE, Check

T = TypeVar("T")


@attrs.frozen
class Key:
    """The description of a key, beyond what attrs knows."""

    check: Check
    unit: str = ""
    secret: bool = False
    """Also accepted as ``<key>_file``, and never shown."""
    private: bool = False
    """Never shown: it may be somebody's address."""
    required: bool = False
    """Empty by default, and needed to send through this table's provider."""
    path: bool = False
    """Relative to the folder of the file that names it."""

    def problem(self, value: object) -> str | None:
        return self.check.problem(value, secret=self.secret or self.private)


def key_of(attribute: "attrs.Attribute[Any]") -> Key:
    """Return the description that `key` stored on *attribute*."""
    found: Key = attribute.metadata["key"]
    return found


def key(default: T, check: Check | None = None, **notes: Any) -> T:  # noqa: ANN401 - the attributes of Key
    """Declare a key of a table: for attrs a field, for mypy a value of its default's type."""
    about = Key(check or (ONE_LINE if isinstance(default, str) else ANYTHING), **notes)
    field: T = attrs.field(
        default=default,
        converter=_without_slash if about.check in {BASE_URL, BASE_URL_OR_NONE} else None,
        repr=not (about.secret or about.private),
        validator=_validate,
        metadata={"key": about},
    )
    return field


def _without_slash(url: str) -> str:
    """Remove the slash at the end: senders append paths that begin with one, and "//emails" would be a 404."""
    return url.rstrip("/")


def _validate(_table: object, attribute: "attrs.Attribute[Any]", value: object) -> None:
    if problem := key_of(attribute).problem(value):
        raise ValueError(f"{attribute.name}: {problem}")


Conflict = tuple[tuple[str, ...], str]
"""Keys of one table that exclude each other, and why; the first is the one to change."""


@attrs.frozen
class Table:
    """The interface that the loader needs of every table."""

    def conflicts(self) -> Iterator[Conflict]:
        """Yield keys that are valid by themselves, but not together."""
        yield from ()
