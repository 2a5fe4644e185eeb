"""notifierd as it is, by a Resend without its batch endpoint: ``python -m bench.single once ...``."""

from collections.abc import Callable

from notifierd.__main__ import run


def main(command: Callable[[], None] = run) -> None:
    """The command line of notifierd; *command* runs it."""
    from notifierd.cli import work  # noqa: F401 - the first import, as of each command: structlog without rich
    from notifierd.send.mail.resend import Resend

    Resend.max_batch = 1
    command()


if __name__ == "__main__":
    main()
