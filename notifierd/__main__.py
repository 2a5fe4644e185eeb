"""The command ``notifierd``, and ``python -m notifierd``."""

from notifierd.cli.main import main
from notifierd.cli.terminal import leave


def run() -> None:
    """Run the command line, and end the process."""
    try:
        main()
    except SystemExit as end:
        if not isinstance(end.code, int):
            raise
        leave(end.code)


if __name__ == "__main__":
    run()
