"""notifierd as it is, by a Resend without its batch endpoint: ``python -m bench.single once ...``."""

from notifierd.cli import main as cli
from notifierd.send.mail.resend import Resend


def main() -> None:
    """The command line of notifierd."""
    Resend.max_batch = 1
    cli.main()


if __name__ == "__main__":
    main()
