"""The password file, read as libpq reads it: for what an entry is, and which files are no good."""

import os
from pathlib import Path

import pytest

from notifierd.config.dsn import BadDsn, read_dsn
from notifierd.store.connection.password import LARGEST, password_of

URL = "postgresql://me@db.example.jp:5433/app"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "pgpass"
    path.touch(0o600)
    return path


def password(url: str, file: Path) -> str:
    return password_of(read_dsn(url, {"PGPASSFILE": str(file)}))


@pytest.mark.parametrize(
    ("url", "line", "found"),
    [
        (URL, "db.example.jp:5433:app:me:secret", "secret"),
        (URL, "*:*:*:*:secret", "secret"),
        (URL, "*:*:*:*:with:colons:  and spaces ", "with:colons:  and spaces "),
        (URL, r"*:*:*:*:a\:b\\c\d", r"a:b\cd"),
        (URL, "#*:*:*:*:commented\n\n*:*:*:me:second", "second"),
        (URL, "*:5432:*:*:other\n*:*:other:*:other\n*:*:*:you:other\nx:*:*:*:other", ""),
        (URL, "*:*:*:secret\nnothing", ""),
        ("postgresql://me@/?host=/run/pg", "localhost:5432:me:me:secret", "secret"),
        ("postgresql://me@/?host=/run/pg", "/run/pg:*:*:*:secret", "secret"),
        ("postgresql://me@/app", "localhost:*:*:*:secret", "secret"),
        ("postgresql://a%3Ab@db/app", r"*:*:*:a\:b:secret", "secret"),
        ("postgresql://me@[2001:db8::1]/app", r"2001\:db8\:\:1:*:*:*:secret", "secret"),
        ("postgresql://me@a,b/app", "b:*:*:*:second\na:*:*:*:first", "first"),
        ("postgresql://me:given@db/app", "*:*:*:*:secret", "given"),
    ],
)
def test_an_entry_is_for_what_it_names(file: Path, url: str, line: str, found: str):
    file.write_text(f"{line}\n")
    assert password(url, file) == found


def test_a_file_that_cannot_be_used_is_named_with_the_reason(file: Path, tmp_path: Path):
    with pytest.raises(BadDsn, match=rf"^passfile: {tmp_path} is not a file$"):
        password(URL, tmp_path)
    with pytest.raises(BadDsn, match=r"^passfile: /nowhere cannot be read \(No such file or directory\)$"):
        password(URL, Path("/nowhere"))
    file.write_bytes(b"*:*:*:*:\xff")
    with pytest.raises(BadDsn, match=r"^passfile: \S+ is not UTF-8$"):
        password(URL, file)
    os.truncate(file, LARGEST + 1)
    with pytest.raises(BadDsn, match=r"^passfile: \S+ is larger than 1,048,576 bytes$"):
        password(URL, file)
    file.chmod(0o640)
    with pytest.raises(BadDsn, match=r"^passfile: others may read \S+: chmod 600$"):
        password(URL, file)
    assert password(f"{URL}?password=given", file) == "given"


def test_the_file_at_home_counts_if_it_is_fit(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert password_of(read_dsn(URL, {})) == ""
    file.rename(tmp_path / ".pgpass").write_text("*:*:*:*:secret\n")
    assert password_of(read_dsn(URL, {})) == "secret"
    (tmp_path / ".pgpass").chmod(0o644)
    assert password_of(read_dsn(URL, {})) == ""
