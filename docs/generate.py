"""Writes the pages that the program knows best itself: ``python -m docs.generate``, as `make docs` does first.

configuration.md comes from the classes of notifierd/config/settings.py and providers.py, reasons.md and reasons.ja.md
from the reason codes in notifierd/model/reasons.py, and images/rooms.svg from import-linter's contract. A test compares
each with what this makes.
"""

import ast
import inspect
import re
import types
from collections.abc import Iterator, Mapping
from datetime import date, time
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin
from uuid import UUID

import attrs

from docs import rooms
from notifierd.config import providers, settings
from notifierd.config.checks import shown
from notifierd.config.keys import Key, Table, key_of
from notifierd.config.load import CREDENTIAL_PREFIX, keys, variable
from notifierd.config.settings import Settings
from notifierd.config.sources import SYSTEM_CONFIG
from notifierd.model.reasons import Reason

DOCS = Path(__file__).parent

CONFIGURATION = f"""\
# Configuration

notifierd reads one TOML file: the file that `--config` names, else `config.toml` in the current folder, else
`{SYSTEM_CONFIG}`. The annotated [config.toml](../config.toml) lists every key with its default. You may
leave out any key; an empty file is valid. Without a file, environment variables alone are enough. `notifierd check`
says where the configuration comes from.

A mistake is reported in one line, which names the key, what is wrong, and what is allowed. An unknown key is a mistake,
too. [`notifierd check`](getting-started.md#check) reports all mistakes, and also checks the database.

## How to write a value

- Seconds are plain numbers: `30` or `30.0`.
- Times are TOML times, `09:00:00`, or `"09:00"`. Dates are TOML dates, `2026-12-29`, or the same in quotes.
- A relative path starts at the folder of the file that contains it.

## Where a value comes from

The first of these sources that has the key applies:

1. the environment: `NOTIFIERD_LIMITS_OFFICES=5` sets `offices` in `[limits]`. Write a string without quotes, and any
   other value as in the file: `NOTIFIERD_WINDOW_CLOSED_WEEKDAYS='["sun"]'`. For a secret,
   `NOTIFIERD_EMAIL_RESEND_API_KEY_FILE` may name a file that contains it. A variable that begins with `NOTIFIERD_` and
   is no key is a mistake, except those that Kubernetes and Docker set for a Service or a link named `notifierd`, such
   as `NOTIFIERD_SERVICE_HOST` and `NOTIFIERD_PORT_9464_TCP`;
2. a [systemd credential](operations.md#secrets), named `{CREDENTIAL_PREFIX}email.resend.api_key` or
   `email.resend.api_key`;
3. the configuration file. For a secret, `api_key_file` may name a file that contains it, instead of `api_key`.

[Networks](networks.md) explains `[network]`, and [Databases](databases.md) `[database]`.

A secret never appears in a log line, in an error or on a page. In one source, set either the key or its file, not both.
The sections below list the file and the credential of each secret.

## When a change takes effect

A [reload](operations.md#reload-a-changed-configuration) (SIGHUP) reads and checks the whole configuration. If anything
is wrong, the log and the status say what, and nothing changes. Each table below says when a change in it takes effect.
The environment and the credentials are read only when the process starts: restart it after a change there.
"""

REASONS_PAGE = """\
# Reasons

[日本語](reasons.ja.md)

Each delivery that reached nobody has a reason. The ledger, the report, the log and the page at `/` show it. A reason is
a code of notifierd, often with the status that the provider answered, as in `rejected:422`, or with `item` for one mail
of several in a call. notifierd keeps nothing of what the provider wrote, because that may quote an address.

Look up the code before the first colon. After `window_ended`, the brackets show what delayed the delivery until then.
To find the deliveries of one person, see [why somebody was not notified](commands.md#why-somebody-was-not-notified).

| reason | what it means, and what you can do |
| --- | --- |
"""

REASONS_PAGE_JA = """\
# 理由コード

[English](reasons.md)

誰にも届かなかった配信には、理由があります。台帳、レポート、ログ、`/` のページに表示されます。\
理由は notifierd のコードで、`rejected:422` のように送信サービスの応答のコードが付くことや、\
一度の呼び出しに含まれる複数のメールのうちの 1 通を示す `item` が付くことがあります。\
送信サービスが返した文章には宛先が含まれることがあるため、保存しません。

最初のコロンより前のコードを、次の表で引いてください。\
`window_ended` に続くかっこの中は、それまで配信を遅らせていた理由です。

| 理由 | 意味と対応 |
| --- | --- |
"""

