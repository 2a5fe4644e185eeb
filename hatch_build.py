"""Note in what is built which commit it was built from: ``notifierd --version`` says it."""

import os
import shutil
import subprocess
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NAME = "notifierd/COMMIT"
DESCRIBE = ("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")


class CommitHook(BuildHookInterface):
    """Adds the file NAME to wheels and source distributions.

    A wheel that is made from a source distribution has the file from there. A build without git has none.
    """

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write the file outside the source tree, and have it included."""
        commit = _commit(Path(self.root))
        if version == "editable" or not commit or (Path(self.root) / NAME).exists():
            return
        with NamedTemporaryFile("w", encoding="utf-8", delete=False) as file:
            file.write(f"{commit}\n")
        Path(file.name).chmod(0o644)
        self._written = Path(file.name)
        build_data["force_include"][file.name] = NAME

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002 - hatchling's
        """Remove what `initialize` wrote."""
        if written := getattr(self, "_written", None):
            written.unlink()


def _commit(root: Path) -> str:
    """Return the commit that SOURCE_COMMIT names, or the one that is checked out in *root*; "" for none.

    A build in a container sees no repository, so its caller names the commit.
    """
    if commit := os.environ.get("SOURCE_COMMIT", ""):
        return commit
    git = shutil.which("git")
    if not git or not (root / ".git").exists():
        return ""
    done = subprocess.run(  # noqa: S603 - fixed arguments
        [git, *DESCRIBE], cwd=root, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else ""
