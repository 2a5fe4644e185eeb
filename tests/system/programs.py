"""Programs that others wrote to stand in for a provider."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.support.processes import until


def installed(program: str, version: str) -> Path:
    """The folder with a *program* of npm, fetched if it is not there. `make clean` removes it with the environment."""
    folder = Path(sys.prefix) / "npm" / f"{program}-{version}"
    if not folder.exists():
        folder.parent.mkdir(exist_ok=True)
        with TemporaryDirectory(dir=folder.parent) as unfinished:
            quiet = [
                "--no-save",
                "--no-package-lock",
                "--no-audit",
                "--no-fund",
                "--ignore-scripts",
                "--loglevel=error",
            ]
            npm = ["npm", "install", *quiet, "--prefix", unfinished, f"{program}@{version}"]
            subprocess.run(npm, check=True, timeout=300)
            (Path(unfinished) / "node_modules").rename(folder.with_suffix(".new"))
        folder.mkdir()
        folder.with_suffix(".new").rename(folder / "node_modules")
    return folder


@contextmanager
def serving(
    command: Sequence[str], says: str, folder: Path, log: Path, environ: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Run *command* in *folder* until the end of the block; yield the port that it *says* it listens on."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **(environ or {})},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    with process:
        try:
            until(lambda: process.poll() is not None or bool(re.search(says, log.read_text())), command[0])
            found = re.search(says, log.read_text())
            assert found, log.read_text()
            yield found[1]
        finally:
            process.kill()
