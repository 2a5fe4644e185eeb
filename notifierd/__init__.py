"""notifierd reminds the staff of welfare offices of their deadlines once every business day."""

from pathlib import Path

__version__ = "0.1.0"


def full_version(folder: Path = Path(__file__).parent) -> str:
    """Return the version, with the commit that a package was built from; `hatch_build.py` noted it in *folder*."""
    try:
        commit = (folder / "COMMIT").read_text(encoding="utf-8").strip()
    except OSError:
        return __version__
    return f"{__version__} (commit {commit})"
