"""notifierd as it is, by a Resend without its batch endpoint: ``python -m bench.single once ...``."""

from notifierd.cli import main
from notifierd.send.resend import Resend

if __name__ == "__main__":
    Resend.max_batch = 1
    main()