RELOADS: Mapping[str, str] = {
    "limits": "at once, even during a run",
    "http": "at once: the page restarts, and everybody has to log in again",
    "log": "at once",
    "watch": "at once, even during a run",
}
"""When a change of a table takes effect after a reload, unless that is at the next run."""

KINDS: Mapping[object, str] = {
    str: "a string",
    bool: "`true` or `false`",
    int: "a whole number",
    float: "a number",
    time: "a time",
    date: "a date",
    UUID: "a UUID",
}


def configuration() -> str:
    """configuration.md."""
    texts = _texts()
    return "\n".join([CONFIGURATION, *_tables(Settings, "", texts)])


def reasons() -> str:
    """reasons.md."""
    return REASONS_PAGE + "".join(f"| `{reason}` | {reason.english} |\n" for reason in Reason)


def reasons_in_japanese() -> str:
    """reasons.ja.md."""
    return REASONS_PAGE_JA + "".join(f"| `{reason}` | {reason.japanese} |\n" for reason in Reason)


PAGES = {
    "configuration.md": configuration,
    "reasons.md": reasons,
    "reasons.ja.md": reasons_in_japanese,
    "images/rooms.svg": rooms.drawing,
}


def _tables(kind: type[Table], path: str, texts: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """A section for each table, and one in it for each key."""
    for field in attrs.fields(kind):
        inner, dotted = field.type, path + field.name
        if isinstance(inner, type) and issubclass(inner, Table):
            about = re.sub(r"(https://\S+[^\s.])", r"<\1>", inspect.cleandoc(inner.__doc__ or "").partition(": ")[2])
            yield f"## [{dotted}]\n\n{about[0].upper()}{about[1:]}\n"
            yield f"A change takes effect {RELOADS.get(dotted, 'at the next run')}.\n"
            yield from _keys(inner, f"{dotted}.", texts[inner.__name__])
            yield from _tables(inner, f"{dotted}.", texts)


def _keys(kind: type[Table], path: str, texts: Mapping[str, str]) -> Iterator[str]:
    for dotted, field in keys(kind, path):
        if dotted == path + field.name:
            text = re.sub(r"(https?://\S*[^\s.,;])", r"`\1`", texts[field.name])
            yield f"### {dotted}\n\n{text}\n"
            yield "\n".join(f"- {name}: {value}" for name, value in _facts(dotted, field)) + "\n"


def _facts(dotted: str, field: "attrs.Attribute[Any]") -> Iterator[tuple[str, str]]:
    about = key_of(field)
    yield (
        "default",
        f"`{_toml(field.default)}`" + ("; required to send through this provider" if about.required else ""),
    )
    yield "allowed", _kind(field.type) + _allowed(field.type, about) + (f" ({about.unit})" if about.unit else "")
    if about.secret:
        yield "secret", f"also as `{field.name}_file`, or as the credential `{CREDENTIAL_PREFIX}{dotted}`"
    elif about.private:
        yield "shown", "never, because it may be a person's address"
    yield "environment", f"`{variable(dotted)}`"


def _allowed(kind: object, about: Key) -> str:
    if not about.check.allowed or get_origin(kind) in {Literal, Union, types.UnionType}:
        return ""
    text = re.sub(r"([<>*_[\]])", r"\\\1", about.check.allowed)
    return f", {text}" if kind in {int, float} else f": {text}"


def _kind(kind: object) -> str:
    if get_origin(kind) is Union:  # a choice, or the empty string
        kind = Literal[tuple(choice for each in get_args(kind) for choice in get_args(each))]
    if get_origin(kind) is Literal:
        return ", ".join(f"`{shown(choice)}`" for choice in get_args(kind))
    if get_origin(kind) is tuple:
        return f"a list; each element {_kind(get_args(kind)[0])}"
    return KINDS[kind]


def _toml(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return value.isoformat() if isinstance(value, time) else shown(value)


def _texts() -> dict[str, dict[str, str]]:
    """The text below each key, by class and key. Python keeps none of an attribute at run time."""
    return {
        table.name: {
            key.target.id: inspect.cleandoc(below.value.value).replace("``", "`")
            for key, below in zip(table.body, table.body[1:], strict=False)
            if isinstance(key, ast.AnnAssign) and isinstance(key.target, ast.Name)
            if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
            if isinstance(below.value.value, str)
        }
        for module in (providers, settings)
        for table in ast.parse(inspect.getsource(module)).body
        if isinstance(table, ast.ClassDef)
    }


if __name__ == "__main__":
    for name, make in PAGES.items():
        (DOCS / name).write_text(make(), encoding="utf-8")
