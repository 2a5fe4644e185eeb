"""notifierd as it is, by a Resend without its batch endpoint: ``python -m bench.single once ...``."""

from notifierd.__main__ import run


def main() -> None:
    """The command line of notifierd."""
    from notifierd.cli import work  # noqa: F401 - the first import, as of each command: structlog without rich
    from notifierd.send.mail.resend import Resend

    Resend.max_batch = 1
    run()


if __name__ == "__main__":
    main()
