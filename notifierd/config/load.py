"""Load the configuration: one TOML file, systemd credentials and the environment, into `Settings`.

All problems are reported at once, one line each. No line repeats a secret or an address.
"""

import math
import os
import re
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime, time
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin
from uuid import UUID

import attrs

from notifierd.config.checks import did_you_mean, shown
from notifierd.config.keys import Table, key_of
from notifierd.config.network import problems_of_route
from notifierd.config.settings import Settings
from notifierd.config.sources import PREFIX, find_config, is_there, own_variables
from notifierd.model.errors import ConfigError

CREDENTIAL_PREFIX = "notifierd."
"""Optional prefix of a credential's name: all services share systemd's credential store, /etc/credstore."""

Document = Mapping[str, object]
AnyTable = TypeVar("AnyTable", bound=Table)


def load(path: Path | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the configuration from *path* (None: where `find_config` finds it), credentials and *environ*.

    Raises:
        ConfigError: lists all problems.
    """
    place = find_config(path, Path.cwd(), environ)
    return parse(_read(place), environ, place.parent) if place else parse({}, environ)


def load_for_sending(path: Path | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the configuration as `load` does, and require what sending needs.

    Raises:
        ConfigError: lists everything that is wrong or missing.
    """
    settings = load(path, environ)
    if missing := missing_for_sending(settings):
        raise ConfigError(tuple(missing))
    return settings


def parse(document: Document, environ: Mapping[str, str], folder: Path = Path()) -> Settings:
    """Make settings from a TOML *document* of a file in *folder*, credentials and *environ*.

    Raises:
        ConfigError: lists all problems.
    """
    reader = _Reader(environ, folder)
    settings = reader.table(Settings, document, "")
    reader.refuse_unknown_variables()
    reader.refuse_unknown_credentials()
    reader.problems.extend(problems_of_route(settings.network.proxy, environ))
    if reader.problems:
        raise ConfigError(tuple(reader.problems))
    return settings


def missing_for_sending(settings: Settings) -> list[str]:
    """Return what is missing before a message can be sent, in lines like those of `ConfigError`.

    Other commands work without it: ``vapid`` and ``db init`` run before there are keys.
    """
    email = settings.email
    problems = []
    if not email.sender:
        problems.append('email.sender: required for sending ("Name <name@example.jp>", of a domain verified there)')
    for provider in email.providers:
        table = getattr(email, provider)
        for field in attrs.fields(type(table)):
            if key_of(field).required and not getattr(table, field.name):
                ways = f" (as {field.name}_file, systemd credential or environment variable)"
                problems.append(
                    f"email.{provider}.{field.name}: required for sending through {provider}"
                    f"{ways if key_of(field).secret else ''}"
                )
    if settings.push.enabled and not settings.push.vapid_private_key:
        problems.append(
            "push.vapid_private_key: required for push (run `notifierd vapid`, or set push.enabled = false)"
        )
    return problems


def keys(table: type[Table] = Settings, path: str = "") -> Iterator[tuple[str, "attrs.Attribute[Any]"]]:
    """Yield every key with its dotted name, in the order of config.toml."""
    for field in attrs.fields(table):
        if inner := _table_of(field):
            yield from keys(inner, f"{path}{field.name}.")
        else:
            yield path + field.name, field


def variable(dotted: str) -> str:
    """Return the environment variable of a key."""
    return PREFIX + dotted.replace(".", "_").upper()


def _table_of(field: "attrs.Attribute[Any]") -> type[Table] | None:
    return field.type if isinstance(field.type, type) and issubclass(field.type, Table) else None


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        return tomllib.loads(text)
    except FileNotFoundError:
        raise ConfigError((f"{path}: no such file",)) from None
    except OSError as error:
        raise ConfigError((f"{path}: cannot be read ({error.strerror})",)) from error
    except UnicodeDecodeError as error:
        raise ConfigError((f"{path}: is not UTF-8",)) from error
    except ValueError as error:  # a TOMLDecodeError, or an int() of thousands of digits
        raise ConfigError((f"{path}: {_syntax_error(str(error), text)}",)) from error
    except RecursionError:
        raise ConfigError((f"{path}: has brackets that are nested too deeply",)) from None


def _syntax_error(message: str, text: str) -> str:
    """Put the line number of tomllib's error first, and explain the mistake whose message is no help.

    That mistake is a time without seconds: ``at = 09:00``.
    """
    found = re.fullmatch(r"(.*) \(at line (\d+), column (\d+)\)", message)
    if not found:
        return message
    line = text.splitlines()[int(found[2]) - 1]
    hint = ' (write a time as 09:00:00 or "09:00")' if re.search(r"=\s*\d{1,2}:\d{2}\s*(#|$)", line) else ""
    return f"line {found[2]}, column {found[3]}: {found[1]}{hint}"


@attrs.frozen
class _Reader:
    """Reads all tables, and collects the problems."""

    environ: Mapping[str, str]
    folder: Path
    problems: list[str] = attrs.Factory(list)
    bad: set[str] = attrs.Factory(set)
    """The keys that have a problem, by their dotted paths."""

    def table(self, kind: type[AnyTable], given: Document, path: str) -> AnyTable:
        """Make a table; an invalid key gets its default, and is reported."""
        fields = attrs.fields_dict(kind)
        self._refuse_unknown_keys(fields, given, path)
        values: dict[str, object] = {}
        for name, field in fields.items():
            dotted = path + name
            try:
                if inner := _table_of(field):
                    values[name] = self._subtable(inner, given.get(name, {}), dotted)
                else:
                    values |= self._value(field, given, dotted)
            except ValueError as error:
                self.problems.append(f"{dotted}: {error}")
                self.bad.add(dotted)
        table = kind(**values)
        for names, why in table.conflicts():
            if self.bad.isdisjoint(path + name for name in names):
                self.problems.append(f"{path}{names[0]}: {why}")
        return table

    def _subtable(self, kind: type[AnyTable], given: object, dotted: str) -> AnyTable:
        if isinstance(given, dict):
            return self.table(kind, given, f"{dotted}.")
        self.problems.append(f"{dotted}: expected a table ([{dotted}]), not {_KINDS[type(given)]}")
        return self.table(kind, {}, f"{dotted}.")  # the environment may still set its keys

    def _value(self, field: "attrs.Attribute[Any]", given: Document, dotted: str) -> dict[str, object]:
        """Return the value from the source with the highest priority, under the key's name; nothing if none has it.

        Raises:
            ValueError: the value is invalid; the message says why.
        """
        about = key_of(field)
        found = self._find(field.name, given, dotted, secret=about.secret)
        if found is None:
            return {}
        try:
            value = (_from_text if found.is_text else _convert)(found.value, field.type)
        except ValueError as error:
            raise ValueError(f"{error}{found.place}") from error
        if about.path and value:
            value = str(found.folder / str(value))
        if problem := about.problem(value):
            raise ValueError(f"{problem}{found.place}")
        return {field.name: value}

    def _find(self, name: str, given: Document, dotted: str, *, secret: bool) -> "_Found | None":
        """Return the key's value from the source with the highest priority; None if no source has it."""
        set_in_file = _one_of(given, name, f"{name}_file", secret=secret)
        set_outside = _one_of(self.environ, variable(dotted), f"{variable(dotted)}_FILE", secret=secret)
        if set_outside == variable(dotted):
            return _Found(self.environ[set_outside], set_outside)
        if set_outside:
            return _Found(_content(Path(self.environ[set_outside])), set_outside)
        for name_there in (CREDENTIAL_PREFIX + dotted, dotted):
            if is_there(credential := self._credentials() / name_there):
                return _Found(_content(credential), f"the credential {name_there}")
        if set_in_file == name:
            return _Found(given[name], folder=self.folder, is_text=False)
        if set_in_file:
            return _Found(_content(self.folder / str(_convert(given[set_in_file], str))), set_in_file)
        return None

    def _credentials(self) -> Path:
        """Return systemd's credentials folder, or a path that does not exist."""
        return Path(self.environ.get("CREDENTIALS_DIRECTORY") or os.devnull)

    def _refuse_unknown_keys(self, fields: Mapping[str, "attrs.Attribute[Any]"], given: Document, path: str) -> None:
        known = list(fields)
        known += [f"{name}_file" for name, field in fields.items() if not _table_of(field) and key_of(field).secret]
        for name in given:
            if name in known:
                continue
            what = "table" if isinstance(given[name], dict) else "key"
            self.problems.append(f"{path}{name}: unknown {what}{did_you_mean(name, known)}")

    def refuse_unknown_variables(self) -> None:
        """Report a NOTIFIERD_ variable that is not a key: it is probably misspelt."""
        known = [variable(dotted) for dotted, _field in keys()]
        known += [f"{variable(dotted)}_FILE" for dotted, field in keys() if key_of(field).secret]
        self._refuse_unknown(own_variables(self.environ), known, "environment variable")

    def refuse_unknown_credentials(self) -> None:
        """Report a credential that is named like a key but is not one: it is probably misspelt."""
        known = [dotted for dotted, _field in keys()]
        folder = self._credentials()
        try:
            names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        except OSError as error:
            self.problems.append(f"CREDENTIALS_DIRECTORY: {folder} cannot be read ({error.strerror})")
            return
        ours = {dotted.partition(".")[0] for dotted in known} | {CREDENTIAL_PREFIX.rstrip(".")}
        known += [CREDENTIAL_PREFIX + dotted for dotted in known]
        self._refuse_unknown([name for name in names if name.partition(".")[0] in ours], known, "credential")

    def _refuse_unknown(self, names: list[str], known: list[str], what: str) -> None:
        self.problems.extend(
            f"{name}: unknown {what}{did_you_mean(name, known, cutoff=0.8)}" for name in sorted({*names} - {*known})
        )


@attrs.frozen
class _Found:
    """The value of a key in one source."""

    value: object
    origin: str = ""
    """The source, unless it is the key itself in the file."""
    folder: Path = Path()
    is_text: bool = True
    """Whether the value still has to be converted to the key's type."""

    @property
    def place(self) -> str:
        return f", from {self.origin}" if self.origin else ""


def _one_of(source: Mapping[str, object], name: str, file_name: str, *, secret: bool) -> str | None:
    """Return which of its two names *source* uses for a key. An empty secret counts as missing."""
    if not secret:
        return name if name in source else None
    match [each for each in (name, file_name) if source.get(each, "") != ""]:
        case []:
            return None
        case [only]:
            return only
        case _:
            raise ValueError(f"given twice, as {name} and as {file_name} (only one is allowed)")


def _content(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ValueError(f"{path} is not UTF-8 text") from error
    if not text:
        raise ValueError(f"{path} is empty")
    return text


# ------------------------------------------------------------------------------------------ from TOML to Python


_KINDS: Mapping[object, str] = {
    str: "a string",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    time: 'a time (09:00:00 or "09:00")',
    date: 'a date (2026-12-29 or "2026-12-29")',
    datetime: "a date with a time",
    UUID: "a UUID",
    tuple: 'a list ([] or ["...", "..."])',
    list: "a list",
    dict: "a table",
}
"""The types of keys, and the other types of TOML, in words."""

_FROM_STRING: Mapping[object, tuple[str, Callable[[str], object]]] = {
    time: (r"\d\d:\d\d(:\d\d)?", time.fromisoformat),
    date: (r"\d{4}-\d\d-\d\d", date.fromisoformat),
    UUID: (r"[0-9A-Fa-f-]{32,36}", UUID),
}
"""Values that may also be quoted: their form, because the parsers allow more, and their parser."""


def _from_text(text: object, kind: object) -> object:
    """Convert the *text* of a variable or a credential: a string as it is, all else in TOML's syntax."""
    if kind is str or get_origin(kind) is Literal:
        return _convert(text, kind)
    try:
        return _convert(tomllib.loads(f"value = {text}")["value"], kind)
    except (tomllib.TOMLDecodeError, RecursionError):
        return _convert(text, kind)  # 09:00, which TOML requires quotes for, or nonsense, which _convert reports


def _convert(value: object, kind: object) -> object:
    """Convert a value from TOML to a key's type *kind*.

    Raises:
        ValueError: it has another type. The message repeats the value only if it cannot be a secret: never a plain
            string.
    """
    shape = get_origin(kind) or kind
    if shape is Literal:
        return _choose(value, get_args(kind))
    if shape is tuple and isinstance(value, list):
        return tuple(_convert(element, get_args(kind)[0]) for element in value)
    if isinstance(value, str) and kind in _FROM_STRING:
        return _parse(value, kind)
    if kind is float and type(value) is int:
        return float(value) if abs(value) < sys.maxsize else math.inf  # beyond every range
    if type(value) is not kind:  # exactly: in Python, True is an int, and a datetime a date
        raise ValueError(f"expected {_KINDS[shape]}, not {_KINDS[type(value)]}")
    return value


def _choose(value: object, choices: tuple[str, ...]) -> str:
    allowed = ", ".join(map(shown, choices))
    if not isinstance(value, str):
        raise ValueError(f"expected one of {allowed}, not {_KINDS[type(value)]}")  # noqa: TRY004 - like all problems
    if value not in choices:
        raise ValueError(f"{shown(value)} is not one of {allowed}{did_you_mean(value, filter(None, choices))}")
    return value


def _parse(value: str, kind: object) -> object:
    form, parser = _FROM_STRING[kind]
    try:
        if re.fullmatch(form, value, re.ASCII):
            return parser(value)
    except ValueError:
        pass  # 25:00, or the 30th of February
    raise ValueError(f"{shown(value)} is not {_KINDS[kind]}")
