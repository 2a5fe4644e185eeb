"""What hatchling builds from a checkout: the same bytes each time, which say the commit that they were built from."""

import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from zipfile import ZipFile

import pytest
from attrs import frozen

from notifierd import __version__, full_version

REPOSITORY = Path(__file__).parents[2]
NEEDED = ("hatch_build.py", "pyproject.toml", "README.md", "README.ja.md", "LICENSE", "notifierd/__init__.py")
TIME = "1764300000"


@frozen
class Checkout:
    """A small repository that is built as ours is."""

    folder: Path

    def git(self, *words: str) -> str:
        """Have git do something; what it printed."""
        me = ("-c", "user.name=tester", "-c", "user.email=tester@example.jp")
        done = subprocess.run(["git", *me, *words], cwd=self.folder, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def build(self, kind: str, out: str = "dist", **environ: str) -> Path:
        """Build a wheel or a source distribution."""
        before = {"PATH": "/usr/local/bin:/usr/bin:/bin", "SOURCE_DATE_EPOCH": TIME}
        command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", out]
        subprocess.run(command, cwd=self.folder, env={**before, **environ}, capture_output=True, check=True)
        [built] = (self.folder / out).glob({"wheel": "*.whl", "sdist": "*.tar.gz"}[kind])
        return built


def commit_in(wheel: Path) -> str | None:
    """What the wheel says it was built from."""
    with ZipFile(wheel) as archive:
        name = "notifierd/COMMIT"
        return archive.read(name).decode().strip() if name in archive.namelist() else None


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    made = Checkout(tmp_path / "checkout")
    for name in NEEDED:
        place = made.folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes((REPOSITORY / name).read_bytes())
    (made.folder / ".gitignore").write_text("/dist/\n/out/\n")
    made.git("init", "--quiet")
    made.git("add", "--all")
    made.git("commit", "--quiet", "--message", "Begin")
    return made


def test_a_wheel_says_its_commit_and_whether_anything_was_changed_since(checkout: Checkout):
    head = checkout.git("rev-parse", "HEAD")[:12]
    assert commit_in(checkout.build("wheel")) == head
    (checkout.folder / "LICENSE").write_text("changed")
    assert commit_in(checkout.build("wheel", "out")) == f"{head}-dirty"


def test_a_wheel_of_a_source_distribution_says_the_same(checkout: Checkout, tmp_path: Path):
    subprocess.run(["tar", "-xzf", checkout.build("sdist"), "-C", tmp_path], check=True)
    unpacked = Checkout(tmp_path / f"notifierd-{__version__}")
    assert (unpacked.folder / "README.ja.md").exists()
    assert commit_in(unpacked.build("wheel")) == checkout.git("rev-parse", "HEAD")[:12]


def test_without_git_the_caller_may_name_the_commit(checkout: Checkout, tmp_path: Path):
    (checkout.folder / ".git").rename(tmp_path / "elsewhere")
    assert commit_in(checkout.build("wheel", SOURCE_COMMIT="of-the-caller")) == "of-the-caller"
    assert commit_in(checkout.build("wheel", "out")) is None


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_two_builds_of_a_commit_are_the_same_to_the_byte(kind: str, checkout: Checkout):
    first, second = checkout.build(kind), checkout.build(kind, "out")
    assert sha256(first.read_bytes()).digest() == sha256(second.read_bytes()).digest()


def test_the_version_has_the_commit_of_a_package_that_knows_it(tmp_path: Path):
    assert full_version(tmp_path) == __version__
    (tmp_path / "COMMIT").write_text("0123456789ab\n")
    assert full_version(tmp_path) == f"{__version__} (commit 0123456789ab)"


CHANGES = """# Changelog

## [Unreleased]

### Added

- something

## [0.0.9] - 2026-01-01

- the first
"""


@pytest.fixture
def releasing(checkout: Checkout) -> Checkout:
    """A checkout with what `release/version` reads and changes."""
    for name in ("release/version", "release/source"):
        (checkout.folder / "release").mkdir(exist_ok=True)
        shutil.copy(REPOSITORY / name, checkout.folder / name)
    (checkout.folder / "docs").mkdir()
    (checkout.folder / "docs/page.md").write_text(
        f"image: notifierd:{__version__}, notifierd-{__version__}-py3, 10{__version__}"
    )
    (checkout.folder / "CHANGELOG.md").write_text(CHANGES)
    checkout.git("add", "--all")
    checkout.git("commit", "--quiet", "--message", "Write")
    return checkout


def release(checkout: Checkout, version: str) -> "subprocess.CompletedProcess[str]":
    me = {f"GIT_{who}_{what}": "tester@example.jp" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environ = {"PATH": "/usr/local/bin:/usr/bin:/bin", **me}
    command = ["release/version", version]
    return subprocess.run(command, cwd=checkout.folder, env=environ, capture_output=True, text=True, check=False)


def test_a_release_has_its_number_its_changes_and_a_commit(releasing: Checkout):
    done = release(releasing, "99.1.0")
    assert (done.returncode, done.stderr) == (0, "")
    assert releasing.git("log", "-1", "--format=%s") == "Release 99.1.0"
    assert releasing.git("status", "--porcelain") == ""
    today = releasing.git("log", "-1", "--format=%cd", "--date=format:%Y-%m-%d")
    new = CHANGES.replace("## [Unreleased]\n", f"## [Unreleased]\n\n## [99.1.0] - {today}\n")
    assert (releasing.folder / "CHANGELOG.md").read_text() == new
    assert '__version__ = "99.1.0"' in (releasing.folder / "notifierd/__init__.py").read_text()
    shown = "image: notifierd:99.1.0, notifierd-99.1.0-py3, 10"
    assert (releasing.folder / "docs/page.md").read_text() == shown + __version__


@pytest.mark.parametrize("version", ["1", "v1.0.0", "1.0.0rc1", "0.0.1", "0.0.9", "1.02.0"])
def test_a_number_that_is_none_or_was_used_makes_no_release(releasing: Checkout, version: str):
    before = releasing.git("rev-parse", "HEAD")
    done = release(releasing, version)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"no release {version}: ")
    assert (releasing.git("rev-parse", "HEAD"), releasing.git("status", "--porcelain")) == (before, "")


def test_without_changes_or_with_some_that_are_not_committed_there_is_no_release(releasing: Checkout):
    (releasing.folder / "LICENSE").write_text("changed")
    assert "not committed" in release(releasing, "99.0.0").stderr
    (releasing.folder / "CHANGELOG.md").write_text(CHANGES.replace("### Added\n\n- something\n\n", ""))
    releasing.git("commit", "--quiet", "--all", "--message", "Forget")
    assert "lists no change" in release(releasing, "99.0.0").stderr
